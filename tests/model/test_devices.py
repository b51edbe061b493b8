"""Devices and precisions: what is taken, and what is not there."""

import pytest
import torch

from footprints.errors import ConfigError, DeviceError
from footprints.model.detector import load_detector
from footprints.model.devices import choose_device, choose_precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("asked", "chosen"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)]
)
def test_the_precision_asked_for_is_taken(asked, chosen):
    assert load_detector(device="cpu", precision=asked).precision is chosen


def test_half_precision_is_taken_where_the_processor_calculates_with_it(monkeypatch):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False)
    assert choose_precision(None, CPU) is torch.float32
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert choose_precision(None, CPU) is torch.bfloat16


def test_an_unknown_precision_is_an_error_that_names_the_known_ones():
    with pytest.raises(ConfigError, match="one of float32, bfloat16, got 'half'"):
        load_detector(device="cpu", precision="half")


@pytest.mark.parametrize(
    "device",
    [
        pytest.param("gpu", id="no such kind"),
        pytest.param("cuda:99", id="no such GPU"),
        pytest.param("", id="an empty name"),
    ],
)
def test_a_device_that_is_not_there_is_an_error_that_names_those_that_are(device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(DeviceError, match=r"is not available \(.+\); use cpu$"):
        choose_device(device)


def test_of_several_gpus_each_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(DeviceError, match=r"use cpu or cuda:0 or cuda:1$"):
        choose_device("gpu")


def test_the_default_device_is_there():
    assert torch.zeros(1, device=choose_device()).item() == 0
    assert choose_device("cpu") == choose_device(CPU) == CPU
    assert choose_device("auto") == choose_device()
