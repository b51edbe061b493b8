"""The real rasters of several sensors run through and land where they should."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
from known_buildings import KnownBuildings, best_ious
from shapely import Polygon, box
from shapely.affinity import affine_transform

import footprints as fp
from footprints.chip import Chip, InputSpec, Scaling
from footprints.errors import BandError, ScalingWarning
from footprints.vector.layer import check_layer
from footprints.vector.read import read_layer

VEGAS = "spacenet2_vegas_uint16.tif"
ATLANTA = "spacenet4_atlanta_pan_uint16.tif"
ZANZIBAR = "zanzibar_0.0775m_utm37s.tif"
RIO_CORNER = "rio_epsg4326_black_corner.tif"
RIO_STRIP = "rio_epsg4326_black_strip.tif"

# What weights trained on 8-bit aerial imagery at 0.3 m want to be shown.
SPEC = InputSpec(
    bands=3,
    gsd_m=0.3,
    scaling=Scaling((110.0,) * 3, (50.0,) * 3),
    dtype="uint8",
    value_range=((20.0, 220.0),) * 3,
    chip_size=256,
    multiple=32,
)


@dataclass(frozen=True, eq=False)
class WatchedBuildings(KnownBuildings):
    """Keeps the chips it is shown."""

    input_spec: InputSpec = SPEC
    shown: list[Chip] = field(default_factory=list)

    def __call__(self, chips):
        self.shown.extend(chips)
        return super().__call__(chips)


@pytest.fixture
def formats(real_data: Path) -> Path:
    return real_data / "formats"


def on_ground(path: Path, *pixel_polygons: Polygon) -> list[Polygon]:
    """Polygons in the pixels of a raster -> in its CRS, by the raster's own word."""
    with rasterio.open(path) as dataset:
        t = dataset.transform
    return [affine_transform(p, [t.a, t.b, t.d, t.e, t.c, t.f]) for p in pixel_polygons]


def predict(path: Path, buildings, **options):
    detector = WatchedBuildings(buildings)
    layer = fp.predict(path, detector=detector, overlap=96, progress=False, **options)
    check_layer(layer)
    return layer, detector.shown


@pytest.mark.parametrize(
    ("name", "labels", "bands"),
    [
        pytest.param(ZANZIBAR, "zanzibar_buildings.gpkg", None, id="drone image at 8 cm"),
        pytest.param(
            ATLANTA,
            "spacenet4_atlanta_labels.geojson",
            (1, 1, 1),
            id="panchromatic satellite image at 50 cm",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore::footprints.errors.ScalingWarning")
def test_buildings_come_back_at_the_place_of_their_labels(formats, name, labels, bands):
    with rasterio.open(formats / name) as dataset:
        extent, crs = box(*dataset.bounds), dataset.crs
    truth = read_layer(formats / labels)
    assert truth.crs == crs
    truth = truth.geometry.intersection(extent)
    layer, _ = predict(formats / name, list(truth), bands=bands)
    assert layer.crs == crs
    assert len(layer) == len(truth)
    assert best_ious(layer.geometry.to_numpy(), truth.to_numpy()).min() >= 0.95
    assert layer["area_m2"].sum() == pytest.approx(truth.area.sum(), rel=0.01)


@pytest.mark.parametrize(
    ("name", "pixels"),
    [
        pytest.param(VEGAS, box(300, 250, 360, 290), id="16-bit satellite image in degrees"),
        pytest.param(RIO_CORNER, None, id="black corner in degrees"),
        pytest.param(RIO_STRIP, None, id="black strip in degrees"),
    ],
)
@pytest.mark.filterwarnings("ignore::footprints.errors.ScalingWarning")
def test_a_box_in_pixels_comes_back_at_its_place_in_degrees(formats, name, pixels):
    pixels = pixels or bright_box(formats / name)
    (truth,) = on_ground(formats / name, pixels)
    layer, _ = predict(formats / name, [truth])
    assert layer.crs == "EPSG:4326"
    (found,) = layer.geometry
    assert best_ious(np.array([found]), [truth])[0] >= 0.97
    assert not layer["cut"].any()


def bright_box(path: Path) -> Polygon:
    """40 x 30 pixels with data all around, in a raster that is black elsewhere."""
    with rasterio.open(path) as dataset:
        data = dataset.read().any(axis=0)
    windows = np.lib.stride_tricks.sliding_window_view(data, (50, 60))
    y, x = np.argwhere(windows.all(axis=(2, 3)))[0]
    return box(x + 10, y + 10, x + 50, y + 40)


@pytest.mark.parametrize("name", [RIO_CORNER, RIO_STRIP])
def test_undeclared_black_areas_hold_no_buildings(formats, name):
    with rasterio.open(formats / name) as dataset:
        width, height = dataset.width, dataset.height
        black = ~dataset.read().any(axis=0)
    everything = on_ground(formats / name, box(0, 0, width, height))
    layer, shown = predict(formats / name, everything)
    covered = shapely.area(layer.geometry.to_numpy()).sum() / everything[0].area
    assert covered == pytest.approx(1 - black.mean(), abs=0.02)
    assert layer["cut"].all()
    assert any(not chip.valid.all() for chip in shown)


def test_16_bit_values_are_mapped_onto_the_trainings_and_that_is_said_once(formats):
    with pytest.warns(ScalingWarning, match="uint16") as said:
        _, shown = predict(formats / VEGAS, [])
    assert len(said) == 1
    assert len({chip.scaling for chip in shown}) == 1
    chip = shown[0]
    values = chip.pixels[:, chip.valid].astype(float)
    scaled = (values - np.array(chip.scaling.mean)[:, None]) / np.array(chip.scaling.std)[:, None]
    assert 20 < np.percentile(scaled * 50 + 110, 50) < 220


def test_a_single_band_is_not_enough_and_the_error_says_what_is(formats):
    with pytest.raises(BandError, match=r"takes 3 bands, .* --bands 1,1,1"):
        predict(formats / ATLANTA, [])


def test_no_two_footprints_share_ground(formats):
    truth = read_layer(formats / "zanzibar_buildings.gpkg")
    layer, _ = predict(formats / ZANZIBAR, list(truth.geometry))
    polygons = layer.geometry.to_numpy()
    first, second = shapely.STRtree(polygons).query(polygons, predicate="overlaps")
    assert shapely.area(shapely.intersection(polygons[first], polygons[second])).sum() < 1e-6
