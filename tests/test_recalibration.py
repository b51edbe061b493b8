"""Weights calibrated to a place: what changes in them, and what they need for it."""

from pathlib import Path

import geopandas as gpd
import pytest
import shapely
from safetensors.torch import load_file
from test_cli import run

from footprints.card import facts
from footprints.errors import ConfigError, OutputError
from footprints.model.checkpoint import read_info
from footprints.model.detector import DEFAULT_WEIGHTS
from footprints.recalibration import Calibrated, calibrate

SAMPLES = Path(__file__).parent.parent / "data_samples"
SCENE, LABELS = SAMPLES / "town.tif", SAMPLES / "town_buildings.gpkg"


def write_area(path: Path, side_m: float) -> Path:
    """A square around the middle of the sample scene's labels."""
    labels = gpd.read_file(LABELS)
    x_min, y_min, x_max, y_max = labels.total_bounds
    square = shapely.Point((x_min + x_max) / 2, (y_min + y_max) / 2).buffer(
        side_m / 2, cap_style="square"
    )
    gpd.GeoDataFrame(geometry=[square], crs=labels.crs).to_file(path)
    return path


@pytest.mark.slow
def test_the_network_stays_and_its_confidence_fits_the_place(tmp_path):
    output = tmp_path / "town.safetensors"
    area = write_area(tmp_path / "area.gpkg", 150)
    done = calibrate(SCENE, LABELS, output, aoi=area, device="cpu")
    assert isinstance(done, Calibrated)
    assert 20 <= done.matches <= done.detections - 20
    before, after = read_info(DEFAULT_WEIGHTS), read_info(output)
    old, new = load_file(DEFAULT_WEIGHTS), load_file(output)
    assert all((new[name] == tensor).all() for name, tensor in old.items())
    assert after.calibration != before.calibration
    assert after.confidence == before.confidence
    # In a generated town nearly all it reports is right; where it was fitted it is not so.
    assert after.reported_confidence > before.reported_confidence
    assert after.training["calibrated_on"] == {
        "labels": "town_buildings.gpkg",
        "detections": done.detections,
        "matches": done.matches,
    }
    assert after.training["data"] == before.training["data"]
    assert dict(facts(output))["confidence is"].endswith("on the ground of town_buildings.gpkg")
    assert sorted(path.name for path in tmp_path.glob("town.*")) == [
        "town.json",
        "town.md",
        "town.safetensors",
    ]


@pytest.mark.slow
def test_too_little_ground_is_said_and_nothing_written(tmp_path):
    area = write_area(tmp_path / "area.gpkg", 10)
    output = tmp_path / "town.safetensors"
    result = run("calibrate", SCENE, LABELS, "-o", output, "--aoi", area, "--device", "cpu", "-q")
    assert result.exit_code == 1
    assert "too little to calibrate by" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not output.exists()


def test_outputs_that_cannot_be_are_refused_before_the_work(tmp_path):
    with pytest.raises(OutputError, match=r"must end in \.safetensors"):
        calibrate(SCENE, LABELS, tmp_path / "town.pth")
    (tmp_path / "town.safetensors").touch()
    with pytest.raises(OutputError, match="weights exist"):
        calibrate(SCENE, LABELS, tmp_path / "town.safetensors")
    with pytest.raises(ConfigError, match=r"--class-map needs .* --class-field"):
        calibrate(SCENE, LABELS, tmp_path / "new.safetensors", class_map={"a": "building"})
