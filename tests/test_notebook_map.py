"""The map in JupyterLab: a cell is run there, and its output looked at."""

from __future__ import annotations

import io
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import nbformat
import numpy as np
import pytest
from known_town import HEIGHT, NORTH_UP, TOWN, UTM, WIDTH, on_ground
from labelled_scenes import GROUND, paint, write_image, write_layer
from PIL import Image
from test_viewer_page import eventually

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CELL = "import footprints as fp\nfp.view({layer!r}, {scene!r})"
PATIENCE_S = 120


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[str]:
    """Address of a JupyterLab whose notebook shows the known town, not yet run."""
    scene = write_image(
        tmp_path / "town.tif", paint(TOWN, HEIGHT, WIDTH), transform=NORTH_UP, crs=UTM
    )
    sure = np.linspace(0.3, 0.95, len(TOWN))
    layer = write_layer(
        tmp_path / "town.gpkg",
        on_ground(TOWN),
        transform=NORTH_UP.identity(),
        crs=UTM,
        confidence=sure,
    )
    cell = nbformat.v4.new_code_cell(CELL.format(layer=str(layer), scene=str(scene)))
    notebook = nbformat.v4.new_notebook(cells=[cell])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "", "language": "python"}
    nbformat.write(notebook, tmp_path / "map.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    options = {
        "ServerApp.ip": "127.0.0.1",
        "ServerApp.port": address.rpartition(":")[2],
        "ServerApp.root_dir": tmp_path,
        "ServerApp.allow_root": True,
        "ServerApp.open_browser": False,
        "IdentityProvider.token": "",
        "LabApp.news_url": None,
    }
    command = [sys.executable, "-m", "jupyterlab"]
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(
            [*command, *(f"--{name}={value}" for name, value in options.items())],
            stdout=log,
            stderr=log,
        ) as server,
    ):
        yield (
            address
            if eventually(lambda: _answers(address))
            else pytest.fail((tmp_path / "log").read_text())
        )
        server.terminate()


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/api", timeout=5):
            return True
    except OSError:
        time.sleep(0.2)
        return False


def _shows_ground_and_outlines(png: bytes) -> bool:
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).reshape(-1, 3).astype(int)
    ground = (np.abs(pixels - GROUND) < 4).all(axis=1)
    blue = pixels[:, 2] - pixels[:, 0] > 150
    return bool(ground.mean() > 0.2 and blue.sum() > 100)


@pytest.mark.slow
def test_the_map_draws_in_a_notebook_without_asking_anyone(chromium: Browser, lab: str) -> None:
    page = chromium.new_page(viewport={"width": 1300, "height": 850})
    page.set_default_timeout(1000 * PATIENCE_S)
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(f"{lab}/lab/tree/map.ipynb?reset")
    page.locator(".jp-Notebook .jp-CodeCell .cm-content").first.click()
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    page.keyboard.press("Shift+Enter")
    frame = page.frame_locator(".jp-OutputArea iframe")
    frame.locator("#count").get_by_text("12 of 12 footprints shown").wait_for()
    frame.locator("#least").fill("0.9")
    assert frame.locator("#count").inner_text() == "1 of 12 footprints shown"
    assert eventually(lambda: _shows_ground_and_outlines(frame.locator("#map").screenshot()))
    assert not frame.locator("#problem").is_visible()
    # Browsers report no request for what a page carries in itself.
    assert {urlsplit(url).hostname for url in requests if url.startswith("http")} == {"127.0.0.1"}
    page.close()
