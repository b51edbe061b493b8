"""The filter itself, without any file."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from footprints.raster.resample import resample, triangle_taps


def shrink(pixels, valid, count):
    """Resample all of (B, H, W) to ``count`` pixels a side."""
    rows = triangle_taps(0, pixels.shape[1], count)
    columns = triangle_taps(0, pixels.shape[2], count)
    box = [slice(taps.span.start, taps.span.stop) for taps in (rows, columns)]
    margins = [
        (-part.start, part.stop - length) for part, length in zip(box, valid.shape, strict=True)
    ]
    padded = np.pad(np.where(valid, pixels, 0), [(0, 0), *margins])
    return resample(padded, np.pad(valid, margins), rows, columns)


@given(start=st.floats(-50, 5000), step=st.floats(0.1, 9), count=st.integers(1, 40))
def test_weights_of_every_output_pixel_add_up_to_one(start, step, count):
    taps = triangle_taps(start, step * count, count)
    assert (taps.weight >= 0).all()
    np.testing.assert_allclose(taps.weight.sum(axis=1), 1)
    centre = start + (np.arange(count) + 0.5) * step
    # Its own place is the weighted mean of the places it looks at (to a fraction of a pixel).
    found = (taps.weight * (taps.index + 0.5)).sum(axis=1)
    assert np.abs(found - centre).max() <= 0.13


@given(step=st.floats(0.1, 9), first=st.integers(0, 3000), skip=st.integers(0, 20))
def test_taps_depend_on_the_place_alone(step, first, skip):
    here = triangle_taps(first * step, 30 * step, 30)
    there = triangle_taps((first + skip) * step, 30 * step, 30)
    dense = [np.zeros((30, 1000)) for _ in range(2)]
    for taps, out in zip((here, there), dense, strict=True):
        np.add.at(out, (np.arange(30)[:, None], taps.index - here.span.start), taps.weight)
    np.testing.assert_allclose(dense[0][skip:], dense[1][: 30 - skip], atol=1e-8)


def test_a_constant_stays_constant_up_to_the_border():
    pixels = np.full((2, 40, 40), 137, dtype="uint8")
    for count in (7, 13, 40, 93):
        values, valid = shrink(pixels, np.ones((40, 40), dtype=bool), count)
        assert (values == 137).all()
        assert valid.all()


def test_shrinking_does_not_alias_a_checkerboard():
    checks = (np.indices((120, 120)).sum(axis=0) % 2 * 200).astype("uint8")[None]
    values, _ = shrink(checks, np.ones((120, 120), dtype=bool), 50)
    assert np.abs(values.astype(int) - 100).max() <= 12


@pytest.mark.parametrize("count", [23, 50, 80, 170])
def test_ground_without_data_never_darkens_its_neighbours(count):
    valid = np.hypot(*(np.indices((100, 100)) - 50)) < 37
    values, filled = shrink(np.full((1, 100, 100), 200, dtype="uint8"), valid, count)
    assert (values[0][filled] == 200).all()
    assert (values[0][~filled] == 0).all()
    assert filled.mean() == pytest.approx(valid.mean(), rel=0.05)


def test_a_ramp_keeps_its_place_when_enlarged():
    ramp = np.tile(np.arange(50, dtype="float32"), (50, 1))[None]
    values, _ = shrink(ramp, np.ones((50, 50), dtype=bool), 100)
    expected = (np.arange(100) + 0.5) / 2 - 0.5
    np.testing.assert_allclose(values[0, 10, 2:-2], expected[2:-2], atol=1e-5)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
def test_extreme_values_of_every_type_survive(dtype):
    info = np.finfo("float32") if "float" in dtype else np.iinfo(dtype)
    top = float(info.max) / 4 if "float" in dtype else info.max
    pixels = np.full((1, 20, 20), top, dtype=dtype)
    values, _ = shrink(pixels, np.ones((20, 20), dtype=bool), 9)
    assert values.dtype == dtype
    np.testing.assert_allclose(values.astype("float64"), float(top), rtol=1e-6)
