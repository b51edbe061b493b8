"""Weights of torchvision's models: the same numbers come out, and what is not theirs is refused."""

import re
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.anchor_utils import AnchorGenerator

from footprints.errors import OutputError, WeightsError
from footprints.model.checkpoint import load_weights, read_info
from footprints.model.convert import convert_weights

HEIGHT, WIDTH = 128, 160
NAMES = [
    "maskrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn_v2",
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2",
    "keypointrcnn_resnet50_fpn",
]


def build(name: str, **settings: object) -> nn.Module:
    """A model of torchvision's with random weights that half precision holds, in no time."""
    with torch.device("meta"):
        model = getattr(detection, name)(
            weights=None, weights_backbone=None, box_detections_per_img=500, **settings
        )
    model = model.to_empty(device="cpu").eval()
    sizes = ((32,), (64,), (128,), (256,), (512,))
    model.rpn.anchor_generator = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 5)
    torch.manual_seed(3)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.2, 0.8)
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 1.5)
                module.num_batches_tracked.zero_()
        for parameter in model.parameters():
            if parameter.dim() > 1:
                fan_in = parameter[0].numel()
                parameter.copy_(parameter.normal_(std=(2 / fan_in) ** 0.5).half())
        for part, parameter in model.named_parameters():
            if part.endswith("bias"):
                parameter.normal_(std=0.1)
        predictor = model.roi_heads.box_predictor
        # Confident enough to be kept among 91 classes; shifts that stay near their anchors.
        for layer, factor in (
            (predictor.cls_score, 8),
            (predictor.bbox_pred, 1 / 16),
            (model.rpn.head.bbox_pred, 1 / 16),
        ):
            layer.weight.mul_(factor).copy_(layer.weight.half())
    return model


def pictures() -> Tensor:
    return torch.randint(0, 256, (1, 3, HEIGHT, WIDTH), generator=torch.Generator().manual_seed(5))


def iou(a: Tensor, b: Tensor) -> Tensor:
    return (a & b).sum(dim=(1, 2)) / (a | b).sum(dim=(1, 2)).clamp(min=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_a_converted_file_gives_what_torchvision_gives(name, tmp_path):
    theirs = build(name, min_size=HEIGHT, max_size=WIDTH)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    info = convert_weights(tmp_path / "theirs.pth", tmp_path / "ours.safetensors")
    assert info.name == name
    ours, read = load_weights(tmp_path / "ours.safetensors")
    assert read == info
    scaling = info.input_spec.scaling
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (scaling.mean, scaling.std))
    images = (pictures() - mean) / std

    def compare(given: Tensor, wanted: Tensor) -> None:
        torch.testing.assert_close(given, wanted, atol=1e-4, rtol=1e-4)

    stages = ours.backbone.trunk(images)[ours.backbone.skipped :]
    for given, wanted in zip(stages, theirs.backbone.body(images).values(), strict=True):
        compare(given, wanted)
    levels, pyramid = list(theirs.backbone(images).values()), ours.backbone(images)
    for given, wanted in zip(pyramid, levels, strict=True):
        compare(given, wanted)
    scores, offsets = ours.rpn(pyramid)
    their_scores, their_offsets = theirs.rpn.head(levels)
    for given, shifts, wanted, moved in zip(
        scores, offsets, their_scores, their_offsets, strict=True
    ):
        compare(given, wanted.permute(0, 2, 3, 1).flatten(1))
        compare(shifts, moved.permute(0, 2, 3, 1).reshape(1, -1, 4))

    logits: list[Tensor] = []
    for head in ("mask_predictor", "keypoint_predictor"):
        if (part := getattr(theirs.roi_heads, head)) is not None:
            part.register_forward_hook(lambda *a: logits.append(a[2]))
    (wanted,) = theirs([pictures()[0] / 255])
    found, _, masks, keypoints = ours.predict(images)
    assert len(wanted["boxes"]) == len(found.boxes) > 20
    compare(found.boxes, wanted["boxes"])
    compare(found.scores, wanted["scores"])
    assert torch.equal(found.labels + 1, wanted["labels"])
    if "mask" in name:
        (grids,) = masks
        own = logits[0][torch.arange(len(found.labels)), wanted["labels"]]
        assert own.shape == grids.logits.shape
        # Random masks have no outline at 0, but half of their cells are above the median.
        level = own.median()
        assert iou(own > level, grids.logits > level).mean() > 0.999
    if "keypoint" in name:
        features = ours.backbone.box_features(pyramid)
        compare(ours.keypoint_head(features, found.boxes, found.image_index), logits[0])
        # Of these they take the best pixel of an enlargement, we the centroid at the best cell.
        assert keypoints.shape == wanted["keypoints"].shape
        assert info.model.classes == ("person",)
        assert info.model.keypoint_head.names[:2] == ("nose", "left_eye")


def skeleton(*, frozen: bool = False) -> dict[str, Tensor]:
    """The state of a whole version 1 model with two classes."""
    state = build("fasterrcnn_resnet50_fpn", num_classes=3).state_dict()
    return {n: t for n, t in state.items() if not (frozen and n.endswith("num_batches_tracked"))}


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return skeleton(frozen=True)


def converted(state: dict[str, Tensor], folder: Path, **options: float) -> dict[str, Tensor]:
    torch.save(state, folder / "theirs.pth")
    convert_weights(folder / "theirs.pth", folder / "ours.safetensors", overwrite=True, **options)
    return load_weights(folder / "ours.safetensors")[0].state_dict()


def test_names_of_older_files_are_known(state, tmp_path):
    older = {}
    for name, tensor in state.items():
        name = re.sub(r"(_blocks\.\d)\.0\.", r"\1.", name)
        older[name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")] = tensor
    assert older.keys() != state.keys()
    given, wanted = (converted(names, tmp_path) for names in (older, state))
    assert given.keys() == wanted.keys()
    assert all(torch.equal(given[name], wanted[name]) for name in wanted)


def norm_gain(state: dict[str, Tensor], eps: float, prefix: str) -> Tensor:
    return state[f"{prefix}weight"] / torch.sqrt(state[f"{prefix}running_var"] + eps)


def test_the_norms_of_torchvisions_own_weights_have_no_epsilon(state, tmp_path):
    """As torchvision has it for version 1; variances far below its usual epsilon show it."""
    small = dict(state)
    small["backbone.body.bn1.running_var"] = torch.logspace(-12, -2, 64)
    alive = small | {"backbone.body.bn1.num_batches_tracked": torch.tensor(7)}
    for given, eps, options in (
        (small, 0.0, {}),
        (small, 1e-3, {"norm_eps": 1e-3}),
        (alive, 1e-5, {}),
    ):
        ours = converted(given, tmp_path, **options)
        torch.testing.assert_close(
            norm_gain(ours, 1e-5, "backbone.trunk.bn1."),
            norm_gain(given, eps, "backbone.body.bn1."),
            rtol=1e-5,
            atol=0,
        )
        assert read_info(tmp_path / "ours.safetensors").training["norm_eps"] == eps


def test_other_numbers_of_classes_have_numbers_for_names(state, tmp_path):
    converted(state, tmp_path)
    assert read_info(tmp_path / "ours.safetensors").model.classes == ("class-1", "class-2")


def test_coco_classes_have_their_names_and_holes_keep_their_rows(state, tmp_path):
    count = 91
    coco = state | {
        "roi_heads.box_predictor.cls_score.weight": torch.zeros(count, 1024),
        "roi_heads.box_predictor.cls_score.bias": torch.arange(count).float(),
        "roi_heads.box_predictor.bbox_pred.weight": torch.zeros(4 * count, 1024),
        "roi_heads.box_predictor.bbox_pred.bias": torch.arange(4 * count).float(),
    }
    ours = converted(coco, tmp_path)
    assert ours["box_head.classes.bias"].tolist() == [*range(1, count), 0]
    assert ours["box_head.offsets.bias"].tolist() == list(range(4, 4 * count))
    classes = read_info(tmp_path / "ours.safetensors").model.classes
    assert len(set(classes)) == len(classes) == 90
    assert (classes[0], classes[11], classes[-1]) == ("person", "unused-12", "toothbrush")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param({"a": torch.zeros(2)}, "it lacks backbone.body", id="something else"),
        pytest.param({}, "it lacks backbone.body", id="nothing"),
        pytest.param({"model": {"a": torch.zeros(2)}}, "plain state dict", id="nested"),
        pytest.param({"args": Namespace(lr=1)}, "a pickle of more than tensors", id="an object"),
    ],
)
def test_what_is_no_state_of_a_known_model_is_refused(content, message, tmp_path):
    torch.save(content, tmp_path / "theirs.pth")
    with pytest.raises(WeightsError, match=message) as raised:
        convert_weights(tmp_path / "theirs.pth", tmp_path / "ours.safetensors")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "ours.safetensors").exists()


@pytest.mark.parametrize(
    "name",
    ["fasterrcnn_mobilenet_v3_large_fpn", "retinanet_resnet50_fpn"],
)
def test_other_models_of_torchvision_are_refused_with_those_that_are_known(name, tmp_path):
    with torch.device("meta"):
        model = getattr(detection, name)(weights=None, weights_backbone=None)
    shapes = {n: torch.zeros(()).expand(t.shape) for n, t in model.state_dict().items()}
    torch.save(shapes, tmp_path / "theirs.pth")
    with pytest.raises(WeightsError, match=f"no architecture .*; known are .*{NAMES[1]}"):
        convert_weights(tmp_path / "theirs.pth", tmp_path / "ours.safetensors")


def test_a_model_of_other_sizes_is_refused_with_the_first_tensor(state, tmp_path):
    with pytest.raises(WeightsError, match=r"2 tensors differ, first rpn\.objectness\.bias"):
        converted(
            state
            | {
                "rpn.head.cls_logits.weight": torch.zeros(9, 256, 1, 1),
                "rpn.head.cls_logits.bias": torch.zeros(9),
            },
            tmp_path,
        )


def test_values_that_are_not_finite_are_refused(state, tmp_path):
    with pytest.raises(WeightsError, match="not finite"):
        converted(state | {"rpn.head.cls_logits.bias": torch.tensor([0, torch.inf, 0])}, tmp_path)


def test_missing_and_damaged_files_are_refused(tmp_path):
    output = tmp_path / "ours.safetensors"
    with pytest.raises(WeightsError, match=r"gone\.pth are missing"):
        convert_weights(tmp_path / "gone.pth", output)
    (tmp_path / "theirs.pth").write_bytes(b"no tensors at all")
    with pytest.raises(WeightsError, match="not a readable file of tensors"):
        convert_weights(tmp_path / "theirs.pth", output)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        pytest.param("ours.pth", r"must end in \.safetensors", id="ending"),
        pytest.param("nowhere/ours.safetensors", "does not exist", id="folder"),
        pytest.param("taken.safetensors", "replace them with --overwrite", id="exists"),
        pytest.param("folder.safetensors", "give the name of a file", id="a folder"),
    ],
)
def test_outputs_that_cannot_be_written_are_refused_before_reading(output, message, tmp_path):
    (tmp_path / "taken.safetensors").touch()
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(OutputError, match=message):
        convert_weights(tmp_path / "gone.pth", tmp_path / output)
