"""Each operator against a slow one that loops over pixels; which level a box is read from."""

import math

import numpy as np
import pytest
import torch

from footprints.config import RoIConfig
from footprints.model.backbone import STRIDES
from footprints.model.masks import image_points, regular_grid
from footprints.model.roi import RoIFeatures, RoIs, pool_rois
from footprints.model.sampling import sample_points


def make_rois(*boxes: list[float], images: list[int] | None = None) -> RoIs:
    corners = torch.tensor(boxes, dtype=torch.float32).view(-1, 4)
    return RoIs(corners, torch.tensor(images or [0] * len(boxes), dtype=torch.long))


def pool(pyramid: list[torch.Tensor], rois: RoIs, **settings: object) -> torch.Tensor:
    return pool_rois(RoIFeatures(pyramid[:4], STRIDES[:4]), rois, RoIConfig(**settings))


def bilinear(image: np.ndarray, x: float, y: float) -> float:
    """A value between pixel centres; the border's within a pixel of it, nothing beyond."""
    height, width = image.shape
    x, y = x - 0.5, y - 0.5
    if not (-1 <= x <= width and -1 <= y <= height):
        return 0.0
    x, y = min(max(x, 0.0), width - 1.0), min(max(y, 0.0), height - 1.0)
    left, top = min(int(x), max(width - 2, 0)), min(int(y), max(height - 2, 0))
    u, v = x - left, y - top
    corners = image[top : top + 2, left : left + 2]
    return float(np.array([1 - v, v]) @ corners @ np.array([1 - u, u]))


def slow_samples(image: np.ndarray, box: list[float], side: int, ratio: int, reduce: str):
    """Bins of a box in feature pixels, sampled ratio x ratio times."""
    x0, y0, x1, y1 = box
    step_x, step_y = (x1 - x0) / side / ratio, (y1 - y0) / side / ratio
    values = [
        [
            bilinear(image, x0 + (i + 0.5) * step_x, y0 + (j + 0.5) * step_y)
            for i in range(side * ratio)
        ]
        for j in range(side * ratio)
    ]
    bins = np.array(values).reshape(side, ratio, side, ratio)
    return bins.mean(axis=(1, 3)) if reduce == "average" else bins.max(axis=(1, 3))


def slow_pool(image: np.ndarray, box: list[float], side: int, stride: int) -> np.ndarray:
    """RoIPool as its paper has it: whole pixels, the last one included."""
    height, width = image.shape
    x0, y0, x1, y1 = (math.floor(c / stride + 0.5) for c in box)
    across, down = max(x1 - x0 + 1, 1) / side, max(y1 - y0 + 1, 1) / side
    result = np.zeros((side, side))
    for j in range(side):
        for i in range(side):
            rows = slice(
                min(max(y0 + math.floor(j * down), 0), height),
                min(max(y0 + math.ceil((j + 1) * down), 0), height),
            )
            columns = slice(
                min(max(x0 + math.floor(i * across), 0), width),
                min(max(x0 + math.ceil((i + 1) * across), 0), width),
            )
            part = image[rows, columns]
            result[j, i] = part.max() if part.size else 0.0
    return result


BOXES = [
    pytest.param([5.3, 7.1, 40.2, 44.4], id="fractional"),
    pytest.param([-9.0, 50.0, 22.5, 90.7], id="over the border"),
    pytest.param([30.2, 30.2, 30.9, 31.0], id="less than a pixel"),
]


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("reduce", ["average", "maximum"])
@pytest.mark.parametrize("ratio", [1, 2, 3])
def test_roi_align_equals_a_loop_over_samples(box, reduce, ratio):
    torch.manual_seed(1)
    image = torch.randn(1, 1, 16, 16)
    got = pool([image] * 4, make_rois(box), side=5, reduce=reduce, sampling_ratio=ratio)
    wanted = slow_samples(image[0, 0].numpy(), [c / 4 for c in box], 5, ratio, reduce)
    np.testing.assert_allclose(got[0, 0], wanted, atol=1e-5)


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("reduce", ["average", "maximum"])
def test_roi_warp_rounds_the_box_and_nothing_else(box, reduce):
    torch.manual_seed(1)
    image = torch.randn(1, 1, 16, 16)
    got = pool([image] * 4, make_rois(box), op="warp", side=5, reduce=reduce)
    x0, y0, x1, y1 = (math.floor(c / 4 + 0.5) for c in box)
    wanted = slow_samples(image[0, 0].numpy(), [x0, y0, x1 + 1, y1 + 1], 5, 2, reduce)
    np.testing.assert_allclose(got[0, 0], wanted, atol=1e-5)


@pytest.mark.parametrize("box", BOXES)
def test_roi_pool_equals_a_loop_over_pixels(box):
    torch.manual_seed(1)
    image = torch.randn(1, 1, 16, 16)
    got = pool([image] * 4, make_rois(box), op="pool", reduce="maximum", side=5)
    np.testing.assert_allclose(got[0, 0], slow_pool(image[0, 0].numpy(), box, 5, 4), atol=1e-6)


@pytest.mark.parametrize("reduce", ["average", "maximum"])
def test_unaligned_features_are_half_a_feature_pixel_off(reduce):
    torch.manual_seed(1)
    image = torch.randn(1, 1, 16, 16)
    shifted = pool([image] * 4, make_rois([8, 12, 40, 44]), reduce=reduce, aligned=False)
    aligned = pool([image] * 4, make_rois([10, 14, 42, 46]), reduce=reduce)
    torch.testing.assert_close(shifted, aligned)


def test_without_a_ratio_every_pixel_of_a_bin_is_sampled():
    torch.manual_seed(1)
    image = torch.randn(1, 1, 16, 16)
    rois = make_rois([4, 4, 52, 52])
    got = pool([image] * 4, rois, side=4, sampling_ratio=0)
    torch.testing.assert_close(got, pool([image] * 4, rois, side=4, sampling_ratio=3))


def test_what_cannot_be_reduced_is_refused():
    with pytest.raises(ValueError, match="set reduce to maximum"):
        RoIConfig(op="pool")
    with pytest.raises(ValueError, match="op align only, got op warp"):
        RoIConfig(op="warp", aligned=False)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        RoIConfig(reduce="maximum", sampling_ratio=0)


@pytest.mark.parametrize("reduce", ["average", "maximum"])
def test_gradients_of_the_features_are_exact(reduce):
    torch.manual_seed(0)
    image = torch.randn(1, 1, 8, 8, requires_grad=True)
    rois = make_rois([5.3, 7.1, 20.2, 24.4])
    pooled = pool([image] * 4, rois, side=3, reduce=reduce)
    direction = torch.randn_like(pooled)
    (pooled * direction).sum().backward()
    shift = 1e-2 * torch.randn_like(image)
    with torch.no_grad():
        ahead, behind = (
            (pool([image + s * shift] * 4, rois, side=3, reduce=reduce) * direction).sum()
            for s in (1, -1)
        )
    assert float((ahead - behind) / 2) == pytest.approx(float((image.grad * shift).sum()), rel=2e-2)


def test_the_canonical_box_and_level_are_a_choice():
    pyramid = [torch.full((1, 1, 64 >> i, 64 >> i), float(i)) for i in range(4)]
    rois = make_rois([8, 8, 72, 72])
    settings = {"side": 1, "sampling_ratio": 1}
    assert pool(pyramid, rois, **settings).item() == 0
    assert pool(pyramid, rois, canonical_side_px=64, **settings).item() == 2
    assert pool(pyramid, rois, canonical_side_px=64, canonical_level=5, **settings).item() == 3


def test_roi_align_golden_values():
    """The box (1, 1, 3, 3) in feature pixels, four image pixels each."""
    ramp = torch.arange(25.0).view(1, 1, 5, 5)
    pooled = pool([ramp] * 5, make_rois([4, 4, 12, 12]), side=4, sampling_ratio=2)
    expected = torch.tensor([4.5, 7.0, 9.5, 12.0]).view(4, 1) + torch.tensor([0, 0.5, 1, 1.5])
    torch.testing.assert_close(pooled[0, 0], expected)


@pytest.mark.parametrize("ratio", [1, 2, 3])
def test_roi_align_is_the_mean_of_points_inside_the_image(ratio):
    torch.manual_seed(0)
    pyramid = [torch.randn(2, 3, 32 >> i, 32 >> i) for i in range(5)]
    rois = make_rois([5.3, 7.1, 60.2, 44.4], [20, 20, 21.5, 90.7], [6, 6, 50, 57], images=[1, 0, 1])
    pooled = pool(pyramid, rois, side=7, sampling_ratio=ratio)
    grid = regular_grid(7 * ratio).expand(3, -1, -1)
    points = sample_points(pyramid[0], 4, image_points(grid, rois.boxes), rois.image_index)
    means = points.view(3, 7, ratio, 7, ratio, 3).mean(dim=(2, 4)).permute(0, 3, 1, 2)
    torch.testing.assert_close(pooled, means, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("side", "level"),
    [
        pytest.param(1.0, 0, id="a tiny box on P2"),
        pytest.param(111.9, 0, id="just below 112 px on P2"),
        pytest.param(112.0, 1, id="112 px on P3"),
        pytest.param(224.0, 2, id="224 px on P4"),
        pytest.param(448.0, 3, id="448 px on P5"),
        pytest.param(2000.0, 3, id="beyond that on P5 still"),
    ],
)
def test_boxes_are_pooled_on_the_level_of_their_side(side, level):
    pyramid = [torch.full((1, 1, 600 >> i, 600 >> i), float(i)) for i in range(5)]
    pooled = pool(pyramid, make_rois([8, 8, 8 + side, 8 + side]), side=1, sampling_ratio=1)
    assert pooled.item() == level


def test_boxes_keep_their_order_across_levels_and_images():
    pyramid = [
        torch.tensor([0.0, 10.0]).view(2, 1, 1, 1).expand(2, 1, 99, 99) + i for i in range(5)
    ]
    small, large = [4, 4, 20, 20], [4, 4, 128, 128]
    rois = make_rois(large, small, small, large, images=[1, 0, 1, 0])
    assert pool(pyramid, rois, side=1, sampling_ratio=1).flatten().tolist() == [11, 0, 10, 1]


def test_no_boxes_and_boxes_without_area_are_pooled_too():
    pyramid = [torch.ones(1, 2, 8, 8)] * 5
    assert pool(pyramid, make_rois(), side=7, sampling_ratio=2).shape == (0, 2, 7, 7)
    assert torch.isfinite(pool(pyramid, make_rois([5, 5, 5, 5]))).all()


def test_a_tail_follows_the_operator():
    level = torch.randn(1, 2, 8, 8)
    rois, config = make_rois([5.3, 7.1, 20.2, 24.4]), RoIConfig(side=4)
    tail = torch.nn.AvgPool2d(2)
    cut = pool_rois(RoIFeatures([level], (4,)), rois, config)
    assert torch.equal(pool_rois(RoIFeatures([level], (4,), tail), rois, config), tail(cut))
