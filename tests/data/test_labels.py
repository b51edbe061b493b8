"""Labels find their image, in raster pixels, whatever the CRS; bad layers say what is wrong."""

from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely
from affine import Affine
from labelled_scenes import NORTH_UP, UTM, make_scene, paint, write_image, write_layer

from footprints.chip import Window
from footprints.data.labels import (
    LEFT_OUT,
    TrainingScene,
    read_training_scene,
    to_crs_units,
)
from footprints.errors import LabelWarning, LayerError, RasterError

HOUSE = shapely.box(20, 30, 60, 50)
SHED = shapely.Polygon([(100, 100), (120, 110), (110, 130), (90, 120)])


@pytest.mark.parametrize(
    ("transform", "crs"),
    [
        pytest.param(NORTH_UP, UTM, id="north up in metres"),
        pytest.param(Affine(0.5, 0, 5e5, 0, 0.5, 4e6), UTM, id="south up"),
        pytest.param(
            Affine.translation(5e5, 4e6) @ Affine.rotation(30) @ Affine.scale(0.5, -0.5),
            UTM,
            id="rotated",
        ),
        pytest.param(Affine(5e-6, 0, 15, 0, -5e-6, 45), "EPSG:4326", id="in degrees"),
    ],
)
def test_labels_arrive_in_raster_pixels(tmp_path: Path, transform: Affine, crs: str) -> None:
    (image,) = read_training_scene(
        make_scene(tmp_path, [HOUSE, SHED], transform=transform, crs=crs)
    )
    assert (image.width, image.height, image.count) == (300, 200, 3)
    for found, drawn in zip(image.polygons, [HOUSE, SHED], strict=True):
        assert shapely.hausdorff_distance(found, drawn) < 1e-3
    np.testing.assert_array_equal(image.labels, [0, 0])


def test_the_scale_is_in_metres_by_axis_in_degrees(tmp_path: Path) -> None:
    scene = make_scene(
        tmp_path, [HOUSE], transform=Affine(5e-6, 0, 15, 0, -5e-6, 45), crs="EPSG:4326"
    )
    (image,) = read_training_scene(scene)
    scale_x, scale_y = image.scale(1.0)
    # A degree at 45 degrees north: 78.8 km eastwards, 111.1 km northwards.
    assert scale_x == pytest.approx(1 / (5e-6 * 78_847), rel=2e-3)
    assert scale_y == pytest.approx(1 / (5e-6 * 111_132), rel=2e-3)
    assert image.scale(None) == (1.0, 1.0)


def test_labels_in_another_crs_are_reprojected_and_said_once(tmp_path: Path) -> None:
    scene = make_scene(tmp_path, [HOUSE, SHED])
    elsewhere = tmp_path / "degrees.gpkg"
    gpd.read_file(scene.labels).to_crs(4326).to_file(elsewhere)
    moved = TrainingScene([scene.images, scene.images], elsewhere)
    with pytest.warns(LabelWarning, match=r"degrees\.gpkg is in WGS 84 .*UTM zone 33N") as said:
        first, second = read_training_scene(moved)
    assert sum(issubclass(w.category, LabelWarning) for w in said) == 1
    for image in (first, second):
        assert shapely.hausdorff_distance(image.polygons[0], HOUSE) < 1e-2


def test_an_image_column_keeps_labels_to_their_image(tmp_path: Path) -> None:
    for name in ("a.tif", "b.tif"):
        write_image(tmp_path / "images" / name, paint([], 100, 100))
    layer = write_layer(
        tmp_path / "labels.gpkg", [HOUSE, HOUSE.buffer(3), SHED], image=["a.tif", "b", "b.tif"]
    )
    a, b = read_training_scene(TrainingScene(tmp_path / "images", layer, image_column="image"))
    assert len(a.polygons) == 1
    assert shapely.hausdorff_distance(a.polygons[0], HOUSE) < 1e-3
    assert len(b.polygons) == 2


def test_an_image_without_buildings_stays(tmp_path: Path) -> None:
    for name, left in (("a", 0), ("b", 500)):
        transform = NORTH_UP @ Affine.translation(left, 0)
        write_image(tmp_path / f"{name}.tif", paint([], 100, 100), transform=transform)
    layer = write_layer(tmp_path / "labels.gpkg", [HOUSE])
    counts = [
        len(image.polygons)
        for image in read_training_scene(TrainingScene(tmp_path / "*.tif", layer))
    ]
    assert counts == [1, 0]


def test_classes_come_from_their_column(tmp_path: Path) -> None:
    image = make_scene(tmp_path, [HOUSE]).images
    layer = write_layer(tmp_path / "kinds.gpkg", [HOUSE, SHED], kind=["house", "shed"])
    scene = TrainingScene(image, layer, class_column="kind")
    (read,) = read_training_scene(scene, classes=("shed", "house"))
    np.testing.assert_array_equal(read.labels, [1, 0])
    with pytest.raises(
        LayerError,
        match=r"unknown classes shed \(1\) in column 'kind'; known are: house; map others",
    ) as caught:
        read_training_scene(scene, classes=("house",))
    assert "\n" not in str(caught.value)


KINDS = ("residential", "industrial")


def read_kinds(folder: Path, kinds: list[object], class_map: dict[str, str | None]) -> list[int]:
    """Labels of houses whose column ``kind`` has these values."""
    houses = [shapely.box(x, 20, x + 10, 30) for x in range(10, 10 + 12 * len(kinds), 12)]
    image = make_scene(folder, houses).images
    layer = write_layer(folder / "kinds.gpkg", houses, kind=kinds)
    scene = TrainingScene(image, layer, class_column="kind", class_map=class_map)
    (read,) = read_training_scene(scene, classes=KINDS)
    assert len(read.polygons) == len(kinds)
    return read.labels.tolist()


@pytest.mark.parametrize(
    ("kinds", "class_map", "labels"),
    [
        pytest.param(
            ["house", "works", "industrial"],
            {"house": "residential", "works": "industrial"},
            [0, 1, 1],
            id="text, with a name that needs no mapping",
        ),
        pytest.param([12, 7, 12], {"12": "industrial", "7": "residential"}, [1, 0, 1], id="codes"),
        pytest.param(
            ["12", " 7 ", "12"], {"12": "industrial", "7": "residential"}, [1, 0, 1], id="as text"
        ),
        pytest.param(
            [12, None, 7],
            {"12": "industrial", "7": "residential", "": "residential"},
            [1, 0, 0],
            id="codes with a gap that is mapped",
        ),
        pytest.param(
            ["house", "ruin", "house"],
            {"house": "residential", "ruin": None},
            [0, LEFT_OUT, 0],
            id="one left out",
        ),
        pytest.param(
            ["house", None, ""],
            {"house": "residential", "": None},
            [0, LEFT_OUT, LEFT_OUT],
            id="empty ones left out on purpose",
        ),
        pytest.param(
            ["industrial", "residential"],
            {"industrial": "residential", "residential": "industrial"},
            [0, 1],
            id="the map goes before the names",
        ),
    ],
)
def test_a_class_map_leads_from_values_to_classes(tmp_path: Path, kinds, class_map, labels) -> None:
    assert read_kinds(tmp_path, kinds, class_map) == labels


def test_labels_without_a_class_are_left_out_and_counted(tmp_path: Path) -> None:
    with pytest.warns(LabelWarning, match=r"column 'kind' is empty in 2 of 3 rows.*left out; map"):
        labels = read_kinds(tmp_path, ["industrial", None, " "], {})
    assert labels == [1, LEFT_OUT, LEFT_OUT]


def test_of_many_unknown_classes_the_most_frequent_are_named(tmp_path: Path) -> None:
    kinds = ["shed", *(f"kind {i}" for i in range(20)), "shed"]
    with pytest.raises(
        LayerError, match=r"unknown classes shed \(2\), kind 0 \(1\), .* and 11 more"
    ):
        read_kinds(tmp_path, kinds, {})


def test_labels_that_are_all_left_out_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        LayerError, match=r"none of the 2 polygons of .* has a class in column 'kind"
    ):
        read_kinds(tmp_path, ["ruin", "ruin"], {"ruin": None})


def test_a_missing_class_column_names_those_that_are_there(tmp_path: Path) -> None:
    scene = make_scene(tmp_path, [HOUSE])
    layer = write_layer(tmp_path / "kinds.gpkg", [HOUSE], kind=["house"])
    with pytest.raises(LayerError, match="no column 'type'; it has: kind"):
        read_training_scene(TrainingScene(scene.images, layer, class_column="type"))


def test_areas_of_interest_arrive_in_raster_pixels(tmp_path: Path) -> None:
    area = shapely.box(0, 0, 150, 200)
    (image,) = read_training_scene(make_scene(tmp_path, [HOUSE], aoi=area))
    assert image.aoi is not None
    assert image.aoi.symmetric_difference(area).area < 1


def test_an_area_beside_all_images_is_an_error(tmp_path: Path) -> None:
    scene = make_scene(tmp_path, [HOUSE], aoi=shapely.box(9000, 9000, 9100, 9100))
    with pytest.raises(LayerError, match=r"area of interest .* lies beside .*scene\.tif; check"):
        read_training_scene(scene)


def test_a_missing_column_names_those_that_are_there(tmp_path: Path) -> None:
    image = make_scene(tmp_path, [HOUSE]).images
    layer = write_layer(tmp_path / "kinds.gpkg", [HOUSE], kind=["house"], year=[1999])
    with pytest.raises(LayerError, match="no column 'file'; it has: kind, year"):
        read_training_scene(TrainingScene(image, layer, image_column="file"))


def test_labels_elsewhere_are_an_error_with_both_extents(tmp_path: Path) -> None:
    image = make_scene(tmp_path, [HOUSE]).images
    far = shapely.transform(HOUSE, lambda xy: xy + 10_000)
    layer = write_layer(tmp_path / "far.gpkg", [far])
    with pytest.raises(
        LayerError,
        match=r"no label of .*far\.gpkg lies on .*scene\.tif: in WGS 84 / UTM zone 33N, labels",
    ) as caught:
        read_training_scene(TrainingScene(image, layer))
    assert "x 505010 to 505030" in str(caught.value)
    assert "x 500000 to 500150" in str(caught.value)


def test_labels_mostly_elsewhere_are_a_warning(tmp_path: Path) -> None:
    image = make_scene(tmp_path, [HOUSE]).images
    far = [shapely.transform(HOUSE, lambda xy, by=by: xy + by) for by in (1000, 2000)]
    layer = write_layer(tmp_path / "most.gpkg", [HOUSE, *far])
    with pytest.warns(LabelWarning, match="2 of 3 labels of .* lie on no image"):
        (read,) = read_training_scene(TrainingScene(image, layer))
    assert len(read.polygons) == 1


def test_labels_without_crs_are_refused(tmp_path: Path) -> None:
    image = make_scene(tmp_path, [HOUSE]).images
    layer = tmp_path / "bare.gpkg"
    with pytest.warns(UserWarning, match="crs"):
        write_layer(layer, [HOUSE], crs=None)
    with pytest.raises(LayerError, match="no coordinate reference system"):
        read_training_scene(TrainingScene(image, layer))


def test_a_layer_without_polygons_is_refused(tmp_path: Path) -> None:
    image = make_scene(tmp_path, [HOUSE]).images
    layer = tmp_path / "empty.gpkg"
    gpd.GeoDataFrame(geometry=[], crs=UTM).to_file(layer, geometry_type="Polygon")
    with pytest.raises(LayerError, match=r"empty\.gpkg holds no polygon"):
        read_training_scene(TrainingScene(image, layer))


def test_a_missing_image_is_an_error(tmp_path: Path) -> None:
    labels = make_scene(tmp_path, [HOUSE]).labels
    with pytest.raises(RasterError, match=r"nowhere\.tif"):
        read_training_scene(TrainingScene(tmp_path / "nowhere.tif", labels))


def test_a_window_becomes_an_outline_in_crs_units() -> None:
    outline = to_crs_units(Window(10, 20, 30, 40), NORTH_UP)
    assert outline.equals(shapely.box(500_005, 3_999_970, 500_020, 3_999_990))
