"""Bring the pixel values of any sensor into the range that the weights were trained on."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from footprints.chip import InputSpec, Scaling, Window
from footprints.errors import BandError, RasterError, ScalingWarning
from footprints.raster.source import Scene
from footprints.stages import staged

_PERCENTILES = (2, 98)
# The sample: windows of this many pixels a side, so many to a row and a column of the scene, and
# a denser set of smaller ones where those show too little data.
_SAMPLES = ((12, 64), (48, 16))
_ENOUGH_PIXELS = 2000


@staged("opening")
def fit_scaling(scene: Scene, spec: InputSpec) -> Scaling:
    """The scaling to read a scene with.

    A scene of the training's pixel type is scaled as the training was. In any other, the 2nd and
    98th percentile of each band are mapped linearly onto the training's, and that is said in a
    warning.

    Args:
        scene: The raster, with as many bands as the detector takes.
        spec: What the detector wants to be shown.

    Raises:
        BandError: The scene's bands are not as many as the detector takes.
        RasterError: The pixels cannot be read.
    """
    if len(scene.bands) != spec.bands:
        raise BandError(
            f"the detector takes {spec.bands} bands, but {scene.name} is read with "
            f"{len(scene.bands)}; choose them with --bands"
        )
    if not spec.value_range or scene.dtype == spec.dtype:
        return spec.scaling
    sample = _sample(scene)
    if not sample.size:
        return spec.scaling
    measured = _percentiles(sample)
    warnings.warn(
        f"{scene.name} has {scene.dtype} pixels and the detector was trained on {spec.dtype}: "
        f"{_in_words(measured)} (2nd to 98th percentile by band) is mapped onto "
        f"{_in_words(spec.value_range)}",
        ScalingWarning,
        stacklevel=2,
    )
    bands = zip(measured, spec.value_range, spec.scaling.mean, spec.scaling.std, strict=True)
    mean, std = zip(*(_compose(*band) for band in bands), strict=True)
    return Scaling(mean, std)


def measure_value_range(scene: Scene) -> tuple[tuple[float, float], ...]:
    """2nd and 98th percentile of the valid pixels by band, over a fixed sample of windows.

    Raises:
        RasterError: The scene shows no data in the sample, or the pixels cannot be read.
    """
    sample = _sample(scene)
    if not sample.size:
        raise RasterError(f"{scene.name} has no valid pixels to measure; check --nodata")
    return _percentiles(sample)


def _percentiles(sample: NDArray[np.generic]) -> tuple[tuple[float, float], ...]:
    low, high = np.percentile(sample.astype(np.float64), _PERCENTILES, axis=1)
    return tuple(zip(low.tolist(), high.tolist(), strict=True))


def _sample(scene: Scene) -> NDArray[np.generic]:
    """Valid pixels (bands, n) from windows spread evenly over the scene, the same every time."""
    for count, side in _SAMPLES:
        parts = []
        for window in _spread(scene, count, side):
            pixels, valid = scene.read(window, (int(window.height), int(window.width)))
            parts.append(pixels[:, valid])
        sample = np.concatenate(parts, axis=1)
        if sample.shape[1] >= _ENOUGH_PIXELS:
            break
    return sample


def _spread(scene: Scene, count: int, side: int) -> Iterator[Window]:
    """Windows in raster pixels, ``count`` along each axis or as many as have room."""
    for y, height in _spread_axis(scene.height, count, side):
        for x, width in _spread_axis(scene.width, count, side):
            yield Window(x, y, width, height)


def _spread_axis(length: int, count: int, side: int) -> list[tuple[int, int]]:
    if length <= count * side:
        return [(0, length)]
    room = length / count
    return [(int((i + 0.5) * room - side / 2), side) for i in range(count)]


def _compose(
    measured: tuple[float, float], wanted: tuple[float, float], mean: float, std: float
) -> tuple[float, float]:
    """Mean and standard deviation that first map ``measured`` onto ``wanted``."""
    low, high = _widen(*measured)
    wanted_low, wanted_high = _widen(*wanted)
    gain = (wanted_high - wanted_low) / (high - low)
    return low + (mean - wanted_low) / gain, std / gain


def _widen(low: float, high: float) -> tuple[float, float]:
    """A constant band spans one grey level, so that it maps onto the middle of the other."""
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _in_words(ranges: tuple[tuple[float, float], ...]) -> str:
    return ", ".join(f"{low:.4g}-{high:.4g}" for low, high in ranges)
