"""Keypoints are one spot of a grid each: learnt where visible, found to a part of a cell."""

import pytest
import torch
import torch.nn.functional as F
from tiny_network import tiny_config, tiny_network
from torch import Tensor

from footprints.config import KeypointConfig, RoIConfig
from footprints.model.keypoint_head import KeypointHead
from footprints.model.roi import RoIFeatures

BOXES = torch.tensor([[8.0, 8, 40, 56], [20, 4, 60, 60]])
IMAGES = torch.tensor([0, 1])
FEATURES = RoIFeatures(
    [torch.randn(2, 8, 16, 16, generator=torch.Generator().manual_seed(3))], (4,)
)


def make_head(names: tuple[str, ...] = ("a", "b", "c"), **settings: object) -> KeypointHead:
    torch.manual_seed(0)
    return KeypointHead(8, KeypointConfig(names=names, convs=2, width=16, **settings))


class Fixed(KeypointHead):
    """Gives the logits it is told."""

    def forward(self, features, boxes, image_index):  # noqa: ARG002
        return self.told.expand(len(boxes), -1, -1, -1)


def telling(logits: Tensor) -> KeypointHead:
    """A head with logits (J, S, S)."""
    torch.manual_seed(0)
    names = tuple(f"k{i}" for i in range(len(logits)))
    head = Fixed(8, KeypointConfig(names=names, convs=0))
    head.told = logits
    return head


def keypoints_at(*places: tuple[float, float, float]) -> Tensor:
    return torch.tensor([places, places], dtype=torch.float32)


def test_the_grid_has_four_cells_for_each_of_the_features():
    assert make_head()(FEATURES, BOXES, IMAGES).shape == (2, 3, 56, 56)
    assert make_head(roi=RoIConfig(side=7))(FEATURES, BOXES, IMAGES).shape == (2, 3, 28, 28)


def test_the_loss_is_the_cross_entropy_of_the_cell_under_the_keypoint():
    logits = torch.randn(1, 56, 56)
    places = torch.tensor([[[20.1, 31.9, 1.0]], [[59.9, 4.1, 1.0]]])
    loss = telling(logits).losses(FEATURES, BOXES, IMAGES, places)["loss_keypoint"]
    shares = logits.flatten().log_softmax(dim=0).view(56, 56)
    # (20.1 - 8) / 32 * 56 = 21.2 and (31.9 - 8) / 48 * 56 = 27.9; the last column of the first row.
    torch.testing.assert_close(loss, -(shares[27, 21] + shares[0, 55]) / 2)


@pytest.mark.parametrize(
    ("place", "counts"),
    [
        ((20, 20, 1), True),
        ((20, 20, 0), False),
        ((40, 56, 1), True),
        ((7.9, 20, 1), False),
        ((20, 60.5, 1), False),
    ],
)
def test_only_visible_keypoints_inside_the_box_count(place, counts):
    head = telling(torch.randn(1, 56, 56))
    one = torch.tensor([[place]], dtype=torch.float32)
    loss = head.losses(FEATURES, BOXES[:1], IMAGES[:1], one)["loss_keypoint"]
    assert bool(loss > 0) is counts


@pytest.mark.parametrize("count", [0, 2])
def test_without_boxes_or_visible_keypoints_every_parameter_takes_part(count):
    head = make_head()
    keypoints = torch.zeros(count, 3, 3)
    loss = head.losses(FEATURES, BOXES[:count], IMAGES[:count], keypoints)["loss_keypoint"]
    assert loss == 0
    loss.backward()
    assert all(p.grad is not None and not p.grad.any() for p in head.parameters())


def test_a_keypoint_is_found_between_the_cells_around_the_best_one():
    logits = torch.full((1, 56, 56), -50.0)
    logits[0, 10, 20] = logits[0, 10, 21] = 5.0
    found = telling(logits).predict(FEATURES, BOXES[:1], IMAGES[:1])
    x, y = 8 + 32 * 21 / 56, 8 + 48 * 10.5 / 56
    torch.testing.assert_close(found, torch.tensor([[[x, y, 1.0]]]))


def test_at_the_grids_corner_nothing_beyond_it_counts():
    logits = torch.full((1, 56, 56), -50.0)
    logits[0, 55, 55] = 5.0
    found = telling(logits).predict(FEATURES, BOXES[:1], IMAGES[:1])[0, 0]
    torch.testing.assert_close(found[:2], BOXES[0, 2:] - torch.tensor([32, 48]) / 112)


def test_confidence_is_the_share_around_the_best_cell():
    even = telling(torch.zeros(1, 56, 56)).predict(FEATURES, BOXES, IMAGES)[..., 2]
    # The first of equal cells is in the corner, with three around it.
    torch.testing.assert_close(even, torch.full((2, 1), 4 / 56**2))


def test_boxes_of_a_batch_are_as_each_alone_and_none_give_none():
    head = make_head().eval()
    with torch.no_grad():
        together = head.predict(FEATURES, BOXES, IMAGES)
        for box in range(2):
            row = slice(box, box + 1)
            alone = head.predict(FEATURES, BOXES[row], IMAGES[row])
            torch.testing.assert_close(alone, together[row], atol=1e-4, rtol=1e-4)
        assert head.predict(FEATURES, BOXES[:0], IMAGES[:0]).shape == (0, 3, 3)


def test_a_bright_corner_is_learnt():
    head = make_head(names=("corner",), roi=RoIConfig(side=14)).train()
    torch.manual_seed(1)
    optimizer = torch.optim.Adam(head.parameters(), lr=3e-3)
    for _ in range(60):
        places = BOXES[:, None, :2] + torch.rand(2, 1, 2) * (
            BOXES[:, None, 2:] - BOXES[:, None, :2]
        )
        features = torch.zeros(2, 8, 16, 16)
        cells = (places[:, 0] / 4).long().clamp(max=15)
        features[torch.arange(2), :, cells[:, 1], cells[:, 0]] = 3.0
        levels = RoIFeatures([features], (4,))
        seen = F.pad(places, (0, 1), value=1.0)
        loss = head.losses(levels, BOXES, IMAGES, seen)["loss_keypoint"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        found = head.predict(levels, BOXES, IMAGES)
    # The spot is known to a feature pixel of 4, the box's own resolution comes on top.
    assert (found[..., :2] - places).abs().max() < 6


def test_a_network_gives_the_keypoints_of_each_detection():
    config = tiny_config(keypoint_head={"convs": 1, "width": 8, "names": ["a", "b"]})
    network = tiny_network(config).eval()
    images = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(5))
    prediction = network.predict(images)
    boxes, keypoints = prediction.detections.boxes, prediction.keypoints
    assert keypoints.shape == (len(boxes), 2, 3)
    assert len(boxes)
    low, high = boxes[:, None, :2] - 1e-3, boxes[:, None, 2:] + 1e-3
    assert ((keypoints[..., :2] >= low) & (keypoints[..., :2] <= high)).all()
    assert tiny_network().eval().predict(images).keypoints.shape[1:] == (0, 3)
