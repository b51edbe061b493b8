"""Second stage: class and box of every proposal.

Shapes: N images, R proposals of all images, K foreground classes, C channels.
Sources: Fast R-CNN, arXiv 1504.08083; class-wise boxes, arXiv 1703.06870; generalized IoU,
arXiv 1902.09630.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import batched_nms, generalized_box_iou_loss

from footprints.config import BoxHeadConfig, DetectionConfig
from footprints.model.boxes import (
    clip_boxes,
    decode_boxes,
    encode_boxes,
    ignore_unlabelled,
    match_boxes,
    sample_matches,
)
from footprints.model.convolutions import convolutions
from footprints.model.processes import own_weight
from footprints.model.roi import RoIFeatures, RoIs, pool_rois
from footprints.model.targets import Target

_WEIGHTS = (10.0, 10.0, 5.0, 5.0)


class Samples(NamedTuple):
    """RoIs drawn for the loss."""

    rois: RoIs
    labels: Tensor
    """(R,) class index, K for background."""
    truth_boxes: Tensor
    """(R, 4), of the matched building; meaningless for background."""
    truth_index: Tensor
    """(R,) index of the matched building within its image."""


class Detections(NamedTuple):
    """What is left after suppression, of all images, ordered by image."""

    boxes: Tensor
    """(R, 4) in image pixels, clipped."""
    scores: Tensor
    """(R,) 0 to 1."""
    labels: Tensor
    """(R,) 0-based."""
    image_index: Tensor
    """(R,)."""


class BoxHead(nn.Module):
    """Convolutions, fully connected layers, then a softmax over K + 1 classes and a box for each.

    Args:
        channels: Channels of a box's features.
        side: Their side, in cells.
        num_classes: K.
        config: Layers, widths, thresholds, numbers of samples.
    """

    def __init__(self, channels: int, side: int, num_classes: int, config: BoxHeadConfig) -> None:
        super().__init__()
        self.config = config
        self.num_classes = num_classes
        self.convs = convolutions(channels, config.conv_width, config.convs, config.norm)
        if config.convs:
            channels = config.conv_width
        self.layers = nn.Sequential()
        features = channels if config.average else channels * side**2
        for _ in range(config.layers):
            layer = nn.Linear(features, config.width)
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)
            self.layers.extend((layer, nn.ReLU()))
            features = config.width
        self.classes = nn.Linear(features, num_classes + 1)
        self.offsets = nn.Linear(features, 4 if config.class_agnostic else num_classes * 4)
        nn.init.normal_(self.classes.weight, std=0.01)
        nn.init.normal_(self.offsets.weight, std=0.001)
        nn.init.zeros_(self.classes.bias)
        nn.init.zeros_(self.offsets.bias)

    def forward(self, features: RoIFeatures, rois: RoIs) -> tuple[Tensor, Tensor]:
        """Class logits (R, K + 1), background last, and offsets (R, K, 4), float32."""
        pooled = self.convs(pool_rois(features, rois, self.config.roi))
        hidden = self.layers(pooled.mean(dim=(2, 3)) if self.config.average else pooled.flatten(1))
        # Where all classes share a box, each gets the same one.
        offsets = self.offsets(hidden).unflatten(1, (-1, 4)).expand(-1, self.num_classes, -1)
        return self.classes(hidden).float(), offsets.float()

    @torch.no_grad()
    def sample(self, proposals: RoIs, targets: Sequence[Target]) -> Samples:
        """Draw proposals for the loss; the ground truth itself is among them."""
        drawn = []
        for image, target in enumerate(targets):
            boxes = torch.cat((proposals.boxes[proposals.image_index == image], target.boxes))
            index, state = match_boxes(
                boxes,
                target.boxes,
                positive_iou=self.config.positive_iou,
                negative_iou=self.config.positive_iou,
                keep_best=False,
            )
            state = ignore_unlabelled(state, target.labelled, boxes)
            positive, negative = sample_matches(
                state, self.config.samples, self.config.positive_share
            )
            chosen = torch.cat((positive, negative))
            labels = torch.full_like(chosen, self.num_classes)
            labels[: len(positive)] = target.labels[index[positive]]
            truth = boxes[chosen].clone()
            truth[: len(positive)] = target.boxes[index[positive]]
            rois = RoIs(boxes[chosen], torch.full_like(chosen, image))
            drawn.append((*rois, labels, truth, index[chosen]))
        boxes, images, labels, truth, index = (torch.cat(part) for part in zip(*drawn, strict=True))
        return Samples(RoIs(boxes, images), labels, truth, index)

    def losses(self, logits: Tensor, offsets: Tensor, samples: Samples) -> dict[str, Tensor]:
        """Softmax cross-entropy and box loss, both averaged over all sampled proposals."""
        positive = (samples.labels < self.num_classes).nonzero().squeeze(1)
        own = offsets[positive, samples.labels[positive]]
        box_loss = self._box_loss(own, samples.rois.boxes[positive], samples.truth_boxes[positive])
        count = len(samples.labels)
        weight = own_weight(count, logits.device) / max(count, 1)
        return {
            "loss_class": F.cross_entropy(logits, samples.labels, reduction="sum") * weight,
            "loss_box": box_loss * weight,
        }

    def _box_loss(self, offsets: Tensor, boxes: Tensor, truth: Tensor) -> Tensor:
        """Summed loss of offsets (R, 4) from boxes (R, 4) to true boxes (R, 4)."""
        if self.config.box_loss == "giou":
            predicted = decode_boxes(offsets, boxes, _WEIGHTS)
            loss: Tensor = generalized_box_iou_loss(predicted, truth, reduction="sum")
            return loss
        wanted = encode_boxes(truth, boxes, _WEIGHTS)
        beta = self.config.smooth_l1_beta
        return F.smooth_l1_loss(offsets, wanted, beta=beta, reduction="sum")

    def class_boxes(
        self, offsets: Tensor, boxes: Tensor, labels: Tensor, image_size: tuple[int, int]
    ) -> Tensor:
        """Boxes (R, 4) predicted for the given class of each proposal, clipped to the image."""
        rows = torch.arange(len(boxes), device=boxes.device)
        return clip_boxes(decode_boxes(offsets[rows, labels], boxes, _WEIGHTS), *image_size)

    def detect(
        self,
        logits: Tensor,
        offsets: Tensor,
        rois: RoIs,
        image_size: tuple[int, int],
        config: DetectionConfig,
    ) -> Detections:
        """Suppress doubles within image and class, and keep the best of each image."""
        scores = logits.softmax(dim=1)[:, : self.num_classes]
        row, label = (scores > config.score_threshold).nonzero(as_tuple=True)
        score, image_index = scores[row, label], rois.image_index[row]
        boxes = clip_boxes(
            decode_boxes(offsets[row, label], rois.boxes[row], _WEIGHTS), *image_size
        )
        sides = boxes[:, 2:] - boxes[:, :2]
        large = (sides >= config.min_side_px).all(dim=1).nonzero().squeeze(1)
        groups = image_index * self.num_classes + label
        keep = large[batched_nms(boxes[large], score[large], groups[large], config.nms_iou)]
        keep = keep[image_index[keep].argsort(stable=True)]
        images = image_index[keep]
        rank = torch.arange(len(keep), device=keep.device) - torch.searchsorted(images, images)
        keep = keep[rank < config.max_per_chip]
        return Detections(boxes[keep], score[keep], label[keep], image_index[keep])
