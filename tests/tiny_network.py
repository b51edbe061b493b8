"""The whole network, small enough to train within a test."""

import torch

from footprints.config import ModelConfig
from footprints.model.mask_rcnn import MaskRCNN

SECTIONS = {
    "backbone": {"name": "test_efficientnet", "frozen_stages": 0, "channels": 16},
    "rpn": {"train_pre_nms": 100, "train_post_nms": 50, "test_pre_nms": 100, "test_post_nms": 50},
    "box_head": {"width": 32, "samples": 32},
    "mask_head": {"coarse_width": 32, "point_width": 16},
    "detection": {"max_per_chip": 20},
}


def tiny_config(**changes: object) -> ModelConfig:
    """A small network's settings; a dictionary changes single keys of its section."""
    values = dict(changes)
    for section, keys in SECTIONS.items():
        changed = changes.get(section, {})
        # Another kind of mask head has other keys; None is none.
        apart = changed is None or "kind" in changed
        values[section] = changed if apart else keys | changed
    return ModelConfig.model_validate(values)


def tiny_network(config: ModelConfig | None = None, *, seed: int = 0) -> MaskRCNN:
    """A network with random weights, large enough in the last layers that no two boxes tie."""
    torch.manual_seed(seed)
    network = MaskRCNN(config or tiny_config())
    with torch.no_grad():
        for layer in (network.rpn.objectness, network.box_head.classes):
            layer.weight.normal_(std=0.3)
        for layer in (network.rpn.offsets, network.box_head.offsets):
            layer.weight.normal_(std=0.03)
        for layer in (
            network.mask_head.coarse_head.prediction,
            network.mask_head.point_head.predictor,
        ):
            layer.weight.normal_(std=0.3)
    return network
