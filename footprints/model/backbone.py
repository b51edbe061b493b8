"""Trunk and feature pyramid: images to feature maps P2 ... P6 with strides 4 ... 64.

Sources: FPN, arXiv 1612.03144; trunks from timm.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from timm.layers import freeze_batch_norm_2d  # type: ignore[attr-defined]
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from footprints.config import BackboneConfig
from footprints.errors import ConfigError, WeightsError

STRIDES = (4, 8, 16, 32, 64)


class Backbone(nn.Module):
    """A timm trunk under a feature pyramid.

    Args:
        bands: Input bands, any number.
        config: Trunk, its start, what is frozen, width of the pyramid.

    Raises:
        ConfigError: timm knows no such trunk, or its strides are not 4, 8, 16, 32.
        WeightsError: The pretrained weights cannot be had or do not fit.
    """

    def __init__(self, bands: int, config: BackboneConfig) -> None:
        super().__init__()
        trunk = _create_trunk(bands, config)
        stages: Any = trunk.feature_info
        strides = tuple(stages.reduction())
        if strides[-4:] != STRIDES[:4]:
            raise ConfigError(
                f"backbone {config.name} has strides {strides}; needed are {STRIDES[:4]}"
            )
        self.skipped = len(strides) - 4
        self.trunk = freeze_batch_norm_2d(trunk) if config.norm == "frozen" else trunk
        self.fpn = FeaturePyramidNetwork(
            stages.channels()[self.skipped :],
            config.channels,
            extra_blocks=LastLevelMaxPool(),
        )
        _freeze_stages(self.trunk, config.frozen_stages)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (N, bands, H, W), sides multiples of 32, to P2 ... P6 (N, C, H / s, W / s)."""
        stages = self.trunk(images)[self.skipped :]
        pyramid = self.fpn(OrderedDict((str(i), stage) for i, stage in enumerate(stages)))
        return list(pyramid.values())


def _create_trunk(bands: int, config: BackboneConfig) -> nn.Module:
    if config.name not in timm.list_models(config.name):
        raise ConfigError(f"timm has no backbone {config.name!r}; see timm.list_models()")
    hub = config.pretrained is True
    try:
        trunk: nn.Module = timm.create_model(
            config.name, pretrained=hub, features_only=True, in_chans=bands
        )
    except (OSError, RuntimeError) as err:
        if not hub:
            raise
        raise WeightsError(
            f"cannot get the pretrained weights of {config.name} from timm's hub "
            f"({type(err).__name__}); give a local file in model.backbone.pretrained"
        ) from err
    if isinstance(config.pretrained, str):
        _load_local(trunk, Path(config.pretrained).expanduser(), bands)
    return trunk


def _load_local(trunk: nn.Module, path: Path, bands: int) -> None:
    """Fill a trunk from a file of tensors in the same order, whatever their names."""
    if not path.is_file():
        raise WeightsError(f"pretrained weights {path} are missing")
    if path.suffix == ".safetensors":
        given = load_file(path)
    else:
        given = torch.load(path, map_location="cpu", weights_only=True)
    names = [n for n in trunk.state_dict() if not n.endswith("num_batches_tracked")]
    tensors = [t for n, t in given.items() if not n.endswith("num_batches_tracked")]
    state = trunk.state_dict()
    if len(tensors) < len(names):
        raise WeightsError(f"{path} holds {len(tensors)} tensors, the trunk {len(names)}")
    for name, tensor in zip(names, tensors, strict=False):
        if tensor.dim() == 4 and tensor.shape[1] != state[name].shape[1] == bands:
            tensor = _adapt_bands(tensor, bands)
        if tensor.shape != state[name].shape:
            raise WeightsError(
                f"{path} does not fit: {name} is {tuple(state[name].shape)}, "
                f"got {tuple(tensor.shape)}"
            )
        state[name] = tensor
    trunk.load_state_dict(state)


def _adapt_bands(weight: Tensor, bands: int) -> Tensor:
    """Repeat the input filters (O, 3, h, w) over the bands, keeping the sum of the responses."""
    repeats = -(-bands // weight.shape[1])
    return weight.repeat(1, repeats, 1, 1)[:, :bands] * (weight.shape[1] / bands)


def _freeze_stages(trunk: nn.Module, count: int) -> None:
    """Stop the gradients of the stem (stage 1) and the blocks after it (stages 2 ...)."""
    if not count:
        return
    stem = [m for n, m in trunk.named_children() if n in {"conv_stem", "bn1", "conv1", "stem"}]
    stages = [m for n, m in trunk.named_children() if n.startswith(("layer", "stages"))]
    blocks = list(trunk.get_submodule("blocks").children()) if hasattr(trunk, "blocks") else stages
    for module in [*stem, *blocks[: count - 1]]:
        module.requires_grad_(requires_grad=False)
