"""`footprints regularize`, end to end: files in, files out, one line, bad input included."""

from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely
from building_shapes import MAKERS, corner_count, staircase, turned
from shapely import affinity, box
from typer.testing import CliRunner, Result

import footprints as fp
from footprints.cli import app
from footprints.vector.read import read_layer

UTM = "EPSG:32645"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["regularize", *(str(argument) for argument in arguments)])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a layer of staircases in it."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    made = [staircase(turned(MAKERS["L"](rng), rng)) for _ in range(5)]
    placed = [affinity.translate(p, 350_000 + 60 * i, 3_057_000) for i, p in enumerate(made)]
    layer = gpd.GeoDataFrame({"kind": list("abcde")}, geometry=placed, crs=UTM)
    layer.to_file("in.gpkg")
    layer.to_crs("EPSG:4326").to_file("degrees.geojson")
    layer.set_crs(None, allow_override=True).to_parquet("bare.parquet")
    return tmp_path


@pytest.mark.parametrize("source", ["in.gpkg", "degrees.geojson"])
@pytest.mark.parametrize("suffix", [".gpkg", ".parquet", ".fgb", ".geojson", ".shp"])
def test_a_layer_becomes_a_regular_one_in_any_format(folder, source, suffix):
    result = run(source, "-o", f"out{suffix}", "--method", "right-angles", "--tolerance", 1)
    assert result.exit_code == 0, result.stderr
    layer = (
        gpd.read_parquet("out.parquet") if suffix == ".parquet" else gpd.read_file(f"out{suffix}")
    )
    layer = layer.sort_values("kind")
    assert layer["kind"].tolist() == list("abcde")
    assert set(layer["regular" if suffix == ".shp" else "regularized"]) == {"right-angles"}
    assert layer["iou"].between(0.95, 1).all()
    assert [corner_count(p) for p in layer.to_crs(UTM).geometry] == [6] * 5
    (line,) = result.stdout.splitlines()
    assert line.startswith("5 buildings, 0 lost, 0 left as they were, 0 with IoU below 0.8, ")
    assert line.endswith(f", out{suffix}")


def test_simplification_alone_leaves_no_new_columns(folder):
    result = run("in.gpkg", "-o", "out.gpkg", "--method", "none", "--simplify", 0.5)
    assert result.exit_code == 0, result.stderr
    before, after = gpd.read_file("in.gpkg"), gpd.read_file("out.gpkg")
    assert list(after.columns) == ["kind", "geometry"]
    assert result.stdout.startswith("5 buildings, 0 lost, ")
    moved = shapely.hausdorff_distance(before.geometry.to_numpy(), after.geometry.to_numpy())
    assert 0 < moved.max() <= 0.5
    fewer = shapely.get_num_coordinates(after.geometry.to_numpy()).sum()
    assert fewer < shapely.get_num_coordinates(before.geometry.to_numpy()).sum() / 4


def test_a_layer_without_crs_is_in_pixels_if_it_says_so(folder):
    result = run("bare.parquet", "-o", "out.parquet", "--pixels", "-q")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    layer = read_layer("out.parquet", needs_crs=False)
    assert layer.crs is None
    assert [corner_count(p) for p in layer.geometry] == [6] * 5


def test_python_has_the_same_functions(folder):
    layer = fp.regularize(gpd.read_file("in.gpkg"), "right-angles", 1.0)
    assert [corner_count(p) for p in layer.geometry] == [6] * 5
    assert len(fp.simplify(layer, 0.1)) == 5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param("no.gpkg -o out.gpkg", ["not found: no.gpkg"], id="no layer"),
        pytest.param("bare.parquet -o out.gpkg", ["no coordinate reference"], id="no CRS"),
        pytest.param("in.gpkg -o there.gpkg", ["there.gpkg", "--overwrite"], id="output exists"),
        pytest.param("in.gpkg -o out.docx", ["out.docx", ".gpkg"], id="unknown ending"),
        pytest.param("in.gpkg -o no/out.gpkg", ["does not exist: no"], id="no folder"),
        pytest.param("in.gpkg -o out.gpkg --method squares", ["'squares'", "auto"], id="no method"),
        pytest.param("in.gpkg -o out.gpkg --tolerance 0", ["tolerance", "got 0.0"], id="no metres"),
        pytest.param("in.gpkg -o out.gpkg --simplify -1", ["simplify", "got -1.0"], id="negative"),
        pytest.param(
            "in.gpkg -o out.gpkg --method none --tolerance 1", ["name a method"], id="no use"
        ),
        pytest.param("points.gpkg -o out.gpkg", ["must hold polygons", "point"], id="points"),
        pytest.param("text.gpkg -o out.gpkg", ["cannot read text.gpkg"], id="no layer at all"),
    ],
)
def test_what_cannot_be_is_one_line_and_leaves_nothing(folder, arguments, words):
    Path("there.gpkg").write_text("mine")
    Path("text.gpkg").write_text("not a layer")
    gpd.GeoDataFrame(geometry=[box(0, 0, 1, 1).centroid], crs=UTM).to_file("points.gpkg")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    result = run(*arguments.split())
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("footprints: ")
    assert all(word in line for word in words), line
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_parts_of_a_multipolygon_share_an_id_and_the_user_is_told(folder):
    layer = gpd.read_file("in.gpkg")
    parts = shapely.union_all(layer.geometry[:2])
    doubled = gpd.GeoDataFrame({"id": [7, 8]}, geometry=[parts, layer.geometry[2]], crs=layer.crs)
    doubled.to_file("parts.gpkg")
    result = run("parts.gpkg", "-o", "out.gpkg")
    assert result.exit_code == 0, result.stderr
    assert "warning: 1 rows repeat the id of another one" in result.stderr
    assert gpd.read_file("out.gpkg")["id"].tolist() == [7, 7, 8]
