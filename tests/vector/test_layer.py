import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import CRS, Geod
from shapely import Polygon, box

from footprints.errors import FootprintsWarning, LayerError
from footprints.vector.layer import (
    COLUMNS,
    areas_m2,
    check_layer,
    concat_layers,
    place,
    reproject,
)
from footprints.vector.outlines import Footprints

UTM45 = CRS("EPSG:32645")
NORTH_UP = Affine(0.3, 0, 500_000, 0, -0.3, 3_000_000)
COURTYARD = Polygon(box(0, 0, 40, 40).exterior, [box(10, 10, 30, 30).exterior])
BOW_TIE = Polygon([(0, 0), (30, 30), (30, 0), (0, 10)])


def footprints_of(*polygons, scores=None, labels=None, cut=None) -> Footprints:
    n = len(polygons)
    return Footprints(
        polygons=np.array(polygons, dtype=object),
        scores=np.array(scores if scores is not None else [0.9] * n, dtype=np.float32),
        labels=np.array(labels if labels is not None else [0] * n, dtype=np.int64),
        cut=np.array(cut if cut is not None else [False] * n, dtype=bool),
        keypoints=np.empty((n, 0, 3)),
    )


def layer_of(*polygons, transform=NORTH_UP, crs=UTM45, source="scene.tif", **columns):
    return place(
        footprints_of(*polygons, **columns),
        transform,
        crs,
        classes=("building", "tank"),
        source=source,
        model="known",
    )


def test_columns_describe_every_footprint() -> None:
    layer = layer_of(
        box(0, 0, 10, 20), box(50, 0, 60, 10), scores=[0.9, 0.12341], labels=[0, 1], cut=[0, 1]
    )
    assert tuple(layer.columns) == (*COLUMNS, "geometry")
    assert layer["class"].tolist() == ["building", "tank"]
    assert layer["confidence"].tolist() == [0.9, 0.1234]
    assert layer["cut"].tolist() == [False, True]
    assert set(layer["source"]) == {"scene.tif"}
    assert set(layer["model"]) == {"known"}
    check_layer(layer)


def test_a_footprint_lands_where_its_pixels_are() -> None:
    layer = layer_of(box(10, 20, 30, 50))
    assert layer.total_bounds == pytest.approx([500_003, 2_999_985, 500_009, 2_999_994])


TRANSFORMS = {
    "north up": NORTH_UP,
    "south up": Affine(0.3, 0, 500_000, 0, 0.3, 3_000_000),
    "rotated": Affine.translation(500_000, 3_000_000)
    @ Affine.rotation(30)
    @ Affine.scale(0.3, -0.3),
    "sheared": Affine(0.3, 0.1, 500_000, 0.05, -0.3, 3_000_000),
}


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS.keys())
def test_shells_run_counter_clockwise_and_holes_clockwise(transform: Affine) -> None:
    [placed] = layer_of(COURTYARD, transform=transform).geometry
    assert placed.exterior.is_ccw
    assert not placed.interiors[0].is_ccw
    assert placed.area == pytest.approx(COURTYARD.area * abs(transform.determinant), rel=1e-6)


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        pytest.param("EPSG:32645", NORTH_UP, id="UTM"),
        pytest.param("EPSG:3857", Affine(0.3, 0, 9.5e6, 0, -0.3, 8e6), id="web mercator at 58 N"),
        pytest.param("EPSG:4326", Affine(3e-6, 0, 85.5, 0, -3e-6, 27.6), id="degrees"),
        pytest.param("EPSG:4326", Affine(3e-6, 0, 179.99998, 0, -3e-6, -17), id="antimeridian"),
        pytest.param("EPSG:32660", Affine(0.3, 0, 816_000, 0, -0.3, 2_000_000), id="zone's edge"),
        pytest.param("EPSG:3031", Affine(0.3, 0, -10_000, 0, -0.3, 9_000), id="near the pole"),
        pytest.param("EPSG:2263", Affine(1, 0, 980_000, 0, -1, 200_000), id="US feet"),
        pytest.param("EPSG:21781", Affine(0.3, 0, 500_000, 0, -0.3, 118_000), id="Swiss grid"),
    ],
)
def test_area_is_the_geodesic_one_in_any_crs(crs: str, transform: Affine) -> None:
    layer = layer_of(COURTYARD, transform=transform, crs=CRS(crs))
    degrees = layer.geometry.segmentize(1e-6 if CRS(crs).is_geographic else 1).to_crs("EPSG:4326")
    expected, _ = Geod(ellps="WGS84").geometry_area_perimeter(degrees[0])
    assert layer["area_m2"][0] == pytest.approx(abs(expected), rel=1e-4, abs=0.006)


def test_area_of_a_degree_scene_is_in_metres() -> None:
    # One second of arc at the equator: 30.92 m along it, 30.72 m across.
    layer = layer_of(box(0, 0, 1, 1), transform=Affine.scale(1 / 3600), crs=CRS("EPSG:4326"))
    assert layer["area_m2"][0] == pytest.approx(30.92 * 30.715, abs=0.5)


def test_without_crs_area_is_in_the_units_of_the_transform() -> None:
    layer = layer_of(box(0, 0, 10, 20), transform=Affine.identity(), crs=None)
    assert layer.crs is None
    assert layer["area_m2"].tolist() == [200.0]
    check_layer(layer)


def test_a_local_crs_is_measured_in_its_plane() -> None:
    local = CRS.from_wkt(
        'LOCAL_CS["site",UNIT["foot",0.3048,AUTHORITY["EPSG","9002"]],AXIS["X",EAST],AXIS["Y",NORTH]]'
    )
    layer = layer_of(box(0, 0, 100, 100), transform=Affine.identity(), crs=local)
    assert layer["area_m2"][0] == pytest.approx(929.03)


def test_small_footprints_are_left_out_by_square_metres() -> None:
    layer = place(
        footprints_of(
            box(0, 0, 10, 10), box(20, 0, 22, 2), box(40, 0, 50, 20), scores=[0.5, 0.6, 0.7]
        ),
        NORTH_UP,
        UTM45,
        classes=("building",),
        source="a",
        model="b",
        min_area_m2=9.0 * 0.9992,  # a UTM zone's middle shows ground 0.9996 of its length
    )
    assert layer["confidence"].tolist() == [0.5, 0.7]


def test_a_broken_polygon_keeps_its_largest_part_and_its_row() -> None:
    layer = layer_of(box(50, 0, 60, 10), BOW_TIE, scores=[0.5, 0.6])
    check_layer(layer)
    assert layer["confidence"].tolist() == [0.5, 0.6]
    # The bow tie crosses itself at (7.5, 7.5): triangles of 37.5 and 337.5 square pixels.
    assert layer.area[1] == pytest.approx(337.5 * 0.09)


def test_a_valid_polygon_keeps_every_vertex() -> None:
    odd = Polygon([(0, 0), (5, 0), (10, 0), (10, 10.25), (0, 10)])
    [placed] = layer_of(odd).geometry
    assert shapely.get_num_coordinates(placed) == 6


def test_what_has_no_area_is_left_out_with_a_warning() -> None:
    flat = Polygon([(0, 0), (5, 5), (10, 10)])
    with pytest.warns(FootprintsWarning, match=r"scene\.tif: 1 polygons without area"):
        layer = layer_of(flat, box(0, 0, 10, 10), scores=[0.5, 0.6])
    assert layer["confidence"].tolist() == [0.6]


def test_coordinates_that_are_not_finite_are_refused() -> None:
    with pytest.raises(LayerError, match="not finite"):
        layer_of(box(0, 0, 1, 1), transform=Affine(np.inf, 0, 0, 0, 1, 0))


def test_coordinates_outside_the_crs_are_refused() -> None:
    with pytest.raises(LayerError, match="outside the domain"):
        layer_of(box(0, 0, 1, 1), transform=Affine(1, 0, 0, 0, 1, 1000), crs=CRS("EPSG:4326"))


@pytest.mark.parametrize("crs", [UTM45, None], ids=["UTM", "no CRS"])
def test_an_empty_scene_keeps_columns_and_crs(crs: CRS | None) -> None:
    layer = layer_of(crs=crs)
    assert layer.empty
    assert layer.crs == crs
    assert layer.geometry.name == "geometry"
    assert layer["id"].dtype == np.int64
    check_layer(layer)


@settings(deadline=None, max_examples=40)
@given(
    angle=st.floats(0, 360),
    scale=st.floats(0.01, 10),
    mirrored=st.booleans(),
    x=st.floats(2e5, 8e5),
    y=st.floats(1e5, 9e6),
)
def test_any_affine_gives_a_layer_of_the_right_area(angle, scale, mirrored, x, y) -> None:
    transform = (
        Affine.translation(x, y)
        @ Affine.rotation(angle)
        @ Affine.scale(scale, scale * (-1) ** mirrored)
    )
    layer = layer_of(COURTYARD, box(60, 0, 70, 20), transform=transform)
    check_layer(layer)
    pixels = np.array([1200, 200])
    assert layer.area.to_numpy() == pytest.approx(pixels * scale**2, rel=1e-4)


def test_areas_of_nothing_are_nothing() -> None:
    assert areas_m2(np.array([], dtype=object), UTM45).shape == (0,)


def test_reprojecting_keeps_columns_and_orientation() -> None:
    layer = layer_of(COURTYARD, box(50, 0, 60, 10))
    moved = reproject(layer, CRS("EPSG:4326"))
    check_layer(moved)
    assert moved["area_m2"].tolist() == layer["area_m2"].tolist()
    back = reproject(moved, UTM45)
    assert shapely.equals_exact(
        back.geometry.to_numpy(), layer.geometry.to_numpy(), tolerance=1e-6
    ).all()


def test_reprojecting_to_mirrored_axes_keeps_orientation() -> None:
    moved = reproject(
        layer_of(
            COURTYARD, transform=Affine(1, 0, 680_000, 0, -1, 6_250_000), crs=CRS("EPSG:32734")
        ),
        CRS("EPSG:2048"),
    )
    check_layer(moved)


def test_reprojecting_to_the_same_crs_changes_nothing() -> None:
    layer = layer_of(COURTYARD)
    assert reproject(layer, UTM45) is layer


def test_a_building_on_the_antimeridian_does_not_span_the_globe() -> None:
    fiji = CRS("EPSG:3460")
    x, y = 2_132_579, 3_999_571  # half a kilometre west of it
    moved = reproject(
        layer_of(box(0, 0, 1000, 10), transform=Affine(1, 0, x, 0, -1, y), crs=fiji),
        CRS("EPSG:4326"),
    )
    west, _, east, _ = moved.total_bounds
    assert west < 180 < east
    assert east - west < 0.02


def test_a_rectangle_around_the_globe_stays_one() -> None:
    globe = layer_of(box(-2e7, -1e7, 2e7, 1e7), transform=Affine.identity(), crs=CRS("EPSG:3857"))
    west, _, east, _ = reproject(globe, CRS("EPSG:4326")).total_bounds
    assert east - west == pytest.approx(359.3, abs=0.1)


def test_a_layer_without_crs_cannot_be_reprojected() -> None:
    with pytest.raises(LayerError, match="without coordinate reference system"):
        reproject(layer_of(COURTYARD, crs=None), UTM45)


def test_reprojecting_out_of_a_crs_domain_is_refused() -> None:
    pole = layer_of(box(0, 0, 1, 1), transform=Affine(1, 0, 0, 0, 1, -90), crs=CRS("EPSG:4326"))
    with pytest.raises(LayerError, match="outside the domain"):
        reproject(pole, CRS("EPSG:2154"))


def test_scenes_join_into_one_layer_and_keep_their_ids() -> None:
    first = layer_of(box(0, 0, 10, 10), box(20, 0, 30, 10), source="a.tif")
    second = layer_of(box(0, 50, 10, 60), source="b.tif")
    joined = concat_layers([first, second])
    check_layer(joined)
    assert joined["id"].tolist() == [*first["id"], *second["id"]]
    assert joined["source"].tolist() == ["a.tif", "a.tif", "b.tif"]


def test_scenes_of_another_crs_move_to_the_first() -> None:
    first = layer_of(box(0, 0, 10, 10))
    second = reproject(layer_of(box(20, 0, 30, 10)), CRS("EPSG:3857"))
    joined = concat_layers([first, second])
    assert joined.crs == UTM45
    assert joined.area.to_numpy() == pytest.approx([9, 9], rel=1e-3)
    assert concat_layers([first, second], crs=CRS("EPSG:4326")).crs == "EPSG:4326"


@pytest.mark.parametrize("order", [(0, 1, 0), (1, 0, 0), (0, 0, 0)], ids=str)
def test_scenes_without_buildings_join_without_a_trace(order: tuple[int, ...]) -> None:
    joined = concat_layers([layer_of(*[box(0, 0, 10, 10)] * n) for n in order])
    check_layer(joined)
    assert len(joined) == sum(order)
    assert joined.crs == UTM45
    assert joined["id"].dtype == np.int64
    assert joined["cut"].dtype == bool


def test_scenes_without_crs_join_among_themselves_only() -> None:
    pixels, placed = layer_of(COURTYARD, crs=None), layer_of(COURTYARD)
    assert concat_layers([pixels, pixels]).crs is None
    for layers in ([pixels, placed], [placed, pixels]):
        with pytest.raises(LayerError, match="without coordinate reference system"):
            concat_layers(layers)


def test_joining_nothing_is_refused() -> None:
    with pytest.raises(LayerError, match="none were given"):
        concat_layers([])


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("id", [3, 3], "id must hold different numbers from 1 on, got 3"),
        ("id", [0, 3], "id must hold different numbers from 1 on, got 0"),
        ("id", ["1", "2"], "column id has the wrong type"),
        ("confidence", [0.5, 1.5], "between 0 and 1"),
        ("confidence", [0.5, np.nan], "between 0 and 1"),
        ("area_m2", [1.0, -1.0], "finite and not negative"),
        ("cut", [0, 1], "column cut has the wrong type"),
        ("model", [1, 2], "column model has the wrong type"),
        ("geometry", [box(0, 0, 1, 1), shapely.Point(0, 0)], "must be polygons, the one with id 8"),
        ("geometry", [box(0, 0, 1, 1), Polygon()], "not empty"),
        ("geometry", [box(0, 0, 1, 1), None], "must be polygons"),
        ("geometry", [box(0, 0, 1, 1), BOW_TIE], "must be valid, the one with id 8"),
        ("geometry", [box(0, 0, 1, 1, ccw=False), box(0, 0, 1, 1)], "counter-clockwise"),
        ("geometry", [shapely.force_3d(box(0, 0, 1, 1)), box(0, 0, 1, 1)], "two-dimensional"),
    ],
)
def test_a_wrong_layer_is_refused_and_says_why(column: str, value: list, message: str) -> None:
    layer = layer_of(box(0, 0, 10, 10), box(20, 0, 30, 10))
    layer["id"] = [7, 8]
    layer[column] = value
    with pytest.raises(LayerError, match=message):
        check_layer(layer)


def test_a_missing_column_is_refused() -> None:
    with pytest.raises(LayerError, match="columns are id, class"):
        check_layer(layer_of(COURTYARD).drop(columns="cut"))


def test_further_columns_may_follow_the_model() -> None:
    layer = layer_of(COURTYARD)
    layer.insert(7, "captured", "2024-05-01")
    check_layer(layer)
