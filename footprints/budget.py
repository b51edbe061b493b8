"""A budget of memory for a run: how many chips go through together, and GDAL's cache of blocks.

What the process holds before the first chip and what a chip takes are measured on blank chips, once
for each detector: a process that has been through a scene keeps freed memory, and measured again it
would have less room for the next one. The finished layer is no part of the budget: it grows with
the number of buildings.
"""

from __future__ import annotations

import logging
import math
import re
import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from affine import Affine

from footprints.chip import Chip, Detector, Window
from footprints.detection import Measured, fitting_batch
from footprints.errors import ConfigError
from footprints.lanes import count_lanes
from footprints.raster.opening import CACHE_BYTES
from footprints.rows import READ_AHEAD, Cover
from footprints.stages import stage

logger = logging.getLogger(__name__)

LEAST_CACHE_BYTES = 64 << 20
"""GDAL's cache of blocks in the smallest budget: with less, wide rasters stored line by line would
be read anew for every chip of a row."""
_REST_BYTES = 384 << 20
"""Room for rows of chips that are traced, merged and written, and for what allocators keep: with
128 MiB, a run in a budget of 1.6 GB took 176 MB too much."""
_SPREAD = 1.03
"""What an error names is this much larger: measurements differ by a percent."""
_UNITS = {"MB": 10**6, "GB": 10**9, "TB": 10**12, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


class Plan(NamedTuple):
    """How a run keeps within its budget."""

    batch_size: int
    """Chips that go through together."""
    lanes: int
    """Batches that go through side by side; 0 for one by one, in the calling thread."""
    cache_bytes: int | None
    """Of GDAL's cache of blocks; None leaves it as it is without a budget."""


def parse_size(text: str | int) -> int:
    """An amount of memory in bytes.

    Args:
        text: ``4GB``, ``1.5GiB``; a number counts bytes.

    Raises:
        ConfigError: It is not a positive number with a unit.
    """
    if isinstance(text, int) and text > 0:
        return text
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]i?B)", str(text).strip(), re.IGNORECASE)
    units = {name.upper(): size for name, size in _UNITS.items()}
    if found is None or found[2].upper() not in units or float(found[1]) == 0:
        raise ConfigError(
            f"memory must be a positive number with one of {', '.join(_UNITS)}, such as 4GB, "
            f"got {str(text)!r}"
        )
    return int(float(found[1]) * units[found[2].upper()])


def plan_run(
    detector: Detector,
    measured: Sequence[Measured],
    *,
    batch_size: int | None,
    memory: int | None,
) -> Plan:
    """Find out how many chips may go through together.

    Args:
        detector: Is shown blank chips, if there is a budget.
        measured: All scenes of the run.
        batch_size: What the user asked for; None takes what fits.
        memory: Budget of this process in bytes; None sets none.

    Raises:
        ConfigError: The budget does not hold the detector and a batch.
    """
    covers = [each.cover for each in measured]
    size = fitting_batch(detector, measured) if batch_size is None else batch_size
    lanes = count_lanes(detector)
    if memory is None:
        return Plan(size, lanes, None)
    height = max((cover.chips.chip_height for cover in covers), default=1)
    width = max((cover.chips.chip_width for cover in covers), default=1)
    look = _measure_looks(detector)
    read = _bytes_read(covers)

    def needed(size: int, lanes: int = 1) -> int:
        work = look.held + _REST_BYTES + LEAST_CACHE_BYTES
        pixel = max(lanes, 1) * look.pixel + (lanes + READ_AHEAD + 2) * read
        return work + math.ceil(size * height * width * pixel)

    # Lanes go first: they change nothing in what is found.
    lanes = next((n for n in range(lanes, 1, -1) if needed(size, n) <= memory), min(lanes, 1))
    while batch_size is None and size > 1 and needed(size) > memory:
        size = 1 if size % 2 else size // 2
    if needed(size) > memory:
        chips = "one chip" if size == 1 else f"{size} chips at once, each"
        raise ConfigError(
            f"memory of {_in_mb(memory)} MB does not hold {detector.name} and {chips} of {width} x "
            f"{height} px, where this process holds {_in_mb(look.held)} MB by now; give at least "
            f"{_in_mb(_SPREAD * needed(size))} MB, or a smaller "
            f"{'--chip-size' if size == 1 else '--batch-size'}"
        )
    spare = memory - needed(size, lanes)
    logger.info("%d chips go through together, in %d lanes", size, max(lanes, 1))
    return Plan(size, lanes, min(LEAST_CACHE_BYTES + spare, CACHE_BYTES))


class _Looks(NamedTuple):
    """What a detector takes of the process's memory, in bytes."""

    held: int
    """Of the whole process, when it has seen one chip."""
    pixel: float
    """More for every further pixel of a batch."""


_measured: dict[str, _Looks] = {}
"""By digest of the detector."""


def _measure_looks(detector: Detector) -> _Looks:
    """See what looking takes.

    A second chip, because the first one brings with it what is made once: kernels, a GPU's context.
    Each is shown twice: the first time, memory is not yet laid out as it will be. Buildings are
    allowed for by counting the first chip twice: they took as much as the rest of a chip did.
    """
    if detector.digest not in _measured:
        logger.info("measuring what %s takes of the memory, on blank chips", detector.name)
        spec = detector.input_spec
        side = spec.chip_size
        blank = Chip(
            pixels=np.zeros((spec.bands, side, side), dtype=spec.dtype),
            valid=np.ones((side, side), dtype=np.bool_),
            scaling=spec.scaling,
            window=Window(0, 0, side, side),
            transform=Affine.identity(),
            crs=None,
            source="blank",
        )
        held = []
        with stage("measuring memory"):
            for chips in ([blank], [blank, blank]):
                detector(chips)
                detector(chips)
                held.append(_resident_bytes())
        more = max(0, held[1] - held[0])
        _measured[detector.digest] = _Looks(held[0], more / side**2)
    return _measured[detector.digest]


def _resident_bytes() -> int:
    """Memory of this process; where the system does not say, the most that it ever had."""
    status = Path("/proc/self/statm")
    if status.exists():
        return int(status.read_text(encoding="ascii").split()[1]) * resource.getpagesize()
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _bytes_read(covers: Sequence[Cover]) -> int:
    """Of one pixel of a chip, with the plane that says where data is."""
    scenes = [cover.grid.scene for cover in covers]
    sizes = (len(scene.bands) * np.dtype(scene.dtype).itemsize for scene in scenes)
    return max(sizes, default=0) + 1


def _in_mb(size: float) -> int:
    return math.ceil(size / 10**6)
