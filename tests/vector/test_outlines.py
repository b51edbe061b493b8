"""Outlines of single chips on their way into the scene."""

import numpy as np
import pytest
import shapely
from known_buildings import KnownBuildings, detect_scene, outlines_of
from shapely import box

from footprints.chip import ChipGrid, Instances, MaskGroup, Window
from footprints.vector.outlines import Footprints, Outlines


def instances_of(*boxes: tuple[float, float, float, float], side: int = 4) -> Instances:
    array = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    n = len(array)
    masks = (MaskGroup(np.arange(n), np.full((n, side, side), 50, dtype=np.int8)),) if n else ()
    return Instances(array, np.full(n, 0.5, np.float32), np.zeros(n, np.int64), array, masks)


def place(instances: Instances, valid: np.ndarray, window: Window) -> Outlines:
    polygons = shapely.box(*instances.boxes.T.astype(float))
    return Outlines.from_instances(instances, polygons, window, 7, valid)


def test_outlines_and_boxes_move_to_their_place_in_the_grid():
    outlines = place(instances_of((1, 2, 9, 6)), np.ones((32, 32), bool), Window(100, 200, 32, 32))
    assert outlines.boxes.tolist() == [[101, 202, 109, 206]]
    assert outlines.polygons[0].bounds == (101, 202, 109, 206)
    assert outlines.chips.tolist() == [7]


def test_a_mask_cell_is_measured_along_the_longer_axis():
    outlines = place(instances_of((0, 0, 8, 4)), np.ones((32, 32), bool), Window(0, 0, 32, 32))
    assert outlines.cells.tolist() == [2]


def test_masks_without_outline_are_dropped():
    instances = instances_of((0, 0, 8, 4), (10, 10, 20, 20))
    polygons = np.array([None, box(10, 10, 20, 20)], dtype=object)
    window, valid = Window(0, 0, 32, 32), np.ones((32, 32), bool)
    outlines = Outlines.from_instances(instances, polygons, window, 0, valid)
    assert outlines.boxes.tolist() == [[10, 10, 20, 20]]


@pytest.mark.parametrize(
    ("corners", "touches"),
    [
        pytest.param((10, 10, 18, 20), True, id="two pixels from the hole"),
        pytest.param((10, 10, 17, 20), False, id="three pixels from the hole"),
        pytest.param((0, 0, 5, 5), False, id="at the edge of the chip, which has data"),
        pytest.param((18, 0, 26, 12), True, id="around the hole"),
    ],
)
def test_boxes_near_pixels_without_data_are_known(corners, touches):
    valid = np.ones((32, 32), bool)
    valid[8:12, 20:24] = False
    outlines = place(instances_of(corners), valid, Window(0, 0, 32, 32))
    assert outlines.at_nodata.tolist() == [touches]


def test_a_chip_without_detections_gives_no_outlines():
    outlines = place(instances_of(), np.zeros((32, 32), bool), Window(0, 0, 32, 32))
    assert len(Outlines.concatenate([outlines, outlines])) == 0


def test_concatenating_keeps_every_column_in_order():
    one, two = outlines_of([box(0, 0, 1, 1)], chips=3), outlines_of([box(5, 5, 6, 6)], chips=1)
    both = Outlines.concatenate([one, two])
    assert both.chips.tolist() == [3, 1]
    assert both.take(np.array([1])).polygons[0].equals(box(5, 5, 6, 6))


def test_scaling_footprints_scales_each_axis():
    found = Footprints(
        np.array([box(1, 2, 3, 4)], dtype=object),
        np.ones(1, np.float32),
        np.zeros(1, np.int64),
        np.zeros(1, bool),
        np.array([[[1, 2, 0.5]]]),
    )
    assert found.scaled(4, 2).polygons[0].bounds == (4, 4, 12, 8)
    assert found.scaled(4, 2).keypoints.tolist() == [[[4, 4, 0.5]]]


@pytest.mark.parametrize("by_chip", [False, True], ids=["by ground", "by chip"])
def test_known_buildings_jitter_their_boxes_within_two_pixels(by_chip):
    house = box(30, 30, 50, 45)
    detector = KnownBuildings([house], jitter_by_chip=by_chip)
    outlines = detect_scene(detector, ChipGrid(80, 80, 64, 48))
    off = np.abs(outlines.boxes - np.array(house.bounds))
    assert len(outlines) == 4
    assert 0.1 < off.max() <= 2
    assert (np.ptp(outlines.boxes, axis=0).max() > 0.1) == by_chip
