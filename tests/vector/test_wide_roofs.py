"""Roofs wider than a chip, for detectors that are blind where a chip shows only roof."""

from dataclasses import replace

import numpy as np
import pytest
import shapely
from affine import Affine
from known_buildings import KnownBuildings, best_ious, blind, detect_scene
from shapely import Polygon, box
from shapely.affinity import rotate

from footprints.chip import ChipGrid
from footprints.vector.merge import merge
from footprints.vector.outlines import Footprints
from footprints.vector.overlaps import find_overlaps
from footprints.vector.wide_roofs import settle_wide_roofs

HEIGHT, WIDTH, COARSE = 480, 800, 4
WAREHOUSE = rotate(box(70, 90, 430, 350), 8)
COURT = box(520, 60, 740, 380).difference(box(590, 130, 670, 300))
SMALL = [
    box(40, 100, 60, 125),
    box(40, 400, 66, 430),
    box(455, 200, 480, 225),
    box(610, 150, 640, 180),
]
TOWN = [WAREHOUSE, COURT, *SMALL]


TALL = 640


def find(town: list[Polygon], grid: ChipGrid, scale: float = 1) -> Footprints:
    detector = KnownBuildings(town, flaws=[blind])
    outlines = detect_scene(detector, grid, transform=Affine.scale(scale))
    return merge(outlines, grid, np.ones(len(grid), bool)).scaled(scale, scale)


def coarse_pass(town: list[Polygon], height: int = HEIGHT) -> Footprints:
    return find(town, ChipGrid(height // COARSE, WIDTH // COARSE, 256, 64), COARSE)


def as_footprints(*polygons: Polygon, cut: bool = False) -> Footprints:
    n = len(polygons)
    array = np.empty(n, dtype=object)
    array[:] = polygons
    keypoints = np.empty((n, 0, 3))
    scores, labels = np.full(n, 0.9, np.float32), np.zeros(n, np.int64)
    return Footprints(array, scores, labels, np.full(n, cut), keypoints)


@pytest.mark.parametrize(("size", "overlap"), [(96, 32), (128, 32), (160, 64)])
def test_a_roof_that_hides_whole_chips_comes_back_whole(size, overlap):
    grid = ChipGrid(HEIGHT, WIDTH, size, overlap)
    fine = find(TOWN, grid)
    found = settle_wide_roofs(fine, coarse_pass(TOWN), grid, coarse_px=COARSE)
    assert best_ious(fine.polygons, TOWN)[0] < 0.95
    assert len(found) == len(TOWN)
    assert best_ious(found.polygons, TOWN).min() >= 0.98
    assert find_overlaps(found.polygons).area.sum() < 1e-6
    assert not found.cut.any()


@pytest.mark.parametrize(("size", "overlap"), [(96, 32), (128, 32), (160, 64)])
@pytest.mark.parametrize(
    ("corner", "yard"), [((70, 40), 150), ((131, 57), 100), ((201, 63), 150), ((228, 60), 60)]
)
def test_a_courtyard_that_the_coarse_pass_fills_stays_open(size, overlap, corner, yard):
    x, y = np.add(corner, 200)
    whole = box(*corner, corner[0] + 400, corner[1] + 400)
    ring = whole.difference(box(x - yard / 2, y - yard / 2, x + yard / 2, y + yard / 2))
    grid = ChipGrid(TALL, WIDTH, size, overlap)
    coarse = coarse_pass([whole], TALL)
    found = settle_wide_roofs(find([ring], grid), coarse, grid, coarse_px=COARSE)
    assert len(found) == 1
    assert len(found.polygons[0].interiors) == 1
    assert best_ious(found.polygons, [ring])[0] >= 0.98


@pytest.mark.parametrize("size", [96, 128])
def test_ground_that_blind_chips_leave_open_is_no_courtyard(size):
    grid = ChipGrid(HEIGHT, WIDTH, size, 32)
    roof = box(75, 38, 581, 427)
    fine = find([roof], grid)
    assert len(fine.polygons[0].interiors) > 0
    found = settle_wide_roofs(fine, coarse_pass([roof]), grid, coarse_px=COARSE)
    assert [len(p.interiors) for p in found.polygons] == [0]
    assert best_ious(found.polygons, [roof])[0] >= 0.98


GRID = ChipGrid(400, 400, 100, 30)
ROOF = box(50, 50, 350, 350)


def test_the_finer_outline_stays_where_its_pieces_already_joined():
    fine, coarse = as_footprints(ROOF, cut=True), as_footprints(box(47, 52, 352, 351))
    found = settle_wide_roofs(fine, coarse, GRID, coarse_px=4)
    assert found.polygons.tolist() == [shapely.normalize(ROOF)]


def test_a_roof_that_a_fine_chip_shows_whole_is_left_to_it():
    small = box(110, 110, 150, 150)
    found = settle_wide_roofs(as_footprints(), as_footprints(small), GRID, coarse_px=4)
    assert len(found) == 0


def test_a_roof_without_any_fragment_is_added():
    found = settle_wide_roofs(as_footprints(), as_footprints(ROOF), GRID, coarse_px=4)
    assert found.polygons.tolist() == [shapely.normalize(ROOF)]


def test_a_wide_roof_has_the_class_it_has_as_a_whole():
    fine = as_footprints(box(50, 50, 350, 80), cut=True)
    coarse = replace(as_footprints(ROOF), labels=np.array([1]))
    found = settle_wide_roofs(fine, coarse, GRID, coarse_px=4)
    assert found.labels.tolist() == [1]


def test_a_coarse_blob_over_complete_houses_is_not_used():
    houses = [
        box(60 + 40 * i, 60 + 40 * j, 90 + 40 * i, 90 + 40 * j) for i in range(7) for j in range(7)
    ]
    found = settle_wide_roofs(as_footprints(*houses), as_footprints(ROOF), GRID, coarse_px=4)
    assert len(found) == len(houses)


def test_a_roof_cut_in_the_coarse_pass_is_not_used_unless_the_raster_ends_there():
    inside, at_edge = as_footprints(ROOF, cut=True), as_footprints(box(0, 50, 350, 350), cut=True)
    assert len(settle_wide_roofs(as_footprints(), inside, GRID, coarse_px=4)) == 0
    assert len(settle_wide_roofs(as_footprints(), at_edge, GRID, coarse_px=4)) == 1


def test_the_raster_ends_as_far_from_a_roof_as_the_coarse_pass_can_tell():
    near = as_footprints(box(12, 50, 350, 350), cut=True)
    assert len(settle_wide_roofs(as_footprints(), near, GRID, coarse_px=4)) == 1
    assert len(settle_wide_roofs(as_footprints(), near, GRID, coarse_px=2)) == 0


def test_neighbours_keep_the_ground_that_the_coarse_outline_overlaps():
    neighbour, fragment = box(340, 100, 370, 130), box(50, 50, 350, 80)
    fine = Footprints.concatenate([as_footprints(neighbour), as_footprints(fragment, cut=True)])
    found = settle_wide_roofs(fine, as_footprints(ROOF), GRID, coarse_px=4)
    assert [p.area for p in found.polygons] == [ROOF.difference(neighbour).area, neighbour.area]


def test_where_objects_overlap_only_those_of_one_class_are_fragments() -> None:
    grid = ChipGrid(HEIGHT, WIDTH, 128, 32)
    bus = as_footprints(box(70, 90, 430, 350))
    piece = as_footprints(box(72, 92, 190, 200), cut=True)
    person = replace(as_footprints(box(200, 120, 260, 240), cut=True), labels=np.array([1]))
    fine = Footprints.concatenate([piece, person])
    found = settle_wide_roofs(fine, bus, grid, coarse_px=4, overlaps=True)
    assert found.labels.tolist() == [0, 1]
    assert found.polygons[0].equals(bus.polygons[0])
    assert found.polygons[1].equals(person.polygons[0])
    assert len(settle_wide_roofs(fine, bus, grid, coarse_px=4)) == 1
