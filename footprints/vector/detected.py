"""What a detector found: scenes, looked at in passes, that come as rows of chips.

Rows come from the network or from a kept run (`footprints.vector.kept`); what follows cannot tell.
They are taken one at a time and once, so that no scene is ever held as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import shapely
from numpy.typing import NDArray

from footprints.chip import ChipGrid, Window
from footprints.vector.outlines import Outlines

if TYPE_CHECKING:
    from affine import Affine
    from pyproj import CRS


@dataclass(frozen=True, slots=True, eq=False)
class ChipRow:
    """What the chips of one row of a grid showed."""

    outlines: Outlines
    """As they came, in grid pixels."""
    read: NDArray[np.bool_]
    """(columns,) whether each chip was read and gave a result; False for chips without data."""
    valid: shapely.Geometry
    """Ground with data that the chips show, Polygon or MultiPolygon in grid pixels."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A chip that could not be read."""

    chip: int
    """Its number."""
    window: Window
    """Its place in raster pixels."""
    reason: str
    """One line."""
    is_coarse: bool
    """Whether it is of the coarse pass."""


@dataclass(frozen=True, slots=True, eq=False)
class Pass:
    """One look at a scene, at one resolution."""

    chips: ChipGrid
    """The chips that cover the scene."""
    transform: Affine
    """Grid pixels to CRS units."""
    rows: Iterable[ChipRow]
    """Every row of ``chips``, from top to bottom; to be gone through once."""


@dataclass(frozen=True, slots=True, eq=False)
class DetectedScene:
    """One scene and what was found in it."""

    number: int
    """Its place among all scenes of the run, from 0."""
    source: str
    """What the ``source`` column says."""
    path: str
    """File or address."""
    crs: CRS | None
    """None in plain pixel coordinates."""
    pixel_m: float | None
    """Metres per pixel of the fine pass; None in plain pixel coordinates."""
    bands: tuple[int, ...]
    """Bands that were read, 1-based."""
    passes: tuple[Pass, ...]
    """The fine pass; for a scene of several chips a coarse one too, to be taken after it."""
    faults: Sequence[Fault] = ()
    """Chips that could not be read, complete when all rows have been gone through."""
