"""Box arithmetic of both stages: offsets, matching, sampling.

Boxes are (x_min, y_min, x_max, y_max) in continuous image pixels; shapes are (R, 4).
Source: R-CNN, arXiv 1311.2524 (box offsets); Faster R-CNN, arXiv 1506.01497 (matching).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchvision.ops import box_iou

# exp of a larger offset is wider than any image: keeps a wild prediction finite.
_MAX_LOG_SCALE = math.log(1000 / 16)


def encode_boxes(boxes: Tensor, references: Tensor, weights: tuple[float, ...]) -> Tensor:
    """Offsets (R, 4) that turn references into boxes."""
    centre, size = _centre_size(boxes)
    reference_centre, reference_size = _centre_size(references)
    shift = (centre - reference_centre) / reference_size
    scale = torch.log(size / reference_size)
    return torch.cat((shift, scale), dim=-1) * boxes.new_tensor(weights)


def decode_boxes(offsets: Tensor, references: Tensor, weights: tuple[float, ...]) -> Tensor:
    """Boxes (..., 4) from offsets (..., 4) to references that broadcast with them."""
    centre, size = _centre_size(references)
    shift, scale = (offsets / offsets.new_tensor(weights)).tensor_split(2, dim=-1)
    centre = centre + shift * size
    half = 0.5 * size * scale.clamp(max=_MAX_LOG_SCALE).exp()
    return torch.cat((centre - half, centre + half), dim=-1)


def _centre_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    low, high = boxes[..., :2], boxes[..., 2:]
    return (low + high) / 2, high - low


def clip_boxes(boxes: Tensor, height: int, width: int) -> Tensor:
    """Boxes (..., 4) cut off at the image."""
    limit = boxes.new_tensor([width, height, width, height])
    return torch.minimum(boxes.clamp(min=0), limit)


def match_boxes(
    boxes: Tensor,
    truth: Tensor,
    *,
    positive_iou: float,
    negative_iou: float,
    keep_best: bool,
) -> tuple[Tensor, Tensor]:
    """Assign a ground-truth box to every box.

    Args:
        boxes: (R, 4) anchors or proposals of one image.
        truth: (G, 4).
        positive_iou: At least this IoU is a match.
        negative_iou: Less than this is background; between the two a box is ignored.
        keep_best: Also match the boxes with the highest IoU to each ground truth, however low
            (the paper's low-quality matches), so that no building is without an anchor.

    Returns:
        (R,) index of the best ground truth and (R,) state: 1 positive, 0 background, -1 ignored.
    """
    if not len(truth):
        nothing = torch.zeros(len(boxes), dtype=torch.long, device=boxes.device)
        return nothing, nothing.clone()
    iou = box_iou(boxes, truth)
    best, index = iou.max(dim=1)
    state = torch.full_like(index, -1)
    state[best < negative_iou] = 0
    state[best >= positive_iou] = 1
    if keep_best:
        highest = iou.max(dim=0).values
        state[((iou == highest) & (highest > 0)).any(dim=1)] = 1
    return index, state


def sample_matches(state: Tensor, count: int, positive_share: float) -> tuple[Tensor, Tensor]:
    """Draw positives and background for the loss.

    Args:
        state: (R,) as `match_boxes` returns it.
        count: How many altogether.
        positive_share: Share of positives at most; background fills up.

    Returns:
        Indices of the positives and of the background.
    """
    positive, negative = (state == 1).nonzero().squeeze(1), (state == 0).nonzero().squeeze(1)
    positives = min(len(positive), int(count * positive_share))
    negatives = min(len(negative), count - positives)
    return _draw(positive, positives), _draw(negative, negatives)


def _draw(index: Tensor, count: int) -> Tensor:
    return index[torch.randperm(len(index), device=index.device)[:count]]


def labelled_share(labelled: Tensor, boxes: Tensor) -> Tensor:
    """Share (R,) of each box's pixels where labels are complete.

    Args:
        labelled: (H, W) bool.
        boxes: (R, 4); the parts inside the image count.
    """
    height, width = labelled.shape
    summed = torch.zeros(height + 1, width + 1, dtype=torch.int32, device=labelled.device)
    summed[1:, 1:] = labelled.int().cumsum(0).cumsum(1)
    limit = boxes.new_tensor([width, height, width, height])
    low = torch.minimum(boxes[:, :2].floor().clamp(min=0), limit[:2] - 1).long()
    high = torch.minimum(boxes[:, 2:].ceil(), limit[2:]).long()
    high = torch.maximum(high, low + 1)
    (x0, y0), (x1, y1) = low.unbind(1), high.unbind(1)
    inside = summed[y1, x1] - summed[y0, x1] - summed[y1, x0] + summed[y0, x0]
    return inside / ((x1 - x0) * (y1 - y0))


def ignore_unlabelled(state: Tensor, labelled: Tensor | None, boxes: Tensor) -> Tensor:
    """Turn background whose ground is mostly without labels into ignored."""
    if labelled is None:
        return state
    unknown = (state == 0) & (labelled_share(labelled, boxes) < 0.5)
    return torch.where(unknown, torch.full_like(state, -1), state)
