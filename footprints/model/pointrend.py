"""PointRend mask head: sample mask points where the coarse mask is least certain.

Shapes: N images, R boxes of all images in the batch, P points per box, C feature channels, M mask
channels (one a class, unless configured otherwise), S mask side. Point coordinates are (x, y) in
[0, 1] of the box.
Source: arXiv 1912.08193, section 3 and the instance segmentation details of section 4.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from footprints.config import PointRendConfig
from footprints.model.masks import (
    MaskGrids,
    MaskTargets,
    image_points,
    mask_channels,
    mask_loss,
    no_loss,
    own_logits,
    point_sample,
    regular_grid,
)
from footprints.model.processes import own_weight
from footprints.model.roi import RoIFeatures
from footprints.model.sampling import sample_points

_POINTS_AT_ONCE = 2**16
"""Points that go through the point head together; a row of it is half a kilobyte or more."""


def _channels_last(features: Tensor) -> Tensor:
    """Every cell's channels in one piece, as they are gathered again and again."""
    return features.contiguous(memory_format=torch.channels_last)


class CoarseMaskHead(nn.Module):
    """Predict a 7 x 7 mask per channel from a 14 x 14 grid of points in the finest features."""

    sample_side = 14
    mask_side = 7

    def __init__(self, channels: int, masks: int, width: int, conv_width: int) -> None:
        super().__init__()
        self.mask_count = masks
        reduced = min(channels, conv_width)
        self.reduce_channel_dim_conv = (
            nn.Conv2d(channels, reduced, 1) if channels > conv_width else nn.Identity()
        )
        self.reduce_spatial_dim_conv = nn.Conv2d(reduced, reduced, 2, stride=2)
        self.fc1 = nn.Linear(reduced * self.mask_side**2, width)
        self.fc2 = nn.Linear(width, width)
        self.prediction = nn.Linear(width, masks * self.mask_side**2)
        for conv in (self.reduce_channel_dim_conv, self.reduce_spatial_dim_conv):
            for parameter in conv.parameters():
                if parameter.dim() > 1:
                    nn.init.kaiming_normal_(parameter, mode="fan_out", nonlinearity="relu")
                else:
                    nn.init.zeros_(parameter)
        for fc in (self.fc1, self.fc2):
            nn.init.kaiming_uniform_(fc.weight, a=1)
            nn.init.zeros_(fc.bias)
        nn.init.normal_(self.prediction.weight, std=0.001)
        nn.init.zeros_(self.prediction.bias)

    def pool(self, features: Tensor, stride: int, boxes: Tensor, image_index: Tensor) -> Tensor:
        """Features (N, C, H, W) at each box's 14 x 14 grid: (R, C, 14, 14)."""
        grid = regular_grid(self.sample_side, boxes.device).expand(len(boxes), -1, -1)
        sampled = sample_points(features, stride, image_points(grid, boxes), image_index)
        return sampled.transpose(1, 2).reshape(
            len(boxes), features.shape[1], self.sample_side, self.sample_side
        )

    def forward(self, pooled: Tensor) -> Tensor:
        """Pooled features (R, C, 14, 14) to coarse logits (R, M, 7, 7)."""
        hidden = F.relu(self.reduce_channel_dim_conv(pooled)) if self.has_reduction else pooled
        hidden = F.relu(self.reduce_spatial_dim_conv(hidden)).flatten(1)
        hidden = F.relu(self.fc2(F.relu(self.fc1(hidden))))
        masks: Tensor = self.prediction(hidden).float()
        return masks.view(-1, self.mask_count, self.mask_side, self.mask_side)

    @property
    def has_reduction(self) -> bool:
        """True where a 1 x 1 convolution narrows the features first."""
        return isinstance(self.reduce_channel_dim_conv, nn.Conv2d)


class PointHead(nn.Module):
    """Classify single points from their fine features and coarse logits."""

    def __init__(self, channels: int, masks: int, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels + masks, width)
        self.fc2 = nn.Linear(width + masks, width)
        self.fc3 = nn.Linear(width + masks, width)
        self.predictor = nn.Linear(width + masks, masks)
        for layer in (self.fc1, self.fc2, self.fc3):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        nn.init.normal_(self.predictor.weight, std=0.001)
        nn.init.zeros_(self.predictor.bias)

    def project(self, features: Tensor) -> Tensor:
        """The first layer's product with the feature maps: (N, C, H, W) to (N, width, H, W).

        Product and bilinear sampling are both linear, so their order does not matter; and there
        are fewer cells in the map than points, which lie close together.
        """
        of_features = self.fc1.weight[:, : features.shape[1]]
        return F.conv2d(features, of_features[:, :, None, None])

    def forward(self, projected: Tensor, coarse: Tensor) -> Tensor:
        """Projected features (P, width) and coarse logits (P, M) of P points to logits (P, M)."""
        of_coarse = self.fc1.weight[:, self.fc1.in_features - coarse.shape[1] :]
        # The bias comes after sampling, which has zeros beyond the border.
        hidden = F.relu_(F.linear(coarse, of_coarse, self.fc1.bias).add_(projected))
        coarse = coarse.to(hidden.dtype)
        for layer in (self.fc2, self.fc3):
            hidden = F.relu_(layer(torch.cat((hidden, coarse), dim=1)))
        logits: Tensor = self.predictor(torch.cat((hidden, coarse), dim=1))
        return logits.float()


class PointRendHead(nn.Module):
    """The mask head: coarse 7 x 7 masks, refined point by point.

    Args:
        channels: C, channels of the finest feature map.
        stride: Image pixels per pixel of that map.
        num_classes: K.
        config: Points, widths and subdivision steps.
    """

    trains_on_predicted = True

    def __init__(
        self, channels: int, stride: int, num_classes: int, config: PointRendConfig
    ) -> None:
        super().__init__()
        self.stride = stride
        self.config = config
        self.box_margin = config.box_margin
        masks = mask_channels(num_classes, config.classes)
        self.coarse_head = CoarseMaskHead(
            channels, masks, config.coarse_width, config.coarse_conv_width
        )
        self.point_head = PointHead(channels, masks, config.point_width)

    def losses(
        self,
        features: RoIFeatures,
        boxes: Tensor,
        image_index: Tensor,
        labels: Tensor,
        targets: MaskTargets,
    ) -> dict[str, Tensor]:
        """Coarse mask loss at 7 x 7 and point loss, each a mean binary cross-entropy.

        Args:
            features: Of the images; the finest level is used.
            boxes: (R, 4) positive boxes in image pixels, without gradient.
            image_index: (R,).
            labels: (R,) ground-truth class, 0-based.
            targets: Ground-truth masks of the R boxes.
        """
        finest = _channels_last(features.levels[0])
        weight = own_weight(len(boxes), boxes.device)
        if not len(boxes):
            nothing = no_loss(self, finest)
            return {"loss_mask": nothing, "loss_mask_point": nothing}
        coarse = self.coarse_head(self.coarse_head.pool(finest, self.stride, boxes, image_index))
        grid = regular_grid(self.coarse_head.mask_side, boxes.device).expand(len(boxes), -1, -1)
        coarse_loss = mask_loss(
            coarse.flatten(2).transpose(1, 2),
            labels,
            targets.sample(image_points(grid, boxes)),
            self.config.classes,
        )
        with torch.no_grad():
            points = self.training_points(coarse, labels)
        point_loss = mask_loss(
            self.point_logits(self.point_head.project(finest), boxes, image_index, coarse, points),
            labels,
            targets.sample(image_points(points, boxes)),
            self.config.classes,
        )
        return {"loss_mask": coarse_loss * weight, "loss_mask_point": point_loss * weight}

    def training_points(self, coarse: Tensor, labels: Tensor) -> Tensor:
        """Draw N points per box, biased towards uncertain ones (section 3.1).

        Of k * N uniform points the beta * N with the smallest |logit| stay; the rest is uniform.
        The logits are sampled before the uncertainty is taken: an interpolated uncertainty would
        be high between two confident points of opposite sign only by accident.

        Args:
            coarse: (R, M, 7, 7) coarse logits.
            labels: (R,) ground-truth class.

        Returns:
            (R, N, 2).
        """
        count, keep = self.config.train_points, self.config.train_important_points
        boxes, device = len(coarse), coarse.device
        drawn = torch.rand(boxes, self.config.train_oversampling * count, 2, device=device)
        uncertainty = -own_logits(point_sample(coarse, drawn), labels, self.config.classes).abs()
        chosen = uncertainty.topk(keep, dim=1).indices
        important = drawn.gather(1, chosen.unsqueeze(2).expand(-1, -1, 2))
        uniform = torch.rand(boxes, count - keep, 2, device=device)
        return torch.cat((important, uniform), dim=1)

    def point_logits(
        self, projected: Tensor, boxes: Tensor, image_index: Tensor, coarse: Tensor, points: Tensor
    ) -> Tensor:
        """Logits (R, P, M) of the point head at points (R, P, 2) of the boxes.

        Args:
            projected: The finest features, as `PointHead.project` has them.
            boxes: (R, 4) in image pixels.
            image_index: (R,).
            coarse: (R, M, 7, 7) coarse logits.
            points: (R, P, 2), (x, y) in [0, 1] of the box.
        """
        boxes_at_once = max(1, _POINTS_AT_ONCE // points.shape[1])
        logits = []
        for first in range(0, len(boxes), boxes_at_once):
            some = slice(first, first + boxes_at_once)
            places = image_points(points[some], boxes[some])
            fine = sample_points(projected, self.stride, places, image_index[some])
            rough = point_sample(coarse[some], points[some])
            logits.append(self.point_head(fine.flatten(0, 1), rough.flatten(0, 1)))
        return torch.cat(logits).view(*points.shape[:2], -1)

    def predict(
        self,
        features: RoIFeatures,
        boxes: Tensor,
        image_index: Tensor,
        labels: Tensor,
    ) -> Iterator[MaskGrids]:
        """Mask logits of each box's own class, by adaptive subdivision.

        Args:
            features: Of the images; the finest level is used.
            boxes: (R, 4) in image pixels.
            image_index: (R,).
            labels: (R,) predicted class, 0-based.

        Yields:
            The boxes that are done at each side, 28, 56, 112, ...; every box once.
        """
        if not len(boxes):
            return
        finest, steps = _channels_last(features.levels[0]), self.steps_for(boxes)
        coarse = self.coarse_head(self.coarse_head.pool(finest, self.stride, boxes, image_index))
        index = torch.arange(len(boxes), device=boxes.device)
        side = self.config.first_side
        grid = regular_grid(side, boxes.device).expand(len(boxes), -1, -1)
        projected = self.point_head.project(finest)
        logits = self.point_logits(projected, boxes, image_index, coarse, grid)
        logits = own_logits(logits, labels, self.config.classes).view(-1, side, side)
        for step in range(int(steps.max()) + 1):
            if step:
                logits = self._subdivide(
                    logits,
                    projected,
                    boxes[index],
                    image_index[index],
                    coarse[index],
                    labels[index],
                )
            done = steps[index] == step
            if done.any():
                yield MaskGrids(index[done], logits[done])
                index, logits = index[~done], logits[~done]

    def _subdivide(
        self,
        logits: Tensor,
        projected: Tensor,
        boxes: Tensor,
        image_index: Tensor,
        coarse: Tensor,
        labels: Tensor,
    ) -> Tensor:
        """Double the side of (R, S, S) logits and settle the least certain cells."""
        logits = F.interpolate(
            logits.unsqueeze(1), scale_factor=2, mode="bilinear", align_corners=False
        ).squeeze(1)
        side = logits.shape[1]
        flat: Tensor = logits.flatten(1)
        count = min(self.config.points_at(side), side * side)
        cells = flat.abs().topk(count, dim=1, largest=False).indices
        points = torch.stack((cells % side, cells // side), dim=-1).add(0.5).div(side)
        refined = self.point_logits(projected, boxes, image_index, coarse, points)
        # Select the class before writing back: all M channels would cost 1.6 GB at R = 100, M = 80.
        refined = own_logits(refined, labels, self.config.classes)
        return flat.scatter(1, cells, refined).view(-1, side, side)

    def steps_for(self, boxes: Tensor) -> Tensor:
        """Doublings (R,) of each box: those configured, or until a cell is at most one pixel.

        A small building is done at 28 x 28; going on to 224 would only interpolate (equal within
        4e-4) at twice the time. A long shed goes further than the paper's 224.
        """
        if self.config.subdivision_steps is not None:
            return torch.full((len(boxes),), self.config.subdivision_steps, device=boxes.device)
        sides = (boxes[:, 2:] - boxes[:, :2]).amax(dim=1).clamp(min=1.0)
        steps = torch.ceil(torch.log2(sides / self.config.first_side) - 1e-4)
        return steps.clamp(0, self.config.max_steps).long()
