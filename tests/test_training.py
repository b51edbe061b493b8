"""Training runs: what they write, resuming, failing, averaging and the schedule."""

import csv
import dataclasses
import errno
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import geopandas as gpd
import lightning
import numpy as np
import psutil
import pytest
import rasterio
import shapely
import torch
from labelled_scenes import make_scene, paint, write_image
from rasterio.warp import transform_bounds
from safetensors.torch import load_file
from tiny_network import tiny_config, tiny_network
from tiny_run import SIDE, write_tiny_run

from footprints import loop
from footprints.chip import InputSpec, Instances, MaskGroup, Scaling
from footprints.config import (
    CORNERS,
    FCNMaskConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    load_config,
)
from footprints.data.dataset import collate
from footprints.data.targets import Sample
from footprints.errors import ConfigError, LayerError, OutputError, TrainingError
from footprints.loop import DetectionTask, WriteWeights, make_optimizer, read_metrics
from footprints.model.checkpoint import WeightsInfo, load_weights, read_info, save_weights
from footprints.model.detector import DEFAULT_WEIGHTS, load_detector
from footprints.model.mask_rcnn import MaskRCNN
from footprints.pipeline import predict
from footprints.preparation import choose_scaling, complete, make_network
from footprints.training import train
from footprints.validation import Judged, choose_confidence, judge, ratios


@pytest.fixture(scope="module")
def config_file(tmp_path_factory) -> Path:
    """A run of three short epochs that validates after the second."""
    return write_tiny_run(tmp_path_factory.mktemp("scene"))


@pytest.fixture(scope="module")
def scene(config_file) -> Path:
    """The folder of its image and labels."""
    return config_file.parent


@pytest.fixture(scope="module")
def run(config_file, tmp_path_factory) -> Path:
    """The folder of an undisturbed run."""
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    assert train(load_config(config_file), folder, progress=False) == folder / "weights.safetensors"
    return folder


@pytest.mark.slow
def test_a_run_leaves_its_configuration_figures_checkpoint_and_weights(run, config_file):
    assert sorted(path.name for path in run.iterdir()) == [
        "config.yaml",
        "last.ckpt",
        "metrics.csv",
        "weights.json",
        "weights.md",
        "weights.safetensors",
    ]
    assert load_config(run / "config.yaml") == load_config(config_file)


@pytest.mark.slow
def test_figures_have_a_row_per_epoch_and_validation_where_it_ran(run):
    rows = read_metrics(run / "metrics.csv")
    assert [(row["epoch"], row["step"]) for row in rows] == [("0", "4"), ("1", "8"), ("2", "12")]
    for name in ("loss", "loss_class", "loss_mask", "loss_mask_point", "loss_objectness"):
        assert all(float(row[name]) > 0 for row in rows), name
    assert [row["val_f1"] != "" for row in rows] == [False, True, False]


@pytest.mark.slow
def test_weights_say_how_they_were_trained_and_predict(run, scene):
    info = read_info(run / "weights.safetensors")
    assert info.name == "tiny"
    assert info.training["data"][0]["attribution"] == "ours"
    assert info.training["buildings"]["training"] > info.training["buildings"]["validation"] > 0
    assert 0 <= info.training["validation"]["val_score_error"] <= 1
    trained, validated = (
        shapely.geometry.shape(info.training["areas"][use]) for use in ("training", "validation")
    )
    with rasterio.open(scene / "scene.tif") as raster:
        place = shapely.box(*transform_bounds(raster.crs, "EPSG:4326", *raster.bounds))
    assert trained.within(place.buffer(1e-5))
    assert trained.area + validated.area == pytest.approx(place.area, rel=0.35)
    assert trained.intersection(validated).area < 1e-3 * validated.area
    assert info.input_spec.gsd_m == 0.5
    assert info.input_spec.value_range == ((50, 200),) * 3
    detector = load_detector(run / "weights.safetensors", device="cpu")
    layer = predict(
        scene / "scene.tif", detector=detector, chip_size=64, overlap=32, progress=False
    )
    assert "confidence" in layer.columns


@pytest.mark.slow
def test_a_run_trains_on_coco_annotations_of_photographs(config_file, tmp_path):
    content = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "house"}]}
    for number in range(4):
        write_image(tmp_path / f"{number}.tif", paint([shapely.box(9, 9, 40, 30)], 64, 64))
        image = {"id": number, "file_name": f"{number}.tif", "width": 64, "height": 64}
        ring = [9, 9, 40, 9, 40, 30, 9, 30]
        content["images"].append(image)
        content["annotations"].append(
            {"id": number, "image_id": number, "category_id": 1, "segmentation": [ring]}
        )
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    scene = "{images: ., coco: annotations.json, class_map: {house: building}}"
    changes = [f"data.root={tmp_path}", f"data.scenes=[{scene}]", "data.validation_share=0"]
    config = load_config(config_file, [*changes, "train.epochs=1"])
    weights = train(config, tmp_path / "run", progress=False)
    assert read_info(weights).training["data"][0]["labels"] == "annotations.json"
    (row,) = read_metrics(tmp_path / "run" / "metrics.csv")
    assert float(row["loss_mask"]) > 0


def test_scenes_of_different_band_counts_are_named(config_file, tmp_path):
    make_scene(tmp_path, [shapely.box(9, 9, 40, 30)], name="three")
    make_scene(tmp_path, [shapely.box(9, 9, 40, 30)], name="one", bands=1)
    scenes = ", ".join(f"{{images: {n}.tif, labels: {n}.gpkg}}" for n in ("three", "one"))
    changes = [f"data.root={tmp_path}", f"data.scenes=[{scenes}]", "data.validation_share=0"]
    with pytest.raises(TrainingError, match=r"bands: 3 \(.*three\.tif\), 1 \(.*one\.tif\); choose"):
        train(load_config(config_file, changes), tmp_path / "run", progress=False)


@pytest.mark.slow
def test_a_run_trains_on_corners_and_its_weights_find_some(scene, config_file, tmp_path):
    head = "model.keypoint_head={convs: 1, width: 8}"
    config = load_config(config_file, [head, "train.epochs=1", "train.validate_every=1"])
    weights = train(config, tmp_path / "run", progress=False)
    (row,) = read_metrics(tmp_path / "run" / "metrics.csv")
    # 4 x ln(cells) / 4: nothing is known of 56 x 56 cells at the start.
    assert 0 < float(row["loss_keypoint"]) < 2 * np.log(56 * 56)
    detector = load_detector(weights, device="cpu")
    assert detector.keypoints == CORNERS
    predict(
        scene / "scene.tif",
        detector=detector,
        keypoints=tmp_path / "corners.gpkg",
        chip_size=64,
        progress=False,
    )
    assert "keypoint" in gpd.read_file(tmp_path / "corners.gpkg")


def test_keypoints_that_are_no_corners_cannot_be_learnt(config_file, tmp_path):
    config = load_config(config_file, ["model.keypoint_head={names: [nose]}"])
    with pytest.raises(TrainingError, match=r"knows the keypoints upper_left, .*, got nose"):
        train(config, tmp_path / "run", progress=False)


def start(config_file: Path, folder: Path, *options: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "footprints.cli", "train", config_file, "-o", folder, *options]
    return subprocess.Popen(
        [*map(str, command)],
        stderr=subprocess.PIPE,
        text=True,
        # Shells have jobs in the background ignore it, and what those start inherits that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_a_killed_run_goes_on_as_if_nothing_had_happened(run, config_file, tmp_path):
    folder = tmp_path / "killed"
    process = start(config_file, folder)
    while not (folder / "last.ckpt").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it was killed before it was done"
    train(load_config(config_file), folder, resume=True, progress=False)
    assert (folder / "metrics.csv").read_text() == (run / "metrics.csv").read_text()
    assert read_info(folder / "weights.safetensors") == read_info(run / "weights.safetensors")
    resumed, undisturbed = (load_file(f / "weights.safetensors") for f in (folder, run))
    assert resumed.keys() == undisturbed.keys()
    for name, tensor in undisturbed.items():
        assert torch.equal(resumed[name], tensor), name


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_workers_end_with_a_run_that_is_killed(config_file, tmp_path):
    settings = ["--set", "train.workers=1", "--set", "train.epochs=100"]
    process = start(config_file, tmp_path / "killed", *settings)
    while not (tmp_path / "killed" / "last.ckpt").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    others = psutil.Process(process.pid).children(recursive=True)
    assert others
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    _, left = psutil.wait_procs(others, timeout=30)
    assert left == []


@pytest.mark.slow
def test_the_command_trains_and_says_nothing_but_where_the_weights_are(config_file, tmp_path):
    command = ["train", config_file, "-o", tmp_path / "run", "--set", "train.epochs=1", "--set"]
    command += ["train.workers=1"]
    done = subprocess.run(
        [sys.executable, "-m", "footprints.cli", *map(str, command)],
        capture_output=True,
        text=True,
        check=True,
    )
    last = done.stdout.splitlines()[-1]
    assert last == f"weights are in {tmp_path / 'run' / 'weights.safetensors'}"
    assert done.stderr == "", "no remarks of libraries"


@pytest.mark.slow
def test_a_run_is_not_overwritten(run, config_file):
    before = (run / "weights.safetensors").read_bytes()
    with pytest.raises(OutputError, match=r"holds a run; go on with --resume or choose"):
        train(load_config(config_file), run, progress=False)
    assert (run / "weights.safetensors").read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("model.box_head.width=16", "model.box_head"),
        ("data.chip_size=96", "data.chip_size"),
        ("augment.blur=0.9", "augment.blur"),
    ],
)
def test_a_run_does_not_go_on_as_another(run, config_file, change, named):
    before = (run / "config.yaml").read_text()
    with pytest.raises(TrainingError, match=f"trained with another {named};"):
        train(load_config(config_file, [change]), run, resume=True, progress=False)
    assert (run / "config.yaml").read_text() == before


def test_weights_without_a_checkpoint_are_not_overwritten(config_file, tmp_path):
    (tmp_path / "weights.safetensors").write_text("hours of work")
    with pytest.raises(OutputError, match="holds weights, but no checkpoint"):
        train(load_config(config_file), tmp_path, progress=False)
    assert (tmp_path / "weights.safetensors").read_text() == "hours of work"


def test_a_run_that_cannot_start_leaves_no_folder(config_file, tmp_path):
    config = load_config(config_file, ["data.scenes=[{images: [scene.tif], labels: gone.gpkg}]"])
    with pytest.raises(LayerError, match=r"gone\.gpkg"):
        train(config, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs SIGINT")
def test_a_run_that_is_interrupted_says_how_to_go_on(config_file, tmp_path):
    process = start(config_file, tmp_path / "run", "--set", "train.epochs=100")
    while not (tmp_path / "run" / "last.ckpt").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate()
    assert process.returncode == 130
    assert stderr.splitlines()[-1] == "footprints: stopped; go on with --resume"


def test_nothing_to_resume_is_an_error(config_file, tmp_path):
    with pytest.raises(TrainingError, match=r"nothing to resume: .*last\.ckpt is missing"):
        train(load_config(config_file), tmp_path / "new", resume=True, progress=False)
    assert not (tmp_path / "new").exists()


def test_a_run_folder_that_cannot_be_made_is_an_error(config_file, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot write the run folder"):
        train(load_config(config_file), tmp_path / "file" / "run", progress=False)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_last_good_state(
    run, config_file, tmp_path, monkeypatch
):
    folder, losses = tmp_path / "diverged", MaskRCNN.losses

    def diverge(network, images, targets):
        found = losses(network, images, targets)
        return found | ({"loss_mask": found["loss_mask"] * math.nan} if kept.exists() else {})

    kept = folder / "last.ckpt"
    with monkeypatch.context() as patched:
        patched.setattr(MaskRCNN, "losses", diverge)
        with pytest.raises(
            TrainingError,
            match=r"loss is not finite at step 4 \(.*loss_mask nan.*\) on .*scene\.tif at column "
            r"\d+, row \d+.*lower optimizer\.learning_rate, and go on with --resume",
        ):
            train(load_config(config_file), folder, progress=False)
    assert torch.load(kept, weights_only=True)["epoch"] == 0
    assert [row["epoch"] for row in read_metrics(folder / "metrics.csv")] == ["0"]
    train(load_config(config_file), folder, resume=True, progress=False)
    assert (folder / "metrics.csv").read_text() == (run / "metrics.csv").read_text()


@pytest.mark.slow
def test_a_run_starts_from_weights_of_ours(run, config_file, tmp_path):
    start_from = tmp_path / "start.safetensors"
    network, info = load_weights(run / "weights.safetensors")
    save_weights(start_from, network, dataclasses.replace(info, confidence=0.3))
    settings = [f"train.start_from={start_from}", "train.epochs=1", "optimizer.average=0"]
    settings += ["optimizer.learning_rate=1e-12", "optimizer.weight_decay=0"]
    path = train(load_config(config_file, settings), tmp_path / "more", progress=False)
    before, after = load_file(start_from), load_file(path)
    # Vectors are stored exactly enough to show steps of 1e-12.
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, atol=1e-7, rtol=1e-6)
    # Nothing validated: buildings are reported from the confidence that was chosen before.
    assert read_info(path).confidence == 0.3


def started_from(weights: str, model: dict[str, object]) -> ModelConfig:
    """The network of a run that leaves open what is not in ``model``."""
    scene = {"images": ["a.tif"], "labels": "a.gpkg"}
    config = {"data": {"scenes": [scene]}, "model": model, "train": {"start_from": weights}}
    return complete(RunConfig.model_validate(config)).model


def test_what_a_run_leaves_open_is_as_in_the_weights_it_starts_from(tmp_path):
    path = tmp_path / "tiny.safetensors"
    spec = InputSpec(bands=3, gsd_m=0.3, scaling=Scaling((2.0,) * 3, (5.0,) * 3))
    tiny = tiny_config(rpn={"depth": 2}, mask_head={"point_width": 24})
    save_weights(path, tiny_network(tiny), WeightsInfo("tiny", tiny, spec))
    assert started_from(str(path), {}) == tiny
    other = started_from(str(path), {"classes": ["house", "shed"], "rpn": {"nms_iou": 0.6}})
    assert other.classes == ("house", "shed")
    assert other.rpn == tiny.rpn.model_copy(update={"nms_iou": 0.6})
    assert other.mask_head == tiny.mask_head
    assert started_from(str(path), {"mask_head": {"kind": "fcn"}}).mask_head == FCNMaskConfig(
        kind="fcn"
    )
    assert started_from(str(path), {"mask_head": None}).mask_head is None


def test_what_does_not_go_with_the_weights_to_start_from_is_named(tmp_path):
    path = tmp_path / "shifted.safetensors"
    spec = InputSpec(bands=3, gsd_m=0.3, scaling=Scaling((2.0,) * 3, (5.0,) * 3))
    shifted = tiny_config(box_head={"roi": {"aligned": False}})
    save_weights(path, tiny_network(shifted), WeightsInfo("shifted", shifted, spec))
    pool = {"box_head": {"roi": {"op": "pool", "reduce": "maximum"}}}
    with pytest.raises(ConfigError, match=r"start_from: box_head\.roi: aligned can be false"):
        started_from(str(path), pool)


def test_the_weights_that_ship_can_be_named():
    assert started_from("buildings-lite0", {}) == read_info(DEFAULT_WEIGHTS).model


def make_task(**optimizer: object) -> DetectionTask:
    scene = {"images": ["a.tif"], "labels": "a.gpkg"}
    config = RunConfig.model_validate(
        {"data": {"scenes": [scene]}, "model": tiny_config(), "optimizer": optimizer}
    )
    spec = InputSpec(bands=3, gsd_m=0.3, scaling=Scaling((0.0,) * 3, (1.0,) * 3))
    return DetectionTask(tiny_network(config.model), config, spec)


def test_predictions_come_from_the_average_where_one_is_kept():
    plain = make_task()
    assert plain.best is plain.model
    task = make_task(average=0.9)
    assert task.best is not task.model
    assert task.best.config == task.model.config


def test_the_average_follows_quickly_at_first_and_slowly_later(monkeypatch):
    monkeypatch.setattr(lightning.LightningModule, "optimizer_step", lambda *_, **__: None)
    task = make_task(average=0.9)
    weight, average = (n.rpn.objectness.weight for n in (task.model, task.best))
    with torch.no_grad():
        weight.zero_()
    task.optimizer_step()
    assert (average == 0).all(), "the first step is taken as it is"
    expected = 0.0
    for count in range(1, 200):
        with torch.no_grad():
            weight.fill_(count)
        task.optimizer_step()
        decay = min(0.9, (1 + count) / (10 + count))
        expected = decay * expected + (1 - decay) * count
    assert average.mean().item() == pytest.approx(expected, rel=1e-4)


def test_norms_and_biases_do_not_decay():
    network = tiny_network(tiny_config(backbone={"norm": "live", "frozen_stages": 1}))
    optimizer = make_optimizer(network, OptimizerConfig(weight_decay=0.1, trunk_factor=0.5))
    decays = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    rates = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            assert id(parameter) not in decays, f"{name} is frozen"
            continue
        one_dimensional = name.endswith(".bias") or ".bn" in name
        assert decays[id(parameter)] == (0 if one_dimensional else 0.1), name
        trunk = name.startswith("backbone.trunk")
        assert rates[id(parameter)] == pytest.approx(1e-4 if trunk else 2e-4), name
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(decays)


@pytest.mark.parametrize(("name", "kind"), [("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
def test_both_optimizers_are_to_be_had(name, kind):
    assert isinstance(make_optimizer(tiny_network(), OptimizerConfig(name=name)), kind)


class StubTrainer:
    """As much of a trainer as the schedule asks for."""

    estimated_stepping_batches = 100


@pytest.mark.parametrize("warmup", [0, 10, 100])
def test_the_rate_rises_linearly_and_falls_along_half_a_cosine(warmup, monkeypatch):
    task = make_task(warmup_steps=warmup, learning_rate=1.0)
    monkeypatch.setattr(DetectionTask, "trainer", StubTrainer())
    schedule = task.configure_optimizers()["lr_scheduler"]["scheduler"]
    factors = [schedule.lr_lambdas[0](step) for step in range(101)]
    for step in range(warmup):
        assert factors[step] == pytest.approx((step + 1) / warmup)
    assert factors[warmup] == pytest.approx(1)
    if warmup < 100:
        middle = (100 + warmup) // 2
        assert factors[middle] == pytest.approx(0.5, abs=0.02)
        assert factors[100] == pytest.approx(0)
        assert np.all(np.diff(factors[warmup:]) < 0)
    assert all(0 <= factor <= 1 and math.isfinite(factor) for factor in factors)


def test_the_step_schedule_goes_down_to_a_tenth_at_three_quarters(monkeypatch):
    task = make_task(warmup_steps=10, learning_rate=1.0, schedule="step")
    monkeypatch.setattr(DetectionTask, "trainer", StubTrainer())
    schedule = task.configure_optimizers()["lr_scheduler"]["scheduler"]
    factors = [schedule.lr_lambdas[0](step) for step in range(101)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[10:] == [1.0] * 65 + [0.1] * 26


@pytest.mark.parametrize("total", [10, 100, 333])
def test_one_cycle_is_that_of_torch(total, monkeypatch):
    task = make_task(schedule="one-cycle", learning_rate=1.0)
    stub = StubTrainer()
    stub.estimated_stepping_batches = total
    monkeypatch.setattr(DetectionTask, "trainer", stub)
    schedule = task.configure_optimizers()["lr_scheduler"]["scheduler"]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])
    torch_schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 1.0, total, cycle_momentum=False
    )
    for step in range(total):
        (rate,) = torch_schedule.get_last_lr()
        assert schedule.lr_lambdas[0](step) == pytest.approx(rate, rel=1e-6), step
        optimizer.step()
        if step < total - 1:
            torch_schedule.step()


class StoppedError(Exception):
    """A run is cut short."""


FULL_LOOP = [
    "optimizer.schedule=one-cycle",
    "optimizer.name=sgd",
    "train.accumulate=2",
    "train.unfreeze_trunk=1",
    "train.freeze_trunk=2",
    "train.validate_every=1",
    "train.patience=2",
]


@pytest.fixture(scope="module")
def full_run(config_file, tmp_path_factory) -> Path:
    """An undisturbed run with all that the loop can do."""
    folder = tmp_path_factory.mktemp("runs") / "full"
    train(load_config(config_file, FULL_LOOP), folder, progress=False)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("epoch", [1, 2])
def test_a_run_with_all_settings_goes_on_as_if_nothing_had_happened(
    epoch, full_run, config_file, tmp_path, monkeypatch
):
    step = DetectionTask.training_step

    def fail(task, batch, index):
        if (task.current_epoch, index) == (epoch, 3):
            raise StoppedError
        return step(task, batch, index)

    config, folder = load_config(config_file, FULL_LOOP), tmp_path / "stopped"
    monkeypatch.setattr(DetectionTask, "training_step", fail)
    with pytest.raises(StoppedError):
        train(config, folder, progress=False)
    monkeypatch.setattr(DetectionTask, "training_step", step)
    train(config, folder, resume=True, progress=False)
    assert (folder / "metrics.csv").read_text() == (full_run / "metrics.csv").read_text()
    resumed, undisturbed = (load_file(f / "weights.safetensors") for f in (folder, full_run))
    for name, tensor in undisturbed.items():
        assert torch.equal(resumed[name], tensor), name
    states = [torch.load(f / "last.ckpt", weights_only=True) for f in (folder, full_run)]
    for name, tensor in states[0]["state_dict"].items():
        assert torch.equal(states[1]["state_dict"][name], tensor), name
    assert states[0]["lr_schedulers"] == states[1]["lr_schedulers"]
    kept = [s["callbacks"] for s in states]
    (name,) = [name for name in kept[0] if "WriteWeights" in name]
    assert kept[0][name] == kept[1][name]


@pytest.mark.slow
def test_accumulated_batches_make_one_step(full_run):
    rows = read_metrics(full_run / "metrics.csv")
    # 8 chips an epoch, in batches of 2.
    assert [row["step"] for row in rows] == ["2", "4", "6"]


@pytest.mark.slow
def test_the_trunk_learns_in_its_epochs_only(config_file, tmp_path, monkeypatch):
    trunks, write = [], WriteWeights.on_train_epoch_end

    def note(callback, trainer, task):
        trunks.append([p.detach().clone() for p in task.model.backbone.parameters()])
        write(callback, trainer, task)

    monkeypatch.setattr(WriteWeights, "on_train_epoch_end", note)
    settings = ["train.unfreeze_trunk=1", "train.freeze_trunk=2"]
    config = load_config(config_file, settings)
    train(config, tmp_path / "run", progress=False)
    network = make_network(config).backbone
    inside = [name.startswith("trunk.") for name, _ in network.named_parameters()]
    epochs = itertools.pairwise([[*network.parameters()], *trunks])
    for epoch, (before, after) in enumerate(epochs):
        moved = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
        assert all(m for m, in_trunk in zip(moved, inside, strict=True) if not in_trunk)
        of_trunk = [m for m, in_trunk in zip(moved, inside, strict=True) if in_trunk]
        assert any(of_trunk) == (epoch == 1), f"epoch {epoch}"


def test_a_trunk_that_would_never_learn_is_a_mistake(config_file):
    with pytest.raises(ConfigError, match="freeze_trunk must come after unfreeze_trunk, got 2"):
        load_config(config_file, ["train.unfreeze_trunk=2", "train.freeze_trunk=2"])


@pytest.mark.slow
def test_a_run_ends_when_validation_gets_no_better_and_keeps_the_best_weights(
    config_file, tmp_path, monkeypatch
):
    scores, saved = iter([0.2, 0.5, 0.4, 0.5, 0.9]), {}
    monkeypatch.setattr(
        "footprints.loop.ratios", lambda name, *_: {f"{name}_f1": next(scores), "val_recall": 1.0}
    )
    save = loop.save_weights

    def note(path, model, info):
        save(path, model, info)
        saved[len(read_metrics(path.parent / "metrics.csv"))] = path.read_bytes()

    monkeypatch.setattr(loop, "save_weights", note)
    settings = ["train.patience=2", "train.epochs=9", "train.validate_every=1"]
    config, folder = load_config(config_file, settings), tmp_path / "run"
    train(config, folder, progress=False)
    assert [row["val_f1"] for row in read_metrics(folder / "metrics.csv")] == [
        "0.2",
        "0.5",
        "0.4",
        "0.5",
    ]
    assert list(saved) == [0, 1], "only better ones are written"
    assert (folder / "weights.safetensors").read_bytes() == saved[1]
    train(config, folder, resume=True, progress=False)
    assert len(read_metrics(folder / "metrics.csv")) == 4, "it had ended"


def test_patience_without_validation_is_refused(config_file, tmp_path):
    config = load_config(config_file, ["train.patience=1", "data.validation_share=0"])
    with pytest.raises(TrainingError, match=r"patience 1 waits for .*; set data\.validation_share"):
        train(config, tmp_path / "run", progress=False)


@pytest.mark.slow
def test_figures_go_to_tensorboard_too(config_file, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = ["train.tensorboard=true", "train.epochs=1", "train.validate_every=1"]
    train(load_config(config_file, settings), tmp_path / "run", progress=False)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    (row,) = read_metrics(tmp_path / "run" / "metrics.csv")
    for name in ("loss_mask", "val_f1"):
        (event,) = events.Scalars(name)
        assert event.value == pytest.approx(float(row[name]), rel=1e-4), name


def test_tensorboard_that_is_not_there_names_the_extra(config_file, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    config = load_config(config_file, ["train.tensorboard=true"])
    with pytest.raises(TrainingError, match=r"pip install 'building-footprints\[tensorboard\]'"):
        train(config, tmp_path / "run", progress=False)


@pytest.mark.slow
def test_a_disk_that_is_full_leaves_the_checkpoint_of_the_epoch_before(
    config_file, tmp_path, monkeypatch
):
    folder, write = tmp_path / "run", Path.write_bytes
    kept = {}

    def fill_up(path, content):
        if "last.ckpt" in path.name and (folder / "last.ckpt").exists():
            kept["checkpoint"] = (folder / "last.ckpt").read_bytes()
            write(path, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, content)

    config = load_config(config_file, ["train.epochs=2"])
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", fill_up)
        with pytest.raises(OutputError, match=r"last\.ckpt: No space left .*go on .* --resume"):
            train(config, folder, progress=False)
    assert (folder / "last.ckpt").read_bytes() == kept["checkpoint"]
    assert not list(folder.glob(".*")), "nothing is left of the other"
    train(config, folder, resume=True, progress=False)
    assert [row["epoch"] for row in read_metrics(folder / "metrics.csv")] == ["0", "1"]


@pytest.mark.slow
def test_a_gradient_that_is_not_finite_ends_the_run_before_it_ruins_the_weights(
    config_file, tmp_path, monkeypatch
):
    folder, losses = tmp_path / "run", MaskRCNN.losses

    def overflow(network, images, targets):
        found = losses(network, images, targets)
        if (folder / "last.ckpt").exists():
            # The value is 0, its slope is not finite: 0 * inf at the root of 0.
            weight = network.rpn.objectness.weight
            found["loss_box"] = found["loss_box"] + (weight - weight.detach()).sum().abs().sqrt()
        return found

    monkeypatch.setattr(MaskRCNN, "losses", overflow)
    with pytest.raises(TrainingError, match=r"gradient is not finite at step 4 on .*scene\.tif at"):
        train(load_config(config_file), folder, progress=False)
    state = torch.load(folder / "last.ckpt", weights_only=True)
    assert state["epoch"] == 0
    assert all(tensor.isfinite().all() for tensor in state["state_dict"].values())


def test_of_a_batch_the_chips_with_pixels_that_are_no_numbers_are_suspected():
    chips = [make_sample_at(origin) for origin in ("a", "b")]
    assert loop.suspects(collate(chips)) == ["a", "b"]
    chips[1].pixels[0, 3, 4] = np.nan
    assert loop.suspects(collate(chips)) == ["b"]


def make_sample_at(origin: str) -> Sample:
    ground = np.ones((8, 8), dtype=bool)
    return Sample(
        pixels=np.zeros((3, 8, 8), np.float32),
        valid=ground,
        labelled=ground,
        boxes=np.zeros((0, 4), np.float32),
        labels=np.zeros(0, np.int64),
        masks=np.zeros((0, 112, 112), np.uint8),
        mask_boxes=np.zeros((0, 4), np.float32),
        keypoints=np.zeros((0, 4, 3), np.float32),
        origin=origin,
    )


def scaling_for(dtype: str, *, bands: int = 3, start_from: Path | None = None) -> Scaling:
    given = {
        "data": {"scenes": [{"images": ["a.tif"], "labels": "a.gpkg"}]},
        "model": {"bands": bands, "backbone": {"name": "resnet50.tv_in1k"}},
        "train": {"start_from": None if start_from is None else str(start_from)},
    }
    return choose_scaling(RunConfig.model_validate(given), dtype, ((10.0, 110.0),) * bands)


def test_pixels_are_scaled_as_the_weights_of_the_trunk_want_them():
    three = scaling_for("uint8")
    assert three.mean == pytest.approx((123.675, 116.28, 103.53))
    assert three.std == pytest.approx((58.395, 57.12, 57.375))
    one = scaling_for("uint8", bands=1)
    assert one.mean == pytest.approx((np.mean(three.mean),))
    assert scaling_for("uint16") == Scaling((60.0,) * 3, (50.0,) * 3)


def test_pixels_are_scaled_as_the_weights_to_start_from_were_trained(tmp_path):
    path, scaling = tmp_path / "start.safetensors", Scaling((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
    spec = InputSpec(bands=3, gsd_m=0.3, scaling=scaling, dtype="uint8")
    save_weights(path, tiny_network(), WeightsInfo("tiny", tiny_config(), spec))
    assert scaling_for("uint8", start_from=path) == scaling
    assert scaling_for("uint8", start_from=path, bands=2) == Scaling((2.0,) * 2, (5.0,) * 2)
    assert scaling_for("uint16", start_from=path) == Scaling((60.0,) * 3, (50.0,) * 3)


def test_the_confidence_is_where_f1_is_best():
    scores = np.float32([0.3, 0.9, 0.8, 0.1, 0.2])
    hits = np.array([True, True, True, False, False])
    confidence, kept = choose_confidence(scores, hits, 4)
    assert confidence == pytest.approx(0.3)
    assert kept.tolist() == [True, True, True, False, False]
    figures = ratios("val", hits[kept], 4)
    assert figures["val_precision"] == 1
    assert figures["val_recall"] == 0.75
    assert figures["val_f1"] == pytest.approx(6 / 7)


@pytest.mark.parametrize("scores", [[], [0.9, 0.2]], ids=["nothing found", "only false alarms"])
def test_without_hits_all_figures_are_zero(scores):
    misses = np.zeros(len(scores), dtype=bool)
    confidence, kept = choose_confidence(np.float32(scores), misses, 3)
    assert 0 < confidence < 1
    assert set(ratios("val", misses[kept], 3).values()) == {0}
    assert set(ratios("val", misses[kept], 0).values()) == {0}


def rectangles(*boxes: tuple[float, ...], labels: list[int], scores: list[float]) -> Instances:
    """Detections whose masks fill their boxes."""
    n = len(boxes)
    frames = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    masks = np.full((n, 28, 28), 127, dtype=np.int8)
    return Instances(
        boxes=frames,
        scores=np.array(scores, dtype=np.float32),
        labels=np.array(labels, dtype=np.int64),
        mask_boxes=frames,
        masks=(MaskGroup(np.arange(n), masks),) if n else (),
    )


KIND_FIGURES = ("val_house", "val_hall", "val_shed")
HOUSE, HALL = (10.0, 10.0, 30.0, 30.0), (40.0, 10.0, 80.0, 40.0)
ALL_LABELLED = torch.ones(100, 100, dtype=torch.bool)


def test_a_right_outline_under_a_wrong_class_is_no_hit():
    truth = rectangles(HOUSE, HALL, labels=[0, 1], scores=[1, 1])
    judged = judge(rectangles(HOUSE, HALL, labels=[1, 1], scores=[0.9, 0.8]), truth, ALL_LABELLED)
    assert judged.hits.tolist() == [False, True]
    assert judged.boundary_ious == pytest.approx([1.0])
    np.testing.assert_allclose(judged.ious, np.eye(2), atol=1e-6)
    np.testing.assert_allclose(judged.box_ious, np.eye(2), atol=1e-6)
    assert judged.labels.tolist() == [1, 1]
    assert judged.true_labels.tolist() == [0, 1]


def test_a_building_found_under_two_classes_counts_once_under_the_surer():
    truth = rectangles(HOUSE, HALL, labels=[0, 1], scores=[1, 1])
    found = rectangles(HOUSE, HALL, HALL, HOUSE, labels=[0, 0, 1, 1], scores=[0.9, 0.3, 0.8, 0.4])
    judged = judge(found, truth, ALL_LABELLED)
    assert judged.hits.tolist() == [True, True]
    assert judged.scores.tolist() == pytest.approx([0.9, 0.8])


def test_what_is_found_on_ground_without_labels_counts_only_as_a_hit():
    labelled = ALL_LABELLED.clone()
    labelled[:, :60] = False
    found = rectangles(HOUSE, HALL, (20, 60, 50, 90), labels=[0] * 3, scores=[0.9, 0.8, 0.7])
    truth = rectangles(HOUSE, labels=[0], scores=[1])
    judged = judge(found, truth, labelled)
    # The hall stands half on labelled ground, the last one on none.
    assert judged.hits.tolist() == [True, False]
    assert judged.scores.tolist() == pytest.approx([0.9, 0.8])


@pytest.mark.parametrize("classes", [("house", "hall", "shed"), ("building",)])
def test_validation_has_one_confidence_and_figures_for_each_of_several_classes(
    classes, monkeypatch
):
    task, logged = make_task(), {}
    model = task.config.model.model_copy(update={"classes": classes})
    task.config = task.config.model_copy(update={"model": model})
    monkeypatch.setattr(task, "log_dict", lambda figures, **_: logged.update(figures))
    last = len(classes) - 1
    task._judged = [
        Judged(
            np.float32(scores),
            np.array([True, False]),
            np.array([label, label]),
            np.array(true_labels),
            np.array(ious),
            np.array(ious) + 0.16,
            np.array(boundary_ious),
        )
        for scores, label, true_labels, ious, boundary_ious in (
            ([0.9, 0.1], 0, [0], [[0.8], [0.0]], [0.5]),
            ([0.8, 0.7], last, [last, last], [[0.6, 0.0], [0.0, 0.4]], [0.7]),
        )
    ]
    task.on_validation_epoch_end()
    assert logged["val_confidence"] == task.confidence == pytest.approx(0.8)
    assert logged["val_f1"] == pytest.approx(0.8)
    assert logged["val_boundary_iou"] == pytest.approx(0.6)
    if len(classes) == 1:
        # Found and ranked first: two of three, at recalls to 2/3; one of them to IoU 0.8.
        assert logged["val_ap50"] == pytest.approx(67 / 101)
        assert logged["val_ap75"] == pytest.approx(34 / 101)
        assert logged["val_ap"] == pytest.approx((3 * 67 + 4 * 34) / 10 / 101)
        assert logged["val_box_ap"] == pytest.approx((2 * 101 + 4 * 67 + 4 * 34) / 10 / 101)
    else:
        # Of the classes that stand there, one is found whole and one to half.
        assert logged["val_ap50"] == pytest.approx((1 + 51 / 101) / 2)
        assert logged["val_ap75"] == pytest.approx((1 + 0) / 2)
    apart = {name: value for name, value in logged.items() if name.startswith(KIND_FIGURES)}
    if len(classes) == 1:
        assert apart == {}
    else:
        assert apart == {
            **{f"val_house_{ratio}": 1.0 for ratio in ("precision", "recall", "f1")},
            "val_shed_precision": 1.0,
            "val_shed_recall": 0.5,
            "val_shed_f1": pytest.approx(2 / 3),
            **{f"val_hall_{ratio}": 0.0 for ratio in ("precision", "recall", "f1")},
        }


def test_nothing_found_where_nothing_stands_is_judged_too():
    nothing = rectangles(labels=[], scores=[])
    assert [len(part) for part in judge(nothing, nothing, ALL_LABELLED)] == [0] * 7


def test_figures_of_a_run_that_has_none_yet_are_none(tmp_path):
    assert read_metrics(tmp_path / "metrics.csv") == []
    with (tmp_path / "metrics.csv").open("w", newline="") as file:
        csv.DictWriter(file, ["epoch"]).writeheader()
    assert read_metrics(tmp_path / "metrics.csv") == []


def test_scenes_of_different_pixel_types_are_refused(config_file, scene, tmp_path):
    square = [shapely.box(5, 5, 25, 25)]
    make_scene(scene, square, name="other", height=SIDE, width=SIDE)
    with rasterio.open(scene / "other.tif") as raster:
        profile, pixels = raster.profile, raster.read()
    with rasterio.open(scene / "wide.tif", "w", **(profile | {"dtype": "uint16"})) as raster:
        raster.write(pixels.astype("uint16"))
    config = load_config(config_file)
    wide = config.data.scenes[0].model_copy(
        update={"images": ("wide.tif",), "labels": "other.gpkg"}
    )
    data = config.data.model_copy(update={"scenes": (*config.data.scenes, wide)})
    with pytest.raises(
        TrainingError, match=r"differ in their pixel type: uint8 .*uint16 .*wide\.tif"
    ):
        train(config.model_copy(update={"data": data}), tmp_path / "run", progress=False)
