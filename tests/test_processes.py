"""Several processes: the same gradients as one, every chip once, and whole runs."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_run import write_tiny_run
from two_processes import BOXES, Step, gradients, make_network

from footprints.config import load_config
from footprints.data import dataset
from footprints.data.dataset import EpochSampler, ShareSampler
from footprints.errors import DeviceError, TrainingError
from footprints.loop import read_metrics
from footprints.model.pointrend import PointRendHead
from footprints.model.processes import gather, holds_anywhere, own_weight, rank_and_count
from footprints.training import train

TESTS = Path(__file__).parent
LIMIT_S = 180
# No GPU: two processes would need two.
ENVIRONMENT = os.environ | {
    "PYTHONPATH": os.pathsep.join(map(str, (TESTS, TESTS.parent))),
    "CUDA_VISIBLE_DEVICES": "",
}


def wait(processes: list[subprocess.Popen]) -> list[str]:
    """What processes say on standard error; all are ended when one does not come to its end."""
    try:
        said = [process.communicate(timeout=LIMIT_S)[1] for process in processes]
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    for process, text in zip(processes, said, strict=True):
        assert process.returncode == 0, text
    return said


@pytest.mark.parametrize(
    ("head", "case"), [("pointrend", "many and few"), ("fcn", "some and none")]
)
def test_two_processes_have_the_gradient_of_one_with_the_same_images(
    head, case, tmp_path, monkeypatch
):
    command = [sys.executable, str(TESTS / "two_processes.py")]
    outputs = [tmp_path / f"gradients{rank}.pt" for rank in range(2)]
    wait(
        [
            subprocess.Popen(
                [*command, str(rank), "2", str(tmp_path / "meeting"), head, case, str(output)],
                env=ENVIRONMENT,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            for rank, output in enumerate(outputs)
        ]
    )
    monkeypatch.setattr(PointRendHead, "training_points", PointRendHead.training_points)
    wanted = gradients(Step(make_network(head)), BOXES[case], 0)
    assert sum(grad.abs().sum() for grad in wanted.values()) > 1
    for output in outputs:
        found = torch.load(output, weights_only=True)
        assert found.keys() == wanted.keys()
        for name, gradient in wanted.items():
            torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-5, msg=name)


def test_a_process_by_itself_weighs_one_and_hears_itself():
    assert rank_and_count() == (0, 1)
    assert own_weight(7, torch.device("cpu")) == 1
    assert own_weight(torch.tensor(0), torch.device("cpu")) == 1
    assert gather("own") == ["own"]
    assert holds_anywhere(torch.tensor(True))  # noqa: FBT003
    assert not holds_anywhere(torch.tensor(False))  # noqa: FBT003


def dealt(sampler, monkeypatch, count: int) -> list[list[int]]:
    hands = []
    for rank in range(count):
        monkeypatch.setattr(dataset, "rank_and_count", lambda rank=rank: (rank, count))
        hands.append(list(sampler))
        assert len(sampler) == len(hands[-1])
    return hands


def test_training_chips_are_dealt_out_without_the_rest(monkeypatch):
    sampler = EpochSampler(range(10))
    sampler.set_epoch(2)
    assert dealt(sampler, monkeypatch, 3) == [[20, 23, 26], [21, 24, 27], [22, 25, 28]]
    assert dealt(sampler, monkeypatch, 1) == [list(range(20, 30))]


def test_validation_chips_are_all_dealt_out_and_the_first_fill_up(monkeypatch):
    sampler = ShareSampler(range(4))
    assert dealt(sampler, monkeypatch, 3) == [[0, 3], [1, 0], [2, 1]]
    assert dealt(sampler, monkeypatch, 1) == [[0, 1, 2, 3]]


def test_an_epoch_without_a_batch_for_every_process_is_refused(tmp_path):
    config = load_config(write_tiny_run(tmp_path), ["train.batch_size=9"])
    with pytest.raises(TrainingError, match=r"8 chips has no batch of 9 for each of 1 .* to 9 or"):
        train(config, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_devices_that_are_not_there_are_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    config = load_config(write_tiny_run(tmp_path), ["train.devices=5"])
    with pytest.raises(DeviceError, match=r"train\.devices 5: .*; use fewer"):
        train(config, tmp_path / "run", progress=False)


@pytest.mark.slow
def test_a_run_in_two_processes_gives_one_set_of_figures_and_weights(tmp_path):
    config_file = write_tiny_run(tmp_path)
    folder = tmp_path / "run"
    settings = ["train.devices=2", "train.batch_size=1", "train.unfreeze_trunk=1"]
    command = [sys.executable, "-m", "footprints.cli", "train", config_file, "-o", folder, "-q"]
    options = [part for setting in settings for part in ("--set", setting)]
    process = subprocess.Popen(
        [*map(str, command), *options],
        env=ENVIRONMENT | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait([process])
    rows = read_metrics(folder / "metrics.csv")
    assert [(row["epoch"], row["step"]) for row in rows] == [("0", "4"), ("1", "8"), ("2", "12")]
    assert rows[1]["val_f1"] != ""
    weights = load_file(folder / "weights.safetensors")
    assert all(tensor.isfinite().all() for tensor in weights.values())
