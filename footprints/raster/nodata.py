"""Which pixels are data: nodata values, masks, alpha, NaN, and collars that nobody declared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import rasterio
from numpy.typing import DTypeLike, NDArray
from rasterio import DatasetReader
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.features import rasterize, shapes
from rasterio.windows import Window as RasterWindow

from footprints.errors import RasterError

# The overview on which collars are found has at most this many pixels a side.
_OVERVIEW_SIDE = 1024
# A collar is black ground that a square of this many metres can sweep from outside the raster:
# black roofs and shadows narrower than it stay data, at the border and beside a collar too.
_SQUARE_M = 30.0
_SQUARE_PX = 100.0
"""The same for rasters in plain pixel coordinates."""
_MAX_SQUARE = _OVERVIEW_SIDE // 4
"""And never more pixels of the overview than this, in rasters that show little ground."""
_CORNERS = np.s_[[0, 0, -1, -1], [0, -1, 0, -1]]
# Lossy compression leaves a collar nearly black: grey levels up to this count as black.
LOSSY_BLACK = 8


@dataclass(frozen=True, slots=True)
class NodataRule:
    """What a dataset declares, or its user, about pixels without data."""

    values: tuple[float | None, ...]
    """Nodata value of each band read; None = none declared."""
    alpha: int | None
    """The alpha band (1-based)."""
    masked: bool
    """There is a mask band (inside the file or beside it)."""
    bands: tuple[int, ...]
    """Bands read (1-based)."""

    @property
    def declared(self) -> bool:
        """Whether anything is declared at all."""
        return self.masked or self.alpha is not None or any(v is not None for v in self.values)

    def valid(
        self,
        raster: DatasetReader,
        level: DatasetReader,
        box: RasterWindow,
        pixels: NDArray[Any],
    ) -> NDArray[np.bool_]:
        """Which of the pixels just read are data, (h, w).

        Args:
            raster: The raster at full resolution.
            level: The raster or one of its overviews, where the pixels are from.
            box: Their window, in whole pixels of ``level``.
            pixels: (B, h, w), what was read.
        """
        valid = ~self._equal_nodata(pixels)
        if np.issubdtype(pixels.dtype, np.floating):
            valid &= np.isfinite(pixels).all(axis=0)
        if self.alpha is not None:
            valid &= level.read(self.alpha, window=box) > 0
        elif self.masked:
            valid &= self._mask(raster, level, box).all(axis=0)
        return valid

    def _mask(
        self, raster: DatasetReader, level: DatasetReader, box: RasterWindow
    ) -> NDArray[np.bool_]:
        """The mask bands over ``box``, (bands, h, w)."""
        # From the raster, because its overviews may have been built before its mask: GDAL then
        # shows a mask there that is all data.
        across, down = raster.width / level.width, raster.height / level.height
        window = RasterWindow(
            box.col_off * across, box.row_off * down, box.width * across, box.height * down
        )
        bands = sorted(set(self.bands))
        shape = (len(bands), box.height, box.width)
        return np.asarray(raster.read_masks(bands, window=window, out_shape=shape) > 0)

    def _equal_nodata(self, pixels: NDArray[Any]) -> NDArray[np.bool_]:
        """Where the bands hold their nodata values, (h, w)."""
        hits = [
            _equals(band, value)
            for band, value in zip(pixels, self.values, strict=True)
            if value is not None
        ]
        if not hits:
            return np.zeros(pixels.shape[1:], dtype=bool)
        # A value that sensors also record (0, 255, 65535) is nodata only where every band has it:
        # a red roof may well be 0 in blue. A value they never record is nodata in any band.
        recorded = all(value is None or 0 <= value <= 65535 for value in self.values)
        return np.asarray(np.all(hits, axis=0) if recorded else np.any(hits, axis=0))


def _equals(band: NDArray[Any], value: float) -> NDArray[np.bool_]:
    if math.isnan(value):
        return np.asarray(np.isnan(band))
    if np.issubdtype(band.dtype, np.integer):
        return np.asarray(band == int(value))
    # Decimal text such as -3.40282e+38 does not name a float32 exactly.
    return np.asarray(np.abs(band - value) <= 1e-6 * abs(value))


def nodata_rule(
    dataset: DatasetReader, bands: Sequence[int], dtype: str, nodata: float | None
) -> NodataRule:
    """Gather what is declared; the user's nodata value goes before the file's.

    Raises:
        RasterError: The user's nodata value is no number, or the pixel type cannot hold it.
    """
    if nodata is not None:
        _check_nodata(nodata, dtype)
        values: tuple[float | None, ...] = (float(nodata),) * len(bands)
    else:
        declared = [dataset.nodatavals[band - 1] for band in bands]
        values = tuple(v if v is not None and _can_hold(dtype, v) else None for v in declared)
    alphas = [i for i, c in enumerate(dataset.colorinterp, 1) if c == ColorInterp.alpha]
    flags = [dataset.mask_flag_enums[band - 1] for band in bands]
    masked = any(MaskFlags.all_valid not in flag and MaskFlags.nodata not in flag for flag in flags)
    return NodataRule(values, alphas[0] if alphas else None, masked, tuple(bands))


def _check_nodata(nodata: float, dtype: str) -> None:
    if isinstance(nodata, bool) or not isinstance(nodata, int | float | np.number):
        raise RasterError(f"nodata must be a number, got {nodata!r}")
    if not _can_hold(dtype, float(nodata)):
        raise RasterError(f"nodata must be a value of type {dtype}, got {nodata}")


def _can_hold(dtype: str, value: float) -> bool:
    if np.issubdtype(dtype, np.floating):
        return True
    info = np.iinfo(dtype)
    return value.is_integer() and info.min <= value <= info.max


@dataclass(frozen=True, slots=True, eq=False)
class Collar:
    """The black or white ground around the image, on a coarse overview."""

    mask: NDArray[np.bool_]
    """(h, w) of the overview, True = collar or right beside it."""
    low: int
    high: int
    """Grey levels of the collar, from and to."""

    def covers(
        self,
        pixels: NDArray[Any],
        columns: NDArray[np.floating],
        rows: NDArray[np.floating],
    ) -> NDArray[np.bool_]:
        """Which pixels are collar: of its grey themselves, and where the overview calls them so.

        Args:
            pixels: (B, h, w).
            columns: (w,) pixel centres as a share of the raster's width.
            rows: (h,) pixel centres as a share of the raster's height.
        """
        height, width = self.mask.shape
        i, j = (rows * height).astype(np.int64), (columns * width).astype(np.int64)
        return _is_grey(pixels, self.low, self.high) & self.mask[np.ix_(i, j)]


def may_be_collar(pixels: NDArray[Any]) -> NDArray[np.bool_]:
    """Where all bands of (B, h, w) are as black or as white as collars are, (h, w)."""
    dark = _is_grey(pixels, -LOSSY_BLACK, LOSSY_BLACK)
    white = _white(pixels.dtype)
    return dark if white is None else dark | _is_grey(pixels, white, white)


def _is_grey(pixels: NDArray[Any], low: int, high: int) -> NDArray[np.bool_]:
    """Where all bands of (B, h, w) are within grey levels, (h, w)."""
    grey = np.ones(pixels.shape[1:], dtype=np.bool_)
    for band in pixels:
        # Mostly no pixel is grey in the first band, and the others need no look.
        if not grey.any():
            break
        grey &= (band >= low) & (band <= high)
    return grey


def _white(dtype: DTypeLike) -> int | None:
    """The value of saturated pixels; signed numbers and floats have none."""
    return int(np.iinfo(dtype).max) if np.issubdtype(dtype, np.unsignedinteger) else None


def find_collar(
    dataset: DatasetReader, bands: Sequence[int], gsd_m: tuple[float, float] | None
) -> Collar | None:
    """Find black or white ground connected to the raster's border.

    Reads the border, and only where that has black or white an overview; at most about a million
    pixels are held, however large the raster.

    The raster is thought to lie in endless black, and the collar is what a square of 30 m
    (100 px without a CRS) can sweep there: the opening of black ground by that square, as far as
    it is connected to the outside. Straight edges at any angle and corners are kept to the pixel,
    while a black roof that touches the collar or the border is too narrow to be swept. Only a
    black roof right in a corner of the raster looks like collar.

    White collars likewise, but exactly white, and at a corner of the raster at least: halls with
    white roofs are wider than the square, and overexposed ones are as white as a collar.

    Args:
        dataset: The raster.
        bands: Bands to look at (1-based).
        gsd_m: Metres on the ground per raster pixel along x and y.

    Returns:
        None if there is no collar.
    """
    black = LOSSY_BLACK if _is_lossy(dataset) else 0
    white = _white(np.result_type(*(dataset.dtypes[band - 1] for band in bands)))
    collar = _collar_of_grey(dataset, bands, gsd_m, -black, black)
    if collar is not None or white is None:
        return collar
    collar = _collar_of_grey(dataset, bands, gsd_m, white, white)
    return collar if collar is not None and collar.mask[_CORNERS].any() else None


def _collar_of_grey(
    dataset: DatasetReader,
    bands: Sequence[int],
    gsd_m: tuple[float, float] | None,
    low: int,
    high: int,
) -> Collar | None:
    if not _border_has_grey(dataset, bands, low, high):
        return None
    height, width = _overview_shape(dataset.height, dataset.width)
    grey = _is_grey(dataset.read(bands, out_shape=(len(bands), height, width)), low, high)
    shrink = dataset.width / width, dataset.height / height
    square_px = tuple(_SQUARE_M / g for g in gsd_m) if gsd_m else (_SQUARE_PX, _SQUARE_PX)
    columns, rows = (
        min(max(3, round(px / step)), _MAX_SQUARE)
        for px, step in zip(square_px, shrink, strict=True)
    )
    pad = max(columns, rows) + 1
    collar = _connected_to_corner(_open(np.pad(grey, pad, constant_values=True), rows, columns))
    if max(shrink) > 1:
        # An overview pixel shows one of the many that it stands for, so the edge lies up to one
        # overview pixel further; the grey itself is then judged pixel by pixel.
        collar = _box_any(collar, 3, 3)
    collar = collar[pad:-pad, pad:-pad]
    return Collar(collar, low, high) if collar.any() else None


def _is_lossy(dataset: DatasetReader) -> bool:
    """Whether pixel values went through a compression that changes them."""
    if dataset.driver == "VRT" and len(dataset.files) > 1:
        with rasterio.open(dataset.files[1]) as first_source:
            return _is_lossy(first_source)
    tags = dataset.tags(ns="IMAGE_STRUCTURE")
    reversible = tags.get("COMPRESSION_REVERSIBILITY", "")
    return reversible.startswith("LOSSY") or "JPEG" in tags.get("COMPRESSION", "")


def _overview_shape(height: int, width: int) -> tuple[int, int]:
    return min(height, _OVERVIEW_SIDE), min(width, _OVERVIEW_SIDE)


def _border_has_grey(dataset: DatasetReader, bands: Sequence[int], low: int, high: int) -> bool:
    """Look at a thousand pixels or so along each side."""
    width, height = dataset.width, dataset.height
    rows, columns = _overview_shape(height, width)
    sides = [
        (RasterWindow(0, 0, width, 1), (1, columns)),
        (RasterWindow(0, height - 1, width, 1), (1, columns)),
        (RasterWindow(0, 0, 1, height), (rows, 1)),
        (RasterWindow(width - 1, 0, 1, height), (rows, 1)),
    ]
    return any(
        _is_grey(
            dataset.read(bands, window=window, out_shape=(len(bands), *shape)), low, high
        ).any()
        for window, shape in sides
    )


def _open(mask: NDArray[np.bool_], rows: int, columns: int) -> NDArray[np.bool_]:
    """Everything that a ``rows`` x ``columns`` box covers while it stays inside ``mask``."""
    fits = _box_sum(mask, rows, columns) == rows * columns
    padding = ((rows - 1, rows - 1), (columns - 1, columns - 1))
    return _box_sum(np.pad(fits, padding), rows, columns) > 0


def _box_any(mask: NDArray[np.bool_], rows: int, columns: int) -> NDArray[np.bool_]:
    """Dilation by a centred box of odd sides."""
    padding = ((rows // 2, rows // 2), (columns // 2, columns // 2))
    return _box_sum(np.pad(mask, padding), rows, columns) > 0


def _box_sum(mask: NDArray[np.bool_], rows: int, columns: int) -> NDArray[np.int32]:
    """Number of True in every box that lies inside: (H - rows + 1, W - columns + 1)."""
    total = np.pad(
        mask.cumsum(axis=0, dtype=np.int32).cumsum(axis=1, dtype=np.int32), ((1, 0), (1, 0))
    )
    return np.asarray(
        total[rows:, columns:]
        - total[:-rows, columns:]
        - total[rows:, :-columns]
        + total[:-rows, :-columns]
    )


def _connected_to_corner(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The part of ``mask`` that is connected to its first pixel, which is True."""
    outside = next(
        region
        for region, _ in shapes(mask.astype(np.uint8), mask=mask, connectivity=4)
        if (0.0, 0.0) in region["coordinates"][0]
    )
    return np.asarray(rasterize([outside], out_shape=mask.shape, dtype=np.uint8), dtype=bool)
