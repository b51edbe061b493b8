"""The network as a whole: batches, ugly cases, and that it can learn."""

from pathlib import Path

import pytest
import torch
from tiny_network import tiny_config, tiny_network

from footprints.config import load_config
from footprints.model.mask_rcnn import MaskRCNN, Prediction
from footprints.model.targets import Target

SIDE = 128
CONFIGS = Path(__file__).parents[2] / "configs"


def make_images(count: int, bands: int = 3) -> torch.Tensor:
    return torch.randn(count, bands, SIDE, SIDE, generator=torch.Generator().manual_seed(5))


def make_target(
    *boxes: list[float], labelled: torch.Tensor | None = None, label: int = 0
) -> Target:
    """Square buildings that fill their boxes."""
    corners = torch.tensor(boxes, dtype=torch.float32).view(-1, 4)
    masks = torch.zeros(len(boxes), 32, 32, dtype=torch.uint8)
    masks[:, 1:-1, 1:-1] = 255
    margin = (corners[:, 2:] - corners[:, :2]) / 30
    frames = torch.cat((corners[:, :2] - margin, corners[:, 2:] + margin), dim=1)
    keypoints = torch.ones(len(boxes), 4, 3)
    keypoints[:, :, :2] = corners[:, [[0, 1], [2, 1], [2, 3], [0, 3]]]
    return Target(corners, torch.full((len(boxes),), label), masks, frames, keypoints, labelled)


def grids_of(prediction: Prediction) -> dict[int, torch.Tensor]:
    return {
        int(member): logits
        for group in prediction.masks
        for member, logits in zip(group.members, group.logits, strict=True)
    }


def test_a_batch_gives_what_each_image_gives_alone():
    network = tiny_network().eval()
    images = make_images(3)
    together = network.predict(images)
    grids = grids_of(together)
    assert sorted(grids) == list(range(len(together.detections.boxes)))
    for image in range(3):
        alone = network.predict(images[image : image + 1])
        rows = (together.detections.image_index == image).nonzero().squeeze(1)
        assert len(rows) == len(alone.detections.boxes) > 0
        torch.testing.assert_close(together.mask_boxes[rows], alone.mask_boxes, atol=1e-3, rtol=0)
        for part in ("boxes", "scores", "labels"):
            torch.testing.assert_close(
                getattr(together.detections, part)[rows].float(),
                getattr(alone.detections, part).float(),
                atol=1e-3 if part == "boxes" else 1e-5,
                rtol=0,
            )
        for number, logits in grids_of(alone).items():
            # A tie for the last place among the refined cells may fall either way.
            apart = (logits - grids[int(rows[number])]).abs() > 1e-3
            assert apart.sum() <= 4


def test_masks_grow_until_a_cell_is_at_most_a_pixel():
    prediction = tiny_network().eval().predict(make_images(2))
    for box, logits in grids_of(prediction).items():
        x_min, y_min, x_max, y_max = prediction.mask_boxes[box].tolist()
        assert len(logits) >= max(x_max - x_min, y_max - y_min) - 0.1
        assert len(logits) in {28, 56, 112, 224}


def test_nothing_found_is_an_empty_prediction():
    network = tiny_network(tiny_config(detection={"score_threshold": 1.0})).eval()
    found, mask_boxes, masks, keypoints = network.predict(make_images(2))
    assert found.boxes.shape == mask_boxes.shape == (0, 4)
    assert masks == []
    assert keypoints.shape == (0, 0, 3)


def learn(network: MaskRCNN, targets: list[Target]) -> dict[str, float]:
    """One backward pass; the losses."""
    torch.manual_seed(0)
    losses = network.train().losses(make_images(len(targets), network.config.bands), targets)
    torch.stack(list(losses.values())).sum().backward()
    return {name: loss.item() for name, loss in losses.items()}


def assert_gradients_are_finite(network: MaskRCNN) -> None:
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, f"{name} takes no part, so DDP would wait for it"
        assert torch.isfinite(parameter.grad).all(), name


def test_six_losses_train_every_parameter():
    network = tiny_network()
    losses = learn(network, [make_target([20, 20, 60, 60]), make_target([30, 40, 90, 100])])
    assert sorted(losses) == [
        "loss_box",
        "loss_class",
        "loss_mask",
        "loss_mask_point",
        "loss_objectness",
        "loss_rpn_box",
    ]
    assert all(loss > 0 for loss in losses.values())
    assert_gradients_are_finite(network)


@pytest.mark.parametrize(
    ("mask_head", "mask_losses"),
    [
        pytest.param({"kind": "fcn", "convs": 1, "width": 8}, ["loss_mask"], id="fcn"),
        pytest.param({"kind": "mlp", "width": 16}, ["loss_mask"], id="mlp"),
        pytest.param(
            {"coarse_width": 16, "point_width": 8}, ["loss_mask", "loss_mask_point"], id="pointrend"
        ),
        pytest.param(None, [], id="boxes only"),
    ],
)
def test_every_mask_head_trains_and_predicts(mask_head, mask_losses):
    torch.manual_seed(0)
    network = MaskRCNN(tiny_config(mask_head=mask_head, detection={"score_threshold": 0.0}))
    losses = learn(network, [make_target([20, 20, 60, 60]), make_target([30, 40, 90, 100])])
    assert [name for name in losses if "mask" in name] == mask_losses
    assert_gradients_are_finite(network)
    prediction = network.eval().predict(make_images(2))
    assert sorted(grids_of(prediction)) == list(range(len(prediction.detections.boxes)))
    assert len(prediction.detections.boxes) > 0


@pytest.mark.parametrize(
    "mask_head",
    [
        pytest.param(
            {"kind": "fcn", "roi": {"side": 14}, "convs": 0, "width": 8}, id="as C4 has it"
        ),
        pytest.param({"kind": "mlp", "width": 16}, id="mlp"),
        pytest.param({"coarse_width": 16, "point_width": 8}, id="pointrend"),
        pytest.param(None, id="boxes only"),
    ],
)
def test_a_single_level_trains_and_predicts(mask_head):
    torch.manual_seed(0)
    network = MaskRCNN(
        tiny_config(
            backbone={"name": "test_resnet", "neck": "c4"},
            rpn={"anchor_sizes": (16, 32, 64)},
            box_head={"roi": {"side": 14}, "layers": 0, "average": True},
            mask_head=mask_head,
            detection={"score_threshold": 0.0},
        )
    )
    losses = learn(network, [make_target([20, 20, 60, 60]), make_target([30, 40, 90, 100])])
    assert all(loss > 0 for loss in losses.values())
    assert_gradients_are_finite(network)
    prediction = network.eval().predict(make_images(2))
    grids = grids_of(prediction)
    assert sorted(grids) == list(range(len(prediction.detections.boxes)))
    if mask_head and mask_head.get("kind") == "fcn":
        assert {tuple(grid.shape) for grid in grids.values()} == {(14, 14)}


def test_chips_without_buildings_teach_background_only():
    network = tiny_network()
    losses = learn(network, [make_target(), make_target()])
    assert losses["loss_objectness"] > 0
    assert losses["loss_class"] > 0
    assert [losses[n] for n in ("loss_rpn_box", "loss_box", "loss_mask", "loss_mask_point")] == [
        0
    ] * 4
    assert_gradients_are_finite(network)


def test_an_empty_chip_beside_a_full_one_is_no_trouble():
    network = tiny_network()
    losses = learn(network, [make_target(), make_target([20, 20, 60, 60])])
    assert all(loss > 0 for loss in losses.values())
    assert_gradients_are_finite(network)


def test_ground_without_labels_teaches_nothing():
    network = tiny_network()
    losses = learn(network, [make_target(labelled=torch.zeros(SIDE, SIDE, dtype=torch.bool))])
    assert set(losses.values()) == {0}
    assert_gradients_are_finite(network)
    assert all((p.grad == 0).all() for p in network.parameters())


def test_buildings_teach_on_ground_whose_background_does_not():
    nowhere = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    losses = learn(tiny_network(), [make_target([20, 20, 60, 60], labelled=nowhere)])
    assert all(loss > 0 for loss in losses.values())


def test_buildings_of_less_than_a_pixel_are_no_trouble():
    network = tiny_network()
    losses = learn(network, [make_target([20, 20, 20.4, 20.4], [126, 126, 128, 128])])
    assert all(0 <= loss < 100 for loss in losses.values())
    assert_gradients_are_finite(network)


@pytest.mark.parametrize("count", [1, 80])
def test_any_number_of_classes_is_learnt_and_predicted(count):
    classes = tuple(f"class {i}" for i in range(count))
    network = tiny_network(tiny_config(classes=classes, detection={"score_threshold": 0.0}))
    losses = learn(network, [make_target([20, 20, 60, 60], label=count - 1)])
    assert all(loss > 0 for loss in losses.values())
    labels = network.eval().predict(make_images(1)).detections.labels
    assert len(labels) == 20, "as many as are kept at most"
    assert labels.max() < count


@pytest.mark.parametrize("bands", [1, 3, 5])
def test_any_number_of_bands_is_learnt_and_predicted(bands):
    network = tiny_network(tiny_config(bands=bands))
    assert learn(network, [make_target([20, 20, 60, 60])])["loss_mask"] > 0
    assert len(network.eval().predict(make_images(1, bands)).detections.boxes)


def mask_iou(prediction: Prediction, box: int, truth: list[float]) -> float:
    """IoU of a predicted mask and a rectangle, by the cells of the mask's grid."""
    logits = grids_of(prediction)[box]
    x_min, y_min, x_max, y_max = prediction.mask_boxes[box].tolist()
    side = len(logits)
    centres = (torch.arange(side) + 0.5) / side
    x, y = x_min + centres * (x_max - x_min), y_min + centres * (y_max - y_min)
    in_x, in_y = (x > truth[0]) & (x < truth[2]), (y > truth[1]) & (y < truth[3])
    inside = in_y[:, None] & in_x[None, :]
    cell = (x_max - x_min) * (y_max - y_min) / side**2
    both = (inside & (logits > 0)).sum().item() * cell
    area = (truth[2] - truth[0]) * (truth[3] - truth[1])
    return both / (area + (logits > 0).sum().item() * cell - both)


@pytest.mark.slow
def test_one_image_with_a_square_building_is_learnt_by_heart():
    torch.manual_seed(0)
    network = MaskRCNN(tiny_config(backbone={"norm": "live"}))
    square = [34.0, 40.0, 82.0, 90.0]
    images = 0.1 * make_images(1)
    images[:, :, 40:90, 34:82] += 1
    steps = 250
    optimizer = torch.optim.AdamW(network.parameters(), lr=1.5e-3)
    # Down to nothing: the last steps at full length make the outcome a matter of rounding.
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        sum(network.train().losses(images, [make_target(square)]).values()).backward()
        optimizer.step()
        schedule.step()
    prediction = network.eval().predict(images)
    scores = prediction.detections.scores
    assert (scores > 0.5).sum() == 1, "one building is found, once"
    assert mask_iou(prediction, int(scores.argmax()), square) > 0.8


def test_the_network_that_ships_has_fewer_than_20_million_parameters(monkeypatch):
    for name in ("FOOTPRINTS_DATA", "TOWNS", "FOUND", "LITE0_WEIGHTS"):
        monkeypatch.setenv(name, "nowhere")
    config = load_config(
        CONFIGS / "buildings-lite0.yaml", ["model.backbone.pretrained=false"]
    ).model
    count = sum(t.numel() for t in MaskRCNN(config).state_dict().values())
    assert 5e6 < count < 20e6
