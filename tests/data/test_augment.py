"""Turning moves pixels and points alike; colours change within bounds and by the seed alone."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from footprints.data.augment import Augmentation, Orientation, jitter_colours

STILL = Augmentation(scale=(1, 1), turn=False).with_colour(0)
BYTES = ((0.0, 255.0),)

orientations = st.builds(Orientation, st.integers(0, 3), mirrored=st.booleans())


def image(bands: int = 3, height: int = 12, width: int = 10, top: int = 255) -> np.ndarray:
    rng = np.random.default_rng(7)
    return rng.integers(0, top, (bands, height, width)).astype(np.float32)


def jitter(pixels: np.ndarray, augmentation: Augmentation, seed: int = 1, **options) -> np.ndarray:
    settings = {"value_range": BYTES, "limits": (0.0, 255.0), **options}
    valid = settings.pop("valid", np.ones(pixels.shape[1:], dtype=bool))
    return jitter_colours(pixels, valid, augmentation, np.random.default_rng(seed), **settings)


@given(orientations, st.integers(1, 7), st.integers(1, 7), st.data())
@settings(max_examples=60)
def test_points_turn_with_their_pixels(
    orientation: Orientation, height: int, width: int, data: st.DataObject
) -> None:
    row = data.draw(st.integers(0, height - 1))
    column = data.draw(st.integers(0, width - 1))
    pixels = np.zeros((2, height, width))
    pixels[:, row, column] = 1
    turned = orientation.turn_pixels(pixels)
    x, y = orientation.affine(height, width) @ (column + 0.5, row + 0.5)
    assert turned[1, int(y), int(x)] == 1
    assert (x % 1, y % 1) == (0.5, 0.5)
    assert orientation.swaps_sides == (turned.shape[1:] == (width, height) != (height, width)) or (
        height == width
    )


def test_the_eight_orientations_differ() -> None:
    corner = np.arange(4).reshape(2, 2)
    seen = {
        Orientation(turns, mirrored=mirrored).turn_pixels(corner).tobytes()
        for turns in range(4)
        for mirrored in (False, True)
    }
    assert len(seen) == 8


def test_without_strength_nothing_changes() -> None:
    pixels = image()
    np.testing.assert_allclose(jitter(pixels, STILL), pixels, atol=1e-3)


@given(st.integers(0, 1000), st.sampled_from([1, 2, 3, 4, 8]))
@settings(max_examples=40)
def test_values_stay_within_the_pixel_type_whatever_the_bands(seed: int, bands: int) -> None:
    strong = Augmentation(brightness=0.6, contrast=0.9, blur=1, noise=0.3, noisy=1)
    changed = jitter(image(bands), strong, seed)
    assert changed.dtype == np.float32
    assert changed.shape == (bands, 12, 10)
    assert np.isfinite(changed).all()
    assert changed.min() >= 0
    assert changed.max() <= 255


def test_ground_without_data_stays_zero_and_does_not_count() -> None:
    pixels = image()
    valid = np.ones((12, 10), dtype=bool)
    valid[:, 5:] = False
    dark = pixels * valid
    changed = jitter(dark, Augmentation(), valid=valid)
    assert (changed[:, ~valid] == 0).all()
    loud = jitter(
        np.where(valid, pixels, 9999).astype(np.float32),
        Augmentation(blur=0, sharpen=0),
        valid=valid,
    )
    quiet = jitter(dark, Augmentation(blur=0, sharpen=0), valid=valid)
    np.testing.assert_array_equal(loud, quiet)


def test_a_chip_without_any_data_stays_black() -> None:
    nothing = np.zeros((3, 8, 8), dtype=np.float32)
    assert not jitter(nothing, Augmentation(), valid=np.zeros((8, 8), dtype=bool)).any()


def test_the_seed_decides() -> None:
    pixels = image()
    first, again, other = (jitter(pixels, Augmentation(), seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1


def test_the_input_is_left_alone() -> None:
    pixels = image()
    before = pixels.copy()
    jitter(pixels, Augmentation(blur=1, noisy=1))
    np.testing.assert_array_equal(pixels, before)


@pytest.mark.parametrize(("change", "sharper"), [({"blur": 1}, False), ({"sharpen": 1}, True)])
def test_blurring_softens_edges_and_sharpening_steepens_them(change, sharper) -> None:
    edge = np.full((3, 12, 12), 60, dtype=np.float32)
    edge[:, :, 6:] = 180
    for seed in range(5):
        step = np.diff(jitter(edge, replace(STILL, **change), seed)[:, :, 5:7], axis=2)
        assert ((step > 125) if sharper else (step < 115)).all()


def test_hue_and_saturation_leave_grey_as_it_is() -> None:
    grey = np.repeat(image(bands=1), 3, axis=0)
    changed = jitter(grey, replace(STILL, hue=0.5, saturation=0.9))
    np.testing.assert_allclose(changed, grey, atol=1e-2)


def test_hue_changes_colour_but_not_brightness() -> None:
    red = np.zeros((3, 8, 8), dtype=np.float32)
    red[0], red[1], red[2] = 120, 100, 100
    changed = jitter(red, replace(STILL, hue=0.3), seed=3)
    assert np.abs(changed - red).max() > 3
    np.testing.assert_allclose(changed.mean(axis=0), red.mean(axis=0), atol=1e-2)


def test_contrast_turns_about_the_mean() -> None:
    pixels = image()
    changed = jitter(pixels, replace(STILL, contrast=0.3), seed=2, limits=None)
    # Negative values end at black, where gamma has no say.
    assert changed.std() != pytest.approx(pixels.std(), rel=0.02)
    assert changed.mean() == pytest.approx(pixels.mean(), rel=0.05)


def test_the_value_range_sets_the_strength_of_a_16_bit_image() -> None:
    pixels = image(top=2000)
    changed = jitter(
        pixels,
        replace(STILL, brightness=0.2),
        value_range=((0.0, 2000.0),),
        limits=(0.0, 65535.0),
    )
    shift = np.median(changed - pixels)
    assert 5 < abs(shift) <= 400


def test_scales_are_drawn_evenly_within_their_range() -> None:
    rng = np.random.default_rng(0)
    scales = np.array([Augmentation(scale=(0.5, 2)).draw_scale(rng) for _ in range(400)])
    assert scales.min() >= 0.5
    assert scales.max() <= 2
    assert 0.4 < (scales < 1).mean() < 0.6


def test_strength_counts_for_colour_alone_and_keeps_shares_possible() -> None:
    strong = Augmentation(scale=(0.8, 1.2), contrast=0.1, blur=0.4).with_colour(3)
    assert strong.scale == (0.8, 1.2)
    assert strong.contrast == pytest.approx(0.3)
    assert strong.blur == 1.0


def test_a_band_of_one_value_does_not_divide_by_zero() -> None:
    constant = np.full((1, 8, 8), 42, dtype=np.float32)
    changed = jitter(constant, Augmentation(), value_range=((42.0, 42.0),))
    assert np.isfinite(changed).all()
