"""Keypoint head: for each keypoint of an instance, the one spot of a grid where it is.

Shapes: R boxes of all images, J keypoints, S side of the grid, 56 for features of 14 x 14.
Source: Mask R-CNN, arXiv 1703.06870, section 5.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from footprints.config import KeypointConfig
from footprints.model.convolutions import convolutions
from footprints.model.masks import image_points, no_loss
from footprints.model.processes import own_weight
from footprints.model.roi import RoIFeatures, RoIs, pool_rois

GRID_CELLS_PER_FEATURE = 4
"""A deconvolution doubles the side of a box's features, interpolation doubles it again."""


class KeypointHead(nn.Module):
    """Convolutions and a deconvolution, then a softmax over all cells of a keypoint's grid.

    Args:
        channels: C, channels of a box's features.
        config: Names of the keypoints, RoI operator, convolutions.
    """

    def __init__(self, channels: int, config: KeypointConfig) -> None:
        super().__init__()
        self.config = config
        self.convs = convolutions(channels, config.width, config.convs, "none")
        if config.convs:
            channels = config.width
        self.prediction = nn.ConvTranspose2d(channels, len(config.names), 4, stride=2, padding=1)
        nn.init.kaiming_normal_(self.prediction.weight, mode="fan_out", nonlinearity="relu")
        assert self.prediction.bias is not None
        nn.init.zeros_(self.prediction.bias)

    def forward(self, features: RoIFeatures, boxes: Tensor, image_index: Tensor) -> Tensor:
        """Boxes (R, 4) in image pixels to logits (R, J, S, S)."""
        pooled = pool_rois(features, RoIs(boxes, image_index), self.config.roi)
        coarse = self.prediction(self.convs(pooled)).float()
        return F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)

    def losses(
        self, features: RoIFeatures, boxes: Tensor, image_index: Tensor, keypoints: Tensor
    ) -> dict[str, Tensor]:
        """Mean cross-entropy over the cells, of the visible keypoints inside their box.

        Args:
            features: Of the images.
            boxes: (R, 4) positive boxes in image pixels.
            image_index: (R,).
            keypoints: (R, J, 3) x and y in image pixels, and 1 where visible.
        """
        if not len(boxes):
            own_weight(0, boxes.device)
            return {"loss_keypoint": no_loss(self, features.levels[0])}
        logits = self(features, boxes, image_index)
        side = logits.shape[-1]
        corner, size = boxes[:, None, :2], boxes[:, None, 2:] - boxes[:, None, :2]
        places = (keypoints[..., :2] - corner) / size
        seen = (keypoints[..., 2] > 0) & ((places >= 0) & (places <= 1)).all(dim=2)
        column, row = (places * side).long().clamp(0, side - 1).unbind(dim=2)
        # Summed and divided: a mean over no keypoint at all is not a number.
        loss = F.cross_entropy(
            logits.flatten(2)[seen], (row * side + column)[seen], reduction="sum"
        )
        count = seen.sum()
        return {"loss_keypoint": loss * own_weight(count, loss.device) / count.clamp(min=1)}

    def predict(self, features: RoIFeatures, boxes: Tensor, image_index: Tensor) -> Tensor:
        """Keypoints (R, J, 3) of boxes (R, 4): x and y in image pixels, and confidence.

        The place is the centroid of the best cell and those around it, weighted by their
        probability; the confidence is the probability of all of them together.
        """
        if not len(boxes):
            return boxes.new_empty((0, len(self.config.names), 3))
        logits = self(features, boxes, image_index)
        side = logits.shape[-1]
        chances = logits.flatten(2).softmax(dim=2)
        best = chances.argmax(dim=2)
        row, column = best // side, best % side
        around = torch.arange(-1, 2, device=boxes.device)
        rows = (row[..., None, None] + around[:, None]).expand(*row.shape, 3, 3)
        columns = (column[..., None, None] + around[None, :]).expand(*row.shape, 3, 3)
        inside = (rows >= 0) & (rows < side) & (columns >= 0) & (columns < side)
        cells = (rows.clamp(0, side - 1) * side + columns.clamp(0, side - 1)).flatten(2)
        weights = torch.where(inside, chances.gather(2, cells).view_as(rows), 0.0)
        total = weights.sum(dim=(2, 3))
        x = ((columns + 0.5) * weights).sum(dim=(2, 3)) / total / side
        y = ((rows + 0.5) * weights).sum(dim=(2, 3)) / total / side
        places = image_points(torch.stack((x, y), dim=-1), boxes)
        return torch.cat((places, total.unsqueeze(2)), dim=2)
