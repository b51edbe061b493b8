"""Trunk and neck: images to feature maps.

Sources: FPN, arXiv 1612.03144; C4, arXiv 1512.03385; trunks from timm.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
from timm.layers import freeze_batch_norm_2d  # type: ignore[attr-defined]
from timm.models.resnet import ResNet
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from footprints.chip import Scaling
from footprints.config import BackboneConfig
from footprints.errors import ConfigError, WeightsError
from footprints.model.convolutions import norm_layer
from footprints.model.roi import RoIFeatures
from footprints.model.tensor_files import adapt_bands, read_tensors

STRIDES = (4, 8, 16, 32, 64)

_COUNTER = "num_batches_tracked"
_STAGE = re.compile(r"(blocks|layers?|stages?|s)_?\d+")
"""What timm calls the parts of a trunk that come after the stem."""


class PyramidBackbone(nn.Module):
    """A timm trunk under a feature pyramid: P2 ... P6 with strides 4 ... 64.

    Args:
        bands: Input bands, any number.
        config: Trunk, its start, what is frozen, width of the pyramid.

    Raises:
        ConfigError: timm knows no such trunk, or its strides are not 4, 8, 16, 32.
        WeightsError: The pretrained weights cannot be had or do not fit.
    """

    strides = STRIDES

    def __init__(self, bands: int, config: BackboneConfig) -> None:
        super().__init__()
        trunk = _create_trunk(bands, config, {"features_only": True})
        stages: Any = trunk.feature_info
        strides = tuple(stages.reduction())
        if strides[-4:] != STRIDES[:4]:
            raise ConfigError(
                f"backbone {config.name} has strides {strides}; needed are {STRIDES[:4]}"
            )
        self.skipped = len(strides) - 4
        self.channels = self.box_channels = config.channels
        self.trunk = freeze_batch_norm_2d(trunk) if config.norm == "frozen" else trunk
        self.fpn = FeaturePyramidNetwork(
            stages.channels()[self.skipped :],
            config.channels,
            extra_blocks=LastLevelMaxPool(),
            norm_layer=norm_layer(config.fpn_norm),
        )
        _freeze_stages(self.trunk, config)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (N, bands, H, W), sides multiples of 32, to P2 ... P6 (N, C, H / s, W / s)."""
        stages = self.trunk(images)[self.skipped :]
        pyramid = self.fpn(OrderedDict((str(i), stage) for i, stage in enumerate(stages)))
        return list(pyramid.values())

    def box_features(self, pyramid: Sequence[Tensor]) -> RoIFeatures:
        """What the heads read: all levels but the last, which is for anchors only."""
        return RoIFeatures(pyramid[:-1], STRIDES[:-1])

    def box_side(self, side: int) -> int:
        """Side of a box's features where ``side`` cells were cut out."""
        return side


class C4Backbone(nn.Module):
    """A ResNet up to its fourth stage, stride 16; the fifth is where the heads begin.

    Args:
        bands: Input bands, any number.
        config: Trunk, its start, what is frozen.

    Raises:
        ConfigError: timm knows no such trunk, or it is no ResNet.
        WeightsError: The pretrained weights cannot be had or do not fit.
    """

    strides = (16,)

    def __init__(self, bands: int, config: BackboneConfig) -> None:
        super().__init__()
        whole = _create_trunk(bands, config, {"num_classes": 0, "global_pool": ""})
        if not isinstance(whole, ResNet):
            raise ConfigError(
                f"backbone {config.name} is no ResNet, which neck c4 needs; "
                f"set model.backbone.neck to fpn"
            )
        if config.norm == "frozen":
            whole = freeze_batch_norm_2d(whole)
        info: Any = whole.feature_info
        self.channels: int = info[3]["num_chs"]
        self.box_channels: int = info[4]["num_chs"]
        stages = list(whole.named_children())
        last = [name for name, _ in stages].index("layer4")
        self.trunk = nn.Sequential(OrderedDict(stages[:last]))
        self.tail = stages[last][1]
        _freeze_stages(self.trunk, config)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (N, bands, H, W), sides multiples of 16, to one level (N, C, H / 16, W / 16)."""
        return [self.trunk(images)]

    def box_features(self, pyramid: Sequence[Tensor]) -> RoIFeatures:
        """What the heads read: the one level, and the last stage of the trunk after that."""
        return RoIFeatures(pyramid, self.strides, self.tail)

    def box_side(self, side: int) -> int:
        """Side of a box's features where ``side`` cells were cut out: the last stage halves it."""
        return (side + 1) // 2


def make_backbone(bands: int, config: BackboneConfig) -> PyramidBackbone | C4Backbone:
    """The trunk with the neck that is configured."""
    if config.neck == "c4":
        return C4Backbone(bands, config)
    return PyramidBackbone(bands, config)


def _create_trunk(bands: int, config: BackboneConfig, options: dict[str, Any]) -> nn.Module:
    _check_known(config.name)
    hub = config.pretrained is True
    try:
        trunk: nn.Module = timm.create_model(config.name, pretrained=hub, in_chans=bands, **options)
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


def _check_known(name: str) -> None:
    """A trunk's name may end in a tag that says which of its weights are meant."""
    if name not in timm.list_models(name, pretrained="." in name):
        raise ConfigError(f"timm has no backbone {name!r}; see timm.list_models()")


def trunk_scaling(name: str) -> Scaling:
    """How the weights that timm has for a trunk want 8-bit bands to be scaled.

    Raises:
        ConfigError: timm knows no such trunk.
    """
    _check_known(name)
    given: Any = timm.get_pretrained_cfg(name)
    return Scaling(tuple(255 * m for m in given.mean), tuple(255 * s for s in given.std))


def _load_local(trunk: nn.Module, path: Path, bands: int) -> None:
    """Fill a trunk from a file of its tensors: by name, or else in the order of a ``.pth``."""
    given = read_tensors(path)
    state = trunk.state_dict()
    names = [n for n in state if not n.endswith(_COUNTER)]
    by_name = {_plain(name): tensor for name, tensor in given.items()}
    if all(_plain(name) in by_name for name in names):
        tensors = [by_name[_plain(name)] for name in names]
    elif path.suffix == ".safetensors":
        raise WeightsError(
            f"{path} names its tensors otherwise than timm, and a .safetensors file keeps no "
            f"order to go by; give a .pth file"
        )
    else:
        tensors = [t for n, t in given.items() if not n.endswith(_COUNTER)]
    if len(tensors) < len(names):
        raise WeightsError(f"{path} holds {len(tensors)} tensors, the trunk {len(names)}")
    tensors[0] = adapt_bands(tensors[0], bands)
    for name, tensor in zip(names, tensors, strict=False):
        if tensor.shape != state[name].shape:
            raise WeightsError(
                f"{path} does not fit: {name} is {tuple(state[name].shape)}, "
                f"got {tuple(tensor.shape)}"
            )
        state[name] = tensor
    trunk.load_state_dict(state)


def _plain(name: str) -> str:
    """A tensor's name whether or not timm has flattened the trunk (``stages_0``, ``stages.0``)."""
    return name.replace("_", ".")


def _freeze_stages(trunk: nn.Module, config: BackboneConfig) -> None:
    """Stop the gradients of the stem (stage 1) and the stages after it (2 ...)."""
    children: list[tuple[str, nn.Module]] = []
    for name, child in trunk.named_children():
        blocks = child.named_children() if name == "blocks" else ()
        children += [(f"blocks_{number}", block) for number, block in blocks] or [(name, child)]
    stages: list[list[nn.Module]] = [[]]
    for name, child in children:
        if _STAGE.fullmatch(name):
            stages.append([])
        stages[-1].append(child)
    if config.frozen_stages and len(stages) == 1:
        raise ConfigError(f"backbone {config.name} has no stages to freeze; set frozen_stages to 0")
    for stage in stages[: config.frozen_stages]:
        for module in stage:
            module.requires_grad_(requires_grad=False)
