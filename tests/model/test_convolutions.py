"""Convolutions with and without norms."""

import pytest
import torch
from torch import nn

from footprints.model.convolutions import convolutions


@pytest.mark.parametrize(
    ("norm", "kinds"),
    [
        pytest.param("none", ["Conv2d", "ReLU"], id="none"),
        pytest.param("frozen", ["Conv2d", "FrozenBatchNorm2d", "ReLU"], id="frozen"),
        pytest.param("live", ["Conv2d", "BatchNorm2d", "ReLU"], id="live"),
    ],
)
def test_a_norm_takes_the_place_of_the_bias(norm, kinds):
    layers = convolutions(3, 8, 2, norm)
    assert [type(layer).__name__ for layer in layers] == kinds * 2
    convs = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    assert [conv.in_channels for conv in convs] == [3, 8]
    assert all((conv.bias is None) == (norm != "none") for conv in convs)
    assert layers(torch.ones(2, 3, 5, 6)).shape == (2, 8, 5, 6)


def test_only_live_norms_learn_and_follow_their_input():
    values = torch.randn(4, 3, 6, 6) + 5
    for norm, learns in (("frozen", False), ("live", True)):
        layers = convolutions(3, 8, 1, norm).train()
        layers(values).sum().backward()
        assert ("1.weight" in dict(layers.named_parameters())) == learns
        assert bool((layers.state_dict()["1.running_mean"] != 0).any()) == learns


def test_none_at_all_is_possible():
    values = torch.randn(1, 3, 4, 4)
    assert torch.equal(convolutions(3, 8, 0, "live")(values), values)
