"""What others read of our files: OGR's command line, DuckDB, SQLite, Arrow, QGIS."""

import json
import os
import shutil
import sqlite3
import subprocess
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import shapely
from geopandas import GeoDataFrame
from pyproj import Geod
from test_scenes import record
from test_write import footprint_layer

from footprints.vector import write
from footprints.vector.scenes import RECORD, attach_scenes
from footprints.vector.snapping import snap_vertices
from footprints.vector.style import SHADES
from footprints.vector.write import write_layer


@pytest.fixture
def layer() -> GeoDataFrame:
    """A row of courtyards 50 m apart, with a record."""
    layer = footprint_layer(40)
    attach_scenes(layer, [record()])
    return layer


def run(*command: str | Path, **environment: str) -> str:
    if shutil.which(command[0]) is None:
        pytest.skip(f"no {command[0]}; apt-get install gdal-bin")
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def west(layer: GeoDataFrame) -> list[float]:
    """A box around the first seven courtyards."""
    x_min, y_min, _, y_max = layer.total_bounds
    return [x_min - 1, y_min - 1, x_min + 6 * 50 + 20, y_max + 1]


# OGR, by its command line: another build and an older version than the one that wrote.


@pytest.mark.parametrize("suffix", [".gpkg", ".shp", ".fgb", ".geojson"])
def test_ogr_reads_every_feature_and_column(tmp_path: Path, layer, suffix: str) -> None:
    write_layer(layer, tmp_path / f"town{suffix}")
    said = run("ogrinfo", "-so", "-al", "-nomd", tmp_path / f"town{suffix}")
    assert "Geometry: Polygon" in said
    assert "Feature Count: 40" in said
    for column in layer.columns[:-1]:
        assert f"\n{column}: " in said
    assert ("WGS 84" if suffix == ".geojson" else "UTM zone 45N") in said


@pytest.mark.parametrize("suffix", [".gpkg", ".shp", ".fgb"])
def test_ogr_finds_features_by_place(tmp_path: Path, layer, suffix: str) -> None:
    write_layer(layer, tmp_path / f"town{suffix}")
    box = [str(value) for value in west(layer)]
    said = run("ogrinfo", "-so", "-al", "-spat", *box, tmp_path / f"town{suffix}")
    assert "Feature Count: 7" in said


def test_a_flatgeobuf_has_an_index(tmp_path: Path, layer) -> None:
    write_layer(layer, tmp_path / "town.fgb")
    without = tmp_path / "plain.fgb"
    run("ogr2ogr", "-lco", "SPATIAL_INDEX=NO", without, tmp_path / "town.fgb")
    # Packed R-tree of 40 boxes, 16 a node: 40 + 3 + 1 nodes of 40 bytes.
    assert (tmp_path / "town.fgb").stat().st_size - without.stat().st_size >= 44 * 40


# SQLite: what a GeoPackage holds besides the features.


def test_a_geopackage_holds_index_metadata_and_style(tmp_path: Path, layer) -> None:
    write_layer(layer, tmp_path / "town.gpkg")
    with closing(sqlite3.connect(tmp_path / "town.gpkg")) as database:
        x_min, y_min, x_max, y_max = west(layer)
        [(found,)] = database.execute(
            "SELECT count(*) FROM rtree_town_geom "
            "WHERE minx <= ? AND maxx >= ? AND miny <= ? AND maxy >= ?",
            (x_max, x_min, y_max, y_min),
        )
        assert found == 7
        [(metadata,)] = database.execute(
            "SELECT metadata FROM gpkg_metadata JOIN gpkg_metadata_reference "
            "ON md_file_id = id WHERE table_name = 'town'"
        )
        for word in ("outline", "MULTIPOLYGON", "known", "0.3", "confidence"):
            assert word in metadata
        assert database.execute(
            "SELECT f_table_name, f_geometry_column, useAsDefault FROM layer_styles"
        ).fetchall() == [("town", "geom", 1)]
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        kinds = database.execute("SELECT table_name, data_type FROM gpkg_contents").fetchall()
        assert kinds == [("town", "features"), ("layer_styles", "attributes")]


def test_points_have_no_style_of_outlines(tmp_path: Path, layer) -> None:
    layer.geometry = layer.geometry.centroid
    write_layer(layer, tmp_path / "points.gpkg", geometry="Point")
    with closing(sqlite3.connect(tmp_path / "points.gpkg")) as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
    assert "layer_styles" not in tables


def test_a_text_named_confidence_has_no_style_that_draws_by_numbers(tmp_path: Path, layer) -> None:
    write_layer(layer.assign(confidence="high"), tmp_path / "town.gpkg")
    with closing(sqlite3.connect(tmp_path / "town.gpkg")) as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
    assert "layer_styles" not in tables


QGIS = """
import json, os, sys
from qgis.core import QgsApplication, QgsVectorLayer
app = QgsApplication([], False)
app.initQgis()
layer = QgsVectorLayer(sys.argv[1], "town", "ogr")
renderer = layer.renderer()
print(json.dumps({
    "features": layer.featureCount(),
    "kind": renderer.type(),
    "by": renderer.classAttribute(),
    "ranges": [[r.lowerValue(), r.upperValue()] for r in renderer.ranges()],
    "colours": [r.symbol().color().getRgb()[:3] for r in renderer.ranges()],
    "lines": [r.symbol().symbolLayer(0).layerType() for r in renderer.ranges()],
}), flush=True)
# Some versions crash when they end in the regular way.
os._exit(0)
"""


def test_qgis_opens_a_geopackage_as_outlines_coloured_by_confidence(tmp_path: Path, layer) -> None:
    python = "/usr/bin/python3"
    known = (
        Path(python).exists()
        and not subprocess.run(
            [python, "-c", "import qgis.core"], capture_output=True, check=False
        ).returncode
    )
    if not known:
        pytest.skip("no QGIS; apt-get install --no-install-recommends python3-qgis")
    write_layer(layer, tmp_path / "town.gpkg")
    said = run(python, "-c", QGIS, tmp_path / "town.gpkg",
               QT_QPA_PLATFORM="offscreen", HOME=str(tmp_path), PYTHONPATH="")  # fmt: skip
    drawn = json.loads(said.strip().splitlines()[-1])
    assert drawn == {
        "features": 40,
        "kind": "graduatedSymbol",
        "by": "confidence",
        "ranges": [[low, high] for low, high, _ in SHADES],
        "colours": [[int(part) for part in colour.split(",")] for _, _, colour in SHADES],
        "lines": ["SimpleLine"] * len(SHADES),
    }


# GeoParquet, by Arrow and by DuckDB.


def test_geoparquet_follows_its_specification(tmp_path: Path, layer) -> None:
    write_layer(layer, tmp_path / "town.parquet")
    metadata = pq.read_schema(tmp_path / "town.parquet").metadata
    geo = json.loads(metadata[b"geo"])
    assert geo["version"] == "1.1.0"
    column = geo["columns"][geo["primary_column"]]
    assert column["geometry_types"] == ["Polygon"]
    assert column["crs"]["id"] == {"authority": "EPSG", "code": 32645}
    assert column["covering"]["bbox"]["xmin"] == ["bbox", "xmin"]
    assert json.loads(metadata[b"PANDAS_ATTRS"])[RECORD] == layer.attrs[RECORD]


def test_geoparquet_is_sorted_so_that_a_place_is_in_few_row_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "ROW_GROUP", 64)
    layer = footprint_layer(1024)
    places = np.random.default_rng(0).permutation(1024)
    layer.geometry = [
        shapely.affinity.translate(layer.geometry[0], 60 * (place % 32), 60 * (place // 32))
        for place in places
    ]
    layer.attrs["of somebody else"] = {1, 2}
    write_layer(layer, tmp_path / "town.parquet")
    file = pq.ParquetFile(tmp_path / "town.parquet")
    assert file.num_row_groups == 16
    groups = file.metadata
    names = {groups.schema.column(i).path: i for i in range(groups.num_columns)}
    extent = 0.0
    for number in range(16):
        group = groups.row_group(number)
        low = [group.column(names[f"bbox.{axis}min"]).statistics.min for axis in "xy"]
        high = [group.column(names[f"bbox.{axis}max"]).statistics.max for axis in "xy"]
        extent += (high[0] - low[0]) * (high[1] - low[1])
    x_min, y_min, x_max, y_max = layer.total_bounds
    # Each group as a square of its own would cover the town once, in any order 16 times.
    assert extent < 1.3 * (x_max - x_min) * (y_max - y_min)


def test_duckdb_reads_geoparquet_and_measures_the_same(tmp_path: Path, layer) -> None:
    duckdb = pytest.importorskip("duckdb", reason="no DuckDB")
    if find_spec("duckdb_ext") is None:
        pytest.skip("no spatial extension of DuckDB; pip install duckdb-ext-spatial")
    [extension] = Path(next(iter(find_spec("duckdb_ext").submodule_search_locations))).rglob(
        "spatial.duckdb_extension"
    )
    for suffix in ("parquet", "gpkg"):
        write_layer(layer, tmp_path / f"town.{suffix}")
    box = ", ".join(map(str, west(layer)))
    with duckdb.connect(config={"allow_unsigned_extensions": "true"}) as database:
        database.execute(f"LOAD '{extension}'")
        for source in (f"'{tmp_path}/town.parquet'", f"ST_Read('{tmp_path}/town.gpkg')"):
            [(shape,)] = database.sql(
                f"SELECT column_name FROM (DESCRIBE FROM {source}) "
                "WHERE column_type LIKE 'GEOMETRY%'"
            ).fetchall()
            count, area, ids, valid = database.sql(
                f"SELECT count(*), sum(ST_Area({shape})), sum(id), bool_and(ST_IsValid({shape})) "
                f"FROM {source} WHERE ST_Intersects({shape}, ST_MakeEnvelope({box}))"
            ).fetchone()
            assert (count, ids, valid) == (7, sum(range(1, 8)), True)
            assert area == pytest.approx(7 * 1200)


def test_areas_are_those_of_the_written_polygons_on_the_ellipsoid(tmp_path: Path, layer) -> None:
    write_layer(snap_vertices(layer), tmp_path / "town.geojson")
    features = json.loads((tmp_path / "town.geojson").read_text())["features"]
    for feature in features:
        polygon = shapely.geometry.shape(feature["geometry"])
        area, _ = Geod(ellps="WGS84").geometry_area_perimeter(polygon)
        assert feature["properties"]["area_m2"] == pytest.approx(area, rel=1e-3)
