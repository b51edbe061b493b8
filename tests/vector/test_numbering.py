"""A building keeps its number."""

import numpy as np
import pytest
import shapely
from pyproj import CRS
from shapely import box

from footprints.vector.numbering import free_numbers, free_of, number_by_place

UTM = CRS("EPSG:32645")
TOWN = np.array(
    [box(338_000 + 9 * i, 3_057_000 + 7 * j, 338_006 + 9 * i, 3_057_005 + 7 * j)
     for i in range(40) for j in range(40)]
)  # fmt: skip


@pytest.mark.parametrize("crs", [UTM, None], ids=["UTM", "pixels"])
def test_numbers_differ_and_do_not_depend_on_order_or_company(crs: CRS | None) -> None:
    numbers = number_by_place(TOWN, crs)
    assert len(set(numbers)) == len(TOWN)
    some = np.random.default_rng(0).permutation(len(TOWN))[:500]
    np.testing.assert_array_equal(number_by_place(TOWN[some], crs), numbers[some])


def test_numbers_are_exact_in_double_precision() -> None:
    corners = shapely.box([-180, 179.99, -180, 179.99], [-90, -90, 89.99, 89.99],
                          [-179.99, 180, -179.99, 180], [-89.99, -89.99, 90, 90])  # fmt: skip
    numbers = number_by_place(corners, CRS("EPSG:4326"))
    assert len(set(numbers)) == 4
    assert numbers.min() >= 1
    assert numbers.max() <= 2**53


def test_across_the_antimeridian_a_building_has_one_number() -> None:
    beyond = number_by_place(np.array([box(180.001, 0, 180.002, 1)]), CRS("EPSG:4326"))
    here = number_by_place(np.array([box(-179.999, 0, -179.998, 1)]), CRS("EPSG:4326"))
    assert abs(int(beyond[0]) - int(here[0])) <= 1


def test_buildings_in_one_place_take_the_next_free_numbers() -> None:
    assert free_numbers(np.array([7, 7, 8, 7])).tolist() == [7, 9, 8, 10]
    yard = box(0, 0, 20, 20).difference(box(5, 5, 15, 15))
    first, second = number_by_place(np.array([yard, box(8, 8, 12, 12)]), None)
    assert second == first + 1


def test_nothing_has_no_number() -> None:
    assert number_by_place(np.array([], dtype=object), UTM).dtype == np.int64


def test_numbers_that_are_taken_move_to_free_ones() -> None:
    taken = np.array([3, 4, 6])
    np.testing.assert_array_equal(free_of(np.array([9, 3, 5, 6]), taken), [9, 7, 5, 8])
    np.testing.assert_array_equal(free_of(np.array([3, 9]), taken[:0]), [3, 9])
