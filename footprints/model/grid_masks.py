"""Mask heads that predict a whole grid at once: fully convolutional, or fully connected.

Shapes: R boxes of all images, C feature channels, M mask channels, S side of the mask.
Source: Mask R-CNN, arXiv 1703.06870, section 3 and table 2e.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from footprints.config import FCNMaskConfig, MLPMaskConfig
from footprints.model.convolutions import convolutions
from footprints.model.masks import (
    MaskGrids,
    MaskTargets,
    image_points,
    mask_channels,
    mask_loss,
    no_loss,
    own_logits,
    regular_grid,
)
from footprints.model.processes import own_weight
from footprints.model.roi import RoIFeatures, RoIs, pool_rois


class GridMaskHead(nn.Module):
    """Features of a box, cut out at one size, to a mask grid of one size.

    Args:
        channels: C, channels of a box's features.
        side: Their side, in cells.
        num_classes: K.
        config: Convolutions and a deconvolution, or fully connected layers.
    """

    trains_on_predicted = False

    def __init__(
        self, channels: int, side: int, num_classes: int, config: FCNMaskConfig | MLPMaskConfig
    ) -> None:
        super().__init__()
        self.config = config
        self.box_margin = config.box_margin
        out = mask_channels(num_classes, config.classes)
        if isinstance(config, FCNMaskConfig):
            self.layers = _convolutions(channels, out, config)
        else:
            self.layers = _fully_connected(channels * side**2, out, config)

    def losses(
        self,
        features: RoIFeatures,
        boxes: Tensor,
        image_index: Tensor,
        labels: Tensor,
        targets: MaskTargets,
    ) -> dict[str, Tensor]:
        """Mean cross-entropy over the cells.

        Args:
            features: Of the images.
            boxes: (R, 4) positive boxes in image pixels.
            image_index: (R,).
            labels: (R,) ground-truth class, 0-based.
            targets: Ground-truth masks of the R boxes.
        """
        weight = own_weight(len(boxes), boxes.device)
        if not len(boxes):
            return {"loss_mask": no_loss(self, features.levels[0])}
        logits = self(features, boxes, image_index)
        grid = regular_grid(logits.shape[-1], boxes.device).expand(len(boxes), -1, -1)
        coverage = targets.sample(image_points(grid, boxes))
        loss = mask_loss(_cells(logits), labels, coverage, self.config.classes)
        return {"loss_mask": loss * weight}

    def predict(
        self, features: RoIFeatures, boxes: Tensor, image_index: Tensor, labels: Tensor
    ) -> Iterator[MaskGrids]:
        """Mask logits of each box's own class."""
        if not len(boxes):
            return
        logits = self(features, boxes, image_index)
        own = own_logits(_cells(logits), labels, self.config.classes)
        yield MaskGrids(
            torch.arange(len(boxes), device=boxes.device), own.view(-1, *logits.shape[2:])
        )

    def forward(self, features: RoIFeatures, boxes: Tensor, image_index: Tensor) -> Tensor:
        """Boxes (R, 4) to logits (R, M, S, S)."""
        pooled = pool_rois(features, RoIs(boxes, image_index), self.config.roi)
        logits: Tensor = self.layers(pooled).float()
        return logits


def _cells(logits: Tensor) -> Tensor:
    """(R, M, S, S) to (R, S * S, M)."""
    return logits.flatten(2).transpose(1, 2)


def _convolutions(channels: int, out: int, config: FCNMaskConfig) -> nn.Sequential:
    layers = convolutions(channels, config.width, config.convs, config.norm)
    deconv = nn.ConvTranspose2d(config.width if config.convs else channels, config.width, 2, 2)
    nn.init.kaiming_normal_(deconv.weight, mode="fan_out", nonlinearity="relu")
    assert deconv.bias is not None
    nn.init.zeros_(deconv.bias)
    layers.extend((deconv, nn.ReLU(), _prediction(nn.Conv2d(config.width, out, 1))))
    return layers


def _fully_connected(features: int, out: int, config: MLPMaskConfig) -> nn.Sequential:
    layers = nn.Sequential(nn.Flatten())
    for _ in range(config.layers):
        layer = nn.Linear(features, config.width)
        nn.init.kaiming_uniform_(layer.weight, a=1)
        nn.init.zeros_(layer.bias)
        layers.extend((layer, nn.ReLU()))
        features = config.width
    side = config.mask_side
    layers.extend(
        (_prediction(nn.Linear(features, out * side**2)), nn.Unflatten(1, (out, side, side)))
    )
    return layers


def _prediction(layer: nn.Conv2d | nn.Linear) -> nn.Module:
    nn.init.normal_(layer.weight, std=0.001)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer
