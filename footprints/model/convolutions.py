"""The 3 x 3 convolutions that heads begin with."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from footprints.config import Norm


def norm_layer(norm: Norm) -> Callable[[int], nn.Module] | None:
    """What makes the norm of so many channels; None where there is none."""
    makers: dict[Norm, Callable[[int], nn.Module] | None] = {
        "none": None,
        "frozen": FrozenBatchNorm2d,
        "live": nn.BatchNorm2d,
    }
    return makers[norm]


def convolutions(channels: int, width: int, count: int, norm: Norm) -> nn.Sequential:
    """Convolutions with ReLU and, instead of biases, norms where they are asked for."""
    layers, make_norm = nn.Sequential(), norm_layer(norm)
    for _ in range(count):
        conv = nn.Conv2d(channels, width, 3, padding=1, bias=make_norm is None)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)
        layers.append(conv)
        if make_norm is not None:
            layers.append(make_norm(width))
        layers.append(nn.ReLU())
        channels = width
    return layers
