"""Numbers for column `id`: the place of a building, so that it keeps its own.

A number says in which cell of a third of a metre of longitude and latitude the centre of an outline
lay when it was found, or is the next free one. So a building has the same one whatever the order of
the work, the CRS of the layer, or the threshold: what an analyst joined to it stays joined when
others come or go. All are below 2**53, which spreadsheets, JavaScript and Shapefiles hold exactly.
"""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import CRS, Transformer

COLUMNS, ROWS = 2**27, 2**26
"""Cells around the globe and from pole to pole: 0.3 m where they are largest."""
CELL_PX = 0.25
"""Side of such a cell in layers that have no place on the globe, in their own units."""


def number_by_place(polygons: NDArray[np.object_], crs: CRS | None) -> NDArray[np.int64]:
    """Numbers for column ``id``.

    Args:
        polygons: (n,) polygons in CRS units.
        crs: None, or a local one, takes coordinates as they are.

    Returns:
        (n,) numbers from 1, all different. Of polygons with their centre in the same cell the
        first has its number, the others the next free ones.
    """
    centres = shapely.get_coordinates(shapely.centroid(polygons))
    if crs is None or CRS.from_user_input(crs).is_engineering:
        column, row = np.floor(centres / CELL_PX).astype(np.int64).T
    else:
        to_degrees = Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
        lon, lat = to_degrees.transform(centres[:, 0], centres[:, 1])
        cell = 360.0 / COLUMNS
        column = np.floor((lon + 180.0) / cell).astype(np.int64)
        row = np.floor((lat + 90.0) / cell).astype(np.int64)
    return free_numbers(row % ROWS * COLUMNS + column % COLUMNS + 1)


def free_numbers(wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n,) different numbers: the first to want one has it, others take the next free ones."""
    numbers = wanted.copy()
    _, first = np.unique(wanted, return_index=True)
    later = np.setdiff1d(np.arange(len(wanted)), first)
    taken = set(wanted[first].tolist()) if len(later) else set()
    for index in later:
        number = int(wanted[index])
        while number in taken:
            number += 1
        taken.add(number)
        numbers[index] = number
    return numbers


def free_of(numbers: NDArray[np.int64], taken: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n,) different numbers; those that are among (m,) ``taken`` move to free ones."""
    free = numbers.copy()
    for index in np.flatnonzero(np.isin(numbers, taken)):
        while free[index] in taken or (free == free[index]).sum() > 1:
            free[index] += 1
    return free
