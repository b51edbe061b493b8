"""What is right and wrong in a layer, as a layer."""

from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
from geopandas import GeoDataFrame
from shapely import box
from typer.testing import CliRunner

import footprints as fp
from footprints.cli import app
from footprints.errors import OutputError
from footprints.vector.write import write_layer

UTM = "EPSG:32645"
X, Y = 500_000, 3_000_000
HOUSE, SHED, BARN, GHOST = (box(X + x, Y, X + x + 10, Y + 10) for x in (0, 20, 40, 60))
OFF = box(X + 1, Y, X + 11, Y + 10)
"""The house, a metre off: 90 m2 of 110 in common."""
TRUTH = GeoDataFrame(geometry=[HOUSE, SHED, BARN], crs=UTM)
FOUND = GeoDataFrame({"confidence": [0.9, 0.8, 0.7]}, geometry=[OFF, GHOST, BARN], crs=UTM)


def test_every_polygon_has_its_verdict(tmp_path: Path) -> None:
    path = tmp_path / "judged.gpkg"
    report = fp.evaluate(FOUND, TRUTH, judged=path)
    judged = gpd.read_file(path)
    assert judged["verdict"].tolist() == ["hit", "hit", "false alarm", "miss"]
    assert (report.tp, report.fp, report.fn) == (2, 1, 1)
    for shape, expected in zip(judged.geometry, (OFF, BARN, GHOST, SHED), strict=True):
        assert shape.equals(expected)
    np.testing.assert_allclose(judged["confidence"], [0.9, 0.7, 0.8, np.nan])
    np.testing.assert_allclose(judged["iou"], [round(9 / 11, 4), 1, np.nan, np.nan])
    assert judged.crs == UTM


def test_what_does_not_count_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "judged.gpkg"
    aoi = GeoDataFrame(geometry=[box(X - 5, Y - 5, X + 35, Y + 15)], crs=UTM)
    fp.evaluate(FOUND, TRUTH, aoi=aoi, judged=path)
    assert gpd.read_file(path)["verdict"].tolist() == ["hit", "miss"]


def test_qgis_is_given_no_style_that_hides_misses(tmp_path: Path) -> None:
    fp.evaluate(FOUND, TRUTH, judged=tmp_path / "judged.gpkg")
    fp.evaluate(TRUTH, TRUTH, judged=tmp_path / "all_found.gpkg")
    assert "layer_styles" not in set(gpd.list_layers(tmp_path / "judged.gpkg")["name"])
    assert "layer_styles" in set(gpd.list_layers(tmp_path / "all_found.gpkg")["name"])


def test_what_exists_stays_unless_told(tmp_path: Path) -> None:
    path = tmp_path / "judged.gpkg"
    path.write_text("precious")
    with pytest.raises(OutputError, match="output exists"):
        fp.evaluate(FOUND, TRUTH, judged=path)
    assert path.read_text() == "precious"
    fp.evaluate(FOUND, TRUTH, judged=path, overwrite=True)
    assert len(gpd.read_file(path)) == 4


def test_the_command_writes_it_too(tmp_path: Path) -> None:
    found, truth, judged = (tmp_path / f"{name}.gpkg" for name in ("found", "truth", "judged"))
    write_layer(FOUND, found)
    write_layer(TRUTH, truth)
    done = CliRunner().invoke(app, ["evaluate", str(found), str(truth), "--judged", str(judged)])
    assert done.exit_code == 0, done.output
    assert len(gpd.read_file(judged)) == 4
