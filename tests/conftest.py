"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("footprints", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("footprints")

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
