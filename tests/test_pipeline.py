"""`predict` with a detector of known buildings: real reader, tracing, merging, placing, writing."""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from known_buildings import KnownBuildings, best_ious
from known_town import (
    COURTYARD,
    HEIGHT,
    HOUSES,
    NORTH_UP,
    TERRACE,
    TOWN,
    UTM,
    WAREHOUSE,
    WIDTH,
    on_ground,
)
from labelled_scenes import write_image
from numpy.testing import assert_array_equal
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning
from shapely import Polygon, box

import footprints as fp
from footprints.chip import Chip, InputSpec, Instances, Scaling
from footprints.config import CORNERS
from footprints.errors import (
    BandError,
    ChipSizeError,
    ConfigError,
    DetectionCapWarning,
    FootprintsError,
    FootprintsWarning,
    LayerError,
    OutputError,
    RasterError,
)
from footprints.vector.layer import check_layer
from footprints.vector.read import read_layer
from footprints.vector.scenes import scenes_of
from footprints.vector.write import SUFFIXES

LAYOUTS = {
    "north-up": (UTM, NORTH_UP),
    "rotated": (UTM, NORTH_UP @ Affine.rotation(33)),
    "south-up": (UTM, Affine(0.3, 0, 350_000, 0, 0.3, 3_057_000)),
    "mirrored and sheared": (UTM, NORTH_UP @ Affine.shear(10) @ Affine.scale(-1, 1)),
    "in degrees": ("EPSG:4326", Affine(2.7e-6, 0, 85.5, 0, -2.7e-6, 27.63)),
    "in Web Mercator": ("EPSG:3857", Affine(0.3, 0, 9_520_000, 0, -0.3, 3_205_000)),
}


def noise(height: int = HEIGHT, width: int = WIDTH, bands: int = 1) -> np.ndarray:
    """Pixels without black, the same every time."""
    return np.random.default_rng(0).integers(40, 250, (bands, height, width)).astype(np.uint8)


def detector_of(buildings: list[Polygon], *, gsd_m: float | None = None) -> KnownBuildings:
    spec = InputSpec(bands=1, gsd_m=gsd_m, scaling=Scaling((0.0,), (1.0,)))
    return KnownBuildings(buildings, input_spec=spec)


@dataclass(frozen=True, eq=False)
class WatchedBuildings(KnownBuildings):
    """Keeps the chips it is shown."""

    shown: list[Chip] = field(default_factory=list)

    def __call__(self, chips):
        self.shown.extend(chips)
        return super().__call__(chips)


def predict(scenes, detector, **options) -> gpd.GeoDataFrame:
    options = {"chip_size": 128, "overlap": 40, "progress": False, **options}
    return fp.predict(scenes, detector=detector, **options)


def assert_finds(layer: gpd.GeoDataFrame, truth: list[Polygon], iou: float = 0.98) -> None:
    check_layer(layer)
    assert len(layer) == len(truth)
    assert best_ious(layer.geometry.to_numpy(), truth).min() >= iou


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """The town's raster, north up."""
    return write_image(tmp_path / "town.tif", noise(), transform=NORTH_UP, crs=UTM)


@pytest.fixture
def town() -> KnownBuildings:
    return detector_of(on_ground(TOWN))


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write the town's raster with other pixels or elsewhere."""

    def write_town(name: str = "town.tif", pixels: np.ndarray | None = None, **options) -> Path:
        options = {"transform": NORTH_UP, "crs": UTM, **options}
        return write_image(tmp_path / name, noise() if pixels is None else pixels, **options)

    return write_town


# Every building once, whatever the grid and wherever the raster lies.


@pytest.mark.parametrize(
    ("chip_size", "overlap"),
    [
        pytest.param(96, 32, id="small chips, the warehouse over nine"),
        pytest.param(96, 4, id="hardly any overlap"),
        pytest.param(97, 41, id="odd chips"),
        pytest.param(160, 30, id="two chips a side"),
        pytest.param(160, 120, id="mostly overlap"),
        pytest.param(288, 64, id="one chip, larger than the raster"),
        pytest.param(1024, 128, id="one chip, much larger than the raster"),
    ],
)
def test_every_building_is_found_once_by_any_grid(scene, town, chip_size, overlap):
    layer = predict(scene, town, chip_size=chip_size, overlap=overlap)
    assert_finds(layer, town.polygons)
    assert not layer["cut"].any()


@pytest.mark.parametrize(
    ("height", "width"),
    [
        pytest.param(100, 280, id="lower than a chip"),
        pytest.param(270, 60, id="narrower than a chip"),
        pytest.param(129, 128, id="a pixel higher than a chip"),
        pytest.param(40, 70, id="smaller than a chip"),
    ],
)
def test_buildings_at_the_border_are_kept_and_called_cut(write, town, height, width):
    border = box(0, 0, width, height)
    seen = [b.intersection(border) for b in TOWN if b.intersection(border).area >= 50]
    layer = predict(write(pixels=noise(height, width)), town)
    assert_finds(layer, on_ground(seen))
    inside = [b.within(box(0, 0, width - 3, height - 3)) for b in seen]
    assert sorted(layer["cut"]) == sorted(not whole for whole in inside)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("gsd_m", [None, 0.3], ids=["as it is", "at 0.3 m"])
def test_polygons_land_on_the_buildings(write, layout, gsd_m):
    crs, transform = layout
    town = on_ground(TOWN, transform)
    layer = predict(write(transform=transform, crs=crs), detector_of(town, gsd_m=gsd_m))
    assert layer.crs == crs
    assert_finds(layer, town)


def test_a_finer_raster_is_seen_at_the_detectors_resolution(write, town):
    fine = write(pixels=noise(2 * HEIGHT, 2 * WIDTH), transform=NORTH_UP @ Affine.scale(0.5))
    watched = WatchedBuildings(town.polygons, input_spec=replace(town.input_spec, gsd_m=0.3))
    layer = predict(fine, watched)
    assert_finds(layer, town.polygons)
    steps = {round(chip.transform.a, 2) for chip in watched.shown}
    assert steps == {0.3, 1.2}


def test_terraces_stay_apart_and_a_courtyard_stays_open(scene, town):
    layer = predict(scene, town, chip_size=96, overlap=32)
    terrace = layer[layer.geometry.intersects(shapely.union_all(on_ground(TERRACE)).buffer(-1))]
    assert len(terrace) == len(TERRACE)
    (courtyard,) = on_ground([box(190, 58, 230, 82)])
    assert not layer.geometry.intersects(courtyard.buffer(-0.6)).any()
    assert (shapely.get_num_interior_rings(layer.geometry.to_numpy()) == 1).sum() == 1


def test_areas_are_square_metres_on_the_ground(write):
    crs, transform = LAYOUTS["in Web Mercator"]
    layer = predict(write(transform=transform, crs=crs), detector_of(on_ground(HOUSES, transform)))
    # A Mercator metre at this latitude is 0.887 m.
    assert layer["area_m2"].to_numpy() == pytest.approx(22 * 18 * 0.3**2 * 0.887**2, rel=0.01)


def test_pixel_coordinates_need_no_georeference(write):
    with pytest.warns(NotGeoreferencedWarning):
        bare = write(crs=None, transform=Affine.identity())
    layer = predict(bare, detector_of(TOWN), pixels=True)
    assert layer.crs is None
    assert_finds(layer, TOWN)
    assert layer["area_m2"].sum() == pytest.approx(sum(b.area for b in TOWN), rel=0.01)


def test_overviews_serve_the_coarse_pass_and_are_closed(write, town):
    # Sides of whole coarse pixels: four pixels to one is when an overview is used.
    scene = write(pixels=noise(272, 280))
    with rasterio.open(scene, "r+") as dataset:
        dataset.build_overviews([2, 4], Resampling.average)
    layer = predict(scene, town)
    assert_finds(layer, town.polygons)


def test_a_crs_can_be_given(write, town):
    layer = predict(write(crs=None), town, crs=UTM)
    assert layer.crs == UTM
    assert_finds(layer, town.polygons)


# Ground without data.


def test_what_lies_without_data_is_not_reported(write, town):
    pixels = noise()
    pixels[:, np.add.outer(np.arange(HEIGHT), np.arange(WIDTH)) < 120] = 0
    # The stairs of pixels along the corner's edge are half ground.
    corner = Polygon([(0, 0), (121, 0), (0, 121)])
    seen = [part for b in TOWN if (part := b.difference(corner)).area > 200]
    layer = predict(write(pixels=pixels, nodata=0), town, min_area_m2=200 * 0.3**2)
    assert_finds(layer, on_ground(seen))
    assert layer["cut"].sum() == sum(box(*b.bounds).distance(corner) < 2 for b in seen) > 0


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "undeclared"])
def test_a_black_collar_is_no_ground(write, declared):
    pixels = noise()
    pixels[:, :, :104] = 0
    right = [b for b in TOWN if b.bounds[0] > 108]
    detector = detector_of(on_ground(TOWN))
    layer = predict(write(pixels=pixels), detector, nodata=0 if declared else None)
    assert not layer.geometry.intersects(*on_ground([box(0, 0, 103, HEIGHT)])).any()
    whole = layer[~layer["cut"]].geometry.to_numpy()
    assert best_ious(whole, on_ground(right)).min() >= 0.98


def test_chips_without_data_are_not_shown_to_the_detector(write, town):
    pixels = noise()
    pixels[:, :, :140] = 0
    watched = WatchedBuildings(town.polygons)
    predict(write(pixels=pixels, nodata=0), watched)
    assert watched.shown
    assert all(chip.valid.any() for chip in watched.shown)
    assert len(watched.shown) < 9


def test_a_cap_is_reported_unless_only_wide_roofs_are_sought(scene):
    @dataclass(frozen=True, eq=False)
    class Capped(KnownBuildings):
        def __call__(self, chips):
            found = super().__call__(chips)
            is_coarse = abs(chips[0].transform.a) > 1
            return [
                replace(each, capped=is_coarse or chip.window.x > 0)
                for chip, each in zip(chips, found, strict=True)
            ]

    with pytest.warns(DetectionCapWarning) as caught:
        predict(scene, Capped(on_ground(TOWN)))
    # Three rows of three chips, and one chip of the coarse pass.
    assert len(caught) == 3 * 2
    where = re.compile(r"town\.tif: the chip at column [1-9]\d*, row \d+ reached the cap of \d+ ")
    assert all(where.match(str(warning.message)) for warning in caught)


def test_a_scene_without_data_gives_an_empty_layer(write, town, tmp_path):
    empty = write(pixels=np.zeros((1, HEIGHT, WIDTH), np.uint8), nodata=0)
    with pytest.warns(FootprintsWarning, match=r"has no pixel with data; check --nodata"):
        layer = predict(empty, town, output=tmp_path / "none.gpkg")
    check_layer(layer)
    assert (len(layer), layer.crs) == (0, UTM)
    written = read_layer(tmp_path / "none.gpkg")
    assert list(written.columns) == list(layer.columns)
    assert written.crs == UTM


# Keypoints.


def corners_of(building: Polygon) -> np.ndarray:
    """(4, 2) its vertices nearest to the corners of its box, in pixels."""
    x_min, y_min, x_max, y_max = building.bounds
    vertices = shapely.get_coordinates(building)
    corners = [(x_min, y_min), (x_max, y_min), (x_max, y_max), (x_min, y_max)]
    return np.array([vertices[np.hypot(*(vertices - c).T).argmin()] for c in corners])


def cornered(buildings: list[Polygon], **settings) -> KnownBuildings:
    return replace(detector_of(buildings, **settings), keypoints=CORNERS)


@pytest.mark.parametrize("chip_size", [128, 300])
def test_every_building_has_each_corner_once_by_any_grid(scene, tmp_path, chip_size):
    houses = [*HOUSES, *TERRACE, WAREHOUSE]
    layer = predict(
        scene, cornered(on_ground(houses)), keypoints=tmp_path / "c.gpkg", chip_size=chip_size
    )
    assert "keypoints" not in layer
    points = gpd.read_file(tmp_path / "c.gpkg")
    assert points.crs == layer.crs
    assert list(points.columns[:-1]) == ["building", "keypoint", "confidence", "source", "model"]
    assert (points["confidence"] == 0.9).all()
    assert not points.duplicated(["building", "keypoint"]).any()
    truth = on_ground(houses)
    for house, on_map in zip(houses, truth, strict=True):
        found = layer.geometry.intersection(on_map).area.idxmax()
        own = points[points["building"] == layer["id"][found]].set_index("keypoint")
        assert set(own.index) == set(CORNERS)
        expected = [NORTH_UP @ tuple(corner) for corner in corners_of(house)]
        np.testing.assert_allclose(
            own.geometry[list(CORNERS)].get_coordinates(), expected, atol=0.03
        )


def test_corners_of_several_scenes_belong_to_the_buildings_of_the_layer(write, tmp_path):
    detector = cornered(on_ground([*HOUSES, COURTYARD]))
    scenes = [write("a.tif"), write("b.tif")]
    layer = predict(scenes, detector, keypoints=tmp_path / "c.parquet", out_crs="EPSG:4326")
    points = gpd.read_parquet(tmp_path / "c.parquet")
    assert points.crs == layer.crs == "EPSG:4326"
    joined = points.merge(layer[["id", "source", "geometry"]], left_on="building", right_on="id")
    assert len(joined) == len(points) == 4 * len(layer)
    assert (joined["source_x"] == joined["source_y"]).all()
    apart = shapely.distance(joined["geometry_x"].to_numpy(), joined["geometry_y"].to_numpy())
    # In degrees; a pixel has 3e-6.
    assert apart.max() < 3e-6


def test_keypoints_are_asked_only_of_detectors_that_find_some(scene, town, tmp_path):
    with pytest.raises(ConfigError, match="known-buildings finds no keypoints"):
        predict(scene, town, keypoints=tmp_path / "c.gpkg")
    with pytest.raises(OutputError, match="unknown output ending"):
        predict(scene, town, keypoints=tmp_path / "c.txt")


@pytest.mark.parametrize("suffix", [".gpkg", ".shp", ".fgb", ".geojson"])
def test_no_corners_are_an_empty_layer_of_points(write, tmp_path, suffix):
    path = tmp_path / f"c{suffix}"
    predict(write(), cornered([]), keypoints=path)
    assert len(gpd.read_file(path)) == 0
    predict(write(), cornered(on_ground(HOUSES)), keypoints=path, overwrite=True)
    points = gpd.read_file(path)
    assert len(points) == 4 * len(HOUSES)
    assert set(points.geom_type) == {"Point"}


# What is kept of what is found.


def test_confidence_is_the_detectors_unless_said_otherwise(scene, town):
    layer = predict(scene, town)
    kept = layer[layer["confidence"] >= 0.8]
    assert 0 < len(kept) < len(layer)
    assert_array_equal(predict(scene, town, confidence=0.8)["confidence"], kept["confidence"])
    surer = replace(town, confidence=0.8)
    assert_array_equal(predict(scene, surer)["confidence"], kept["confidence"])
    assert len(predict(scene, surer, confidence=0)) == len(layer)


def test_small_buildings_are_left_out_by_their_area_on_the_ground(scene, town):
    house_m2 = 22 * 18 * 0.3**2
    assert len(predict(scene, town, min_area_m2=house_m2 * 1.05)) == len(TOWN) - len(HOUSES)
    assert len(predict(scene, town, min_area_m2=house_m2 * 0.95)) == len(TOWN)


@pytest.mark.parametrize("layout", ["rotated", "in degrees"])
def test_outlines_can_be_regularised_and_simplified(write, layout):
    crs, transform = LAYOUTS[layout]
    scene = write("a.tif", noise(), transform=transform, crs=crs)
    town = on_ground(TOWN, transform)
    layer = predict(
        scene, detector_of(town), regularize="right-angles", tolerance_m=1.0, simplify_m=0.2
    )
    check_layer(layer)
    assert set(layer["regularized"]) == {"right-angles"}
    assert (layer["iou"] > 0.95).all()
    assert sorted(shapely.get_num_coordinates(layer.geometry.to_numpy()))[-1] == 10
    assert_finds(layer, town, iou=0.95)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        pytest.param({"regularize": "squares"}, "got 'squares'", id="unknown method"),
        pytest.param({"regularize": "auto", "tolerance_m": 0}, "tolerance must be", id="no metres"),
        pytest.param({"tolerance_m": 1.0}, "name a method", id="tolerance of nothing"),
        pytest.param({"simplify_m": -1}, "simplify must be", id="negative metres"),
    ],
)
def test_bad_ways_to_straighten_are_refused_before_the_work(scene, options, words):
    watched = WatchedBuildings([], input_spec=detector_of([]).input_spec)
    with pytest.raises(ConfigError, match=words):
        predict(scene, watched, **options)
    assert not watched.shown


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"confidence": "high"}, "--confidence must be a number, got 'high'"),
        ({"min_area_m2": None}, "--min-area must be a number, got None"),
        ({"batch_size": 2.5}, "--batch-size must be a whole number from 1 on, got 2.5"),
        ({"chip_size": "512"}, "--chip-size must be a number, got '512'"),
        ({"regularize": "auto", "tolerance_m": "1"}, "--tolerance must be a number, got '1'"),
        ({"bands": ["red"]}, "a band .* must be a number, got 'red'"),
        ({"output": 3}, "an output is named by a text or a path, got 3"),
        ({"aoi": 3}, "a layer is a file or a GeoDataFrame, got 3"),
    ],
)
def test_values_of_a_wrong_kind_are_refused_at_the_door(scene, options, words):
    with pytest.raises(FootprintsError, match=f"^{words}$"):
        predict(scene, detector_of([]), **options)


def test_scenes_of_a_wrong_kind_are_refused_at_the_door(scene):
    with pytest.raises(RasterError, match="a scene is named by a text or a path, got 3: name"):
        fp.predict([scene, 3], detector=detector_of([]))


def test_bands_are_those_asked_for(write, town):
    pixels = np.concatenate([np.full((1, HEIGHT, WIDTH), 50), noise()]).astype(np.uint8)
    watched = WatchedBuildings(town.polygons)
    predict(write(pixels=pixels), watched, bands=[2], chip_size=512)
    (chip,) = watched.shown
    assert_array_equal(chip.pixels[:, :HEIGHT, :WIDTH], noise())


def test_the_columns_say_where_a_building_is_from(scene, town):
    layer = predict(scene, town)
    assert set(layer["source"]) == {"town.tif"}
    assert set(layer["model"]) == {"known-buildings"}
    assert set(layer["class"]) == {"building"}


# Several scenes, one layer.


def test_scenes_in_several_crs_make_one_layer(write):
    degrees, far = LAYOUTS["in degrees"]
    houses, terrace = on_ground(HOUSES), on_ground(TERRACE, far)
    scenes = [write("a.tif"), write("b.tif", crs=degrees, transform=far)]

    class BothTowns(KnownBuildings):
        def __call__(self, chips) -> list[Instances]:
            here = houses if chips[0].source == "a.tif" else terrace
            return detector_of(here)(chips)

    layer = predict(scenes, BothTowns([]))
    truth = [*houses, *gpd.GeoSeries(terrace, crs=degrees).to_crs(UTM)]
    assert layer.crs == UTM
    assert_finds(layer, truth)
    assert layer["source"].tolist() == ["a.tif"] * len(houses) + ["b.tif"] * len(terrace)


def test_scenes_of_one_name_are_told_apart_by_their_paths(write, town):
    scenes = [write("east/town.tif"), write("west/town.tif"), write("other.tif")]
    layer = predict(scenes, town, overlaps=True)
    assert layer["source"].unique().tolist() == [str(scenes[0]), str(scenes[1]), "other.tif"]


def test_what_several_scenes_show_is_there_once(write, town):
    one, other = write("one.tif"), write("other.tif")
    alone, both = predict(one, town), predict([one, other], town)
    shared = both.overlay(alone, how="intersection")
    assert shared.area.sum() > 0.99 * alone.area.sum()
    assert len(both) == len(alone)
    assert len(predict([one, other], town, overlaps=True)) == 2 * len(alone)
    assert [scene.source for scene in scenes_of(both)] == ["one.tif", "other.tif"]


def test_an_empty_scene_does_not_change_the_layers_types(write, town):
    empty = write("empty.tif", np.zeros((1, HEIGHT, WIDTH), np.uint8), nodata=0)
    with pytest.warns(FootprintsWarning, match=r"empty\.tif has no pixel with data"):
        layer = predict([empty, write()], town)
    assert_finds(layer, town.polygons)
    assert set(layer["source"]) == {"town.tif"}


def test_geojson_is_in_no_other_crs(scene, town, tmp_path):
    assert len(predict(scene, town, out_crs="EPSG:4326", output=tmp_path / "a.geojson"))
    with pytest.raises(ConfigError, match=r"always WGS 84 .*Pseudo-Mercator .*b\.geojson"):
        predict(scene, town, out_crs="EPSG:3857", output=tmp_path / "b.geojson")
    assert not (tmp_path / "b.geojson").exists()


def test_the_layer_can_be_in_another_crs(scene, town):
    layer = predict(scene, town, out_crs="EPSG:3857")
    assert layer.crs == "EPSG:3857"
    assert_finds(layer, list(gpd.GeoSeries(town.polygons, crs=UTM).to_crs(3857)))
    assert layer["area_m2"].sum() == pytest.approx(sum(b.area for b in town.polygons), rel=0.01)


# Files.


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_holds_the_layer(scene, town, tmp_path, suffix):
    path = tmp_path / f"layer{suffix}"
    layer = predict(scene, town, output=path)
    layer = layer.sort_values("id")
    written = read_layer(path).sort_values("id")
    assert scenes_of(written) == scenes_of(layer)
    assert written.crs == ("EPSG:4326" if "json" in suffix else UTM)
    assert_array_equal(written["confidence"], layer["confidence"])
    assert_array_equal(written["source"], layer["source"])
    moved = layer.to_crs(written.crs).geometry.to_numpy()
    # GeoJSON's seven decimals are a centimetre.
    assert best_ious(written.geometry.to_numpy(), moved).min() > 0.997


@pytest.mark.parametrize("suffix", [".gpkg", ".parquet", ".fgb", ".geojson"])
def test_the_same_work_gives_the_same_bytes(scene, town, tmp_path, suffix):
    once, again = tmp_path / "once" / f"a{suffix}", tmp_path / "again" / f"a{suffix}"
    for path in (once, again):
        path.parent.mkdir()
        predict(scene, town, output=path)
    assert once.read_bytes() == again.read_bytes()


def test_batches_do_not_change_the_layer(scene, town):
    one, many = (predict(scene, town, batch_size=n) for n in (1, 7))
    assert one.equals(many)


def test_an_existing_output_stays_unless_it_may_be_replaced(scene, town, tmp_path):
    path = tmp_path / "layer.gpkg"
    path.write_text("mine")
    watched = WatchedBuildings(town.polygons)
    with pytest.raises(OutputError, match=r"output exists: .*layer\.gpkg; .*--overwrite"):
        predict(scene, watched, output=path)
    assert not watched.shown
    assert path.read_text() == "mine"
    predict(scene, town, output=path, overwrite=True)
    assert len(read_layer(path)) == len(TOWN)


def truncated(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    return path


def test_nothing_is_written_when_a_scene_fails(write, town, tmp_path):
    scenes = [write("good.tif"), truncated(write("broken.tif"))]
    (tmp_path / "out").mkdir()
    with pytest.raises(RasterError, match=r"broken\.tif: cannot read pixels x \d+-\d+, y \d+-\d+"):
        predict(scenes, town, output=tmp_path / "out" / "layer.gpkg")
    assert not list((tmp_path / "out").glob("layer*"))


# Words.


def test_no_progress_prints_nothing(scene, town, capfd):
    predict(scene, town)
    assert capfd.readouterr() == ("", "")


def test_progress_counts_chips_and_buildings_on_a_terminal(scene, town, capfd, monkeypatch):
    predict(scene, town, progress=True)
    assert capfd.readouterr().err == "", "a log is no place for a bar"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    predict(scene, town, progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "town.tif" in err
    assert "10/10" in err
    assert "buildings=" in err


# Mistakes, found before the detector is shown anything.


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        pytest.param({"confidence": 2}, ConfigError, r"confidence .* got 2", id="sure twice"),
        pytest.param({"confidence": float("nan")}, ConfigError, "got nan", id="confidence NaN"),
        pytest.param({"min_area_m2": -1}, ConfigError, "got -1", id="negative area"),
        pytest.param({"min_area_m2": float("nan")}, ConfigError, "got nan", id="area NaN"),
        pytest.param({"batch_size": 0}, ConfigError, "got 0", id="no batch"),
        pytest.param({"chip_size": 0}, ChipSizeError, "got 0", id="no chip"),
        pytest.param({"overlap": 128}, ChipSizeError, "--overlap", id="overlap as large as a chip"),
        pytest.param({"overlap": -1}, ChipSizeError, "overlap -1", id="negative overlap"),
        pytest.param({"out_crs": "moon"}, ConfigError, "'moon'.*EPSG:32645", id="unknown CRS"),
        pytest.param({"crs": "moon"}, RasterError, "'moon'.*EPSG:32645", id="unknown scene CRS"),
        pytest.param(
            {"pixels": True, "out_crs": UTM}, ConfigError, "no CRS; use", id="pixels in a CRS"
        ),
        pytest.param(
            {"out_crs": "+proj=gnom +lat_0=-27.6 +lon_0=-94.5"},
            LayerError,
            "outside the domain",
            id="a CRS not defined there",
        ),
        pytest.param({"bands": [1, 1]}, BandError, "takes 1 bands.*names 2", id="too many bands"),
        pytest.param({"bands": [2]}, BandError, "band 2 is not in", id="a band that is not there"),
        pytest.param({"nodata": 300}, RasterError, "uint8, got 300", id="nodata out of range"),
        pytest.param({"output": "layer.docx"}, OutputError, r"\.docx.*\.gpkg", id="a document"),
        pytest.param({"output": "no/such/a.gpkg"}, OutputError, "does not exist", id="no folder"),
    ],
)
def test_mistakes_cost_no_work(scene, town, options, error, words):
    watched = WatchedBuildings(town.polygons)
    with pytest.raises(error, match=words):
        predict(scene, watched, **options)
    assert not watched.shown


@pytest.mark.parametrize(
    ("scenes", "words"),
    [
        pytest.param([], "no scene given", id="none"),
        pytest.param(["town.tif", "missing.tif"], r"missing\.tif does not exist", id="misspelt"),
        pytest.param(["town.tif", "town.tif"], r"town\.tif is given 2 times", id="twice the same"),
        pytest.param(["town.tif", "bare.tif"], r"bare\.tif has no CRS; --crs", id="without CRS"),
        pytest.param(["town.tif", "coarse.tif"], "too coarse", id="of coarse pixels"),
    ],
)
def test_wrong_scenes_cost_no_work(write, town, tmp_path, scenes, words):
    write("town.tif")
    write("bare.tif", crs=None)
    write("coarse.tif", transform=NORTH_UP @ Affine.scale(100))
    watched = WatchedBuildings(town.polygons, input_spec=replace(town.input_spec, gsd_m=0.3))
    with pytest.raises(RasterError, match=words):
        predict([tmp_path / name for name in scenes], watched)
    assert not watched.shown


def test_a_local_grid_has_no_way_to_the_globe(write, town):
    site = write(crs='LOCAL_CS["site",UNIT["metre",1]]')
    assert len(predict(site, town)) == len(TOWN)
    with pytest.raises(LayerError, match="no way from site to WGS 84"):
        predict(site, town, out_crs="EPSG:4326")


def test_a_folder_stands_for_its_scenes(write, town, tmp_path):
    folder = tmp_path / "tiles"
    folder.mkdir()
    names = ("a.tif", "b.tif")
    for name in names:
        write(f"tiles/{name}")
    layer = predict(folder, town, overlaps=True)
    assert layer.equals(predict([folder / name for name in names], town, overlaps=True))
    assert set(layer["source"]) == set(names)


@pytest.mark.parametrize("resume", [False, True])
def test_a_detector_hears_how_much_is_to_come(write, tmp_path, resume):
    @dataclass(frozen=True, eq=False)
    class Preparing(KnownBuildings):
        heard: list[tuple] = field(default_factory=list)

        def expect(self, chips, batch):
            self.heard.append((chips, batch))

    detector = Preparing(on_ground(TOWN))
    output = tmp_path / "two.gpkg" if resume else None
    predict([write("a.tif"), write("b.tif")], detector, batch_size=4, output=output, resume=resume)
    assert detector.heard == [(18, (4, 128, 128))]
    next(fp.predict_iter(write("c.tif"), detector=detector, chip_size=96, overlap=32))
    assert detector.heard[1:] == [(16, (2, 96, 96))]
