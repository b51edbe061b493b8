"""The learning-rate range test: its curve, its suggestion and what it leaves alone."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from tiny_run import write_tiny_run

import footprints as fp
from footprints.errors import ConfigError, OutputError, TrainingError
from footprints.rate_test import has_diverged, smooth, suggest


@pytest.fixture(scope="module")
def config_file(tmp_path_factory) -> Path:
    return write_tiny_run(tmp_path_factory.mktemp("scene"))


def test_rates_grow_by_one_factor_and_the_loss_is_watched(config_file):
    before = sorted(config_file.parent.iterdir())
    config = fp.load_config(config_file)
    found = fp.lr_find(config, lowest=1e-6, highest=1e-2, steps=10, progress=False)
    np.testing.assert_allclose(found.rates, np.geomspace(1e-6, 1e-2, 10))
    assert found.losses.shape == (10,)
    assert imread(io.BytesIO(found._repr_png_())).size, "what notebooks show"
    assert np.isfinite(found.losses).all()
    again = fp.lr_find(config, lowest=1e-6, highest=1e-2, steps=10, progress=False)
    np.testing.assert_array_equal(again.losses, found.losses)
    assert sorted(config_file.parent.iterdir()) == before, "nothing is written"


def test_the_rate_in_force_is_the_one_reported(config_file):
    settings = ["optimizer.name=sgd", "optimizer.momentum=0", "optimizer.learning_rate=7"]
    config = fp.load_config(config_file, settings)
    idle = fp.lr_find(config, lowest=1e-12, highest=1e-11, steps=8, progress=False)
    live = fp.lr_find(config, lowest=1e-12, highest=1e-1, steps=8, progress=False)
    assert live.losses[0] == idle.losses[0]
    assert live.losses[-1] < idle.losses[-1], "higher rates have learnt something"


def test_a_loss_that_diverges_ends_the_test(config_file):
    config = fp.load_config(config_file, ["optimizer.name=sgd", "optimizer.clip_norm=1e9"])
    found = fp.lr_find(config, lowest=1e-4, highest=1e9, steps=40, progress=False)
    assert len(found.rates) == len(found.losses) < 40
    assert np.isfinite(found.losses).all()


def test_the_command_suggests_a_rate_and_plots(config_file, tmp_path):
    plot = tmp_path / "rates.png"
    command = ["lr-find", config_file, "-o", plot, "--steps", "8", "--highest", "0.01", "-q"]
    done = subprocess.run(
        [sys.executable, "-m", "footprints.cli", *map(str, command)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    assert "8 steps, 1e-07 to 0.01" in done.stdout
    assert done.stdout.count("\n") == 1
    assert imread(plot).std() > 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"lowest": 0.1, "highest": 0.01}, "rates must ascend from above 0, got 0.1 to 0.01"),
        ({"lowest": 0.0}, "rates must ascend from above 0, got 0 to 1"),
        ({"steps": 5}, "a rate test takes more than 5 steps, got 5"),
    ],
)
def test_rates_that_do_not_ascend_and_too_few_steps_are_refused(config_file, options, said):
    with pytest.raises(ConfigError, match=said):
        fp.lr_find(fp.load_config(config_file), **options)


def test_a_plot_is_not_overwritten(config_file, tmp_path):
    (tmp_path / "rates.png").write_text("mine")
    with pytest.raises(OutputError, match="picture exists"):
        fp.lr_find(fp.load_config(config_file), plot=tmp_path / "rates.png")
    assert (tmp_path / "rates.png").read_text() == "mine"


def test_a_loss_that_is_no_number_from_the_start_is_an_error(config_file, monkeypatch):
    monkeypatch.setattr("footprints.rate_test._descend", lambda *_, **__: [float("nan")])
    with pytest.raises(TrainingError, match="no number at a learning rate of 1e-07; check"):
        fp.lr_find(fp.load_config(config_file), progress=False)


def test_smoothing_keeps_a_constant_and_ends_before_what_is_no_number():
    np.testing.assert_allclose(smooth([3.0] * 20), 3.0)
    np.testing.assert_allclose(smooth([1.0, 2.0]), [1.0, (0.9 * 0.1 + 0.2) / 0.19])
    assert len(smooth([1.0, 2.0, np.inf, 1.0])) == 2


def test_divergence_is_a_loss_far_above_the_least_or_no_number():
    assert not has_diverged([1.0] * 10)
    assert has_diverged([1.0] * 10 + [100.0])
    assert has_diverged([float("nan")])
    assert not has_diverged([1.0, 100.0]), "two steps say nothing yet"


def test_the_suggestion_is_where_the_loss_falls_most_steeply():
    rates = np.geomspace(1e-6, 1, 121)
    falls = 2 - np.tanh(2 * (np.log10(rates) + 3))
    assert suggest(rates, falls) == pytest.approx(1e-3, rel=0.05)
    # A second, steeper fall behind the least loss is noise of the divergence.
    falls[-3:] = [50, 90, 10]
    assert suggest(rates, falls) == pytest.approx(1e-3, rel=0.05)
    assert suggest(rates, 1 + rates) is None, "it never fell"
