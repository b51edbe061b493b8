"""Anchors, proposals and the losses of the first stage."""

import pytest
import torch

from footprints.config import RPNConfig
from footprints.model.roi import RoIs
from footprints.model.rpn import RPN
from footprints.model.targets import Target

SIDES = (32, 16, 8, 4, 2)
SIZE = (128, 128)


def make_rpn(channels: int = 4, **settings: object) -> RPN:
    torch.manual_seed(0)
    return RPN(channels, (4, 8, 16, 32, 64), RPNConfig(**settings)).eval()


def blank_pyramid(channels: int = 4, images: int = 1) -> list[torch.Tensor]:
    return [torch.zeros(images, channels, side, side) for side in SIDES]


def make_target(*boxes: list[float], labelled: torch.Tensor | None = None) -> Target:
    count = len(boxes)
    corners = torch.tensor(boxes, dtype=torch.float32).view(-1, 4)
    masks = torch.full((count, 8, 8), 255, dtype=torch.uint8)
    labels, keypoints = torch.zeros(count, dtype=torch.long), torch.empty(count, 0, 3)
    return Target(corners, labels, masks, corners, keypoints, labelled)


def random_outputs(rpn: RPN, images: int) -> tuple[list[torch.Tensor], ...]:
    generator = torch.Generator().manual_seed(1)
    anchors = rpn.anchors(blank_pyramid())
    scores = [torch.randn(images, len(a), generator=generator) for a in anchors]
    offsets = [0.2 * torch.randn(images, len(a), 4, generator=generator) for a in anchors]
    return scores, offsets, anchors


def test_anchors_are_centred_on_feature_pixels_and_unrounded():
    rpn = make_rpn()
    for level, stride, side in zip(
        rpn.anchors(blank_pyramid()), (4, 8, 16, 32, 64), SIDES, strict=True
    ):
        centres = ((level[:, :2] + level[:, 2:]) / 2).view(side, side, 3, 2)
        x = (torch.arange(side) + 0.5) * stride
        torch.testing.assert_close(centres[..., 0], x.view(1, -1, 1).expand(side, side, 3))
        torch.testing.assert_close(centres[..., 1], x.view(-1, 1, 1).expand(side, side, 3))
    width = level[0, 2] - level[0, 0]
    assert width.item() == pytest.approx(256 / 0.5**0.5), "361.4 or 362, were it rounded"


def test_anchors_can_be_rounded_and_placed_at_multiples_of_the_stride():
    plain = make_rpn().anchors(blank_pyramid())
    rounded = make_rpn(anchor_rounding=True, anchor_offset=0).anchors(blank_pyramid())
    for level, given, stride in zip(rounded, plain, (4, 8, 16, 32, 64), strict=True):
        assert torch.equal(level, level.round())
        torch.testing.assert_close(level, (given - stride / 2), atol=0.51, rtol=0)
    assert rounded[0][:3].tolist() == [[-11, -6, 11, 6], [-8, -8, 8, 8], [-6, -11, 6, 11]]
    shifted = make_rpn(anchor_offset=0.25).anchors(blank_pyramid())
    torch.testing.assert_close(shifted[1], plain[1] - 2)


def test_anchors_of_a_level_have_its_area_in_all_ratios():
    sizes, ratios = (10.0, 20.0, 40.0, 80.0, 160.0), (0.5, 1.0, 3.0)
    rpn = make_rpn(anchor_sizes=sizes, anchor_ratios=ratios)
    for level, size in zip(rpn.anchors(blank_pyramid()), sizes, strict=True):
        width, height = (level[:, 2:] - level[:, :2]).unbind(1)
        assert (width * height).sub(size**2).abs().max() < 1e-5 * size**2
        torch.testing.assert_close((height / width)[:3], torch.tensor(ratios))


@torch.no_grad()
def test_score_and_shift_belong_to_the_anchor_at_their_feature_pixel():
    """One bright feature pixel: the best proposal is its tall anchor, moved as predicted."""
    rpn = make_rpn(channels=1)
    for parameter in rpn.parameters():
        parameter.zero_()
    rpn.convs[0].weight[0, 0, 1, 1] = 1
    rpn.objectness.weight[2] = 1
    rpn.offsets.bias[4 * 2 + 1] = 0.5
    pyramid = blank_pyramid(channels=1)
    pyramid[1][0, 0, 5, 9] = 3
    scores, offsets = rpn(pyramid)
    best = rpn.proposals(scores, offsets, rpn.anchors(pyramid), SIZE).boxes[0]
    width, height = 32 / 2**0.5, 32 * 2**0.5
    x, y = 9.5 * 8, 5.5 * 8 + height / 2
    expected = torch.tensor([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
    torch.testing.assert_close(best, expected)


def of_image(proposals: RoIs, image: int) -> torch.Tensor:
    return proposals.boxes[proposals.image_index == image]


def test_proposals_of_a_batch_are_those_of_each_image_alone():
    rpn = make_rpn(test_post_nms=40)
    scores, offsets, anchors = random_outputs(rpn, images=3)
    together = rpn.proposals(scores, offsets, anchors, SIZE)
    for image in range(3):
        row = slice(image, image + 1)
        alone = rpn.proposals([s[row] for s in scores], [o[row] for o in offsets], anchors, SIZE)
        assert torch.equal(of_image(together, image), alone.boxes)


def test_proposals_are_capped_per_image_and_ordered_by_image():
    rpn = make_rpn(test_post_nms=7)
    proposals = rpn.proposals(*random_outputs(rpn, images=3), SIZE)
    assert proposals.image_index.tolist() == [0] * 7 + [1] * 7 + [2] * 7


def test_training_keeps_its_own_number_of_proposals():
    rpn = make_rpn(train_post_nms=3, test_post_nms=5)
    outputs = random_outputs(rpn, images=1)
    assert len(rpn.proposals(*outputs, SIZE).boxes) == 5
    assert len(rpn.train().proposals(*outputs, SIZE).boxes) == 3


def test_proposals_lie_in_the_image_and_are_no_slivers():
    rpn = make_rpn()
    scores, offsets, anchors = random_outputs(rpn, images=1)
    boxes = rpn.proposals(scores, [o * 20 for o in offsets], anchors, SIZE).boxes
    assert len(boxes)
    assert boxes.min() >= 0
    assert boxes.max() <= 128
    assert (boxes[:, 2:] - boxes[:, :2]).min() >= 1
    rpn = make_rpn(min_side_px=0.25)
    slivers = rpn.proposals(scores, [o * 20 for o in offsets], anchors, SIZE).boxes
    assert 0.25 <= (slivers[:, 2:] - slivers[:, :2]).min() < 1


def test_levels_do_not_suppress_each_other():
    rpn = make_rpn()
    anchor = torch.tensor([[10.0, 10.0, 40.0, 40.0]])
    twins = [anchor.repeat(2, 1)] * 5
    scores = [torch.tensor([[1.0, 0.5]])] * 5
    proposals = rpn.proposals(scores, [torch.zeros(1, 2, 4)] * 5, twins, SIZE)
    assert len(proposals.boxes) == 5, "one of two twins on each level"


def test_best_proposal_comes_first():
    rpn = make_rpn()
    scores, offsets, anchors = random_outputs(rpn, images=1)
    scores[3][0, 7] = 100
    best = rpn.proposals(scores, [torch.zeros_like(o) for o in offsets], anchors, SIZE).boxes[0]
    assert best.tolist() == anchors[3][7].clamp(0, 128).tolist()


def losses_of(rpn: RPN, targets: list[Target]) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    pyramid = [torch.randn(len(targets), 4, side, side) for side in SIDES]
    scores, offsets = rpn(pyramid)
    return rpn.losses(scores, offsets, rpn.anchors(pyramid), targets)


def gradients(rpn: RPN, losses: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    sum(losses.values()).backward()
    return [parameter.grad for parameter in rpn.parameters()]


def test_without_buildings_only_objectness_is_learnt():
    rpn = make_rpn()
    losses = losses_of(rpn, [make_target(), make_target()])
    assert losses["loss_objectness"] > 0
    assert losses["loss_rpn_box"] == 0
    assert all(torch.isfinite(gradient).all() for gradient in gradients(rpn, losses))


def test_ground_without_labels_teaches_nothing():
    rpn = make_rpn()
    losses = losses_of(rpn, [make_target(labelled=torch.zeros(SIZE, dtype=torch.bool))])
    assert {name: loss.item() for name, loss in losses.items()} == {
        "loss_objectness": 0,
        "loss_rpn_box": 0,
    }
    assert all((gradient == 0).all() for gradient in gradients(rpn, losses))


def test_losses_vanish_where_anchors_are_scored_and_shifted_rightly():
    rpn = make_rpn()
    anchors = rpn.anchors(blank_pyramid())
    building = anchors[1][3 * 16 * 5 + 3 * 5 + 1]
    scores = [torch.full((1, len(a)), -20.0) for a in anchors]
    scores[1][0, 3 * 16 * 5 + 3 * 5 + 1] = 20
    offsets = [torch.zeros(1, len(a), 4) for a in anchors]
    losses = rpn.losses(scores, offsets, anchors, [make_target(building.tolist())])
    assert losses["loss_objectness"] < 1e-6
    assert losses["loss_rpn_box"] < 1e-6
    scores[1] *= -1
    assert (
        rpn.losses(scores, offsets, anchors, [make_target(building.tolist())])["loss_objectness"]
        > 1
    )


def test_depth_is_the_number_of_convolutions_and_widens_the_view():
    pyramid = blank_pyramid()
    pyramid[0][0, :, 16, 16] = 1.0
    reach = []
    for depth in (1, 2):
        rpn = make_rpn(depth=depth)
        for conv in rpn.convs[::2]:
            torch.nn.init.constant_(conv.weight, 0.1)
        torch.nn.init.constant_(rpn.objectness.weight, 1.0)
        with torch.no_grad():
            scores = rpn(pyramid)[0][0].view(32, 32, 3)[..., 0]
        reach.append(int((scores > 0).sum()))
    assert reach == [9, 25]


def test_one_level_has_anchors_of_all_sizes():
    torch.manual_seed(0)
    rpn = RPN(4, (16,), RPNConfig(anchor_sizes=(32, 64), anchor_ratios=(1.0, 4.0))).eval()
    level = torch.randn(1, 4, 3, 5)
    (anchors,) = rpn.anchors([level])
    sides = (anchors[:4, 2:] - anchors[:4, :2]).tolist()
    assert sides == [[32, 32], [16, 64], [64, 64], [32, 128]]
    scores, offsets = rpn([level])
    assert anchors.shape == offsets[0][0].shape == (3 * 5 * 4, 4)
    assert scores[0].shape == (1, 60)
