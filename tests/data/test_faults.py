"""Faults of labels are counted, and a known shift is found with how sure it is."""

from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely
from labelled_scenes import NORTH_UP, UTM, make_scene, paint, write_image, write_layer
from shapely.affinity import translate

from footprints.data.faults import LabelReport, Shift, check_labels
from footprints.data.synthetic import Scene, generate_scene
from footprints.errors import LayerError
from footprints.vector.affine import apply_affine

HOUSES = [shapely.box(x, y, x + 18, y + 12) for x in range(3, 240, 26) for y in range(5, 240, 26)]


def moved(labels: Path, folder: Path, east: float, north: float) -> Path:
    """The same labels, metres away, in UTM."""
    layer = gpd.read_file(labels).to_crs(32645)
    layer.geometry = layer.translate(east, north)
    layer.to_file(folder / "moved.gpkg")
    return folder / "moved.gpkg"


@pytest.fixture(
    scope="module",
    params=[
        pytest.param({}, id="in metres"),
        pytest.param({"rotation_deg": 25.0}, id="rotated"),
        pytest.param({"crs": "EPSG:4326"}, id="in degrees"),
        pytest.param({"gsd_m": 0.5, "bands": 1, "dtype": "uint16"}, id="panchromatic"),
    ],
)
def town(request, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    path = tmp_path_factory.mktemp("town") / "town.tif"
    return generate_scene(path, width=600, height=600, **request.param)


@pytest.mark.parametrize("shift", [(2.4, -1.5), (-5.0, 8.0)])
def test_a_known_shift_is_found(town: Scene, tmp_path: Path, shift: tuple[float, float]) -> None:
    found = check_labels(town.raster, moved(town.buildings, tmp_path, *shift)).shift
    assert found is not None
    assert found[:2] == pytest.approx(shift, abs=0.25)
    assert found.error_m < 0.2
    assert found.is_clear


def test_labels_in_their_place_are_not_called_shifted(town: Scene) -> None:
    found = check_labels(town.raster, town.buildings).shift
    assert found is not None
    assert found.length_m < 0.25
    assert not found.is_clear


def test_labels_at_random_have_a_large_error(town: Scene, tmp_path: Path) -> None:
    layer = gpd.read_file(town.buildings).to_crs(32645)
    rng = np.random.default_rng(0)
    away = [translate(shape, *rng.uniform(-40, 40, 2)) for shape in layer.geometry]
    layer.set_geometry(away, crs=layer.crs).to_file(tmp_path / "random.gpkg")
    found = check_labels(town.raster, tmp_path / "random.gpkg").shift
    assert found is not None
    assert found.error_m > 1
    assert not found.is_clear


@pytest.mark.parametrize("shift", [(3.0, 0.0), (-2.5, 2.5)])
def test_a_known_shift_is_found_in_real_imagery(
    real_data: Path, tmp_path: Path, shift: tuple[float, float]
) -> None:
    labels = moved(real_data / "banepa" / "south_buildings.gpkg", tmp_path, *shift)
    found = check_labels(real_data / "banepa" / "south.tif", labels).shift
    assert found is not None
    assert found[:2] == pytest.approx(shift, abs=0.25)
    assert found.is_clear


@pytest.mark.parametrize("count", [0, 1], ids=["no label on the image", "a single one"])
def test_too_few_labels_tell_no_shift(tmp_path: Path, count: int) -> None:
    image = write_image(tmp_path / "a.tif", paint(HOUSES, 260, 260))
    far = [translate(HOUSES[0], 9000, 0)]
    report = check_labels(image, write_layer(tmp_path / "a.gpkg", HOUSES[:count] + far))
    assert (report.off_image, report.shift) == (1, None)
    assert "too few labels to tell" in str(report)


def test_imagery_without_edges_tells_no_shift(tmp_path: Path) -> None:
    image = write_image(tmp_path / "a.tif", paint([], 900, 900))
    layer = write_layer(tmp_path / "a.gpkg", [translate(h, i, i) for i in (0, 600) for h in HOUSES])
    assert check_labels(image, layer).shift is None


def test_faults_are_counted(tmp_path: Path) -> None:
    scene = make_scene(tmp_path, HOUSES, height=260, width=260)
    bow = shapely.Polygon([(10, 10), (40, 40), (40, 10), (10, 40)])
    faulty = [*HOUSES, HOUSES[3].buffer(0.3), HOUSES[9], bow, translate(HOUSES[0], 5000, 0)]
    layer = write_layer(tmp_path / "faulty.gpkg", [*faulty, shapely.Polygon()])
    report = check_labels(scene.images, layer)
    assert (report.off_image, report.invalid, report.without_geometry) == (1, 1, 1)
    assert (report.doubled, report.gaps) == (2, None)


def test_areas_that_look_built_up_but_have_no_labels_are_named(tmp_path: Path) -> None:
    scene = make_scene(tmp_path, HOUSES, height=260, width=260)
    layer = write_layer(tmp_path / "some.gpkg", [h for h in HOUSES if h.bounds[0] < 160])
    alone = [translate(HOUSES[0], 900, 900)]
    places = apply_affine(np.array([*HOUSES, *alone]), NORTH_UP)
    found = gpd.GeoDataFrame(geometry=list(places), crs=UTM)
    report = check_labels(scene.images, layer, found=found)
    assert report.gaps is not None
    (gap,) = report.gaps
    assert gap.buildings == sum(h.bounds[0] >= 160 for h in HOUSES)
    assert 500_080 < gap.x < 500_130
    assert "1 areas look built up" in str(report)
    area = write_layer(tmp_path / "area.gpkg", [shapely.box(0, 0, 150, 260)])
    assert check_labels(scene.images, layer, aoi=area, found=found).gaps == ()


def test_the_report_says_where_to_and_how_sure() -> None:
    report = LabelReport(1466, 13, 2, 1, 4, Shift(-2.53, 1.01, 0.05), None)
    assert str(report).splitlines() == [
        "1,466 labels",
        "13 lie on no image",
        "2 invalid, 1 without geometry",
        "4 repeat another",
        "shift against the imagery: 2.5 m west, 1.0 m north, standard error 0.1 m: clear; "
        "move them back",
    ]
    assert "may be chance" in str(LabelReport(9, 0, 0, 0, 0, Shift(2.5, 0, 1.0), None))


def test_lines_are_refused(tmp_path: Path) -> None:
    image = write_image(tmp_path / "a.tif", paint(HOUSES, 260, 260))
    layer = write_layer(tmp_path / "lines.gpkg", [shapely.LineString([(5, 5), (50, 9)])])
    with pytest.raises(LayerError, match=r"must hold polygons, but 1 of 1 geometries are"):
        check_labels(image, layer)
