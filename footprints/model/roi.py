"""From boxes to features of one size: RoIAlign, RoIWarp, RoIPool on the pyramid level that fits.

Shapes: N images, R boxes of all images, C channels, S side of the result.
Sources: RoIPool, Fast R-CNN, arXiv 1504.08083; RoIWarp, arXiv 1512.04412; RoIAlign and the three
compared, Mask R-CNN, arXiv 1703.06870, section 3 and table 2c; levels, FPN, arXiv 1612.03144.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align, roi_pool

from footprints.config import RoIConfig
from footprints.model.sampling import sample_bins


class RoIFeatures(NamedTuple):
    """What the heads read of a batch of images."""

    levels: Sequence[Tensor]
    """(N, C, H, W), finest first, each half as fine as the one before."""
    strides: Sequence[int]
    """Image pixels per feature pixel of each level."""
    tail: nn.Module | None = None
    """Applied to the features of every box: with C4 the trunk's last stage."""


class RoIs(NamedTuple):
    """Boxes of a batch."""

    boxes: Tensor
    """(R, 4) in image pixels."""
    image_index: Tensor
    """(R,)."""


def pool_rois(features: RoIFeatures, rois: RoIs, config: RoIConfig) -> Tensor:
    """Features (R, C, S, S) of each box from the level that fits it.

    A box of the canonical side goes to the canonical level, one of half that side to the level
    below, and so on, floored and within the levels given (arXiv 1612.03144, equation 1).

    Args:
        features: Where from. Its tail changes C and S.
        rois: The boxes.
        config: Operator, side, samples.
    """
    levels, strides, tail = features
    sides = (rois.boxes[:, 2:] - rois.boxes[:, :2]).clamp(min=0).prod(dim=1).sqrt()
    octaves = torch.log2(sides / config.canonical_side_px + 1e-8)
    finest = torch.log2(torch.tensor(float(strides[0]), device=sides.device))
    level = torch.floor(config.canonical_level - finest + octaves + 1e-6)
    level = level.clamp(0, len(strides) - 1).long()
    indexed = torch.cat((rois.image_index.unsqueeze(1).to(rois.boxes.dtype), rois.boxes), dim=1)
    size = (len(indexed), levels[0].shape[1], config.side, config.side)
    pooled = levels[0].new_zeros(size).contiguous(memory_format=torch.channels_last)
    pool = {"align": _align, "warp": _warp, "pool": _pool}[config.op]
    for number, stride in enumerate(strides):
        index = (level == number).nonzero().squeeze(1)
        values = pool(levels[number], indexed[index], stride, config)
        pooled = pooled.index_put((index,), values)
    return pooled if tail is None else tail(pooled)


def _align(features: Tensor, rois: Tensor, stride: int, config: RoIConfig) -> Tensor:
    """Nothing is rounded, neither box nor bin; bilinear samples, averaged or the largest taken."""
    if config.reduce == "average":
        return _bins(features, rois, stride, config.side, config.sampling_ratio, config.aligned)
    samples = _bins(features, rois, stride, config.side * config.sampling_ratio, 1, config.aligned)
    return F.max_pool2d(samples, config.sampling_ratio)


def _bins(
    features: Tensor, rois: Tensor, stride: int, side: int, samples: int, aligned: bool
) -> Tensor:
    """Means (R, C, S, S) of each bin's samples; 0 samples: one for each feature pixel."""
    if samples and features.device.type == "cpu":
        boxes = rois[:, 1:] / stride - (0.5 if aligned else 0)
        if not aligned:
            # That convention knows no box smaller than a feature pixel.
            boxes = torch.cat((boxes[:, :2], torch.maximum(boxes[:, 2:], boxes[:, :2] + 1)), dim=1)
        return sample_bins(features, boxes, rois[:, 0].long(), side, samples)
    # Coordinates and sums stay in float32: half precision loses whole pixels.
    pooled: Tensor = roi_align(
        features.float(),
        rois,
        side,
        spatial_scale=1 / stride,
        sampling_ratio=samples or -1,
        aligned=aligned,
    )
    return pooled.to(features.dtype)


def _warp(features: Tensor, rois: Tensor, stride: int, config: RoIConfig) -> Tensor:
    """The box is rounded to whole feature pixels, as in RoIPool; samples in it are bilinear."""
    low, high = (torch.floor(corner / stride + 0.5) for corner in rois[:, 1:].tensor_split(2, 1))
    high = torch.maximum(high, low) + 1
    return _align(
        features, torch.cat((rois[:, :1], low * stride, high * stride), 1), stride, config
    )


def _pool(features: Tensor, rois: Tensor, stride: int, config: RoIConfig) -> Tensor:
    """Box and bins are rounded to whole feature pixels; the largest value of each bin."""
    pooled: Tensor = roi_pool(features.float(), rois, config.side, spatial_scale=1 / stride)
    return pooled.to(features.dtype)
