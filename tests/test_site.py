"""The documentation site: it builds without a warning, and its references come from the code."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from footprints.config import DataConfig, OptimizerConfig

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built so that a broken link ends it."""
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT, folder)
    assert done.returncode == 0, done.stderr
    return folder


def build(root: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", folder]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)


@pytest.mark.full
def test_every_key_of_the_configuration_has_a_row(site: Path) -> None:
    page = (site / "configuration.html").read_text()
    for key in (*DataConfig.model_fields, *OptimizerConfig.model_fields):
        assert f"<td><code>{key}</code></td>" in page
    assert "Largest norm of the gradient." in page
    assert "&gt; 0" in page


@pytest.mark.full
def test_commands_and_public_names_have_their_places(site: Path) -> None:
    commands = (site / "commands.html").read_text()
    assert {"footprints-predict", "footprints-lr-find"} <= set(
        re.findall(r'<h2 id="([\w-]+)"', commands)
    )
    assert 'id="footprints.pipeline.predict"' in (site / "python.html").read_text()


@pytest.mark.full
def test_pages_fetch_nothing_from_elsewhere(site: Path) -> None:
    for page in site.glob("*.html"):
        fetched = re.findall(
            r'<(?:script|link|img)[^>]*(?:src|href)="(https?://[^"]+)', page.read_text()
        )
        assert fetched == [], page.name


@pytest.mark.full
@pytest.mark.parametrize("link", ["nowhere.md", "../configs/nowhere.yaml", "index.md#nowhere"])
def test_a_broken_link_ends_the_build(tmp_path: Path, link: str) -> None:
    for path in ROOT.iterdir():
        if path.name != "docs" and not path.name.startswith("."):
            (tmp_path / path.name).symlink_to(path)
    (tmp_path / "docs").mkdir()
    for path in (ROOT / "docs").iterdir():
        if path.name != "faq.md":
            (tmp_path / "docs" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "docs" / "faq.md").write_text(f"# Questions\n\n[broken]({link})\n")
    done = build(tmp_path, tmp_path / "out")
    assert done.returncode != 0
    assert link.split("#")[-1] in done.stderr
