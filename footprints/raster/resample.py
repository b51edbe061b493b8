"""Anti-aliased resampling that knows which pixels are data.

One triangle filter serves both ways: wider than a pixel when shrinking, so that nothing aliases,
plain linear interpolation when enlarging. The weights of an output pixel depend on its place in
the raster alone, and they are applied in a fixed order: two windows that overlap give the very
same values there. Pixels without data have no weight, so they never darken their neighbours.

Shapes: B bands, H x W source pixels, h x w output pixels, T taps (source pixels per output pixel).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Places are rounded to this many decimals of a pixel: the same place, reached from two windows,
# differs in the last bits of a float, and the weights must not.
_DECIMALS = 6

# Source values filtered at once: they stay in the processor's cache, which is five times as fast.
_STRIP_VALUES = 1 << 19


@dataclass(frozen=True, slots=True, eq=False)
class Taps:
    """Which source pixels make each output pixel along one axis, and with what weight."""

    index: NDArray[np.int64]
    """(n, T) source pixel; may lie outside the raster."""
    weight: NDArray[np.float64]
    """(n, T), each row adds up to 1."""

    @property
    def span(self) -> slice:
        """The source pixels that take part."""
        return slice(int(self.index[0, 0]), int(self.index[-1, -1]) + 1)

    def split(self, parts: int) -> Iterator[Taps]:
        """The same taps in up to ``parts`` runs of output pixels."""
        step = -(-len(self.index) // parts)
        for first in range(0, len(self.index), step):
            run = slice(first, first + step)
            yield Taps(self.index[run], self.weight[run])


def triangle_taps(start: float, length: float, count: int) -> Taps:
    """The taps of ``count`` output pixels that share ``length`` source pixels from ``start`` on.

    Args:
        start: Left or upper end, in source pixels.
        length: Extent in source pixels.
        count: Number of output pixels.
    """
    step = round(length / count, 9)
    radius = max(step, 1.0)
    centre = np.round(start + (np.arange(count) + 0.5) * (length / count), _DECIMALS)
    first = np.ceil(centre - radius - 0.5).astype(np.int64)
    index = first[:, None] + np.arange(int(np.ceil(2 * radius)))
    weight = np.clip(1 - np.abs(index + 0.5 - centre[:, None]) / radius, 0, None)
    return Taps(index, weight / weight.sum(axis=1, keepdims=True))


def resample(
    pixels: NDArray[np.generic], valid: NDArray[np.bool_], rows: Taps, columns: Taps
) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
    """Resample the source pixels ``[rows.span, columns.span]``.

    Args:
        pixels: (B, H, W), 0 where there is no data.
        valid: (H, W), True = data.
        rows: Taps along y.
        columns: Taps along x.

    Returns:
        Pixels (B, h, w) in the type they came in, 0 without data, and valid (h, w): True where at
        least half of the weight is data.
    """
    wide = pixels.dtype.itemsize > 2 and pixels.dtype != np.float32
    dtype = np.dtype(np.float64 if wide else np.float32)
    shape = len(rows.index), len(columns.index)
    resampled, filled = np.empty((len(pixels), *shape), pixels.dtype), np.empty(shape, np.bool_)
    done = 0
    for strip in rows.split(-(-pixels.size // _STRIP_VALUES)):
        own = slice(strip.span.start - rows.span.start, strip.span.stop - rows.span.start)
        here = slice(done, done + len(strip.index))
        values = _filter(_filter(pixels[:, own], strip, 1, dtype), columns, 2, dtype)
        share = _share(valid[own], strip, columns, dtype)
        has_data = share >= 0.5
        if has_data.all():
            values /= share
        else:
            np.divide(values, share, out=values, where=has_data)
            values *= has_data
        if np.issubdtype(pixels.dtype, np.integer):
            np.rint(values, out=values)
        resampled[:, here] = values
        filled[here] = has_data
        done = here.stop
    return resampled, filled


def _share(
    valid: NDArray[np.bool_], rows: Taps, columns: Taps, dtype: np.dtype[Any]
) -> NDArray[Any]:
    """(h, w) how much of the weight is data."""
    if not valid.all():
        return _filter(_filter(valid, rows, 0, dtype), columns, 1, dtype)
    # Not quite one, and to the last bit what it is beside pixels without data; but it repeats.
    down = _filter(np.ones((len(valid), 1), dtype), rows, 0, dtype).ravel()
    distinct, which = np.unique(down, return_inverse=True)
    every = np.broadcast_to(distinct[:, None], (len(distinct), valid.shape[1]))
    return np.take(_filter(every, columns, 1, dtype), which, axis=0)


def _filter(planes: NDArray[Any], taps: Taps, axis: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Apply ``taps`` along an axis of ``planes``; ``dtype`` is what is calculated in."""
    planes = planes.astype(dtype, copy=False)
    index = taps.index - taps.span.start
    weight = taps.weight.astype(dtype).reshape(-1, index.shape[1], *[1] * (planes.ndim - 1 - axis))
    total: NDArray[Any] = np.take(planes, index[:, 0], axis=axis, mode="clip")
    total *= weight[:, 0]
    picked = np.empty_like(total)
    # One tap after the other, not a matrix product: BLAS may add in another order for another
    # window, and a grey level would flip.
    for tap in range(1, index.shape[1]):
        np.take(planes, index[:, tap], axis=axis, out=picked, mode="clip")
        picked *= weight[:, tap]
        total += picked
    return total
