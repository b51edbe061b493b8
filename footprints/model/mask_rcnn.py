"""Mask R-CNN: backbone and proposals once per image; class, box and mask per proposal.

Shapes: N images, R boxes of all images, K foreground classes.
Source: arXiv 1703.06870, with the mask head of arXiv 1912.08193.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from footprints.config import ModelConfig, PointRendConfig
from footprints.model.backbone import C4Backbone, PyramidBackbone, make_backbone
from footprints.model.box_head import BoxHead, Detections, Samples
from footprints.model.grid_masks import GridMaskHead
from footprints.model.keypoint_head import KeypointHead
from footprints.model.masks import MaskGrids, MaskTargets, box_grids, expand_boxes
from footprints.model.pointrend import PointRendHead
from footprints.model.roi import RoIFeatures
from footprints.model.rpn import RPN
from footprints.model.targets import Target


class Dense(NamedTuple):
    """What is calculated everywhere in a batch of images, level by level of the pyramid."""

    pyramid: list[Tensor]
    """(N, C, H, W) features."""
    scores: list[Tensor]
    """Objectness of anchors, as `RPN` gives it."""
    offsets: list[Tensor]
    """From anchors to boxes, likewise."""


class Prediction(NamedTuple):
    """Detections of a batch with their masks."""

    detections: Detections
    mask_boxes: Tensor
    """(R, 4) in image pixels, the frame of each mask."""
    masks: list[MaskGrids]
    """Grids grouped by side; every detection is in exactly one group."""
    keypoints: Tensor
    """(R, J, 3) x and y in image pixels, and confidence; J is 0 for networks without keypoints."""


class MaskRCNN(nn.Module):
    """The network. Images are already scaled; nothing is resized or pasted in here.

    Args:
        config: The whole network's settings.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = make_backbone(config.bands, config.backbone)
        self.rpn = RPN(self.backbone.channels, self.backbone.strides, config.rpn)
        self.box_head = BoxHead(
            self.backbone.box_channels,
            self.backbone.box_side(config.box_head.roi.side),
            len(config.classes),
            config.box_head,
        )
        self.mask_head = _make_mask_head(self.backbone, config)
        self.keypoint_head = (
            None
            if config.keypoint_head is None
            else KeypointHead(self.backbone.box_channels, config.keypoint_head)
        )

    def losses(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The losses of all heads, to be added up.

        Args:
            images: (N, bands, H, W), sides multiples of 32.
            targets: Ground truth of each image.
        """
        size = (images.shape[2], images.shape[3])
        pyramid, scores, offsets = self.dense(images)
        anchors = self.rpn.anchors(pyramid)
        losses = self.rpn.losses(scores, offsets, anchors, targets)
        proposals = self.rpn.proposals(scores, offsets, anchors, size)
        samples = self.box_head.sample(proposals, targets)
        features = self.backbone.box_features(pyramid)
        logits, shifts = self.box_head(features, samples.rois)
        losses |= self.box_head.losses(logits, shifts, samples)
        if self.mask_head is not None:
            losses |= self._mask_losses(self.mask_head, features, shifts, samples, targets, size)
        if self.keypoint_head is not None:
            losses |= self._keypoint_losses(self.keypoint_head, features, samples, targets)
        return losses

    def _mask_losses(
        self,
        head: PointRendHead | GridMaskHead,
        features: RoIFeatures,
        shifts: Tensor,
        samples: Samples,
        targets: Sequence[Target],
        size: tuple[int, int],
    ) -> dict[str, Tensor]:
        """Mask losses on the boxes predicted for the true class, or on the proposals."""
        positive = (samples.labels < len(self.config.classes)).nonzero().squeeze(1)
        labels, image_index = samples.labels[positive], samples.rois.image_index[positive]
        with torch.no_grad():
            boxes = samples.rois.boxes[positive]
            if head.trains_on_predicted:
                boxes = self.box_head.class_boxes(shifts[positive], boxes, labels, size)
            boxes = expand_boxes(boxes, head.box_margin, *size)
            # A box that collapsed in the first steps has no inside to learn from.
            usable = ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(dim=1)
        positive, labels, image_index = positive[usable], labels[usable], image_index[usable]
        matched = _matched(samples, positive, targets)
        truth = MaskTargets(
            torch.cat([t.masks for t in targets])[matched].float() / 255,
            torch.cat([t.mask_boxes for t in targets])[matched],
        )
        return head.losses(features, boxes[usable], image_index, labels, truth)

    def _keypoint_losses(
        self,
        head: KeypointHead,
        features: RoIFeatures,
        samples: Samples,
        targets: Sequence[Target],
    ) -> dict[str, Tensor]:
        """Keypoint loss on the positive proposals."""
        positive = (samples.labels < len(self.config.classes)).nonzero().squeeze(1)
        boxes, image_index = samples.rois.boxes[positive], samples.rois.image_index[positive]
        keypoints = torch.cat([t.keypoints for t in targets])[_matched(samples, positive, targets)]
        return head.losses(features, boxes, image_index, keypoints)

    def dense(self, images: Tensor) -> Dense:
        """What is calculated everywhere in images (N, bands, H, W), all of a shape known before."""
        pyramid = self.backbone(images)
        return Dense(pyramid, *self.rpn(pyramid))

    @torch.no_grad()
    def predict(self, images: Tensor, dense: Callable[[Tensor], Dense] | None = None) -> Prediction:
        """Detections and box-local mask logits.

        Args:
            images: (N, bands, H, W), sides multiples of 32.
            dense: Does what `dense` does, such as that, compiled.
        """
        size = (images.shape[2], images.shape[3])
        pyramid, scores, offsets = (dense or self.dense)(images)
        proposals = self.rpn.proposals(scores, offsets, self.rpn.anchors(pyramid), size)
        features = self.backbone.box_features(pyramid)
        logits, shifts = self.box_head(features, proposals)
        found = self.box_head.detect(logits, shifts, proposals, size, self.config.detection)
        keypoints = found.boxes.new_empty((len(found.boxes), 0, 3))
        if self.keypoint_head is not None:
            keypoints = self.keypoint_head.predict(features, found.boxes, found.image_index)
        if self.mask_head is None:
            return Prediction(found, found.boxes, [box_grids(found.boxes)], keypoints)
        boxes = expand_boxes(found.boxes, self.mask_head.box_margin, *size)
        grids = self.mask_head.predict(features, boxes, found.image_index, found.labels)
        return Prediction(found, boxes, list(grids), keypoints)


def _matched(samples: Samples, positive: Tensor, targets: Sequence[Target]) -> Tensor:
    """Row of the true instance of each positive sample, among those of all images."""
    counts = torch.tensor([0, *(len(t.boxes) for t in targets)], device=positive.device)
    first: Tensor = counts.cumsum(0)[samples.rois.image_index[positive]]
    return samples.truth_index[positive] + first


def _make_mask_head(
    backbone: PyramidBackbone | C4Backbone, config: ModelConfig
) -> PointRendHead | GridMaskHead | None:
    settings, num_classes = config.mask_head, len(config.classes)
    if settings is None:
        return None
    if isinstance(settings, PointRendConfig):
        return PointRendHead(backbone.channels, backbone.strides[0], num_classes, settings)
    side = backbone.box_side(settings.roi.side)
    return GridMaskHead(backbone.box_channels, side, num_classes, settings)
