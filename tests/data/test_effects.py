"""What befalls imagery changes pixels as it should, within its range, by the seed alone."""

from dataclasses import replace

import numpy as np
import pytest
from test_augment import STILL, image, jitter

from footprints.data.effects import (
    SHADOW,
    SHADOWED_SHARE,
    add_haze,
    cast_shadow,
    compress,
    drop_band,
    smooth_field,
)


def rng(seed: int = 3) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("seed", range(5))
def test_haze_brightens_the_dark_and_evens_out_what_differs(seed):
    checks = np.indices((40, 60)).sum(axis=0) % 2
    picture = np.broadcast_to(checks, (3, 40, 60)).astype(np.float32) * 0.6
    hazy = add_haze(picture, rng(seed))
    dark, bright = hazy[:, checks == 0], hazy[:, checks == 1]
    assert dark.mean() > 0.02
    assert 0 < bright.mean() - dark.mean() < 0.6
    assert hazy.dtype == np.float32
    assert hazy.max() <= 1


@pytest.mark.parametrize("seed", range(5))
def test_a_shadow_darkens_a_part_and_leaves_the_rest(seed):
    shadowed = cast_shadow(np.ones((2, 64, 64), dtype=np.float32), rng(seed))
    np.testing.assert_array_equal(shadowed[0], shadowed[1])
    assert SHADOW[0] - 0.01 < shadowed.min() < SHADOW[1]
    dark = (shadowed[0] < (1 + shadowed.min()) / 2).mean()
    assert SHADOWED_SHARE[0] - 0.1 < dark < SHADOWED_SHARE[1] + 0.1
    assert np.abs(np.diff(shadowed[0], axis=0)).max() < 0.2, "its edge is soft"


def test_one_band_drops_out_and_the_others_stay():
    picture = image(5) / 255
    dropped = drop_band(picture, rng())
    changed = [not np.array_equal(a, b) for a, b in zip(picture, dropped, strict=True)]
    assert sum(changed) == 1
    assert (dropped[changed.index(True)] == 0.5).all()
    np.testing.assert_array_equal(drop_band(picture[:1], rng()), picture[:1])


@pytest.mark.parametrize("bands", [1, 3, 5])
def test_jpeg_keeps_the_picture_and_loses_its_grain(bands):
    y, x = np.indices((64, 48))
    smooth = np.broadcast_to(60 + y + x, (bands, 64, 48)).astype(np.float32)
    grain = rng().normal(0, 12, smooth.shape).astype(np.float32)
    seen = compress((smooth + grain).clip(0, 255), rng(1))
    assert seen.shape == smooth.shape
    assert np.abs(seen - smooth).mean() < np.abs(grain).mean()
    np.testing.assert_allclose(seen.mean(axis=(1, 2)), smooth.mean(axis=(1, 2)), atol=2)


def test_a_field_is_smooth_and_spans_much_of_its_range():
    field = smooth_field((90, 50), rng())
    assert field.shape == (90, 50)
    assert 0 <= field.min() < 0.3 < 0.7 < field.max() <= 1
    assert max(np.abs(np.diff(field, axis=axis)).max() for axis in (0, 1)) < 0.1


@pytest.mark.parametrize("name", ["hazy", "shadowed", "band_dropped", "compressed"])
def test_every_effect_is_to_be_had_and_the_seed_decides(name):
    pixels = image(3, 64, 64)
    augmentation = replace(STILL, **{name: 1.0})
    once, again = (jitter(pixels, augmentation) for _ in range(2))
    np.testing.assert_array_equal(once, again)
    assert not np.allclose(once, pixels, atol=1)
    assert 0 <= once.min() <= once.max() <= 255


def test_only_8_bit_pixels_go_through_jpeg():
    pixels = image(3, 16, 16, top=4000)
    sixteen = {"value_range": ((0.0, 4000.0),), "limits": (0.0, 65535.0)}
    augmentation = replace(STILL, compressed=1.0)
    np.testing.assert_allclose(jitter(pixels, augmentation, **sixteen), pixels, rtol=1e-4)


def test_ground_without_data_stays_without_it():
    valid = np.ones((64, 64), dtype=bool)
    valid[20:40, 10:30] = False
    everything = replace(STILL, hazy=1, shadowed=1, band_dropped=1, compressed=1)
    changed = jitter(image(3, 64, 64) * valid, everything, valid=valid)
    assert (changed[:, ~valid] == 0).all()


def test_what_is_off_leaves_chance_as_it_was():
    pixels = image()
    names = ("hazy", "shadowed", "band_dropped", "compressed", "pasted")
    noisy = replace(STILL, noisy=1.0, noise=0.1)
    off = replace(noisy, **dict.fromkeys(names, 0.0))
    np.testing.assert_array_equal(jitter(pixels, off), jitter(pixels, noisy))
