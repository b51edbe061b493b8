"""Weights of torchvision's detection models, turned into ours.

The converted network computes what torchvision's does on a picture that it need not resize: its
conventions (anchors, RoIAlign, least sides, scaling) go into the settings, its classes lose their
leading background to our last row.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torchvision.models.detection import (
    KeypointRCNN_ResNet50_FPN_Weights,
    MaskRCNN_ResNet50_FPN_Weights,
)

from footprints.chip import InputSpec
from footprints.config import (
    BackboneConfig,
    BoxHeadConfig,
    DetectionConfig,
    FCNMaskConfig,
    KeypointConfig,
    ModelConfig,
    RoIConfig,
    RPNConfig,
)
from footprints.errors import OutputError, WeightsError
from footprints.files import check_place
from footprints.model.backbone import trunk_scaling
from footprints.model.checkpoint import WeightsInfo, misfits, save_weights
from footprints.model.mask_rcnn import MaskRCNN
from footprints.model.tensor_files import read_tensors

_KNOWN = (
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2",
    "keypointrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn_v2",
)
_TRUNK = "resnet50"
_NORM_EPS = 1e-5
"""Of the norms in our trunks and in torchvision's, but for those of its COCO_V1 weights."""
_HEAD_CONVS = 4
_COUNTER = "num_batches_tracked"
_SHORT_SIDE, _LONG_SIDE = 800, 1333
"""torchvision shows its models whole pictures of this size."""
_KEYPOINTS = "roi_heads.keypoint_predictor.kps_score_lowres."

_OLDER_NAMES = (
    (r"(backbone\.fpn\.\w+_blocks\.\d)\.(weight|bias)", r"\1.0.\2"),
    (r"rpn\.head\.conv\.(weight|bias)", r"rpn.head.conv.0.0.\1"),
    (r"roi_heads\.mask_head\.mask_fcn1\.", "roi_heads.mask_head.0.0."),
    (r"roi_heads\.mask_head\.mask_fcn2\.", "roi_heads.mask_head.1.0."),
    (r"roi_heads\.mask_head\.mask_fcn3\.", "roi_heads.mask_head.2.0."),
    (r"roi_heads\.mask_head\.mask_fcn4\.", "roi_heads.mask_head.3.0."),
)
"""Names in files of before torchvision 0.13, the COCO_V1 ones among them, and after it."""


def convert_weights(
    source: str | Path,
    output: str | Path,
    *,
    norm_eps: float | None = None,
    overwrite: bool = False,
) -> WeightsInfo:
    """Turn weights of a torchvision detection model into a weights file of ours.

    Args:
        source: Its state dict: Faster R-CNN or Mask R-CNN with ResNet-50 and FPN, version 1 or 2,
            or Keypoint R-CNN.
        output: ``.safetensors`` file to write.
        norm_eps: What the trunk's norms add to their variance. None: what torchvision sets when it
            loads its own weights, 0 for version 1 with frozen norms, otherwise 1e-5.
        overwrite: Replace an existing file.

    Returns:
        What the new file says of itself.

    Raises:
        WeightsError: The source is missing, unreadable, holds more than tensors, or is of an
            architecture we have no counterpart of.
        OutputError: The output exists, has another ending, or cannot be written.
    """
    source, output = Path(source), Path(output)
    if output.suffix != ".safetensors":
        raise OutputError(f"weights must end in .safetensors, got {output.name!r}")
    check_place(output, "weights", overwrite=overwrite, plural=True)
    given = _with_current_names(read_tensors(source))
    name = _architecture(given, source)
    config = _settings(given, name)
    if norm_eps is None:
        frozen = not any(tensor.endswith(_COUNTER) for tensor in given)
        norm_eps = 0.0 if frozen and not name.endswith("_v2") else _NORM_EPS
    with torch.device("meta"):  # every tensor is given, so that none need be drawn
        model = MaskRCNN(config)
    _fill(model, _ours(given, config, norm_eps), source, name)
    info = WeightsInfo(
        name=name,
        model=config,
        input_spec=InputSpec(
            bands=config.bands,
            gsd_m=None,
            scaling=trunk_scaling(_TRUNK),
            value_range=((0.0, 255.0),) * config.bands,
            multiple=32,
            short_side=_SHORT_SIDE,
            long_side=_LONG_SIDE,
        ),
        training={"converted_from": source.name, "norm_eps": norm_eps},
    )
    save_weights(output, model, info)
    return info


def _with_current_names(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    def current(name: str) -> str:
        for older, newer in _OLDER_NAMES:
            name = re.sub(rf"^{older}", newer, name)
        return name

    return {current(name): tensor for name, tensor in given.items()}


def _architecture(given: Mapping[str, Tensor], source: Path) -> str:
    """Which of the known models these tensors are of."""
    needed = (
        "backbone.body.layer3.5.conv3.weight",
        "backbone.fpn.inner_blocks.3.0.weight",
        "roi_heads.box_predictor.cls_score.weight",
    )
    if missing := [name for name in needed if name not in given]:
        raise WeightsError(
            f"{source} is of no architecture that can be converted (it lacks {missing[0]}); "
            f"known are torchvision's {', '.join(_KNOWN)}"
        )
    kind = "fasterrcnn"
    if "roi_heads.mask_predictor.mask_fcn_logits.weight" in given:
        kind = "maskrcnn"
    elif f"{_KEYPOINTS}weight" in given:
        kind = "keypointrcnn"
    version = "_v2" if "backbone.fpn.inner_blocks.0.1.weight" in given else ""
    return f"{kind}_resnet50_fpn{version}"


def _settings(given: Mapping[str, Tensor], name: str) -> ModelConfig:
    """The network's settings with torchvision's conventions."""
    second = name.endswith("_v2")
    count = len(given["roi_heads.box_predictor.cls_score.weight"]) - 1
    mask_head = FCNMaskConfig(
        kind="fcn",
        roi=RoIConfig(side=14, aligned=False),
        convs=_HEAD_CONVS,
        norm="frozen" if second else "none",
        box_margin=0,
    )
    keypoint_head = None
    if f"{_KEYPOINTS}bias" in given:
        names = _keypoint_names(len(given[f"{_KEYPOINTS}bias"]))
        keypoint_head = KeypointConfig(names=names, roi=RoIConfig(side=14, aligned=False))
    return ModelConfig(
        classes=_class_names(count, name),
        backbone=BackboneConfig(
            name=_TRUNK, frozen_stages=2, channels=256, fpn_norm="frozen" if second else "none"
        ),
        rpn=RPNConfig(
            anchor_sizes=(32, 64, 128, 256, 512),
            anchor_offset=0,
            anchor_rounding=True,
            depth=2 if second else 1,
            train_post_nms=2000,
            min_side_px=1e-3,
        ),
        box_head=BoxHeadConfig(
            roi=RoIConfig(side=7, aligned=False),
            convs=_HEAD_CONVS if second else 0,
            norm="frozen" if second else "none",
            layers=1 if second else 2,
            width=1024,
            smooth_l1_beta=1 / 9,
        ),
        mask_head=mask_head if name.startswith("maskrcnn") else None,
        keypoint_head=keypoint_head,
        detection=DetectionConfig(min_side_px=1e-2),
    )


def _class_names(count: int, name: str) -> tuple[str, ...]:
    """COCO's where their number says so; its 91 numbers have holes, which get names of their own.

    The rows of the holes stay: the softmax over classes is what it was trained to be with them.
    """
    known = (
        KeypointRCNN_ResNet50_FPN_Weights
        if name.startswith("keypointrcnn")
        else MaskRCNN_ResNet50_FPN_Weights
    )
    categories = known.COCO_V1.meta["categories"][1:]
    if count != len(categories):
        return tuple(f"class-{number}" for number in range(1, count + 1))
    return tuple(
        f"unused-{place}" if category == "N/A" else category
        for place, category in enumerate(categories, start=1)
    )


def _keypoint_names(count: int) -> tuple[str, ...]:
    """COCO's where their number says so."""
    names = KeypointRCNN_ResNet50_FPN_Weights.COCO_V1.meta["keypoint_names"]
    if count == len(names):
        return tuple(names)
    return tuple(f"keypoint-{number}" for number in range(1, count + 1))


def _ours(given: Mapping[str, Tensor], config: ModelConfig, eps: float) -> dict[str, Tensor]:
    """The tensors under our names, background last, with the norms' epsilon that we have."""
    ours = {
        _our_name(name, config): tensor.float()
        for name, tensor in given.items()
        if not name.endswith(_COUNTER)
    }
    masks = f"mask_head.layers.{_mask_layer(config, 'mask_fcn_logits')}."
    for name, tensor in ours.items():
        if name.startswith("box_head.classes."):
            ours[name] = tensor.roll(-1, 0)
        elif name.startswith("box_head.offsets."):
            ours[name] = tensor[4:]  # without the background's box, which nobody reads
        elif name.startswith(masks):
            ours[name] = tensor[1:]
    # weight / sqrt(variance + eps) is all that the epsilon is in, so that the weight can take up
    # the difference; a setting would have to be repeated by whoever trains on from here.
    for name, tensor in list(ours.items()):
        variance = ours.get(name.removesuffix("weight") + "running_var")
        if name.startswith("backbone.trunk.") and variance is not None:
            ours[name] = tensor * torch.sqrt((variance + _NORM_EPS) / (variance + eps))
    return ours


def _our_name(name: str, config: ModelConfig) -> str:
    """What we call a tensor of torchvision's."""
    conv = r"(?P<conv>\d)\.(?P<part>[01])\."
    step = _layers_per_conv(config)
    if match := re.match(rf"roi_heads\.box_head\.{conv}", name):
        return f"box_head.convs.{_layer(match, step)}.{name[match.end() :]}"
    if match := re.match(rf"roi_heads\.mask_head\.{conv}", name):
        return f"mask_head.layers.{_layer(match, step)}.{name[match.end() :]}"
    if match := re.match(r"roi_heads\.mask_predictor\.(\w+)\.", name):
        return f"mask_head.layers.{_mask_layer(config, match[1])}.{name[match.end() :]}"
    if match := re.match(rf"rpn\.head\.conv\.{conv}", name):
        return f"rpn.convs.{_layer(match, 2)}.{name[match.end() :]}"
    for theirs, ours in (
        ("backbone.body.", "backbone.trunk."),
        ("rpn.head.cls_logits.", "rpn.objectness."),
        ("rpn.head.bbox_pred.", "rpn.offsets."),
        ("roi_heads.box_head.fc6.", "box_head.layers.0."),
        ("roi_heads.box_head.fc7.", "box_head.layers.2."),
        ("roi_heads.keypoint_head.", "keypoint_head.convs."),
        (_KEYPOINTS, "keypoint_head.prediction."),
        # After four convolutions and the flattening.
        ("roi_heads.box_head.5.", "box_head.layers.0."),
        ("roi_heads.box_predictor.cls_score.", "box_head.classes."),
        ("roi_heads.box_predictor.bbox_pred.", "box_head.offsets."),
    ):
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


def _layer(match: re.Match[str], step: int) -> int:
    """Place among our layers, where torchvision numbers convolutions and then their parts."""
    return int(match["conv"]) * step + int(match["part"])


def _layers_per_conv(config: ModelConfig) -> int:
    """A convolution, its norm if there is one, ReLU."""
    return 2 if config.box_head.norm == "none" else 3


def _mask_layer(config: ModelConfig, part: str) -> int:
    """Place of the mask head's last layers, which come after its convolutions."""
    return _HEAD_CONVS * _layers_per_conv(config) + (0 if part == "conv5_mask" else 2)


def _fill(model: MaskRCNN, tensors: Mapping[str, Tensor], source: Path, name: str) -> None:
    if wrong := misfits(model, tensors):
        raise WeightsError(
            f"{source} looks like torchvision's {name}, but {len(wrong)} tensors differ, first "
            f"{wrong[0]}; known are {', '.join(_KNOWN)}, with three bands"
        )
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise WeightsError(f"{source} holds values that are not finite; get it again")
    model.load_state_dict(dict(tensors), assign=True)
