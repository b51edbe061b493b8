"""Turned by any angle, targets are the polygons turned: exactly, while only pixels are resampled.

What is expected is worked out anew: by shapely's rotations, and from pixels that hold the place
they were read from.
"""

from dataclasses import replace
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_scenes import NORTH_UP, make_scene, write_image, write_layer
from shapely import affinity

from footprints.chip import Window
from footprints.data.augment import Augmentation, Orientation, Tilt
from footprints.data.dataset import TrainingChips, TrainingSource
from footprints.data.labels import LabelledImage, TrainingScene, read_training_scene
from footprints.data.split import TrainingImage
from footprints.data.targets import MASK_SIDE, Cut, Sample, make_sample

BARN = shapely.Polygon([(30, 40), (90, 55), (80, 95), (20, 80)])
COURT = shapely.Polygon(
    [(110, 30), (170, 30), (170, 90), (110, 90)], [[(125, 45), (155, 45), (155, 75), (125, 75)]]
)
SHED = shapely.box(60, 120, 100, 150)
"""Of a class that is left out."""
AREA = shapely.Polygon([(-5, -5), (240, -5), (240, 160), (100, 205), (-5, 205)])
"""Where labels are complete; the raster has 300 x 200 pixels."""
HEIGHT, WIDTH = 90, 120


def ramp(height: int, width: int) -> np.ndarray:
    """(2, height, width) pixels that hold the x and the y of their centres."""
    y, x = np.mgrid[0:height, 0:width] + 0.5
    return np.stack([x, y]).astype(np.float32)


def read_ramp(image, window, shape):
    """A window of a raster of `ramp`, to any shape, without loss."""
    x = window.x + (np.arange(shape[1]) + 0.5) * window.width / shape[1]
    y = window.y + (np.arange(shape[0]) + 0.5) * window.height / shape[0]
    pixels = np.stack(np.broadcast_arrays(x, y[:, None]))
    inside = (pixels > 0) & (pixels < np.array([image.width, image.height])[:, None, None])
    return pixels, inside.all(axis=0)


def centres_of_cells(box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x (M, M) and y (M, M) of the centres of the cells of a mask box."""
    y, x = (np.mgrid[0:MASK_SIDE, 0:MASK_SIDE] + 0.5) / MASK_SIDE
    return box[0] + x * (box[2] - box[0]), box[1] + y * (box[3] - box[1])


def turned_by_shapely(shape: shapely.Geometry, cut: Cut) -> shapely.Geometry:
    """A geometry in raster pixels as a cut of `HEIGHT` x `WIDTH` shows it."""
    window, scale = cut.window, cut.read_shape[1] / cut.window.width
    x, y = window.x + window.width / 2, window.y + window.height / 2
    shape = affinity.translate(affinity.rotate(shape, cut.tilt.degrees, (x, y)), -x, -y)
    shape = affinity.translate(affinity.scale(shape, scale, scale, origin=(0, 0)), WIDTH / 2)
    shape, height, width = affinity.translate(shape, 0, HEIGHT / 2), HEIGHT, WIDTH
    if cut.orientation.mirrored:
        shape = affinity.scale(shape, -1, 1, origin=(width / 2, 0))
    for _ in range(cut.orientation.turns):
        shape = affinity.translate(affinity.rotate(shape, -90, (0, 0)), 0, width)
        height, width = width, height
    return shape


def sides(cut: Cut) -> tuple[int, int]:
    """Height and width of the chip that a cut fills."""
    return (WIDTH, HEIGHT) if cut.orientation.swaps_sides else (HEIGHT, WIDTH)


def shares_of_cells(shape: shapely.Geometry, box: np.ndarray) -> np.ndarray:
    """(M, M) share of each cell of a mask box that lies in a polygon, cell by cell."""
    x_min, y_min, x_max, y_max = box.astype(np.float64)
    x, y = np.linspace(x_min, x_max, MASK_SIDE + 1), np.linspace(y_min, y_max, MASK_SIDE + 1)
    cells = shapely.box(x[:-1], y[:-1, None], x[1:], y[1:, None])
    return shapely.area(shapely.intersection(cells, shape)) / shapely.area(cells)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> LabelledImage:
    folder = tmp_path_factory.mktemp("turned")
    scene = make_scene(folder, [BARN, COURT, SHED], aoi=AREA, bands=2)
    kinds = gpd.read_file(scene.labels).assign(kind=["house", "house", "shed"])
    kinds.to_file(folder / "kinds.gpkg")
    scene = replace(
        scene, labels=folder / "kinds.gpkg", class_column="kind", class_map={"shed": None}
    )
    return read_training_scene(scene, classes=("house",))[0]


@st.composite
def cuts(draw: st.DrawFn) -> Cut:
    """Cuts at any angle; some reach beyond the raster and the area, most cut buildings off."""
    tilt, scale = Tilt(draw(st.floats(-45, 45))), draw(st.floats(0.7, 1.4))
    rows, columns = tilt.shape_under(HEIGHT, WIDTH)
    window = Window(
        draw(st.floats(-60, 150)), draw(st.floats(-60, 90)), columns / scale, rows / scale
    )
    turn = Orientation(draw(st.integers(0, 3)), mirrored=draw(st.booleans()))
    return Cut(None, window, HEIGHT, WIDTH, turn, tilt=tilt)


@given(cuts())
@settings(max_examples=25)
def test_pixels_and_polygons_turn_alike(image: LabelledImage, cut: Cut) -> None:
    sample = make_sample([cut._replace(image=image)], read_ramp, *sides(cut))
    y, x = np.nonzero(sample.valid)
    came_from = shapely.points(sample.pixels[:, y, x].T)
    expected = np.stack([x, y], axis=1) + 0.5
    shown = [shapely.get_coordinates(turned_by_shapely(p, cut))[0] for p in came_from[::97]]
    np.testing.assert_allclose(shown, expected[::97], atol=2e-3)


@given(cuts())
@settings(max_examples=25)
def test_targets_are_the_polygons_turned_and_cut_at_the_chip(
    image: LabelledImage, cut: Cut
) -> None:
    sample = make_sample([cut._replace(image=image)], read_ramp, *sides(cut))
    height, width = sides(cut)
    found = 0
    for building in (BARN, COURT):
        whole = turned_by_shapely(building, cut)
        part = shapely.intersection(whole, shapely.box(0, 0, width, height))
        raster = turned_by_shapely(shapely.box(0, 0, image.width, image.height), cut)
        part = shapely.intersection(part, raster)
        if part.is_empty:
            continue
        own = np.flatnonzero(np.abs(sample.boxes - part.bounds).max(axis=1) < 1e-3)
        found += len(own)
        if part.area > 0.101 * whole.area and np.ptp(part.bounds[::2]) > 3.01:
            assert len(own) == 1
        for number in own:
            exact = shares_of_cells(part, sample.mask_boxes[number])
            np.testing.assert_allclose(sample.masks[number] / 255, exact, atol=1.01 / 255)
    assert found == len(sample.boxes)


@given(cuts())
@settings(max_examples=25)
def test_corners_turn_with_their_buildings_and_show_only_where_they_are_seen(
    image: LabelledImage, cut: Cut
) -> None:
    sample = make_sample([cut._replace(image=image)], read_ramp, *sides(cut))
    whole = [turned_by_shapely(building, cut) for building in (BARN, COURT)]
    height, width = sides(cut)
    for box, keypoints in zip(sample.boxes, sample.keypoints, strict=True):
        (building,) = [b for b in whole if np.all(np.abs(cut_off(b, cut) - box) < 1e-3)]
        corners = shapely.get_coordinates(building)
        apart = np.linalg.norm(corners - keypoints[:, None, :2], axis=2).min(axis=1)
        assert (apart[keypoints[:, 2] == 1] < 2e-3).all()
        assert (apart[keypoints[:, 2] == 0] > 5e-4).all()
        on_chip = ((corners > 0) & (corners < (width, height))).all(axis=1)
        if on_chip.all():
            assert (keypoints[:, 2] == 1).all()


@given(cuts())
@settings(max_examples=25)
def test_only_ground_that_was_labelled_before_the_turn_is_labelled_after_it(
    image: LabelledImage, cut: Cut
) -> None:
    sample = make_sample([cut._replace(image=image)], read_ramp, *sides(cut))
    height, width = sides(cut)
    y, x = np.mgrid[0:height, 0:width] + 0.5
    area = turned_by_shapely(AREA, cut)
    complete = shapely.contains_xy(area, x, y)
    on_edge = shapely.distance(area.boundary, shapely.points(x, y)) < 1e-6
    left_out, touched = np.zeros((2, height, width), dtype=bool)
    for building in (BARN, COURT, SHED):
        bounds = cut_off(turned_by_shapely(building, cut), cut)
        is_target = (np.abs(sample.boxes - bounds) < 1e-3).all(axis=1).any()
        if np.isfinite(bounds).all() and not is_target:
            # All pixels that the box of what is seen touches; rounding decides where it ends on
            # one's edge.
            for mask, by in ((left_out, 1e-6), (touched, -1e-6)):
                (x0, y0), (x1, y1) = np.floor(bounds[:2] + by), np.ceil(bounds[2:] - by)
                mask[max(int(y0), 0) : int(y1), max(int(x0), 0) : int(x1)] = True
    differing = sample.labelled != (complete & sample.valid & ~left_out)
    on_edge |= touched & ~left_out
    assert not (differing & ~on_edge).any()


@given(cuts())
@settings(max_examples=25)
def test_ground_beyond_the_raster_is_without_data_at_any_angle(
    image: LabelledImage, cut: Cut
) -> None:
    sample = make_sample([cut._replace(image=image)], read_ramp, *sides(cut))
    height, width = sides(cut)
    y, x = np.mgrid[0:height, 0:width] + 0.5
    raster = turned_by_shapely(shapely.box(0, 0, image.width, image.height), cut)
    inside = shapely.contains_xy(raster, x, y)
    depth = shapely.distance(raster.boundary, shapely.points(x, y))
    # A pixel is mixed from the four around it, and none of them may lie beyond the raster.
    assert sample.valid[inside & (depth > 1.5)].all()
    assert not sample.valid[~inside].any()
    assert not sample.labelled[~sample.valid].any()
    assert not sample.pixels[:, ~sample.valid].any()


def cut_off(shape: shapely.Geometry, cut: Cut) -> np.ndarray:
    """(4,) bounds of what a chip shows of a turned building; nan of nothing."""
    height, width = sides(cut)
    return np.array(shapely.intersection(shape, shapely.box(0, 0, width, height)).bounds)


def test_training_chips_turn_their_buildings_by_every_angle(tmp_path: Path) -> None:
    """From files on disk to targets: the pixels alone tell how each chip was turned."""
    rng = np.random.default_rng(0)
    homes = [
        affinity.rotate(shapely.box(x, y, x + 22, y + 14), rng.uniform(0, 90))
        for x in range(20, 360, 45)
        for y in range(20, 360, 45)
    ]
    write_image(tmp_path / "ramp.tif", ramp(400, 400), transform=NORTH_UP)
    labels = write_layer(tmp_path / "homes.gpkg", homes)
    (image,) = read_training_scene(TrainingScene(tmp_path / "ramp.tif", labels))
    chips = TrainingChips(
        [TrainingSource([TrainingImage(image, None)])],
        chip_size=96,
        gsd_m=0.5,
        length=24,
        augmentation=replace(Augmentation(tilted=1.0).with_colour(0), noise=0.0),
    )
    degrees = []
    for sample in map(chips.__getitem__, range(24)):
        to_chip = fit_affine(sample)
        degrees.append(np.rad2deg(np.arctan2(to_chip.d, to_chip.a)) % 90)
        frame = shapely.box(0, 0, 96, 96)
        expected = [affinity.affine_transform(h, to_chip.to_shapely()) for h in homes]
        seen = shapely.intersection(expected, frame)
        for box, mask, mask_box in zip(sample.boxes, sample.masks, sample.mask_boxes, strict=True):
            off = np.abs(shapely.bounds(seen) - box).max(axis=1)
            part = seen[np.nanargmin(off)]
            assert np.nanmin(off) < 0.05
            truth = shapely.contains_xy(part, *centres_of_cells(mask_box))
            assert ((mask > 127) & truth).sum() > 0.99 * ((mask > 127) | truth).sum()
    assert np.ptp(degrees) > 60
    assert len(np.unique(np.round(degrees))) > 15


def fit_affine(sample: Sample) -> Affine:
    """From raster to chip, by least squares over pixels that hold their place in the raster."""
    y, x = np.nonzero(sample.valid)
    there = np.column_stack([sample.pixels[:, y, x].T, np.ones(len(x))]).astype(np.float64)
    here = np.column_stack([x, y]) + 0.5
    (a, d), (b, e), (c, f) = np.linalg.lstsq(there, here, rcond=None)[0]
    fitted = Affine(a, b, c, d, e, f)
    off = np.column_stack(fitted @ there[:, :2].T) - here
    # A filter of a few weights leaves a shrunk ramp wavy by less than this, evenly both ways.
    assert np.abs(off).max() < 0.15
    return fitted
