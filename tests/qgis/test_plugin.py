"""The QGIS plugin, out of its zip, in a QGIS without a window."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from labelled_scenes import write_image
from matplotlib.image import imsave
from rasterio.windows import Window

from footprints.vector.read import read_layer

ROOT = Path(__file__).parent.parent.parent


QGIS_PYTHON = "/usr/bin/python3"
SCRIPT = Path(__file__).with_name("in_qgis.py")
DECLARED = ROOT / "qgis" / "building_footprints"


def has_qgis() -> bool:
    if not Path(QGIS_PYTHON).exists():
        return False
    imports = [QGIS_PYTHON, "-c", "import qgis.core"]
    return subprocess.run(imports, capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("dist") / "footprints-qgis.zip"
    runpy.run_path(str(ROOT / "qgis" / "make_zip.py"))["make_zip"](target)
    return target


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("qgis")


@pytest.fixture(scope="module")
def said(archive: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the plugin did in QGIS."""
    if not has_qgis():
        pytest.skip("no QGIS; apt-get install --no-install-recommends python3-qgis")
    inputs = tmp_path_factory.mktemp("inputs")
    town = ROOT / "data_samples" / "town.tif"
    with rasterio.open(town) as whole:
        place = whole.transform @ Affine.translation(300, 300)
        pixels = whole.read(window=Window(300, 300, 420, 420))
        write_image(inputs / "small.tif", pixels, transform=place, crs=whole.crs)
    imsave(inputs / "unplaced.png", np.moveaxis(pixels, 0, -1))
    command = inputs / "footprints"
    command.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\n"
        "from footprints.cli import main\nmain()\n"
    )
    command.chmod(0o755)
    done = subprocess.run(
        [QGIS_PYTHON, SCRIPT, archive, command, inputs / "small.tif", town,
         ROOT / "data_samples" / "town_buildings.gpkg", inputs / "unplaced.png", folder],
        capture_output=True, text=True, check=False, cwd=inputs,
        env={"QT_QPA_PLATFORM": "offscreen", "HOME": str(inputs), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_the_zip_holds_one_folder_that_qgis_can_install(archive: Path) -> None:
    with zipfile.ZipFile(archive) as packed:
        names = packed.namelist()
        metadata = packed.read("building_footprints/metadata.txt").decode()
    assert {name.split("/")[0] for name in names} == {"building_footprints"}
    assert "building_footprints/LICENSE" in names
    assert {f"building_footprints/{path.name}" for path in DECLARED.glob("*.py")} <= set(names)
    for key in ("name", "qgisMinimumVersion", "description", "version", "author", "email", "about"):
        assert re.search(rf"^{key}=\S", metadata, re.MULTILINE), key


@pytest.mark.slow
def test_qgis_loads_the_provider_from_the_zip_and_lets_go_of_it(said: dict[str, Any]) -> None:
    assert said["loaded"]
    assert said["started"]
    assert said["algorithms"] == [
        f"footprints:{name}" for name in ("evaluate", "finish", "predict", "regularize")
    ]
    assert said["unloaded"]


@pytest.mark.slow
def test_parameters_have_the_types_that_qgis_has_widgets_for(said: dict[str, Any]) -> None:
    predict, regularize = said["parameters"]["predict"], said["parameters"]["regularize"]
    assert predict["INPUT"] == "raster"
    assert predict["OUTPUT"] == "vectorDestination"
    assert predict["REGULARIZE"] == regularize["METHOD"] == "enum"
    assert predict["TOLERANCE"] == regularize["SIMPLIFY"] == "distance"
    assert predict["OUT_CRS"] == "crs"
    assert predict["BANDS"] == "band"
    assert regularize["INPUT"] == said["parameters"]["evaluate"]["TRUTH"] == "vector"


@pytest.mark.slow
def test_predict_writes_a_layer_that_opens_styled(said: dict[str, Any], folder: Path) -> None:
    done = said["predict"]
    assert done["features"] > 20
    assert done["renderer"] == "graduatedSymbol"
    assert {"id", "confidence", "area_m2", "regularized"} <= set(done["fields"])
    assert len(read_layer(folder / "town.gpkg")) == done["features"]
    assert (folder / "run").is_dir()


@pytest.mark.slow
def test_progress_grows(said: dict[str, Any]) -> None:
    seen = said["predict"]["progress"]
    assert len(seen) > 3
    assert seen == sorted(seen)
    assert seen[-1] > 90


@pytest.mark.slow
def test_finish_makes_another_layer_of_the_kept_run(said: dict[str, Any]) -> None:
    assert 0 < said["finish"]["features"] < said["predict"]["features"]
    assert said["finish"]["renderer"] == "graduatedSymbol"


@pytest.mark.slow
def test_regularize_takes_layers_that_lie_in_no_file(said: dict[str, Any], folder: Path) -> None:
    done = said["regularize"]
    assert done["features"] == said["predict"]["features"]
    assert set(read_layer(folder / "round.shp")["regular"]) <= {"circle", "source"}


@pytest.mark.slow
def test_evaluate_gives_numbers_and_a_report(said: dict[str, Any], folder: Path) -> None:
    results = said["evaluate"]["results"]
    assert 0.5 < results["PRECISION"] <= 1
    assert 0 < results["RECALL"] < 0.5  # the truth is that of the whole town
    assert "<html" in (folder / "report.html").read_text()[:500]


@pytest.mark.slow
def test_a_failing_command_is_shown_by_its_own_line(said: dict[str, Any], folder: Path) -> None:
    assert re.match(r"footprints: \S+/unplaced.png has no georeference", said["error"]["error"])
    assert not (folder / "unplaced.gpkg").exists()


@pytest.mark.slow
def test_a_missing_command_says_where_to_name_it(said: dict[str, Any]) -> None:
    assert "Settings > Options > Processing" in said["no command"]["error"]


@pytest.mark.slow
def test_cancelling_leaves_nothing(said: dict[str, Any]) -> None:
    seen = said["cancel"]["progress"]
    assert 0 < max(seen) < 95
    assert said["cancel"]["results"] == {}
    assert said["cancel"]["seconds"] < 60
    assert said["left"] == []
