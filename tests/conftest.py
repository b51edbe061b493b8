"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# The same examples every time; `pytest --hypothesis-profile explore` looks for others.
settings.register_profile("footprints", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None)
settings.load_profile("footprints")

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real imagery, or a skip that says how to give it."""
    folder = Path(os.environ.get("FOOTPRINTS_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "banepa").is_dir():
        pytest.skip(f"no real imagery in {folder}; set FOOTPRINTS_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of reference outputs, or a skip that says where it was looked for."""
    folder = Path(os.environ.get("FOOTPRINTS_DATA", ROOT.parent / "shared" / "data"))
    folder = folder.parent / "golden"
    if not folder.is_dir():
        pytest.skip(f"no reference outputs in {folder}")
    return folder


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """A browser that draws in software, or a skip that says how to get one."""
    program = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if program is None:
        pytest.skip(f"no browser found ({', '.join(CHROMIUM)}); apt-get install chromium")
    from playwright.sync_api import sync_playwright

    # Without a GPU WebGL is drawn by SwiftShader, which has to be asked for.
    options = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=options)
        yield browser
        browser.close()
