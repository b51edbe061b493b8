"""PointRend's training points, soft targets, adaptive subdivision and its ugly cases."""

import pytest
import torch
import torch.nn.functional as F

from footprints.config import PointRendConfig
from footprints.model.masks import (
    MaskTargets,
    expand_boxes,
    image_points,
    point_sample,
    regular_grid,
)
from footprints.model.pointrend import PointRendHead
from footprints.model.roi import RoIFeatures

CHANNELS = 8
BOXES = torch.tensor([[4.0, 6.0, 30.5, 28.0], [40, 10, 100, 90.7], [0, 0, 20, 128]])
IMAGES = torch.tensor([0, 1, 1])
LABELS = torch.tensor([0, 1, 0])


def make_head(num_classes: int = 2, **settings: object) -> PointRendHead:
    torch.manual_seed(0)
    config = PointRendConfig(coarse_width=32, point_width=16, **settings)
    head = PointRendHead(CHANNELS, 4, num_classes, config)
    with torch.no_grad():
        head.coarse_head.prediction.weight.normal_(std=0.3)
        head.point_head.predictor.weight.normal_(std=0.3)
    return head.eval()


def make_features(images: int = 2) -> torch.Tensor:
    """Smooth maps, as an image's are."""
    coarse = torch.randn(images, CHANNELS, 8, 8, generator=torch.Generator().manual_seed(2))
    return F.interpolate(coarse, size=(32, 32), mode="bicubic", align_corners=False)


def on_finest(features: torch.Tensor) -> RoIFeatures:
    return RoIFeatures([features], (4,))


def full_targets(count: int = 3) -> MaskTargets:
    return MaskTargets(torch.ones(count, 8, 8), BOXES[:count])


def masks_of(head: PointRendHead) -> dict[int, torch.Tensor]:
    """Each box's logits, by its number."""
    with torch.no_grad():
        groups = list(head.predict(on_finest(make_features()), BOXES, IMAGES, LABELS))
    members = torch.cat([group.members for group in groups])
    assert sorted(members.tolist()) == [0, 1, 2], "every box once"
    return {
        int(member): logits
        for group in groups
        for member, logits in zip(group.members, group.logits, strict=True)
    }


def test_training_points_are_as_many_as_configured_and_in_their_box():
    head = make_head()
    points = head.training_points(torch.randn(5, 2, 7, 7), torch.zeros(5, dtype=torch.long))
    assert points.shape == (5, 196, 2)
    assert points.min() >= 0
    assert points.max() <= 1


def test_training_keeps_the_least_certain_of_the_points_it_draws():
    head = make_head()
    coarse, labels = torch.randn(5, 2, 7, 7), torch.tensor([0, 1, 0, 1, 1])
    logits = coarse[torch.arange(5), labels]
    torch.manual_seed(3)
    points = head.training_points(coarse, labels)
    torch.manual_seed(3)
    drawn = torch.rand(5, 3 * 196, 2)
    doubt = point_sample(logits.unsqueeze(1), drawn).squeeze(2).abs().sort(dim=1).values
    kept = point_sample(logits.unsqueeze(1), points[:, :147]).squeeze(2).abs().sort(dim=1).values
    assert torch.equal(kept, doubt[:, :147])


def test_a_quarter_of_the_training_points_is_drawn_anywhere():
    head = make_head()
    ramp = torch.linspace(-10, 10, 7).expand(40, 2, 7, 7)
    points = head.training_points(ramp, torch.zeros(40, dtype=torch.long))
    # The image's border is uncertain too: zeros lie beyond it.
    inner = points[:, :147][(points[:, :147] - 0.5).abs().amax(dim=2) < 3 / 7]
    assert (inner[:, 0] - 0.5).abs().max() < 0.25, "the uncertain ones: at the edge"
    assert points[:, 147:, 0].mean() == pytest.approx(0.5, abs=0.02)
    assert points[:, 147:, 0].std() == pytest.approx(12**-0.5, abs=0.02)


@pytest.mark.parametrize(
    ("side", "steps"),
    [(1.0, 0), (28.0, 0), (28.1, 1), (56.0, 1), (60.0, 2), (224.0, 3), (448.0, 4), (5000.0, 4)],
)
def test_steps_go_on_until_a_cell_is_at_most_a_pixel(side, steps):
    boxes = torch.tensor([[7.0, 7.0, 7.0 + side, 8.0], [7.0, 7.0, 8.0, 7.0 + side]])
    assert make_head().steps_for(boxes).tolist() == [steps, steps], "the longer side decides"


def test_boxes_without_area_need_no_steps():
    assert make_head().steps_for(torch.zeros(1, 4)).tolist() == [0]


def test_boxes_grow_by_their_share_and_stay_in_the_image():
    boxes = torch.tensor([[20.0, 20.0, 40.0, 60.0], [0.0, 70.0, 10.0, 80.0]])
    grown = expand_boxes(boxes, 0.1, 80, 100)
    torch.testing.assert_close(grown, torch.tensor([[18.0, 16, 42, 64], [0, 69, 11, 80]]))


def test_soft_targets_of_a_half_covered_box():
    mask = torch.zeros(1, 4, 4)
    mask[..., :2] = 1
    target = MaskTargets(mask, torch.tensor([[10.0, 20.0, 18.0, 28.0]]))
    x = torch.tensor([12.0, 13.5, 14.0, 14.5, 16.0, 40.0, -40.0])
    points = torch.stack((x, torch.full_like(x, 24.0)), dim=-1)[None]
    expected = torch.tensor([[1, 0.75, 0.5, 0.25, 0, 0, 0]])
    torch.testing.assert_close(target.sample(points), expected)


def test_targets_are_sampled_in_the_frame_of_their_own_box():
    masks = torch.stack((torch.ones(4, 4), torch.zeros(4, 4)))
    target = MaskTargets(masks, torch.tensor([[0.0, 0, 8, 8], [0.0, 0, 8, 8]]))
    points = regular_grid(5).mul(4).add(2).expand(2, -1, -1)
    assert target.sample(points).mean(dim=1).tolist() == [1, 0]


def test_point_loss_trains_the_coarse_head_and_the_features():
    head = make_head().train()
    features = make_features().requires_grad_()
    losses = head.losses(on_finest(features), BOXES, IMAGES, LABELS, full_targets())
    losses["loss_mask_point"].backward()
    assert head.coarse_head.prediction.weight.grad.abs().sum() > 0, "coarse logits are not detached"
    assert features.grad.abs().sum() > 0
    assert not (head.coarse_head.prediction.weight.grad == 0).all()


def test_losses_look_at_the_true_class_only():
    head = make_head().train()
    losses = head.losses(
        on_finest(make_features()), BOXES[:1], IMAGES[:1], LABELS[:1], full_targets(1)
    )
    losses["loss_mask"].backward()
    gradient = head.coarse_head.prediction.bias.grad.view(2, 49)
    assert (gradient[0] != 0).all()
    assert (gradient[1] == 0).all()


def test_losses_fall_in_training():
    head = make_head().train()
    optimizer = torch.optim.Adam(head.parameters(), lr=3e-3)
    mask = torch.zeros(3, 16, 16)
    mask[:, 4:12, 2:9] = 1
    features, targets = make_features(), MaskTargets(mask, BOXES)
    history = []
    for _ in range(60):
        losses = head.losses(on_finest(features), BOXES, IMAGES, LABELS, targets)
        history.append([loss.item() for loss in losses.values()])
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    (first_coarse, first_point), (last_coarse, last_point) = history[0], history[-1]
    assert last_coarse < 0.5 * first_coarse
    assert last_point < 0.5 * first_point


def test_without_boxes_losses_are_zero_and_every_parameter_takes_part():
    head = make_head().train()
    features = make_features().requires_grad_()
    nothing = torch.empty(0, dtype=torch.long)
    targets = MaskTargets(torch.empty(0, 8, 8), torch.empty(0, 4))
    losses = head.losses(on_finest(features), torch.empty(0, 4), nothing, nothing, targets)
    assert [loss.item() for loss in losses.values()] == [0, 0]
    sum(losses.values()).backward()
    assert all((p.grad == 0).all() for p in (*head.parameters(), features))


def test_without_boxes_nothing_is_predicted():
    nothing = torch.empty(0, dtype=torch.long)
    assert (
        list(make_head().predict(on_finest(make_features()), torch.empty(0, 4), nothing, nothing))
        == []
    )


def refined(head: PointRendHead, steps: int) -> PointRendHead:
    """The same head with as many doublings of every box."""
    other = make_head(subdivision_steps=steps)
    other.load_state_dict(head.state_dict())
    return other


def test_each_box_stops_at_its_own_side():
    masks = masks_of(make_head())
    assert [tuple(masks[box].shape) for box in range(3)] == [(28, 28), (112, 112), (224, 224)]


def test_the_papers_steps_are_the_same_for_all_boxes():
    masks = masks_of(make_head(subdivision_steps=3))
    assert {tuple(mask.shape) for mask in masks.values()} == {(224, 224)}


def test_a_box_does_not_depend_on_the_steps_of_others():
    head = make_head()
    mixed, alone = masks_of(head), masks_of(refined(head, 2))
    torch.testing.assert_close(mixed[1], alone[1], atol=1e-5, rtol=1e-5)


def test_a_building_done_early_differs_from_the_full_steps_only_by_interpolation():
    head = make_head()
    early, full = masks_of(head)[0], masks_of(refined(head, 3))[0]
    assert early.shape == (28, 28)
    assert full.shape == (224, 224)
    smooth = F.interpolate(early[None, None], size=(224, 224), mode="bilinear")[0, 0]
    difference = (smooth.sigmoid() - full.sigmoid()).abs()
    assert difference.mean() < 2e-3
    assert difference[(smooth > 0) != (full > 0)].max() < 0.1, "they differ where neither is sure"


def test_boxes_of_a_batch_are_masked_as_each_alone():
    head = make_head()
    features, together = make_features(), masks_of(head)
    for box in range(3):
        row, image = slice(box, box + 1), int(IMAGES[box])
        with torch.no_grad():
            (alone,) = head.predict(
                on_finest(features[image : image + 1]), BOXES[row], torch.tensor([0]), LABELS[row]
            )
        # A tie for the last place among the refined cells may fall either way.
        apart = (alone.logits[0] - together[box]).abs() > 1e-4
        assert apart.sum() <= 2


def test_points_pass_in_portions_of_bounded_size(monkeypatch):
    head = make_head(points_per_side=12)
    together = masks_of(head)
    monkeypatch.setattr("footprints.model.pointrend._POINTS_AT_ONCE", 1000)
    sizes: list[int] = []
    head.point_head.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    apart = masks_of(head)
    # One box is never divided; twelve cells are settled per cell of a side.
    assert sorted(sizes) == [672] * 2 + [784] * 3 + [1344] * 2 + [2688]
    for box, logits in together.items():
        # A tie for the last place among the refined cells may fall either way.
        assert ((logits - apart[box]).abs() > 1e-4).sum() <= 2


def test_masks_are_those_of_the_predicted_class():
    head = make_head()
    with torch.no_grad():
        head.point_head.predictor.bias.copy_(torch.tensor([100.0, -100.0]))
    masks = masks_of(head)
    assert [bool((masks[box] > 0).all()) for box in range(3)] == [True, False, True]


def test_settled_points_grow_with_the_side():
    paper = PointRendConfig(subdivision_points=784, points_per_side=0)
    assert [paper.points_at(side) for side in (28, 224, 448)] == [784, 784, 784]
    growing = PointRendConfig(subdivision_points=200, points_per_side=6)
    assert [growing.points_at(side) for side in (28, 112, 224, 448)] == [200, 672, 1344, 2688]


@pytest.mark.parametrize(("settings", "settled"), [({"points_per_side": 0}, 100), ({}, 336)])
@torch.no_grad()
def test_subdivision_settles_the_least_certain_cells_and_no_others(settings, settled):
    head = make_head(subdivision_points=100, subdivision_steps=1, **settings)
    start = refined(head, 0)
    for box, logits in masks_of(start).items():
        smooth = F.interpolate(logits[None, None], scale_factor=2, mode="bilinear")[0, 0]
        changed = masks_of(head)[box] != smooth
        limit = smooth.abs().flatten().sort().values[settled - 1]
        assert changed.sum() <= settled
        assert smooth.abs()[changed].max() <= limit
        assert changed.sum() > 0.9 * settled


def test_image_points_span_their_box():
    points = torch.tensor([[[0.0, 0.0], [1.0, 1.0], [0.5, 0.25]]])
    placed = image_points(points, torch.tensor([[10.0, 20.0, 30.0, 60.0]]))
    assert placed.tolist() == [[[10, 20], [30, 60], [20, 30]]]
