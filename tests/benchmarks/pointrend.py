"""The PointRend head against a plain implementation of the same algorithm.

    python tests/benchmarks/pointrend.py [--boxes 100] [--runs 7]

Boxes have the sizes of the buildings in the sample scene. The plain implementation is what the
paper says, word by word: 1 x 1 convolutions over concatenated channels, bilinear sampling by
`grid_sample`, every box to 224 x 224. Ours stops where a cell is at most one pixel, and runs in
bfloat16, its default on processors that calculate with it; it is shown in float32 too, and with the
paper's steps. All take turns in one process, and agree as printed.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import geopandas as gpd
import numpy as np
import torch
import torch.nn.functional as F
from machine import describe
from torch import Tensor

from footprints.config import PointRendConfig
from footprints.model.allocator import keep_freed_memory
from footprints.model.masks import MaskGrids
from footprints.model.pointrend import PointRendHead
from footprints.model.roi import RoIFeatures

SAMPLE = Path(__file__).parents[2] / "data_samples" / "town_buildings.gpkg"
SAMPLE_GSD_M = 0.3
IMAGE_PX, STRIDE, CHANNELS = 512, 4, 256


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--boxes", type=int, default=100)
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    # As every detector of ours has it; it serves all contenders.
    keep_freed_memory()
    torch.manual_seed(0)
    boxes = sample_boxes(options.boxes, IMAGE_PX)
    features = torch.randn(1, CHANNELS, IMAGE_PX // STRIDE, IMAGE_PX // STRIDE)
    features = F.avg_pool2d(features, 9, 1, 4) * 9
    ours = make_head(PointRendConfig())
    papers_steps = make_head(
        PointRendConfig(subdivision_steps=3, subdivision_points=784, points_per_side=0)
    )
    papers_steps.load_state_dict(ours.state_dict())
    half = torch.autocast("cpu", torch.bfloat16)
    contenders = {
        "ours": half(lambda: predict(ours, features, boxes)),
        "ours, float32": lambda: predict(ours, features, boxes),
        "ours, float32, every box to 224": lambda: predict(papers_steps, features, boxes),
        "plain": lambda: plain(ours, features, boxes),
        "plain, channels_last": lambda: plain(
            ours, features.contiguous(memory_format=torch.channels_last), boxes
        ),
    }
    if shutil.which("g++") or shutil.which("clang++"):
        compiled = torch.compile(plain)
        contenders["plain, compiled"] = lambda: compiled(ours, features, boxes)
    contenders["plain, bfloat16"] = half(lambda: plain(ours, features, boxes))
    report(contenders, options.runs, boxes)


def report(
    contenders: dict[str, Callable[[], list[MaskGrids] | Tensor]], runs: int, boxes: Tensor
) -> None:
    """Time all by turns, the first one the measure of the others."""
    with torch.no_grad():
        masks = {name: to_224(contender(), len(boxes)) for name, contender in contenders.items()}
        seconds = {name: [] for name in contenders}
        for _ in range(runs):
            for name, contender in contenders.items():
                start = time.perf_counter()
                contender()
                seconds[name].append(time.perf_counter() - start)
    sides = (boxes[:, 2:] - boxes[:, :2]).amax(1)
    low, middle, high = np.percentile(sides, [10, 50, 90])
    print(
        f"{len(boxes)} boxes, longer side {low:.0f} / {middle:.0f} / {high:.0f} px (10/50/90 %)\n"
    )
    print(f"| mask head | ms, median of {runs} | times as long as ours | IoU with plain |")
    print("|---|---|---|---|")
    first = statistics.median(seconds["ours"])
    wanted = masks["plain"] > 0
    for name, times in seconds.items():
        found = masks[name] > 0
        iou = (found & wanted).sum((1, 2)) / (found | wanted).sum((1, 2)).clamp(min=1)
        ratios = [own / base for own, base in zip(times, seconds["ours"], strict=True)]
        print(
            f"| {name} | {1000 * statistics.median(times):.0f} "
            f"| {statistics.median(times) / first:.2f} ({min(ratios):.2f} to {max(ratios):.2f}) "
            f"| {float(iou.mean()):.4f} |"
        )
    print(f"\n{describe('torch')}")


def sample_boxes(count: int, side: int) -> Tensor:
    """(count, 4) boxes as large as buildings of the sample scene, anywhere on a square image."""
    bounds = gpd.read_file(SAMPLE).bounds.to_numpy()
    rng = np.random.default_rng(0)
    sizes = (bounds[:, 2:] - bounds[:, :2]) / SAMPLE_GSD_M
    sizes = sizes[rng.choice(len(sizes), count, replace=count > len(sizes))].clip(4, side - 1)
    corners = rng.uniform(0, side - sizes)
    return torch.from_numpy(np.hstack([corners, corners + sizes]).astype(np.float32))


def make_head(config: PointRendConfig) -> PointRendHead:
    """A head for one class, with random weights whose masks have outlines."""
    head = PointRendHead(CHANNELS, STRIDE, 1, config).eval()
    with torch.no_grad():
        head.coarse_head.prediction.weight.mul_(1000)
        head.point_head.predictor.weight.mul_(1000)
    return head


def predict(head: PointRendHead, features: Tensor, boxes: Tensor) -> list[MaskGrids]:
    """Our masks, each as fine as its box needs."""
    index = torch.zeros(len(boxes), dtype=torch.long)
    return list(head.predict(RoIFeatures([features], (STRIDE,)), boxes, index, index))


def to_224(found: list[MaskGrids] | Tensor, count: int) -> Tensor:
    """Logits (R, 224, 224): coarser grids are interpolated, finer ones averaged."""
    if isinstance(found, Tensor):
        return found
    masks = torch.empty(count, 224, 224)
    for grids in found:
        logits = grids.logits.unsqueeze(1)
        while logits.shape[-1] < 224:
            logits = F.interpolate(logits, scale_factor=2, mode="bilinear", align_corners=False)
        masks[grids.members] = F.adaptive_avg_pool2d(logits, 224).squeeze(1)
    return masks


def plain(head: PointRendHead, features: Tensor, boxes: Tensor) -> Tensor:
    """Masks (R, 224, 224), by the same weights."""
    coarse_head = head.coarse_head
    pooled = sample(features, boxes, grid(boxes, 14)).unflatten(2, (14, 14))
    hidden = F.relu(coarse_head.reduce_spatial_dim_conv(pooled)).flatten(1)
    hidden = F.relu(coarse_head.fc2(F.relu(coarse_head.fc1(hidden))))
    coarse = coarse_head.prediction(hidden).view(-1, 1, 7, 7)
    points = grid(boxes, 28)
    logits = point_head(head, features, boxes, coarse, points).view(-1, 1, 28, 28)
    for _ in range(3):
        logits = F.interpolate(logits, scale_factor=2, mode="bilinear", align_corners=False)
        side = logits.shape[-1]
        cells = (-logits.flatten(2).abs()).topk(784, dim=2).indices
        points = torch.stack((cells[:, 0] % side, cells[:, 0] // side), -1).add(0.5) / side
        refined = point_head(head, features, boxes, coarse, points)
        logits = logits.flatten(2).scatter(2, cells, refined).view(-1, 1, side, side)
    return logits[:, 0]


def grid(boxes: Tensor, side: int) -> Tensor:
    """Centres (R, S * S, 2) of a regular grid over each box, in [0, 1]."""
    steps = (torch.arange(side) + 0.5) / side
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    return torch.stack((x, y), -1).view(1, -1, 2).expand(len(boxes), -1, -1)


def sample(features: Tensor, boxes: Tensor, points: Tensor) -> Tensor:
    """Features (R, C, P) at points of the boxes."""
    places = boxes[:, None, :2] + points * (boxes[:, None, 2:] - boxes[:, None, :2])
    extent = features.shape[-1] * STRIDE
    places = (2 * places / extent - 1).view(1, -1, 1, 2)
    sampled = F.grid_sample(features, places, align_corners=False)
    return sampled.view(features.shape[1], len(boxes), -1).transpose(0, 1)


def point_head(
    head: PointRendHead, features: Tensor, boxes: Tensor, coarse: Tensor, points: Tensor
) -> Tensor:
    """Logits (R, 1, P) of points: 1 x 1 convolutions over features and coarse logits."""
    rough = F.grid_sample(coarse, (2 * points - 1).unsqueeze(2), align_corners=False).squeeze(3)
    hidden = sample(features, boxes, points)
    for layer in (head.point_head.fc1, head.point_head.fc2, head.point_head.fc3):
        hidden = torch.cat((hidden, rough), 1)
        hidden = F.relu(F.conv1d(hidden, layer.weight.unsqueeze(2), layer.bias))
    predictor = head.point_head.predictor
    hidden = torch.cat((hidden, rough), 1)
    return F.conv1d(hidden, predictor.weight.unsqueeze(2), predictor.bias)


if __name__ == "__main__":
    main()
