"""Masks predicted as whole grids, and what mask logits mean for classes."""

import math

import pytest
import torch
from tiny_network import tiny_config

from footprints.config import FCNMaskConfig, MLPMaskConfig, PointRendConfig, RoIConfig
from footprints.model.grid_masks import GridMaskHead
from footprints.model.mask_rcnn import MaskRCNN
from footprints.model.masks import MaskTargets, mask_loss, own_logits
from footprints.model.pointrend import PointRendHead
from footprints.model.roi import RoIFeatures

CHANNELS = 4
BOXES = torch.tensor([[4.0, 6.0, 30.5, 28.0], [40, 10, 100, 90.7], [0, 0, 20, 128]])
IMAGES = torch.tensor([0, 1, 1])
LABELS = torch.tensor([0, 1, 0])
SMALL = RoIConfig(side=6)
HEADS = [
    pytest.param(FCNMaskConfig(kind="fcn", roi=SMALL, convs=2, width=24), id="fcn"),
    pytest.param(MLPMaskConfig(kind="mlp", roi=SMALL, width=32, mask_side=12), id="mlp"),
]


def make_head(config: FCNMaskConfig | MLPMaskConfig, classes: str = "sigmoid") -> GridMaskHead:
    torch.manual_seed(0)
    head = GridMaskHead(
        CHANNELS, config.roi.side, 2, config.model_copy(update={"classes": classes})
    )
    with torch.no_grad():
        for parameter in head.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3)
    return head


def make_features() -> RoIFeatures:
    generator = torch.Generator().manual_seed(1)
    levels = [torch.randn(2, CHANNELS, side, side, generator=generator) for side in (32, 16, 8, 4)]
    return RoIFeatures(levels, (4, 8, 16, 32))


@pytest.mark.parametrize("config", HEADS)
@pytest.mark.parametrize(("classes", "channels"), [("sigmoid", 2), ("softmax", 3), ("agnostic", 1)])
def test_a_mask_is_a_grid_of_its_side_over_the_box(config, classes, channels):
    head = make_head(config, classes)
    assert head(make_features(), BOXES, IMAGES).shape == (3, channels, 12, 12)
    (grids,) = head.predict(make_features(), BOXES, IMAGES, LABELS)
    assert grids.members.tolist() == [0, 1, 2]
    assert grids.logits.shape == (3, 12, 12)


@pytest.mark.parametrize("config", HEADS)
def test_masks_are_those_of_the_predicted_class(config):
    head = make_head(config)
    logits = head(make_features(), BOXES, IMAGES)
    (grids,) = head.predict(make_features(), BOXES, IMAGES, LABELS)
    assert torch.equal(grids.logits, logits[torch.arange(3), LABELS])
    assert not torch.equal(logits[:, 0], logits[:, 1])


@pytest.mark.parametrize("config", HEADS)
def test_without_boxes_nothing_is_predicted_and_every_parameter_takes_part(config):
    head, none = make_head(config), torch.empty(0, dtype=torch.long)
    assert list(head.predict(make_features(), torch.empty(0, 4), none, none)) == []
    targets = MaskTargets(torch.empty(0, 8, 8), torch.empty(0, 4))
    (loss,) = head.losses(make_features(), torch.empty(0, 4), none, none, targets).values()
    loss.backward()
    assert loss.item() == 0
    assert all((p.grad == 0).all() for p in head.parameters())


@pytest.mark.parametrize("config", HEADS)
@pytest.mark.parametrize("classes", ["sigmoid", "softmax", "agnostic"])
def test_half_a_box_is_learnt_by_heart(config, classes):
    head = make_head(config, classes)
    mask = torch.zeros(3, 16, 16)
    mask[:, :, :8] = 1
    targets, features = MaskTargets(mask, BOXES), make_features()
    optimizer = torch.optim.Adam(head.parameters(), lr=3e-3)
    for _ in range(150):
        (loss,) = head.losses(features, BOXES, IMAGES, LABELS, targets).values()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    (grids,) = head.predict(features, BOXES, IMAGES, LABELS)
    inside = grids.logits > 0
    assert inside[..., :6].float().mean() > 0.9
    assert inside[..., 6:].float().mean() < 0.1


def test_convolutions_keep_the_side_and_the_deconvolution_doubles_it():
    head = make_head(FCNMaskConfig(kind="fcn", roi=RoIConfig(side=5), convs=3, width=8))
    shapes = [tuple(p.shape) for p in head.parameters() if p.dim() > 1]
    assert shapes == [(8, 4, 3, 3), (8, 8, 3, 3), (8, 8, 3, 3), (8, 8, 2, 2), (2, 8, 1, 1)]
    assert head(make_features(), BOXES, IMAGES).shape[2:] == (10, 10)


def test_convolutions_have_norms_where_asked_for():
    head = make_head(FCNMaskConfig(kind="fcn", roi=SMALL, convs=2, width=8, norm="live"))
    names = [type(layer).__name__ for layer in head.layers]
    assert names == ["Conv2d", "BatchNorm2d", "ReLU"] * 2 + ["ConvTranspose2d", "ReLU", "Conv2d"]


@pytest.mark.parametrize("layers", [2, 3])
def test_fully_connected_layers_are_as_many_as_asked_for(layers):
    head = make_head(MLPMaskConfig(kind="mlp", roi=SMALL, layers=layers, width=32, mask_side=7))
    shapes = [tuple(p.shape) for p in head.parameters() if p.dim() > 1]
    assert shapes == [(32, 4 * 36), *[(32, 32)] * (layers - 1), (2 * 49, 32)]


POINTS = torch.tensor([[[1.0, 2.0, 0.5], [-1.0, 3.0, 0.0]]])


def test_own_logits_by_hand():
    label = torch.tensor([1])
    assert own_logits(POINTS, label, "sigmoid").tolist() == [[2, 3]]
    assert own_logits(POINTS[..., :1], label, "agnostic").tolist() == [[1, -1]]
    shares = POINTS.softmax(dim=2)[..., 1]
    torch.testing.assert_close(own_logits(POINTS, label, "softmax").sigmoid(), shares)


def test_mask_losses_by_hand():
    label, coverage = torch.tensor([1]), torch.tensor([[1.0, 0.25]])
    binary = [
        -math.log(s) * c - math.log(1 - s) * (1 - c)
        for s, c in zip(torch.tensor([2.0, 3.0]).sigmoid().tolist(), (1.0, 0.25), strict=True)
    ]
    loss = mask_loss(POINTS, label, coverage, "sigmoid")
    assert loss.item() == pytest.approx(sum(binary) / 2, rel=1e-5)
    logs = POINTS.log_softmax(dim=2)[0]
    multinomial = -(logs[0, 1] + 0.25 * logs[1, 1] + 0.75 * logs[1, 2]) / 2
    loss = mask_loss(POINTS, label, coverage, "softmax")
    assert loss.item() == pytest.approx(multinomial.item(), rel=1e-5)


@pytest.mark.parametrize(("classes", "channels"), [("sigmoid", 2), ("softmax", 3), ("agnostic", 1)])
def test_pointrend_can_treat_classes_in_any_way(classes, channels):
    torch.manual_seed(0)
    config = PointRendConfig(coarse_width=16, point_width=8, classes=classes, subdivision_steps=1)
    head = PointRendHead(CHANNELS, 4, 2, config)
    assert head.point_head.predictor.out_features == channels
    mask = torch.zeros(3, 16, 16)
    mask[:, :, :8] = 1
    targets, features = MaskTargets(mask, BOXES), make_features()
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
    for _ in range(80):
        loss = torch.stack(list(head.losses(features, BOXES, IMAGES, LABELS, targets).values()))
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
    with torch.no_grad():
        (grids,) = head.predict(features, BOXES, IMAGES, LABELS)
    inside = grids.logits > 0
    assert inside[..., :24].float().mean() > 0.9
    assert inside[..., 32:].float().mean() < 0.1


def test_a_network_without_masks_gives_full_boxes():
    torch.manual_seed(0)
    network = MaskRCNN(tiny_config(mask_head=None, detection={"score_threshold": 0.0}))
    assert network.mask_head is None
    prediction = network.eval().predict(torch.randn(1, 3, 128, 128))
    (grids,) = prediction.masks
    assert len(prediction.detections.boxes) > 0
    assert grids.members.tolist() == list(range(len(prediction.detections.boxes)))
    assert (grids.logits > 0).all()
    assert torch.equal(prediction.mask_boxes, prediction.detections.boxes)
