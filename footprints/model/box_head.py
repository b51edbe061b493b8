"""Second stage: class and box of every proposal.

Shapes: N images, R proposals of all images, K foreground classes, C channels.
Sources: Fast R-CNN, arXiv 1504.08083; RoIAlign and class-wise boxes, arXiv 1703.06870.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import batched_nms, roi_align

from footprints.config import BoxHeadConfig, DetectionConfig
from footprints.model.backbone import STRIDES
from footprints.model.boxes import (
    clip_boxes,
    decode_boxes,
    encode_boxes,
    ignore_unlabelled,
    match_boxes,
    sample_matches,
)
from footprints.model.rpn import Proposals
from footprints.model.targets import Target

_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
_LEVELS = 4  # P6 is for anchors only
_CANONICAL_SIDE_PX, _CANONICAL_LEVEL = 224, 2
_SMALLEST_PX = 1.0


def pool_rois(pyramid: Sequence[Tensor], rois: Proposals, side: int, sampling_ratio: int) -> Tensor:
    """RoIAlign on the level that fits each box: (R, C, side, side).

    A box of side s goes to P(4 + log2(s / 224)), floored, from P2 to P5 (arXiv 1612.03144, eq. 1).
    Nothing is rounded, neither box nor bin. Coordinates and sums stay in float32.
    """
    sides = (rois.boxes[:, 2:] - rois.boxes[:, :2]).clamp(min=0).prod(dim=1).sqrt()
    level = torch.floor(_CANONICAL_LEVEL + torch.log2(sides / _CANONICAL_SIDE_PX + 1e-8) + 1e-6)
    level = level.clamp(0, _LEVELS - 1).long()
    indexed = torch.cat((rois.image_index.unsqueeze(1).to(rois.boxes.dtype), rois.boxes), dim=1)
    pooled = pyramid[0].new_zeros(
        (len(indexed), pyramid[0].shape[1], side, side), dtype=torch.float32
    )
    for number in range(_LEVELS):
        index = (level == number).nonzero().squeeze(1)
        values = roi_align(
            pyramid[number].float(),
            indexed[index],
            side,
            spatial_scale=1 / STRIDES[number],
            sampling_ratio=sampling_ratio,
            aligned=True,
        )
        pooled = pooled.index_put((index,), values)
    return pooled


class Samples(NamedTuple):
    """Proposals drawn for the loss."""

    rois: Proposals
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
    """Two fully connected layers, then a softmax over K + 1 classes and K boxes.

    Args:
        channels: Channels of the pyramid.
        num_classes: K.
        config: Widths, thresholds, numbers of samples.
    """

    def __init__(self, channels: int, num_classes: int, config: BoxHeadConfig) -> None:
        super().__init__()
        self.config = config
        self.num_classes = num_classes
        self.fc1 = nn.Linear(channels * config.pool_side**2, config.width)
        self.fc2 = nn.Linear(config.width, config.width)
        self.classes = nn.Linear(config.width, num_classes + 1)
        self.offsets = nn.Linear(config.width, num_classes * 4)
        for fc in (self.fc1, self.fc2):
            nn.init.kaiming_uniform_(fc.weight, a=1)
            nn.init.zeros_(fc.bias)
        nn.init.normal_(self.classes.weight, std=0.01)
        nn.init.normal_(self.offsets.weight, std=0.001)
        nn.init.zeros_(self.classes.bias)
        nn.init.zeros_(self.offsets.bias)

    def forward(self, pyramid: Sequence[Tensor], rois: Proposals) -> tuple[Tensor, Tensor]:
        """Class logits (R, K + 1), background last, and offsets (R, K, 4), float32."""
        pooled = pool_rois(pyramid, rois, self.config.pool_side, self.config.sampling_ratio)
        hidden = F.relu(self.fc2(F.relu(self.fc1(pooled.flatten(1)))))
        offsets = self.offsets(hidden).view(-1, self.num_classes, 4)
        return self.classes(hidden).float(), offsets.float()

    @torch.no_grad()
    def sample(self, proposals: Proposals, targets: Sequence[Target]) -> Samples:
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
            rois = Proposals(boxes[chosen], torch.full_like(chosen, image))
            drawn.append((*rois, labels, truth, index[chosen]))
        boxes, images, labels, truth, index = (torch.cat(part) for part in zip(*drawn, strict=True))
        return Samples(Proposals(boxes, images), labels, truth, index)

    def losses(self, logits: Tensor, offsets: Tensor, samples: Samples) -> dict[str, Tensor]:
        """Softmax cross-entropy and smooth L1, both averaged over all sampled proposals."""
        positive = (samples.labels < self.num_classes).nonzero().squeeze(1)
        wanted = encode_boxes(samples.truth_boxes[positive], samples.rois.boxes[positive], _WEIGHTS)
        own = offsets[positive, samples.labels[positive]]
        count = max(len(samples.labels), 1)
        return {
            "loss_class": F.cross_entropy(logits, samples.labels, reduction="sum") / count,
            "loss_box": F.smooth_l1_loss(own, wanted, reduction="sum") / count,
        }

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
        rois: Proposals,
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
        large = ((boxes[:, 2:] - boxes[:, :2]) >= _SMALLEST_PX).all(dim=1).nonzero().squeeze(1)
        groups = image_index * self.num_classes + label
        keep = large[batched_nms(boxes[large], score[large], groups[large], config.nms_iou)]
        keep = keep[image_index[keep].argsort(stable=True)]
        images = image_index[keep]
        rank = torch.arange(len(keep), device=keep.device) - torch.searchsorted(images, images)
        keep = keep[rank < config.max_per_chip]
        return Detections(boxes[keep], score[keep], label[keep], image_index[keep])
