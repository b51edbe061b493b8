"""A layer knows where its scenes lie, and says so in every format."""

import copy
import json
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import shapely
from affine import Affine
from geopandas import GeoDataFrame
from pyproj import CRS
from shapely import box
from test_write import footprint_layer

from footprints.chip import Window
from footprints.errors import LayerError
from footprints.vector.layer import check_layer, concat_layers, reproject
from footprints.vector.read import read_layer
from footprints.vector.scenes import (
    RECORD,
    SceneRecord,
    attach_scenes,
    describe_scene,
    scenes_of,
    seen_ground,
    unite_seen,
)
from footprints.vector.write import SUFFIXES, write_layer

UTM = CRS("EPSG:32645")


def record(source: str = 'Bhaktapur "भक्तपुर".tif') -> SceneRecord:
    return describe_scene(
        source,
        "known",
        shapely.multipolygons([box(0, 0, 300, 200)]),
        Affine(0.3, 0, 338_000.1, 0, -0.3, 3_057_000.7),
        UTM,
        pixel_m=0.3,
        parameters={"confidence": 0.5, "bands": (1, 2, 3), "crs": None, "features": "<all>"},
    )


def layer_with(*scenes: SceneRecord) -> GeoDataFrame:
    layer = footprint_layer()
    attach_scenes(layer, scenes)
    return layer


def test_a_whole_chip_was_seen_whole() -> None:
    assert seen_ground(np.ones((64, 96), bool), Window(10, 20, 96, 64)).equals(box(10, 20, 106, 84))


def test_what_has_no_data_was_not_seen() -> None:
    valid = np.ones((100, 100), dtype=bool)
    valid[:, :30] = False
    valid[50:53, 60:63] = False  # a speck
    assert seen_ground(valid, Window(200, 0, 100, 100)).equals(box(230, 0, 300, 100))


def test_a_slanting_edge_has_few_vertices() -> None:
    valid = np.add.outer(2 * np.arange(300), np.arange(300)) > 300
    ground = unite_seen([seen_ground(valid, Window(0, 0, 300, 300))])
    truth = shapely.Polygon([(0, 150), (300, 0), (300, 300), (0, 300)])
    assert shapely.get_num_coordinates(ground) < 20
    assert shapely.symmetric_difference(ground, truth).area < 1.5 * 336


def test_chips_make_one_outline_without_small_holes() -> None:
    valid = np.ones((100, 100), dtype=bool)
    valid[40:50, 40:50] = False
    valid[60:97, 50:90] = False
    parts = [
        seen_ground(valid, Window(0, 0, 100, 100)),
        seen_ground(np.ones((100, 100), bool), Window(95, 0, 100, 100)),
        seen_ground(np.ones((50, 50), bool), Window(400, 0, 50, 50)),
    ]
    ground = unite_seen(parts)
    assert ground.geom_type == "MultiPolygon"
    assert ground.equals(box(0, 0, 195, 100).difference(box(50, 60, 90, 97)) | box(400, 0, 450, 50))


def test_nothing_seen_is_an_empty_outline() -> None:
    assert shapely.to_wkt(unite_seen([])) == "MULTIPOLYGON EMPTY"


def test_an_outline_lies_where_the_scene_does() -> None:
    assert record().ground().bounds == pytest.approx(
        (338_000.1, 3_056_940.7, 338_090.1, 3_057_000.7)
    )
    assert record().outline_crs == "EPSG:32645"


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("crs", ["EPSG:32645", None], ids=["placed", "pixels"])
def test_every_format_keeps_the_record(tmp_path: Path, suffix: str, crs: str | None) -> None:
    layer = footprint_layer(crs=crs)
    attach_scenes(layer, [record(), record("b.tif")])
    write_layer(layer, tmp_path / f"town{suffix}")
    read = read_layer(tmp_path / f"town{suffix}", needs_crs=False)
    assert read.crs == ("EPSG:4326" if crs and "json" in suffix else crs)
    assert scenes_of(read) == scenes_of(layer) == (record(), record("b.tif"))


def test_a_layer_without_record_has_none_in_a_file(tmp_path: Path) -> None:
    write_layer(footprint_layer(), tmp_path / "town.gpkg")
    assert scenes_of(read_layer(tmp_path / "town.gpkg")) == ()
    assert not pyogrio.read_info(tmp_path / "town.gpkg", layer="town")["layer_metadata"]


def test_a_shapefiles_record_goes_with_it(tmp_path: Path) -> None:
    write_layer(layer_with(record()), tmp_path / "town.shp")
    assert json.loads((tmp_path / "town.footprints.json").read_text())[0]["model"] == "known"
    write_layer(footprint_layer(), tmp_path / "town.shp", overwrite=True)
    assert not (tmp_path / "town.footprints.json").exists()


def test_the_record_survives_what_is_done_to_a_layer() -> None:
    layer = layer_with(record())
    moved = reproject(layer, CRS("EPSG:4326"))
    assert scenes_of(moved) == (record(),)
    joined = concat_layers([layer, layer_with(record("b.tif"))])
    assert [scene.source for scene in scenes_of(joined)] == [record().source, "b.tif"]
    check_layer(joined)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"outline": "POLYGON ((0 0"}, r"scene town\.tif has no outline but 'POLYGON"),
        ({"outline": "POINT (0 0)"}, "must be a MultiPolygon, got 'POINT"),
        ({"outline": None}, "must be a MultiPolygon, got None"),
        ({"outline_crs": "EPSG:0"}, "has unknown CRS 'EPSG:0'"),
    ],
)
def test_a_damaged_record_is_refused_and_says_why(change: dict, message: str) -> None:
    layer = layer_with(record("town.tif"))
    layer.attrs = copy.deepcopy(layer.attrs)
    layer.attrs[RECORD][0].update(change)
    with pytest.raises(LayerError, match=message) as error:
        check_layer(layer)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", ["text", [1], [{"source": "a"}]], ids=str)
def test_what_is_no_record_is_refused(value: object) -> None:
    layer = footprint_layer()
    layer.attrs[RECORD] = value
    with pytest.raises(LayerError, match="record of"):
        check_layer(layer)


def test_text_that_is_no_json_is_refused(tmp_path: Path) -> None:
    write_layer(layer_with(record()), tmp_path / "town.shp")
    (tmp_path / "town.footprints.json").write_text("[{")
    with pytest.raises(LayerError, match=r"cannot read .*town\.shp as a vector layer"):
        read_layer(tmp_path / "town.shp")
