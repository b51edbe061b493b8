"""Areas of interest: which chips are read, and which buildings belong to which area."""

import itertools
from dataclasses import dataclass, field
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely
from affine import Affine
from known_buildings import KnownBuildings, noisy
from known_town import HEIGHT, NORTH_UP, TOWN, UTM, WIDTH, on_ground
from labelled_scenes import write_image
from numpy.testing import assert_array_equal
from pyproj import CRS
from shapely import box

import footprints as fp
from footprints.chip import ChipGrid
from footprints.errors import AreaError, LayerError, RunError
from footprints.vector.area import BEYOND, Area, chips_near
from footprints.vector.scenes import scenes_of

GRID = {"chip_size": 64, "overlap": 24, "progress": False}
COLUMNS = 3
"""Towns beside each other."""


@dataclass(frozen=True, eq=False)
class Watched(KnownBuildings):
    shown: list[tuple[int, int]] = field(default_factory=list)
    """Upper-left corners in grid pixels of the chips of the fine pass."""

    def __call__(self, chips):
        for chip in chips:
            if chip.window.width == chip.valid.shape[1]:
                self.shown.append((int(chip.window.x), int(chip.window.y)))
        return super().__call__(chips)


def detector() -> Watched:
    towns = [
        shapely.affinity.translate(house, WIDTH * column)
        for column in range(COLUMNS)
        for house in TOWN
    ]
    return Watched(on_ground(towns), flaws=[noisy])


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Path:
    pixels = np.random.default_rng(0).integers(40, 250, (1, HEIGHT, COLUMNS * WIDTH))
    path = tmp_path_factory.mktemp("scene") / "towns.tif"
    return write_image(path, pixels.astype(np.uint8), transform=NORTH_UP, crs=UTM)


@pytest.fixture(scope="module")
def whole(scene) -> gpd.GeoDataFrame:
    return fp.predict(scene, detector=detector(), **GRID)


def area(*pixels: shapely.Polygon, crs: str = UTM) -> gpd.GeoDataFrame:
    return gpd.GeoDataFrame(geometry=on_ground(pixels), crs=UTM).to_crs(crs)


def inside(layer: gpd.GeoDataFrame, ground: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    held = layer.centroid.within(ground.to_crs(layer.crs).union_all())
    return layer[held].reset_index(drop=True)


AREAS = {
    "a rectangle": area(box(300, 100, 520, 230)),
    "a triangle": area(shapely.Polygon([(250, 20), (600, 60), (330, 220)])),
    "two parts": area(box(20, 10, 90, 90), box(640, 100, 740, 200)),
    "in degrees": area(box(300, 100, 520, 230), crs="EPSG:4326"),
    "larger than the scene": area(box(-1e5, -1e5, 1e5, 1e5)),
}


@pytest.mark.parametrize("ground", AREAS.values(), ids=AREAS)
def test_an_area_has_what_the_whole_scene_has_there(scene, whole, ground):
    seen = detector()
    layer = fp.predict(scene, detector=seen, aoi=ground, **GRID)
    assert 0 < len(layer) <= len(whole)
    assert_same(layer, inside(whole, ground))
    asked = shapely.union_all(on_grid(ground))
    for x, y in seen.shown:
        assert box(x, y, x + 64, y + 64).distance(asked) <= 64 * BEYOND * 2**0.5 + 1


def on_grid(ground: gpd.GeoDataFrame) -> np.ndarray:
    inverse = ~NORTH_UP
    matrix = [inverse.a, inverse.b, inverse.d, inverse.e, inverse.c, inverse.f]
    return ground.to_crs(UTM).affine_transform(matrix).to_numpy()


def assert_same(layer: gpd.GeoDataFrame, expected: gpd.GeoDataFrame) -> None:
    assert_array_equal(layer["id"], expected["id"])
    far = expected.hausdorff_distance(expected.centroid) > 0.3 * 64 * BEYOND
    assert layer.geometry[~far].geom_equals(expected.geometry[~far]).all()
    # Wider ones may be those of the coarse pass.
    common = layer.intersection(expected).area / layer.union(expected).area
    assert common[far].min() > 0.95 or not far.any()
    settled = ["class", "cut", "source", "model"]
    assert layer[settled].equals(expected[settled])


def test_areas_that_tile_the_ground_lose_and_double_nothing(scene, whole):
    """Borders go through the middle of houses, on whole pixels."""
    edges = [0, 31, 270, 311, 600, COLUMNS * WIDTH]
    parts = [
        fp.predict(scene, detector=detector(), aoi=area(box(left, 0, right, HEIGHT)), **GRID)
        for left, right in itertools.pairwise(edges)
    ]
    ids = np.concatenate([part["id"] for part in parts])
    assert sorted(ids) == sorted(whole["id"])


def test_a_centroid_on_the_border_belongs_to_one_side():
    house = gpd.GeoDataFrame(geometry=[box(0, 0, 10, 10)], crs=UTM)
    sides = [box(-5, -5, 5, 15), box(5, -5, 15, 15)]
    for turned in (0, 90):
        both = [
            Area(shapely.affinity.rotate(side, turned, origin=(5, 5)), CRS(UTM)) for side in sides
        ]
        assert sum(bool(each.holds(house)[0]) for each in both) == 1


def test_nothing_is_read_elsewhere(scene, monkeypatch):
    from footprints.raster.source import Scene

    windows = []
    read = Scene.read

    def noting(self, window, shape):
        windows.append(window)
        return read(self, window, shape)

    monkeypatch.setattr(Scene, "read", noting)
    fp.predict(scene, detector=detector(), aoi=area(box(300, 20, 320, 40)), **GRID)
    assert 0 < len(windows) < 15


def test_the_record_says_what_was_looked_at_of_the_area(scene):
    ground = area(box(300, 100, 520, 900))
    layer = fp.predict(scene, detector=detector(), aoi=ground, **GRID)
    (record,) = scenes_of(layer)
    expected = ground.union_all().intersection(on_ground([box(0, 0, COLUMNS * WIDTH, HEIGHT)])[0])
    assert record.ground().symmetric_difference(expected).area < 1e-3
    assert isinstance(record.ground(), shapely.MultiPolygon)


def test_a_kept_run_keeps_to_its_area(scene, tmp_path):
    ground = AREAS["a triangle"]
    layer = fp.predict(scene, detector=detector(), aoi=ground, keep=tmp_path / "run", **GRID)
    again = fp.finish(tmp_path / "run", progress=False)
    assert again.equals(layer)
    assert again.attrs == layer.attrs


def test_a_run_for_another_area_does_not_go_on(scene, tmp_path):
    output = tmp_path / "a.gpkg"
    calls = iter([False, False, True])

    class Late(Watched):
        def __call__(self, chips):
            if next(calls, True):
                raise KeyboardInterrupt
            return super().__call__(chips)

    late = Late(detector().polygons)
    with pytest.raises(KeyboardInterrupt):
        fp.predict(scene, detector=late, output=output, aoi=area(box(0, 0, 90, 270)), **GRID)
    with pytest.raises(RunError, match=r"area of interest was \w+, is \w+;"):
        fp.predict(
            scene,
            detector=late,
            output=output,
            aoi=area(box(0, 0, 91, 270)),
            resume=True,
            **GRID,
        )


def test_scenes_beside_the_area_are_not_read(scene, tmp_path):
    pixels = np.full((1, 64, 64), 90, np.uint8)
    other = write_image(
        tmp_path / "far.tif", pixels, transform=Affine.translation(9e3, 0) @ NORTH_UP, crs=UTM
    )
    told = []
    layer = fp.predict(
        [other, scene], detector=detector(), aoi=AREAS["a rectangle"], told=told.append, **GRID
    )
    assert [outcome.state for outcome in told] == ["beside the area", "done"]
    assert told[1].buildings == len(layer), "those of the area are counted"
    assert [record.source for record in scenes_of(layer)] == ["towns.tif"]


def test_an_area_that_touches_no_scene_is_shown_with_their_places(scene, tmp_path):
    """Also where chips beside the area would be looked at, and where the CRS is a wrong one."""
    edge = WIDTH * COLUMNS
    beside = area(box(edge + 5, 0, edge + 20, HEIGHT))
    places = r"\(350253.5, .*\) does not touch towns.tif \(350000, 3056919, 350252, 3057000\)"
    file = tmp_path / "beside.gpkg"
    beside.to_file(file)
    told = []
    with pytest.raises(AreaError, match=rf"^{file} {places}, both in WGS 84 / UTM zone 45N"):
        fp.predict(scene, detector=detector(), aoi=file, told=told.append, **GRID)
    assert [outcome.state for outcome in told] == ["beside the area"]
    wrong = AREAS["a rectangle"].set_crs("EPSG:4326", allow_override=True)
    with pytest.raises(AreaError, match=r"not touch towns.tif \(85.*, 27.*\), both in WGS 84;"):
        fp.predict(scene, detector=detector(), aoi=wrong, **GRID)
    polar = AREAS["a rectangle"].set_crs("EPSG:2193", allow_override=True)
    with pytest.raises(LayerError, match=r"area of interest"):
        fp.predict(scene, detector=detector(), aoi=polar, **GRID)


def test_an_area_without_crs_fits_no_scene_with_one(scene):
    ground = AREAS["a rectangle"].set_crs(None, allow_override=True)
    with pytest.raises(LayerError, match="area of interest has no coordinate reference system"):
        fp.predict(scene, detector=detector(), aoi=ground, **GRID)


def test_pixel_coordinates_have_areas_in_pixels(scene):
    towns = KnownBuildings(
        [shapely.affinity.translate(house, WIDTH * c) for c in range(COLUMNS) for house in TOWN]
    )
    ground = gpd.GeoDataFrame(geometry=[box(300, 100, 520, 230)])
    layer = fp.predict(scene, detector=towns, pixels=True, aoi=ground, **GRID)
    assert len(layer)
    assert layer.centroid.within(ground.union_all()).all()


def test_chips_up_to_half_a_chip_beside_are_near():
    chips = ChipGrid(300, 300, 100, 0)
    assert_array_equal(
        chips_near(chips, box(110, 110, 120, 120)).reshape(3, 3),
        [[True, True, False], [True, True, False], [False, False, False]],
    )
