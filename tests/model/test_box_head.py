"""Layers, sampling, losses and suppression of the second stage."""

import pytest
import torch

from footprints.config import BoxHeadConfig, DetectionConfig, RoIConfig
from footprints.model.box_head import BoxHead, Detections, Samples
from footprints.model.roi import RoIFeatures, RoIs, pool_rois
from footprints.model.targets import Target

SIZE = (128, 128)
DETECTION = DetectionConfig(score_threshold=0.05, nms_iou=0.5, max_per_chip=100)


def make_rois(*boxes: list[float], images: list[int] | None = None) -> RoIs:
    corners = torch.tensor(boxes, dtype=torch.float32).view(-1, 4)
    return RoIs(corners, torch.tensor(images or [0] * len(boxes), dtype=torch.long))


def make_features() -> RoIFeatures:
    levels = [torch.randn(1, 2, 32 >> i, 32 >> i) for i in range(4)]
    return RoIFeatures(levels, (4, 8, 16, 32))


def make_head(num_classes: int = 1, **settings: object) -> BoxHead:
    torch.manual_seed(0)
    return BoxHead(2, 7, num_classes, BoxHeadConfig(width=8, **settings))


def make_target(*boxes: list[float], labelled: torch.Tensor | None = None) -> Target:
    count = len(boxes)
    corners = torch.tensor(boxes, dtype=torch.float32).view(-1, 4)
    masks = torch.full((count, 8, 8), 255, dtype=torch.uint8)
    labels, keypoints = torch.zeros(count, dtype=torch.long), torch.empty(count, 0, 3)
    return Target(corners, labels, masks, corners, keypoints, labelled)


def test_samples_hold_the_truth_itself_and_background():
    head = make_head(samples=8, positive_share=0.25)
    torch.manual_seed(0)
    corners = torch.rand(50, 2) * 20 + 80
    background = torch.cat((corners, corners + 10), dim=1)
    truth = [[0, 0, 20, 20], [30, 0, 60, 20], [0, 40, 20, 60]]
    samples = head.sample(RoIs(background, torch.zeros(50).long()), [make_target(*truth)])
    assert (samples.labels == 0).sum() == 2, "at most a quarter"
    assert (samples.labels == 1).sum() == 6
    positive = samples.labels == 0
    assert torch.equal(samples.rois.boxes[positive], samples.truth_boxes[positive])
    matched = torch.tensor(truth, dtype=torch.float32)[samples.truth_index[positive]]
    assert torch.equal(matched, samples.truth_boxes[positive])


def test_samples_match_proposals_to_buildings_of_their_own_image():
    head = make_head()
    rois = make_rois([0, 0, 20, 20], [0, 0, 20, 20], images=[0, 1])
    samples = head.sample(rois, [make_target(), make_target([0, 0, 20, 22])])
    assert samples.rois.image_index.tolist() == [0, 1, 1]
    assert samples.labels.tolist() == [1, 0, 0]


def test_background_without_labels_is_not_sampled():
    head = make_head()
    nowhere = torch.zeros(SIZE, dtype=torch.bool)
    target = make_target([0, 0, 20, 20], labelled=nowhere)
    samples = head.sample(make_rois([50, 50, 80, 80], [1, 0, 20, 20]), [target])
    assert samples.labels.tolist() == [0, 0], "buildings teach, what may be background does not"


@pytest.mark.parametrize("labels", [[], [1, 1]], ids=["no samples", "only background"])
def test_losses_without_positives_are_finite(labels):
    head = make_head()
    boxes = torch.tensor([[0.0, 0, 20, 20]]).repeat(len(labels), 1)
    images = torch.zeros(len(labels), dtype=torch.long)
    samples = Samples(RoIs(boxes, images), torch.tensor(labels).long(), boxes, images)
    logits, offsets = head(make_features(), samples.rois)
    losses = head.losses(logits, offsets, samples)
    assert losses["loss_box"] == 0
    assert (losses["loss_class"] > 0) == bool(labels)
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in head.parameters())


def test_box_loss_looks_at_the_true_class_only():
    head = make_head(num_classes=2)
    rois = make_rois([0, 0, 20, 20])
    samples = Samples(rois, torch.tensor([1]), rois.boxes, torch.tensor([0]))
    offsets = torch.zeros(1, 2, 4)
    offsets[0, 0] = 5
    assert head.losses(torch.zeros(1, 3), offsets, samples)["loss_box"] == 0
    offsets[0, 1] = 5
    assert head.losses(torch.zeros(1, 3), offsets, samples)["loss_box"] == pytest.approx(18)


def test_class_boxes_are_those_of_the_class_clipped_to_the_image():
    head = make_head(num_classes=2)
    offsets = torch.zeros(2, 2, 4)
    offsets[:, 1, 0] = 10.0
    boxes = torch.tensor([[0.0, 0, 20, 20], [110.0, 0, 130, 20]])
    moved = head.class_boxes(offsets, boxes, torch.tensor([0, 1]), SIZE)
    assert moved.tolist() == [[0, 0, 20, 20], [128, 0, 128, 20]]


def detect(
    rois: RoIs, probabilities: list[list[float]], config: DetectionConfig = DETECTION
) -> Detections:
    """Detections of boxes that need no shift, with these probabilities by class."""
    scores = torch.tensor(probabilities)
    rest = 1 - scores.sum(dim=1, keepdim=True)
    head = make_head(num_classes=scores.shape[1])
    offsets = torch.zeros(len(scores), scores.shape[1], 4)
    return head.detect(torch.cat((scores, rest), 1).log(), offsets, rois, SIZE, config)


BOX, NEAR, FAR = [10, 10, 40, 40], [12, 10, 42, 40], [60, 60, 90, 90]


def test_the_more_confident_of_two_overlapping_boxes_is_kept():
    found = detect(make_rois(BOX, NEAR, FAR), [[0.6], [0.9], [0.3]])
    assert found.boxes.tolist() == [NEAR, FAR]
    torch.testing.assert_close(found.scores, torch.tensor([0.9, 0.3]))
    assert found.labels.tolist() == [0, 0]


def test_boxes_of_other_images_do_not_suppress():
    found = detect(make_rois(BOX, BOX, images=[0, 1]), [[0.6], [0.9]])
    assert found.image_index.tolist() == [0, 1]
    torch.testing.assert_close(found.scores, torch.tensor([0.6, 0.9]))


def test_boxes_of_other_classes_do_not_suppress():
    found = detect(make_rois(BOX), [[0.3, 0.6]])
    assert found.labels.tolist() == [1, 0]
    assert found.boxes.tolist() == [BOX, BOX]


def test_each_image_keeps_its_best_up_to_the_cap():
    boxes = [[40 * i, 40 * j, 40 * i + 30, 40 * j + 30] for i in range(3) for j in range(3)]
    scores = [[0.1 + 0.05 * i] for i in range(9)]
    rois = make_rois(*boxes, *boxes[:3], images=[0] * 9 + [1] * 3)
    found = detect(rois, scores + scores[:3], DETECTION.model_copy(update={"max_per_chip": 4}))
    assert found.image_index.tolist() == [0] * 4 + [1] * 3
    torch.testing.assert_close(found.scores[:4], torch.tensor([0.5, 0.45, 0.4, 0.35]))


@pytest.mark.parametrize(
    ("rois", "probabilities"),
    [
        pytest.param(make_rois(BOX), [[0.05]], id="nothing above the threshold"),
        pytest.param(make_rois(), torch.empty(0, 1).numpy(), id="no proposals"),
    ],
)
def test_nothing_is_detected_in_nothing(rois, probabilities):
    found = detect(rois, probabilities)
    assert [len(part) for part in found] == [0, 0, 0, 0]
    assert found.boxes.shape == (0, 4)


def test_boxes_are_clipped_and_those_left_with_less_than_a_pixel_are_dropped():
    found = detect(make_rois([100, 100, 150, 150], [127.5, 0, 150, 50]), [[0.9], [0.9]])
    assert found.boxes.tolist() == [[100, 100, 128, 128]]
    half = DETECTION.model_copy(update={"min_side_px": 0.5})
    assert len(detect(make_rois([127.5, 0, 150, 50]), [[0.9]], half).boxes) == 1


def test_layers_and_convolutions_are_as_many_and_as_wide_as_asked_for():
    torch.manual_seed(0)
    head = BoxHead(2, 7, 3, BoxHeadConfig(convs=2, conv_width=5, layers=1, width=7))
    shapes = [tuple(p.shape) for p in head.parameters() if p.dim() > 1]
    assert shapes == [(5, 2, 3, 3), (5, 5, 3, 3), (7, 5 * 49), (4, 7), (12, 7)]
    logits, offsets = head(make_features(), make_rois([4, 4, 60, 60], [0, 0, 9, 9]))
    assert logits.shape == (2, 4)
    assert offsets.shape == (2, 3, 4)


def test_convolutions_have_norms_where_asked_for():
    head = make_head(convs=1, conv_width=5, norm="frozen")
    assert head.convs[1].running_var.shape == (5,)
    assert head.convs[0].bias is None


def test_a_class_agnostic_head_has_one_box_for_all_classes():
    torch.manual_seed(0)
    head = BoxHead(2, 7, 3, BoxHeadConfig(width=8, class_agnostic=True))
    assert head.offsets.out_features == 4
    torch.nn.init.normal_(head.offsets.weight)
    offsets = head(make_features(), make_rois([4, 4, 60, 60]))[1]
    assert offsets.abs().max() > 0
    assert torch.equal(offsets[:, 0], offsets[:, 1])
    assert torch.equal(offsets[:, 0], offsets[:, 2])


def one_sample() -> Samples:
    boxes, truth = torch.tensor([[10.0, 10, 30, 30]]), torch.tensor([[20.0, 10, 40, 30]])
    index = torch.zeros(1, dtype=torch.long)
    return Samples(RoIs(boxes, index), index, truth, index)


def test_generalized_iou_loss_of_boxes_that_share_a_third():
    head = make_head(box_loss="giou")
    loss = head.losses(torch.zeros(1, 2), torch.zeros(1, 1, 4), one_sample())["loss_box"]
    # Neither leaves a gap in the box around both: GIoU is IoU, 200 / 600.
    assert loss.item() == pytest.approx(1 - 1 / 3)


@pytest.mark.parametrize(("beta", "loss"), [(0.0, 5.0), (1.0, 4.5), (10.0, 1.25)])
def test_smooth_l1_turns_straight_at_beta(beta, loss):
    head = make_head(smooth_l1_beta=beta)
    # Half a box to the right, times the weight of 10: an error of 5.
    losses = head.losses(torch.zeros(1, 2), torch.zeros(1, 1, 4), one_sample())
    assert losses["loss_box"].item() == pytest.approx(loss)


def test_averaged_features_need_no_weights_by_cell():
    torch.manual_seed(0)
    head = BoxHead(2, 7, 1, BoxHeadConfig(average=True, layers=0))
    features, rois = make_features(), make_rois([4, 4, 60, 60])
    pooled = pool_rois(features, rois, RoIConfig())
    expected = head.classes(pooled.mean(dim=(2, 3)))
    torch.testing.assert_close(head(features, rois)[0], expected)
