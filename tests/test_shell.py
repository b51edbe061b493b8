"""The command as a process: completion, what -v says, and being ended from outside."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from labelled_scenes import write_image

COMMAND = [sys.executable, "-m", "footprints.cli"]
HEAVY = ("torch", "numpy", "rasterio", "geopandas", "pandas", "lightning")


def complete(words: str) -> tuple[list[str], str]:
    """What Tab offers in bash behind these words, and what Python imported for it."""
    program = "import sys; sys.argv[0] = 'footprints'; from footprints.cli import main; main()"
    asked = {
        "_FOOTPRINTS_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", program],
        env=os.environ | asked, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout.split(), done.stderr


@pytest.mark.parametrize(
    ("words", "offered"),
    [("footprints pre", "predict"), ("footprints predict a.tif --conf", "--confidence")],
)
def test_completion_offers_commands_and_options_without_loading_a_network(words, offered) -> None:
    offers, imported = complete(words)
    assert offered in offers
    for module in HEAVY:
        assert not re.search(rf"\| +{module}$", imported, re.MULTILINE), module


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """Large enough that looking at it takes longer than it takes to end the command."""
    pixels = np.random.default_rng(0).integers(40, 250, (3, 1500, 1500)).astype(np.uint8)
    return write_image(tmp_path / "noise.tif", pixels)


@pytest.mark.slow
def test_verbose_says_how_and_when_and_sigterm_ends_with_one_line(scene: Path) -> None:
    output = scene.with_name("out.gpkg")
    process = subprocess.Popen(
        [*COMMAND, "predict", scene, "-o", output, "-v", "--chip-size", "128"],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    said = []
    for line in process.stderr:
        said.append(line.rstrip())
        if " %, " in line:
            process.send_signal(signal.SIGTERM)
            break
    ended = time.monotonic()
    said += process.communicate()[1].splitlines()
    assert time.monotonic() - ended < 120
    assert process.returncode == 143
    text = "\n".join(said)
    assert re.search(r" s  weights buildings-lite0 on \w+ in \w+, torch ", text)
    assert re.search(r" s  GDAL \d+\.\d+\.\d+, GDAL_CACHEMAX=", text)
    assert re.search(r"noise.tif: 1500 x 1500 px of [\d.]+ x [\d.]+ m, read as \d+ x \d+ px", text)
    assert said[-1] == "footprints: stopped; go on with --resume"
    assert "Traceback" not in text
    assert not output.exists()
