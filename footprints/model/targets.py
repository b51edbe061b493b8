"""Ground truth of one training image, as the losses want it."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Target(NamedTuple):
    """Ground truth of one image; G buildings. Masks stay in their box, soft at the edge."""

    boxes: Tensor
    """(G, 4) float32 in image pixels, of the visible part."""
    labels: Tensor
    """(G,) int64, 0-based class."""
    masks: Tensor
    """(G, S, S) uint8, 0-255 share of each cell that is covered."""
    mask_boxes: Tensor
    """(G, 4) float32 in image pixels, the frame of each mask."""
    keypoints: Tensor
    """(G, J, 3) x and y in image pixels, and 1 where visible; J is 0 where none are learnt."""
    labelled: Tensor | None = None
    """(H, W) bool, True where labels are complete; None is everywhere."""
