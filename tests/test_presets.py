"""The configurations that ship: each builds, learns a step and predicts, at a small size."""

import gc
import re
from pathlib import Path

import pytest
import torch

from footprints.config import RunConfig, load_config
from footprints.loop import make_optimizer
from footprints.model.mask_rcnn import MaskRCNN
from footprints.model.targets import Target

PRESETS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))
SIDE = 64


def preset(path: Path, *overrides: str) -> RunConfig:
    with pytest.MonkeyPatch.context() as patch:
        for name in re.findall(r"\$(\w+)", path.read_text()):
            patch.setenv(name, f"/{name}")
        return load_config(path, ["model.backbone.pretrained=false", *overrides])


def named(name: str, *overrides: str) -> RunConfig:
    (path,) = (path for path in PRESETS if path.stem == name)
    return preset(path, *overrides)


def parameter_count(config: RunConfig) -> int:
    with torch.device("meta"):
        network = MaskRCNN(config.model)
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("path", PRESETS, ids=[path.stem for path in PRESETS])
def test_every_preset_learns_a_step_and_predicts(path):
    counts = ("train_pre_nms", "train_post_nms", "test_pre_nms", "test_post_nms")
    small = [f"model.rpn.{name}=20" for name in counts]
    config = preset(path, *small, "model.box_head.samples=8", "model.detection.score_threshold=0")
    torch.manual_seed(0)
    network = MaskRCNN(config.model).train()
    boxes = torch.tensor([[8.0, 8.0, 40.0, 48.0]])
    labels, masks = torch.zeros(1, dtype=torch.long), torch.full((1, 28, 28), 255)
    target = Target(boxes, labels, masks, boxes, keypoints=torch.empty(1, 0, 3))
    images = torch.randn(1, config.model.bands, SIDE, SIDE)
    before = network.box_head.classes.weight.detach().clone()
    losses = network.losses(images, [target])
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert any("mask" in name for name in losses) == (config.model.mask_head is not None)
    torch.stack(list(losses.values())).sum().backward()
    make_optimizer(network, config.optimizer).step()
    assert not torch.equal(network.box_head.classes.weight, before)
    prediction = network.eval().predict(images)
    assert len(prediction.detections.boxes) > 0
    members = torch.cat([grids.members for grids in prediction.masks])
    assert sorted(members.tolist()) == list(range(len(prediction.detections.boxes)))
    # A hundred million parameters with their gradients, ten times over.
    del network, losses
    gc.collect()


def test_the_counts_of_mask_rcnn_are_those_of_the_reference():
    """43.92M without the affines of norms, one class.

    With a trainable norm the reference has 43.98M and we 43.97M: it also predicts a box and a mask
    of the background, 4 x 1025 + 257 parameters that nothing ever reads.
    """
    assert parameter_count(named("mask-rcnn-r50-fpn")) == 43_918_038
    trainable = parameter_count(named("mask-rcnn-r50-fpn", "model.backbone.norm=live"))
    assert trainable == 43_918_038 + 2 * 26_560
    assert round((trainable + 4 * 1025 + 257) / 1e6, 2) == 43.98


def test_the_counts_of_pointrend_are_those_of_the_reference():
    assert round(parameter_count(named("pointrend-r50-fpn")) / 1e6, 2) == 55.70


@pytest.mark.parametrize("name", [p.stem for p in PRESETS if "lite0" not in p.stem])
def test_the_rate_goes_with_the_number_of_images(name):
    config = named(name)
    if config.optimizer.name == "sgd":
        assert config.optimizer.learning_rate / config.train.batch_size == 0.02 / 16
        assert config.optimizer.schedule == "step"
    assert config.model.backbone.norm == "frozen"
