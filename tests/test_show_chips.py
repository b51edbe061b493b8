"""Pictures of training and validation chips."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import shapely
from matplotlib.image import imread
from tiny_network import tiny_config, tiny_network
from tiny_run import write_tiny_run
from typer.testing import CliRunner

import footprints as fp
from footprints.chip import InputSpec, Scaling
from footprints.cli import app
from footprints.errors import ConfigError, OutputError, TrainingError
from footprints.model.checkpoint import WeightsInfo, save_weights
from footprints.pictures import Panel, draw_panels, stretch
from footprints.preparation import complete, prepare

CHIP, GAP = 64, 8


@pytest.fixture(scope="module")
def config_file(tmp_path_factory) -> Path:
    return write_tiny_run(tmp_path_factory.mktemp("scene"))


@pytest.fixture(scope="module")
def run(config_file, tmp_path_factory) -> Path:
    """A run's folder with weights that find something everywhere."""
    folder = tmp_path_factory.mktemp("run")
    shutil.copy(config_file, folder / "config.yaml")
    spec = InputSpec(bands=3, gsd_m=0.5, scaling=Scaling((100.0,) * 3, (50.0,) * 3), multiple=32)
    model = tiny_config(detection={"max_per_chip": 500})
    info = WeightsInfo("tiny", model, spec, confidence=0.05)
    save_weights(folder / "weights.safetensors", tiny_network(model), info)
    return folder


def test_a_configuration_gives_its_chips_with_their_targets(config_file, tmp_path):
    chips = tmp_path / "chips"
    paths = fp.show(config_file, chips, count=2)
    assert [path.name for path in paths] == [
        "training_00.png",
        "training_01.png",
        "validation_00.png",
        "validation_01.png",
    ]
    assert sorted(chips.iterdir()) == paths
    prepared = prepare(complete(fp.load_config(config_file)))
    for number in range(2):
        sample = prepared.chips[number]
        picture = imread(paths[number])[..., :3]
        assert picture.shape == (CHIP, CHIP, 3)
        # Where there is no outline, the picture is the augmented chip.
        plain = np.moveaxis(sample.pixels.clip(0, 255) / 255, 0, -1)
        paler = ~sample.labelled
        same = np.abs(picture - plain).max(axis=2) < 0.01
        assert same[~paler].mean() > 0.5
        assert not same[~paler].all(), "outlines are drawn"


def test_a_run_shows_truth_and_predictions_side_by_side(run, tmp_path):
    paths = fp.show(run, tmp_path / "chips", count=1, device="cpu")
    picture = imread(paths[-1])[..., :3]
    assert picture.shape[1] == 2 * picture.shape[0] + GAP
    truth, found = picture[:, :CHIP], picture[:, CHIP + GAP :]
    assert (truth != found).any(), "random weights draw other outlines"
    assert (picture[:, CHIP + 1 : CHIP + GAP - 1] == 1).all()


def test_a_sheet_holds_all_chips_below_each_other(config_file, tmp_path):
    sheet = tmp_path / "sheet.png"
    assert fp.show(fp.load_config(config_file), sheet, count=2) == [sheet]
    assert imread(sheet).shape[:2] == (4 * CHIP + 3 * GAP, CHIP)


def test_the_command_says_what_it_drew(config_file, tmp_path):
    done = CliRunner().invoke(
        app, ["show", str(config_file), "-o", str(tmp_path / "a.png"), "--count", "1"]
    )
    assert (done.exit_code, done.output) == (0, f"1 picture, {tmp_path / 'a.png'}\n")


@pytest.mark.parametrize("name", ["sheet.png", "chips"])
def test_pictures_are_not_overwritten(config_file, tmp_path, name):
    fp.show(config_file, tmp_path / name, count=1)
    with pytest.raises(OutputError, match="picture exists"):
        fp.show(config_file, tmp_path / name, count=1)
    assert fp.show(config_file, tmp_path / name, count=1, overwrite=True)


def test_what_cannot_be_shown_is_refused_in_one_line(config_file, tmp_path):
    with pytest.raises(TrainingError, match=r"is no run: it has no config\.yaml"):
        fp.show(tmp_path, tmp_path / "sheet.png")
    with pytest.raises(OutputError, match=r"in a \.png or in a folder, got 'sheet\.jpg'"):
        fp.show(config_file, tmp_path / "sheet.jpg")
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        fp.show(config_file, tmp_path / "sheet.png", count=0)
    with pytest.raises(OutputError, match="folder of the pictures does not exist"):
        fp.show(config_file, tmp_path / "missing" / "chips")


def test_wide_values_are_stretched_over_their_range():
    pixels = np.array([[[100.0, 600.0, 1100.0, 9999.0]]])
    assert stretch(pixels, ((100, 1100),)).tolist() == [[0, 127, 255, 255]]
    assert stretch(np.zeros((4, 2, 5)), ((0, 1),) * 4).shape == (2, 5, 3)


def test_panels_keep_their_polygons_on_their_own_picture(tmp_path):
    black = np.zeros((20, 30), np.uint8)
    square = Panel(black, np.array([shapely.box(5, 5, 15, 15)]), np.ones(1), ["house"])
    empty = Panel(black, np.array([], dtype=object), np.ones(0), [])
    path = tmp_path / "panels.png"
    path.write_bytes(draw_panels([[empty, square], [square]], names=False))
    drawn = imread(path)[..., :3].max(axis=2)
    assert drawn.shape == (20 + GAP + 20, 30 + GAP + 30)
    assert (drawn[:20, :30] == 0).all()
    assert drawn[:20, 38:].any()
    assert drawn[28:, :30].any()
    assert (drawn[28:, 38:] == 1).all(), "no panel"
