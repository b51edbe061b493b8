"""Weights files: what they hold, and what is never loaded."""

import dataclasses
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_network import tiny_config, tiny_network

from footprints.calibration import Calibration
from footprints.chip import InputSpec, Scaling
from footprints.errors import OutputError, StartWarning, WeightsError
from footprints.model.checkpoint import (
    FORMAT_VERSION,
    WeightsInfo,
    load_tensors,
    load_weights,
    read_info,
    save_weights,
    start_from,
)
from footprints.model.mask_rcnn import MaskRCNN

SPEC = InputSpec(
    bands=3,
    gsd_m=0.27,
    scaling=Scaling((127.0, 120.5, 119.0), (128.0, 60.0, 61.25)),
    dtype="uint16",
    value_range=((1.0, 200.5), (2.0, 201.0), (3.0, 202.0)),
    chip_size=384,
    multiple=32,
)
INFO = WeightsInfo(
    name="tiny",
    model=tiny_config(classes=("building", "shed")),
    input_spec=SPEC,
    confidence=0.37,
    calibration=Calibration(1.25, 0.75, -0.5),
    training={"data": [{"images": ["a.tif"], "attribution": "Ä, CC BY"}], "seed": 3},
)


@pytest.fixture(scope="module")
def network():
    return tiny_network(INFO.model)


@pytest.fixture
def weights(tmp_path, network) -> Path:
    path = tmp_path / "tiny.safetensors"
    save_weights(path, network, INFO)
    return path


def rewrite(path: Path, change) -> None:
    """Change the metadata of a weights file."""
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["footprints"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    header = change(header) or header
    save_file(tensors, path, metadata={"footprints": json.dumps(header)})


def test_weights_come_back_to_half_precision_and_vectors_whole(weights, network):
    loaded, _ = load_weights(weights)
    assert not loaded.training
    state = loaded.state_dict()
    for name, tensor in network.state_dict().items():
        assert state[name].dtype == tensor.dtype
        if tensor.is_floating_point():
            kept = tensor.half().float() if tensor.dim() > 1 else tensor
            assert torch.equal(state[name], kept), name


def test_variances_beyond_half_precision_come_back(tmp_path):
    network = tiny_network(INFO.model)
    name = next(n for n in network.state_dict() if n.endswith("running_var"))
    network.state_dict()[name].copy_(torch.logspace(-12, 6, len(network.state_dict()[name])))
    save_weights(tmp_path / "tiny.safetensors", network, INFO)
    loaded, _ = load_weights(tmp_path / "tiny.safetensors")
    assert torch.equal(loaded.state_dict()[name], network.state_dict()[name])


def test_metadata_come_back_whole(weights):
    info = read_info(weights)
    assert info == INFO
    assert info.input_spec.scaling == SPEC.scaling


def test_the_default_confidence_is_told_on_the_scale_of_the_layer(weights):
    info = read_info(weights)
    assert info.confidence == 0.37
    assert info.reported_confidence == float(info.calibration(np.float32(0.37)))
    assert dataclasses.replace(info, calibration=None).reported_confidence == 0.37


def test_weights_from_before_there_was_calibration_are_read(weights):
    rewrite(weights, lambda header: header.pop("calibration") and header)
    assert read_info(weights) == dataclasses.replace(INFO, calibration=None)


def test_sizes_of_pictures_travel_with_the_weights(tmp_path, network):
    spec = dataclasses.replace(SPEC, gsd_m=None, short_side=800, long_side=1333)
    info = dataclasses.replace(INFO, input_spec=spec)
    save_weights(tmp_path / "photos.safetensors", network, info)
    assert read_info(tmp_path / "photos.safetensors").input_spec == spec


def test_weights_from_before_there_were_pictures_are_read(weights):
    def without_sides(header):
        del header["input_spec"]["short_side"], header["input_spec"]["long_side"]

    rewrite(weights, without_sides)
    assert read_info(weights) == INFO


def test_a_ground_resolution_and_a_picture_size_do_not_go_together(weights):
    rewrite(weights, lambda header: header["input_spec"].update(short_side=800))
    with pytest.raises(WeightsError, match=r"damaged metadata \(.*never both"):
        read_info(weights)


def test_weights_take_two_bytes_a_parameter(weights, network):
    count = sum(t.numel() for t in network.state_dict().values())
    assert weights.stat().st_size < 2 * count + 100_000


def test_where_the_trunk_started_from_is_forgotten(tmp_path, network):
    backbone = INFO.model.backbone.model_copy(update={"pretrained": "/mine/trunk.pth"})
    model = INFO.model.model_copy(update={"backbone": backbone})
    path = tmp_path / "tiny.safetensors"
    save_weights(path, network, WeightsInfo("tiny", model, SPEC))
    assert read_info(path).model.backbone.pretrained is False
    load_weights(path)


def test_equal_weights_give_equal_bytes(tmp_path, network, weights):
    save_weights(tmp_path / "again.safetensors", network, INFO)
    assert (tmp_path / "again.safetensors").read_bytes() == weights.read_bytes()


class Payload:
    """A pickle that would make a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return np.save, (self.path, np.zeros(1))


@pytest.mark.parametrize("ending", [".pth", ".pt", ".pkl", ".safetensors"])
def test_a_pickle_is_refused_and_never_run_whatever_its_name(tmp_path, ending, network):
    path, trace = tmp_path / f"evil{ending}", tmp_path / "ran.npy"
    path.write_bytes(pickle.dumps(Payload(trace)))
    message = "not a readable safetensors" if ending == ".safetensors" else "never loaded"
    for load in (load_weights, read_info, lambda p: load_tensors(network, p)):
        with pytest.raises(WeightsError, match=message):
            load(path)
    assert not trace.exists()


def test_foreign_safetensors_are_refused(tmp_path, network):
    path = tmp_path / "foreign.safetensors"
    save_file(network.state_dict(), path, metadata={"format": "pt"})
    for load in (load_weights, lambda p: load_tensors(network, p)):
        with pytest.raises(WeightsError, match="was not written by footprints"):
            load(path)


def test_missing_weights_are_named(tmp_path, network):
    for load in (load_weights, lambda p: load_tensors(network, p)):
        with pytest.raises(WeightsError, match=r"gone\.safetensors are missing"):
            load(tmp_path / "gone.safetensors")


def test_a_newer_version_says_to_upgrade(weights):
    rewrite(weights, lambda header: header | {"format_version": FORMAT_VERSION + 1})
    with pytest.raises(WeightsError, match=r"format version 2, .* up to 1; upgrade"):
        load_weights(weights)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_refused(weights, share):
    content = weights.read_bytes()
    weights.write_bytes(content[: int(share * len(content))])
    with pytest.raises(WeightsError, match="not a readable safetensors"):
        load_weights(weights)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda h: {k: v for k, v in h.items() if k != "name"}, id="a missing key"),
        pytest.param(lambda h: h | {"input_spec": []}, id="a list for a section"),
        pytest.param(
            lambda h: h | {"input_spec": h["input_spec"] | {"scaling": [1]}},
            id="a list for scaling",
        ),
        pytest.param(
            lambda h: h | {"input_spec": h["input_spec"] | {"value_range": 3}}, id="a bare number"
        ),
        pytest.param(
            lambda h: h | {"input_spec": h["input_spec"] | {"colour": 3}}, id="an unknown input key"
        ),
        pytest.param(lambda h: h | {"model": h["model"] | {"depth": 3}}, id="an unknown model key"),
        pytest.param(lambda h: [h], id="no section at all"),
    ],
)
def test_damaged_metadata_are_refused(weights, change):
    rewrite(weights, change)
    with pytest.raises(WeightsError, match="damaged metadata"):
        load_weights(weights)


def test_metadata_that_are_no_json_are_refused(weights):
    save_file({"a": torch.zeros(1)}, weights, metadata={"footprints": "{"})
    with pytest.raises(WeightsError, match="damaged metadata"):
        read_info(weights)


def test_weights_of_another_network_name_the_first_tensor_that_differs(weights):
    other = tiny_network(tiny_config(box_head={"width": 16}))
    with pytest.raises(WeightsError, match=r"\d+ tensors differ, first box_head\."):
        load_tensors(other, weights)


CLASS_HEADS = (
    "box_head.classes",
    "box_head.offsets",
    "mask_head.coarse_head.prediction",
    "mask_head.point_head.predictor",
)


def started(weights: Path, **changes: object) -> tuple[dict, dict, dict, str]:
    """State before and after a start from weights, what was given, and what was said."""
    torch.manual_seed(9)
    other = MaskRCNN(tiny_config(**{"classes": ("building", "shed")} | changes))
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.warns(StartWarning) as warned:
        start_from(other, weights)
    assert len(warned) == 1
    given = load_weights(weights)[0].state_dict()
    return before, other.state_dict(), given, str(warned[0].message)


def test_a_start_with_other_classes_takes_all_but_what_depends_on_them(weights):
    before, after, given, said = started(weights, classes=("a", "b", "c", "d"))
    anew = {name for name in after if name.startswith(CLASS_HEADS)}
    split = {f"mask_head.point_head.fc{i}.weight" for i in (1, 2, 3)}
    for name, tensor in after.items():
        if name in anew:
            assert torch.equal(tensor, before[name]), name
            assert name in said.split("start anew")[1]
        elif name in split:
            assert torch.equal(tensor[:, :-4], given[name][:, :-2]), name
            assert torch.equal(tensor[:, -4:], before[name][:, -4:]), name
            assert name in said.split("start anew")[0]
        else:
            assert torch.equal(tensor, given[name]), name
            assert f"{name}," not in said


@pytest.mark.parametrize("bands", [1, 5])
def test_a_start_with_other_bands_adapts_the_first_convolution(weights, bands):
    _, after, given, said = started(weights, bands=bands)
    first = "backbone.trunk.conv_stem.weight"
    assert first in said
    assert "start anew: none" in said
    torch.testing.assert_close(after[first].sum(1), given[first].sum(1))
    assert all(torch.equal(t, given[n]) for n, t in after.items() if n != first)


def test_a_start_with_a_narrower_point_head_trains_it_anew(weights):
    before, after, given, said = started(weights, mask_head={"point_width": 8})
    for i in (1, 2, 3):
        name = f"mask_head.point_head.fc{i}.weight"
        assert after[name].shape != given[name].shape
        assert torch.equal(after[name], before[name])
        assert name in said.split("start anew")[1]
    kept = [n for n in after if "point_head" not in n]
    assert all(torch.equal(after[n], given[n]) for n in kept)


def test_a_start_with_another_mask_head_trains_that_anew(weights):
    _, after, given, said = started(weights, mask_head={"kind": "fcn", "convs": 1, "width": 8})
    assert "mask_head.layers.0.weight" in said.split("start anew")[1]
    assert all(torch.equal(t, given[n]) for n, t in after.items() if "mask_head" not in n)


def test_a_start_from_the_same_network_says_nothing(weights, network):
    other = tiny_network(INFO.model, seed=9)
    start_from(other, weights)
    given = load_weights(weights)[0].state_dict()
    assert all(torch.equal(t, given[n]) for n, t in other.state_dict().items())


def test_a_start_from_another_trunk_is_refused(weights):
    other = tiny_network(tiny_config(backbone={"channels": 24}))
    with pytest.raises(
        WeightsError, match=r"its backbone is another, \d+ tensors .* backbone\.fpn"
    ):
        start_from(other, weights)


def test_a_failed_write_leaves_the_earlier_file_and_nothing_beside(weights, network, monkeypatch):
    before = weights.read_bytes()

    def fill_the_disk(path, _data):
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fill_the_disk)
    with pytest.raises(OutputError, match="No space left"):
        save_weights(weights, network, INFO)
    assert weights.read_bytes() == before
    assert [path.name for path in weights.parent.iterdir()] == [weights.name]


def test_a_missing_folder_is_an_output_error(tmp_path, network):
    with pytest.raises(OutputError, match="cannot write weights"):
        save_weights(tmp_path / "nowhere" / "tiny.safetensors", network, INFO)
