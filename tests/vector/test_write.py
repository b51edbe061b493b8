import contextlib
import datetime
import json
import os
import resource
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyogrio
import pytest
import shapely
from geopandas import GeoDataFrame
from pyogrio.errors import DataSourceError
from pyproj import CRS
from shapely import box

from footprints.errors import LayerError, OutputError
from footprints.vector import write
from footprints.vector.layer import COLUMNS, check_layer
from footprints.vector.read import read_layer
from footprints.vector.write import SHAPEFILE_COLUMNS, SUFFIXES, check_output, write_layer

COURTYARD = shapely.Polygon(box(0, 0, 40, 40).exterior, [box(10, 10, 30, 30).exterior])
ORIGIN = (338_000.123456, 3_057_000.654321)


def footprint_layer(n: int = 3, crs: str | None = "EPSG:32645") -> GeoDataFrame:
    polygons = [
        shapely.affinity.translate(COURTYARD, ORIGIN[0] + 50 * i, ORIGIN[1]) for i in range(n)
    ]
    polygons = shapely.orient_polygons(np.array(polygons, dtype=object).reshape(n))
    return GeoDataFrame(
        {
            "id": np.arange(1, n + 1),
            "class": ["building"] * n,
            "confidence": np.linspace(0.5, 0.9, n),
            "area_m2": [1200.0] * n,
            "cut": [i % 2 == 1 for i in range(n)],
            "source": ["Bhaktapur भक्तपुर.tif"] * n,
            "model": ["known"] * n,
        },
        geometry=polygons,
        crs=crs,
    )


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_layer_comes_back_as_it_was(tmp_path: Path, suffix: str) -> None:
    layer, path = footprint_layer(), tmp_path / f"town{suffix}"
    write_layer(layer, path)
    read = read_layer(path).sort_values("id", ignore_index=True)
    for name in COLUMNS:
        assert read[name].tolist() == layer[name].tolist()
    moved = read.to_crs(layer.crs).geometry.to_numpy()
    tolerance = 0.01 if "json" in suffix else 1e-9
    assert shapely.hausdorff_distance(moved, layer.geometry.to_numpy()).max() <= tolerance


@pytest.mark.parametrize("suffix", [".gpkg", ".fgb", ".parquet", ".geojson"])
def test_what_is_written_is_still_a_footprint_layer(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"town{suffix}"
    write_layer(footprint_layer(), path)
    read = gpd.read_parquet(path) if suffix == ".parquet" else pyogrio.read_dataframe(path, layer=0)
    check_layer(read.sort_values("id", ignore_index=True))


@pytest.mark.parametrize("suffix", [".gpkg", ".shp", ".parquet", ".fgb"])
def test_an_empty_layer_keeps_columns_and_crs(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"desert{suffix}"
    write_layer(footprint_layer(0), path)
    read = read_layer(path)
    assert read.empty
    assert tuple(read.columns) == (*COLUMNS, "geometry")
    assert read.crs == "EPSG:32645"


def test_an_empty_geojson_is_valid(tmp_path: Path) -> None:
    write_layer(footprint_layer(0), tmp_path / "desert.geojson")
    assert json.loads((tmp_path / "desert.geojson").read_text())["features"] == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_pixel_coordinates_stay_pixel_coordinates(tmp_path: Path, suffix: str) -> None:
    layer, path = footprint_layer(crs=None), tmp_path / f"pixels{suffix}"
    write_layer(layer, path)
    read = read_layer(path, needs_crs=False)
    assert read.crs is None
    assert tuple(read.columns) == (*COLUMNS, "geometry")
    moved = read.sort_values("id").geometry.to_numpy()
    assert shapely.hausdorff_distance(moved, layer.geometry.to_numpy()).max() <= 1e-9


def test_geojson_in_pixel_coordinates_says_so_and_holds_them_as_they_are(tmp_path: Path) -> None:
    layer, path = footprint_layer(1, crs=None), tmp_path / 'odd "features": [.geojson'
    write_layer(layer, path)
    collection = json.loads(path.read_text())
    assert collection["crs"] is None
    assert collection["name"] == path.stem
    (feature,) = collection["features"]
    shell = shapely.get_coordinates(layer.geometry.iloc[0].exterior)
    written = np.array(feature["geometry"]["coordinates"][0])
    assert set(map(tuple, written)) == set(map(tuple, shell))
    with pytest.raises(LayerError, match="has no coordinate reference system"):
        read_layer(path)


def test_geojson_that_says_nothing_of_a_crs_is_wgs84(tmp_path: Path) -> None:
    path = tmp_path / "town.geojson"
    write_layer(footprint_layer(crs=None), path)
    collection = json.loads(path.read_text())
    del collection["crs"]
    collection["features"][0]["properties"]["crs"] = None
    path.write_text(json.dumps(collection))
    assert read_layer(path).crs == "EPSG:4326"


def test_geojson_is_wgs84_with_seven_decimals_and_counter_clockwise(tmp_path: Path) -> None:
    path = tmp_path / "town.geojson"
    write_layer(footprint_layer(1), path)
    collection = json.loads(path.read_text())
    assert "crs" not in collection
    shell, hole = collection["features"][0]["geometry"]["coordinates"]
    longitude, latitude = shell[0]
    assert 85 < longitude < 86
    assert 27 < latitude < 28
    assert all(len(str(value).partition(".")[2]) <= 7 for point in shell for value in point)
    assert shapely.LinearRing(shell).is_ccw
    assert not shapely.LinearRing(hole).is_ccw


def test_geojson_cuts_a_building_on_the_antimeridian(tmp_path: Path) -> None:
    layer, path = footprint_layer(1, crs="EPSG:4326"), tmp_path / "fiji.geojson"
    layer.geometry = [box(179.9999, -17, 180.0001, -16.9999)]
    write_layer(layer, path)
    parts = read_layer(path)
    assert len(parts) == 2
    assert parts.total_bounds[[0, 2]] == pytest.approx([-180, 180])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_equal_layers_give_equal_bytes_without_a_clock(tmp_path: Path, suffix: str) -> None:
    for run in ("first", "second"):
        (tmp_path / run).mkdir()
        write_layer(footprint_layer(50), tmp_path / run / f"town{suffix}")
    first, second = (files_in(tmp_path / run) for run in ("first", "second"))
    assert first == second
    year = str(datetime.datetime.now(tz=datetime.UTC).year).encode()
    assert not any(year + b"-" in content for content in first.values())


def test_a_dbf_bears_the_constant_date(tmp_path: Path) -> None:
    write_layer(footprint_layer(), tmp_path / "town.shp")
    assert (tmp_path / "town.dbf").read_bytes()[1:4] == bytes([100, 1, 1])  # years since 1900


def test_options_of_gdal_are_restored(tmp_path: Path) -> None:
    assert pyogrio.get_gdal_config_option("OGR_CURRENT_DATE") is None
    write_layer(footprint_layer(), tmp_path / "town.gpkg")
    assert pyogrio.get_gdal_config_option("OGR_CURRENT_DATE") is None


def test_a_geopackage_has_a_spatial_index(tmp_path: Path) -> None:
    write_layer(footprint_layer(), tmp_path / "town.gpkg")
    with sqlite3.connect(tmp_path / "town.gpkg") as connection:
        [(indexed,)] = connection.execute("SELECT count(*) FROM rtree_town_geom")
    connection.close()
    assert indexed == 3


def test_nothing_but_the_file_is_left_behind(tmp_path: Path) -> None:
    write_layer(footprint_layer(), tmp_path / "town.gpkg")
    assert list(files_in(tmp_path)) == ["town.gpkg"]


def test_a_shapefile_has_all_its_parts_and_says_utf8(tmp_path: Path) -> None:
    write_layer(footprint_layer(), tmp_path / "town.shp")
    files = files_in(tmp_path)
    assert set(files) == {"town.shp", "town.shx", "town.dbf", "town.prj", "town.cpg"}
    assert files["town.cpg"] == b"UTF-8"


def test_shapefile_names_cover_the_layer_and_fit() -> None:
    assert tuple(SHAPEFILE_COLUMNS) == (*COLUMNS, "regularized", "iou")
    assert len(set(SHAPEFILE_COLUMNS.values())) == len(SHAPEFILE_COLUMNS)
    assert all(len(name) <= 10 for name in SHAPEFILE_COLUMNS.values())


@pytest.mark.parametrize("name", ["TOWN.SHP", "Town.Gpkg", "a.b c.gpkg", "a.b.shp", "größe.fgb"])
def test_odd_names_are_kept_to_the_letter(tmp_path: Path, name: str) -> None:
    write_layer(footprint_layer(), tmp_path / name)
    assert (tmp_path / name).exists()
    assert len(read_layer(tmp_path / name)) == 3


def test_a_relative_name_is_written_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_layer(footprint_layer(), "town.gpkg")
    assert (tmp_path / "town.gpkg").exists()


def test_overwriting_a_shapefile_removes_what_belonged_to_the_old(tmp_path: Path) -> None:
    path = tmp_path / "town.shp"
    write_layer(footprint_layer(), path)
    for stale in ("town.qix", "town.sbn"):
        (tmp_path / stale).write_bytes(b"old index")
    (tmp_path / "town.txt").write_text("notes")
    write_layer(footprint_layer(crs=None), path, overwrite=True)
    assert set(files_in(tmp_path)) == {"town.shp", "town.shx", "town.dbf", "town.cpg", "town.txt"}


def test_overwriting_a_geopackage_removes_its_write_ahead_log(tmp_path: Path) -> None:
    path = tmp_path / "town.gpkg"
    write_layer(footprint_layer(1), path)
    for stale in ("town.gpkg-wal", "town.gpkg-shm"):
        (tmp_path / stale).write_bytes(b"of the old file")
    write_layer(footprint_layer(3), path, overwrite=True)
    assert list(files_in(tmp_path)) == ["town.gpkg"]
    assert len(read_layer(path)) == 3


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_existing_file_is_kept_unless_asked(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"town{suffix}"
    write_layer(footprint_layer(1), path)
    before = files_in(tmp_path)
    with pytest.raises(OutputError, match=r"output exists.*--overwrite"):
        write_layer(footprint_layer(3), path)
    assert files_in(tmp_path) == before
    write_layer(footprint_layer(3), path, overwrite=True)
    assert len(read_layer(path)) == 3


def test_a_table_that_would_be_taken_for_part_of_a_shapefile_is_kept(tmp_path: Path) -> None:
    (tmp_path / "town.dbf").write_bytes(b"prices")
    with pytest.raises(OutputError, match=r"output exists: .*town\.dbf"):
        check_output(tmp_path / "town.shp")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param(
            "town.kml", r"unknown output ending 'town.kml'; use one of \.gpkg, \.shp", id="kml"
        ),
        pytest.param("town", "unknown output ending", id="no ending"),
        pytest.param("gpkg", "unknown output ending", id="an ending without its dot"),
        pytest.param("nowhere/town.gpkg", "folder does not exist: .*nowhere", id="folder missing"),
        pytest.param("folder.gpkg", "is a folder", id="a folder of that name"),
    ],
)
def test_impossible_outputs_are_refused_before_the_work(
    tmp_path: Path, name: str, message: str
) -> None:
    (tmp_path / "folder.gpkg").mkdir()
    with pytest.raises(OutputError, match=message) as error:
        check_output(tmp_path / name, overwrite=True)
    assert "\n" not in str(error.value)


def test_a_folder_that_is_not_writable_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Permissions do not bind root, so the answer of the system is put in its mouth.
    monkeypatch.setattr(os, "access", lambda _, mode: not mode & os.W_OK)
    with pytest.raises(OutputError, match=f"not writable: {tmp_path}"):
        check_output(tmp_path / "town.gpkg")


def test_checking_an_output_writes_nothing(tmp_path: Path) -> None:
    check_output(tmp_path / "town.gpkg")
    assert not files_in(tmp_path)


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """To a program, a disk full after ``size`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("missing", [1, 20_000, 60_000], ids=lambda n: f"{n} bytes short")
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_is_told_and_the_existing_file_survives(
    tmp_path: Path, suffix: str, missing: int
) -> None:
    path = tmp_path / f"town{suffix}"
    write_layer(footprint_layer(500), path)
    size = path.stat().st_size
    write_layer(footprint_layer(1), path, overwrite=True)
    before = files_in(tmp_path)
    with files_of_at_most(max(size - missing, 64)), pytest.raises(OutputError) as error:
        write_layer(footprint_layer(500), path, overwrite=True)
    assert str(error.value).startswith(f"cannot write {path}: ")
    assert "\n" not in str(error.value)
    assert files_in(tmp_path) == before


@pytest.mark.parametrize("suffix", [".gpkg", ".shp"])
def test_a_failing_driver_leaves_the_existing_file(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"town{suffix}"
    write_layer(footprint_layer(1), path)
    before = files_in(tmp_path)

    def fail(*args, **kwargs):
        raise DataSourceError("sqlite3: disk I/O error\nat line 3")

    monkeypatch.setattr(write.pyogrio, "write_dataframe", fail)
    with pytest.raises(OutputError, match="disk I/O error; is the disk full"):
        write_layer(footprint_layer(3), path, overwrite=True)
    assert files_in(tmp_path) == before


def test_an_interrupted_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(write.pyogrio, "write_dataframe", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_layer(footprint_layer(), tmp_path / "town.shp")
    assert not files_in(tmp_path)
    assert pyogrio.get_gdal_config_option("OGR_CURRENT_DATE") is None


def test_names_too_long_for_a_shapefile_are_refused(tmp_path: Path) -> None:
    layer = footprint_layer().assign(captured_on="2024")
    with pytest.raises(OutputError, match=r"'captured_on' is longer .* write town\.gpkg"):
        write_layer(layer, tmp_path / "town.shp")
    assert not files_in(tmp_path)


def test_texts_too_long_for_a_shapefile_are_refused(tmp_path: Path) -> None:
    layer = footprint_layer().assign(source="भ" * 85)
    with pytest.raises(OutputError, match="'source' holds 255 bytes"):
        write_layer(layer, tmp_path / "town.shp")


@pytest.mark.parametrize("larger", ["shp", "dbf"])
def test_more_than_a_shapefile_holds_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, larger: str
) -> None:
    layer = footprint_layer(20)
    if larger == "shp":
        layer.geometry = layer.geometry.segmentize(1.0)
    write_layer(layer, tmp_path / "town.shp")
    sizes = {part: (tmp_path / f"town.{part}").stat().st_size for part in ("shp", "dbf")}
    assert max(sizes, key=sizes.get) == larger
    monkeypatch.setattr(write, "SHAPEFILE_FILE_BYTES", sizes[larger])
    write_layer(layer, tmp_path / "town.shp", overwrite=True)
    monkeypatch.setattr(write, "SHAPEFILE_FILE_BYTES", sizes[larger] - 1)
    with pytest.raises(OutputError, match="20 footprints exceed the 2 GB"):
        write_layer(layer, tmp_path / "town.shp", overwrite=True)


@pytest.mark.parametrize("suffix", [".gpkg", ".shp", ".parquet", ".fgb"])
def test_multipolygons_can_be_written_too(tmp_path: Path, suffix: str) -> None:
    layer = footprint_layer()
    layer.loc[0, "geometry"] = shapely.MultiPolygon([box(0, 0, 1, 1), box(2, 0, 3, 1)])
    write_layer(layer, tmp_path / f"town{suffix}")
    assert len(read_layer(tmp_path / f"town{suffix}")) == 4


def test_the_crs_of_the_layer_is_the_crs_of_the_file(tmp_path: Path) -> None:
    swiss = CRS("EPSG:21781")
    write_layer(footprint_layer(crs="EPSG:21781"), tmp_path / "town.gpkg")
    assert read_layer(tmp_path / "town.gpkg").crs == swiss
