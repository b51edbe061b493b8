"""Commands that help texts and pages show: each is one that the command line takes."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from typer import Context
from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import CliRunner

from footprints.cli import app

ROOT = Path(__file__).parent.parent


COMMANDS = get_command(app)
assert isinstance(COMMANDS, TyperGroup)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES += sorted((ROOT / "footprints" / "weights").glob("*.md"))


def fenced(page: Path) -> list[str]:
    """The ``footprints`` commands of a page's blocks of code, lines that go on put together."""
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    blocks += re.findall(r"(?:^    \S[^\n]*\n)+", page.read_text(), re.MULTILINE)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if re.match(r"\s*footprints [a-z]", line)]


def example(name: str) -> str:
    found = re.search(r"Example: (footprints .*)", COMMANDS.commands[name].help or "")
    assert found, f"{name} --help shows no example"
    return found[1]


def parse(line: str) -> Context:
    _, name, *arguments = shlex.split(line, comments=True)
    return COMMANDS.commands[name].make_context(name, arguments)


@pytest.mark.parametrize("name", sorted(COMMANDS.commands))
def test_the_example_of_every_help_text_is_one_that_the_command_takes(name: str) -> None:
    with parse(example(name)) as context:
        assert context.info_name == name
    # On one line of a narrow terminal: a line that is broken cannot be pasted.
    shown = CliRunner(env={"COLUMNS": "80"}).invoke(app, [name, "--help"]).output
    assert f"Example: {example(name)}\n" in shown


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_commands_in_pages_are_ones_that_the_command_line_takes(page: Path) -> None:
    for line in fenced(page):
        with parse(line):
            pass


def test_pages_show_commands() -> None:
    assert len(fenced(ROOT / "README.md")) > 15


@pytest.mark.parametrize("name", ["info", "regularize", "evaluate", "chip"])
def test_examples_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data_samples").symlink_to(ROOT / "data_samples")
    for name_there in ("town.tif", "town_buildings.gpkg"):
        (tmp_path / name_there).symlink_to(ROOT / "data_samples" / name_there)
    shutil.copy(ROOT / "data_samples" / "town_buildings.gpkg", tmp_path / "town.gpkg")
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, shlex.split(example(name))[1:])
    assert result.exit_code == 0, result.output
