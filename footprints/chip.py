"""What the geo half and the model half exchange: plain NumPy, no torch, no rasterio.

Frames, from the network to the ground:
mask cell -> box -> chip pixel -> grid pixel -> raster pixel -> CRS unit -> metre.
Pixel (0, 0) is the upper-left corner of the first pixel in every pixel frame, and a box is
(x_min, y_min, x_max, y_max) in continuous pixels. The *grid* is the raster as it is read: resampled
to the ground resolution the detector was trained at. A chip pixel is a grid pixel less the chip's
upper-left corner, without any scaling.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from footprints.errors import ChipSizeError, ConfigError

if TYPE_CHECKING:
    from affine import Affine
    from pyproj import CRS


class Window(NamedTuple):
    """A rectangle in some pixel frame: upper-left corner and size."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Scaling:
    """The linear map from pixel values to network input, band by band: ``(pixel - mean) / std``."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class InputSpec:
    """What a detector wants to be shown; it travels with the weights."""

    bands: int
    """Number of bands."""
    gsd_m: float | None
    """Ground resolution in metres per pixel; None reads every raster at its own, or as
    ``short_side`` says."""
    scaling: Scaling
    """Pixel values, as they were in training, to network input."""
    dtype: str = "uint8"
    """Pixel type in training."""
    value_range: tuple[tuple[float, float], ...] = ()
    """2nd and 98th percentile of the training pixels by band; a scene of another type is mapped
    onto it. Empty: never mapped."""
    chip_size: int = 512
    """Side in pixels of the chips to use by default."""
    multiple: int = 1
    """Chip sides must be a multiple of this (32 for a network with stride 32)."""
    short_side: int | None = None
    """Weights of photographs see a picture whole, resized so that its shorter side has this many
    pixels; None cuts rasters into chips. Excludes ``gsd_m``: a photograph has no one ground
    resolution."""
    long_side: int | None = None
    """The longer side of a picture has at most this many pixels, even where that makes the shorter
    one shorter; None sets no limit."""

    def __post_init__(self) -> None:
        if self.short_side is None:
            if self.long_side is not None:
                raise ConfigError(f"long side {self.long_side} px has no short side; set both")
            return
        if self.gsd_m is not None:
            raise ConfigError(
                f"weights see rasters at a ground resolution ({self.gsd_m:g} m) or whole pictures "
                f"at a size (short side {self.short_side} px), never both; set one of them"
            )
        if not 1 <= self.short_side <= (self.long_side or self.short_side):
            raise ConfigError(
                f"a picture's sides must be positive, the short one at most the long one, got "
                f"{self.short_side} and {self.long_side} px"
            )


@dataclass(frozen=True, slots=True, eq=False)
class Chip:
    """A rectangle cut from a raster, as a detector sees it."""

    pixels: NDArray[np.generic]
    """(bands, height, width), values as stored in the raster; 0 where there is no data."""
    valid: NDArray[np.bool_]
    """(height, width), True where there is data."""
    scaling: Scaling
    """Pixel values to network input."""
    window: Window
    """The chip's place in raster pixels (fractional where the raster is resampled)."""
    transform: Affine
    """Chip pixels to CRS units."""
    crs: CRS | None
    """None for a raster in plain pixel coordinates."""
    source: str
    """Name of the raster, for messages and the ``source`` column."""


LOGIT_STEPS = 16
"""int8 steps per unit of logit in a mask grid: +-7.9 before clipping, far beyond any doubt about an
outline."""


class MaskGroup(NamedTuple):
    """The mask grids of one side, of some of a chip's instances."""

    members: NDArray[np.int64]
    """(k,), which instances."""
    logits: NDArray[np.int8]
    """(k, S, S), inside > 0. Cell (row i, column j) is centred at ((j + .5) / S, (i + .5) / S) of
    the instance's mask box. int8 holds the logit times `LOGIT_STEPS`, clipped: the outline is at
    0, so only ratios of neighbouring cells matter."""


@dataclass(frozen=True, slots=True, eq=False)
class Instances:
    """The detections of one chip. Masks stay in their box; nothing is pasted anywhere."""

    boxes: NDArray[np.float32]
    """(n, 4) in chip pixels, inside the chip."""
    scores: NDArray[np.float32]
    """(n,) confidence, 0 to 1."""
    labels: NDArray[np.int64]
    """(n,) index into the detector's ``classes``."""
    mask_boxes: NDArray[np.float32]
    """(n, 4) in chip pixels, the frame of each mask grid: the box, usually a little expanded."""
    masks: tuple[MaskGroup, ...]
    """Mask grids grouped by side; every instance is in exactly one group."""
    keypoints: NDArray[np.float32] | None = None
    """(n, J, 3) x and y in chip pixels, and confidence, 0 to 1; None for detectors without."""
    capped: bool = False
    """Whether there are as many as the detector keeps, so that some may be missing."""

    def __len__(self) -> int:
        return len(self.boxes)

    def take(self, which: NDArray[np.int64]) -> Instances:
        """The instances with these indices, ascending."""
        place = np.full(len(self), -1)
        place[which] = np.arange(len(which))
        masks = []
        for members, logits in self.masks:
            kept = place[members] >= 0
            if kept.any():
                masks.append(MaskGroup(place[members[kept]], logits[kept]))
        return Instances(
            self.boxes[which],
            self.scores[which],
            self.labels[which],
            self.mask_boxes[which],
            tuple(masks),
            None if self.keypoints is None else self.keypoints[which],
            self.capped,
        )


class Detector(Protocol):
    """Finds buildings in chips: the network, or a stand-in made of known buildings."""

    @property
    def name(self) -> str:
        """What the ``model`` column says."""

    @property
    def digest(self) -> str:
        """Another one wherever the same chips may give other instances."""

    @property
    def keypoints(self) -> tuple[str, ...]:
        """Names of the keypoints of every instance; empty where it finds none."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the labels."""

    @property
    def input_spec(self) -> InputSpec:
        """What the chips must look like."""

    @property
    def confidence(self) -> float:
        """Confidence below which a building is not reported, unless the user says otherwise."""

    def __call__(self, chips: Sequence[Chip]) -> list[Instances]:
        """Detect in a batch of chips of equal shape; one `Instances` per chip, in order."""


@runtime_checkable
class SizesBatches(Protocol):
    """A detector that knows how many chips its memory holds."""

    def fitting_batch(self, height: int, width: int) -> int:
        """How many chips of so many pixels go through together."""


@runtime_checkable
class Prepares(Protocol):
    """A detector that prepares for work, more for much of it."""

    def expect(self, chips: int, batch: tuple[int, int, int]) -> None:
        """Hear how many chips are to come; how many together, of what height and width."""


@dataclass(frozen=True, slots=True)
class ChipGrid:
    """A regular cover of a raster by overlapping chips, in grid pixels.

    Every pixel is in at least one chip. The last row and column are moved inwards so that chips
    end where the raster ends; a raster smaller than a chip gets one chip that extends beyond it.
    Chips are numbered row by row.
    """

    height: int
    """Raster height in grid pixels."""
    width: int
    """Raster width in grid pixels."""
    size: int = 512
    """Chip side in pixels; the side actually used is shorter where the raster is."""
    overlap: int = 128
    """Pixels shared by neighbouring chips, at least."""
    multiple: int = 1
    """Chip sides are a multiple of this."""

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ChipSizeError(
                f"a raster must have at least one pixel, got {self.width} x {self.height}"
            )
        if self.size < 1 or self.size % self.multiple:
            raise ChipSizeError(
                f"chip size must be a positive multiple of {self.multiple}, got {self.size}"
            )
        if not 0 <= self.overlap < self.size:
            raise ChipSizeError(
                f"overlap must be in [0, chip size), got overlap {self.overlap} for chip size "
                f"{self.size}; use a smaller --overlap or a larger --chip-size"
            )

    @property
    def chip_height(self) -> int:
        """Height of every chip in pixels."""
        return min(self.size, _round_up(self.height, self.multiple))

    @property
    def chip_width(self) -> int:
        """Width of every chip in pixels."""
        return min(self.size, _round_up(self.width, self.multiple))

    @property
    def row_starts(self) -> tuple[int, ...]:
        """First pixel row of each row of chips."""
        return _starts(self.height, self.chip_height, self.size - self.overlap)

    @property
    def column_starts(self) -> tuple[int, ...]:
        """First pixel column of each column of chips."""
        return _starts(self.width, self.chip_width, self.size - self.overlap)

    def __len__(self) -> int:
        return len(self.row_starts) * len(self.column_starts)

    def __iter__(self) -> Iterator[Window]:
        return (self.window(index) for index in range(len(self)))

    def row_column(self, index: int) -> tuple[int, int]:
        """Row and column of a chip in the grid of chips."""
        return divmod(index, len(self.column_starts))

    def window(self, index: int) -> Window:
        """Place of a chip in grid pixels."""
        row, column = self.row_column(index)
        return Window(
            self.column_starts[column], self.row_starts[row], self.chip_width, self.chip_height
        )


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def _starts(length: int, chip: int, step: int) -> tuple[int, ...]:
    if length <= chip:
        return (0,)
    return (*range(0, length - chip, step), length - chip)
