"""Foreign pixel values are mapped onto those of the training, and that is said."""

import warnings
from dataclasses import replace

import numpy as np
import pytest

from footprints.chip import InputSpec, Scaling
from footprints.errors import BandError, RasterError, ScalingWarning
from footprints.raster import fit_scaling, measure_value_range, open_scene

SPEC = InputSpec(
    bands=3,
    gsd_m=0.3,
    scaling=Scaling((120.0, 110.0, 100.0), (50.0, 40.0, 30.0)),
    value_range=((10.0, 240.0), (20.0, 230.0), (30.0, 220.0)),
)


def network_input(scaling, band, value):
    return (value - scaling.mean[band]) / scaling.std[band]


def test_the_trainings_type_is_scaled_as_the_training_was(write_scene, noise):
    with open_scene(write_scene(noise(3, 50, 50))) as scene, warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fit_scaling(scene, SPEC) is SPEC.scaling


def test_weights_without_a_range_are_never_mapped(write_scene, noise):
    with open_scene(write_scene(noise(3, 50, 50, dtype="uint16"))) as scene:
        spec = replace(SPEC, value_range=())
        assert fit_scaling(scene, spec) is spec.scaling


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
def test_percentiles_land_on_those_of_the_training(write_scene, noise, dtype):
    pixels = noise(3, 200, 200, dtype=dtype, low=500, high=9000)
    pixels[1] //= 2
    with open_scene(write_scene(pixels)) as scene:
        measured = measure_value_range(scene)
        with pytest.warns(ScalingWarning, match=f"scene.tif has {dtype} pixels") as caught:
            scaling = fit_scaling(scene, SPEC)
    assert len(caught) == 1
    assert "mapped onto 10-240, 20-230, 30-220" in str(caught[0].message)
    for band in range(3):
        for own, wanted in zip(measured[band], SPEC.value_range[band], strict=True):
            expected = network_input(SPEC.scaling, band, wanted)
            assert network_input(scaling, band, own) == pytest.approx(expected)


def test_a_constant_band_lands_in_the_middle(write_scene, noise):
    pixels = noise(3, 50, 50, dtype="uint16", low=500, high=9000)
    pixels[2] = 700
    with open_scene(write_scene(pixels)) as scene, pytest.warns(ScalingWarning):
        scaling = fit_scaling(scene, SPEC)
    assert np.isfinite([*scaling.mean, *scaling.std]).all()
    assert network_input(scaling, 2, 700) == pytest.approx(network_input(SPEC.scaling, 2, 125))


def test_a_constant_band_in_training_is_no_division_by_zero(write_scene, noise):
    pixels = noise(3, 50, 50, dtype="uint16", low=500, high=9000)
    spec = replace(SPEC, value_range=((7.0, 7.0),) * 3)
    with open_scene(write_scene(pixels)) as scene, pytest.warns(ScalingWarning):
        scaling = fit_scaling(scene, spec)
    assert min(scaling.std) > 0


def test_ground_without_data_has_no_say(write_scene, noise):
    pixels = noise(3, 400, 400, dtype="uint16", low=500, high=900)
    pixels[:, :330] = 0
    with open_scene(write_scene(pixels)) as scene:
        for low, high in measure_value_range(scene):
            assert 500 <= low < high <= 900


def test_a_small_island_of_data_in_a_large_scene_is_found(write_scene):
    pixels = np.zeros((1, 3000, 3000), dtype="uint16")
    pixels[:, 2000:2200, 700:900] = 321
    with open_scene(write_scene(pixels, nodata=0, compress="deflate")) as scene:
        assert measure_value_range(scene) == ((321, 321),)


def test_a_scene_without_any_data_keeps_the_scaling_and_has_no_range(write_scene):
    black = np.zeros((3, 50, 50), dtype="uint16")
    with open_scene(write_scene(black, nodata=0)) as scene:
        assert fit_scaling(scene, SPEC) is SPEC.scaling
        with pytest.raises(RasterError, match=r"no valid pixels.*--nodata"):
            measure_value_range(scene)


def test_the_sample_is_the_same_every_time_and_near_the_whole(write_scene):
    ramp = np.arange(1500 * 1500, dtype="uint32").reshape(1, 1500, 1500)
    with open_scene(write_scene(ramp)) as scene:
        first, again = measure_value_range(scene), measure_value_range(scene)
    assert first == again
    assert first[0] == pytest.approx(np.percentile(ramp, (2, 98)), rel=0.03, abs=60_000)


def test_bands_that_do_not_fit_are_refused(write_scene, noise):
    path = write_scene(noise(1, 50, 50))
    with open_scene(path) as scene, pytest.raises(BandError, match=r"takes 3 bands, .* with 1"):
        fit_scaling(scene, SPEC)


def test_real_satellite_scenes_are_mapped_to_sensible_grey(real_data):
    path = real_data / "formats" / "spacenet2_vegas_uint16.tif"
    with open_scene(path) as scene, pytest.warns(ScalingWarning, match=r"138-974\.4, 274-1188"):
        scaling = fit_scaling(scene, SPEC)
    assert network_input(scaling, 0, 560) == pytest.approx(0.15, abs=0.2)
