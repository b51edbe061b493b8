"""What all mask heads share: targets, grids, and what logits mean for classes.

Shapes: R boxes, P points or cells of each, K foreground classes, M mask channels.
Source: Mask R-CNN, arXiv 1703.06870, section 3 and table 2b.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MaskClasses = Literal["sigmoid", "softmax", "agnostic"]


class MaskTargets(NamedTuple):
    """Ground-truth masks of R boxes: soft coverage on a grid over a box of its own."""

    masks: Tensor
    """(R, S, S), 0 to 1."""
    boxes: Tensor
    """(R, 4) in image pixels, the frame of each mask."""

    def sample(self, points: Tensor) -> Tensor:
        """Coverage at image points (R, P, 2): (R, P); 0 beyond the mask's box."""
        corner = self.boxes[:, None, :2]
        size = (self.boxes[:, None, 2:] - corner).clamp(min=1e-6)
        return point_sample(self.masks.unsqueeze(1), (points - corner) / size).squeeze(2)


class MaskGrids(NamedTuple):
    """Mask logits of some boxes at one side."""

    members: Tensor
    """(k,), which boxes."""
    logits: Tensor
    """(k, S, S)."""


def mask_channels(num_classes: int, classes: MaskClasses) -> int:
    """M: a mask for each class; for softmax the background's, too; one if agnostic."""
    return {"sigmoid": num_classes, "softmax": num_classes + 1, "agnostic": 1}[classes]


def own_logits(logits: Tensor, labels: Tensor, classes: MaskClasses) -> Tensor:
    """How sure each point is to be on its box's own class: logits (R, P, M) to (R, P).

    Positive where its probability is above one half. Of a softmax it is the class's logit less
    the log of the summed exponentials of all others, the background among them.
    """
    if classes == "agnostic":
        return logits[..., 0]
    index = labels.view(-1, 1, 1).expand(-1, logits.shape[1], 1)
    own = logits.gather(2, index).squeeze(2)
    if classes == "sigmoid":
        return own
    others = logits.scatter(2, index, -torch.inf)
    return own - others.logsumexp(dim=2)


def mask_loss(logits: Tensor, labels: Tensor, coverage: Tensor, classes: MaskClasses) -> Tensor:
    """Mean cross-entropy of logits (R, P, M) against soft coverage (R, P).

    Binary on the true class alone, so that classes do not compete; for softmax multinomial, with
    what is not covered as background.
    """
    if classes != "softmax":
        own = own_logits(logits, labels, classes)
        return F.binary_cross_entropy_with_logits(own, coverage)
    log_shares = logits.log_softmax(dim=2)
    index = labels.view(-1, 1, 1).expand(-1, logits.shape[1], 1)
    own, background = log_shares.gather(2, index).squeeze(2), log_shares[..., -1]
    return -(coverage * own + (1 - coverage) * background).mean()


def no_loss(head: nn.Module, features: Tensor) -> Tensor:
    """The loss of a head (its parameters) without boxes: 0, yet every parameter takes part.

    One that takes no part in a step is one that DDP waits for for ever.
    """
    return sum((p.sum() for p in head.parameters()), features.sum()) * 0


def regular_grid(side: int, device: torch.device | None = None) -> Tensor:
    """Centres of a side x side grid, (side * side, 2) as (x, y) in [0, 1], x fastest."""
    centres = (torch.arange(side, device=device, dtype=torch.float32) + 0.5) / side
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    return torch.stack((x, y), dim=-1).reshape(-1, 2)


def point_sample(maps: Tensor, points: Tensor) -> Tensor:
    """Sample each box's own map bilinearly, with zeros beyond its border.

    Args:
        maps: (R, M, H, W).
        points: (R, P, 2), (x, y) in [0, 1] of the map.

    Returns:
        (R, P, M).
    """
    sampled = F.grid_sample(maps, 2 * points.unsqueeze(2) - 1, align_corners=False)
    return sampled.squeeze(3).transpose(1, 2)


def image_points(points: Tensor, boxes: Tensor) -> Tensor:
    """Points (R, P, 2) in [0, 1] of their boxes (R, 4), in the frame of the boxes."""
    corner, size = boxes[:, None, :2], boxes[:, None, 2:] - boxes[:, None, :2]
    return corner + points * size


def expand_boxes(boxes: Tensor, share: float, height: int, width: int) -> Tensor:
    """Grow boxes (R, 4) by a share of their size on each side, clipped to the image.

    A mask clipped by its own regressed box loses an edge. Clipping to the image keeps every point
    where there are features: beyond the border they would be zero, unlike in training.
    """
    margin = share * (boxes[:, 2:] - boxes[:, :2])
    grown = torch.cat((boxes[:, :2] - margin, boxes[:, 2:] + margin), dim=1)
    limit = grown.new_tensor([width, height, width, height])
    return torch.minimum(grown.clamp(min=0), limit)


def box_grids(boxes: Tensor) -> MaskGrids:
    """Full grids, which make the outline of each box (R, 4) the box: for networks without masks."""
    return MaskGrids(
        torch.arange(len(boxes), device=boxes.device), boxes.new_ones((len(boxes), 2, 2))
    )
