"""Region proposal network: where something might be, once per image.

Shapes: N images, A anchors of all levels, C channels, G ground-truth boxes of an image.
Source: Faster R-CNN, arXiv 1506.01497; on a pyramid, arXiv 1612.03144.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import batched_nms

from footprints.config import RPNConfig
from footprints.model.boxes import (
    clip_boxes,
    decode_boxes,
    encode_boxes,
    ignore_unlabelled,
    match_boxes,
    sample_matches,
)
from footprints.model.processes import own_weight
from footprints.model.roi import RoIs
from footprints.model.targets import Target

_WEIGHTS = (1.0, 1.0, 1.0, 1.0)
_SMOOTH_L1_BETA = 1 / 9


class RPN(nn.Module):
    """Score and shift anchors of one size per pyramid level.

    Args:
        channels: Channels of every level.
        strides: Image pixels per feature pixel of every level.
        config: Anchors, thresholds, numbers of proposals.
    """

    def __init__(self, channels: int, strides: Sequence[int], config: RPNConfig) -> None:
        super().__init__()
        self.config = config
        self.strides = strides
        # One size a level, or all of them where there is only one level.
        sizes = config.anchor_sizes
        self.sizes = [sizes] if len(strides) == 1 else [(size,) for size in sizes]
        shapes = len(config.anchor_ratios) * len(self.sizes[0])
        self.convs = nn.Sequential()
        for _ in range(config.depth):
            self.convs.extend((nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()))
        self.objectness = nn.Conv2d(channels, shapes, 1)
        self.offsets = nn.Conv2d(channels, 4 * shapes, 1)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.01)
            else:
                nn.init.zeros_(parameter)

    def forward(self, pyramid: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Objectness (N, A_level) and offsets (N, A_level, 4) of each level, float32."""
        scores, offsets = [], []
        for level in pyramid:
            hidden = self.convs(level)
            scores.append(self.objectness(hidden).permute(0, 2, 3, 1).flatten(1).float())
            shifts = self.offsets(hidden).permute(0, 2, 3, 1)
            offsets.append(shifts.reshape(len(level), -1, 4).float())
        return scores, offsets

    def anchors(self, pyramid: Sequence[Tensor]) -> list[Tensor]:
        """Anchors (A_level, 4) of each level, by default unrounded and centred on its pixels."""
        offset = self.config.anchor_offset
        ratios = torch.tensor(self.config.anchor_ratios, device=pyramid[0].device)
        levels = []
        for level, sizes, stride in zip(pyramid, self.sizes, self.strides, strict=True):
            height, width = level.shape[-2:]
            size = torch.tensor(sizes, device=level.device).unsqueeze(1)
            half_width = (size / ratios.sqrt() / 2).flatten()
            half_height = (size * ratios.sqrt() / 2).flatten()
            shapes = torch.stack((-half_width, -half_height, half_width, half_height), dim=1)
            if self.config.anchor_rounding:
                shapes = shapes.round()
            y = (torch.arange(height, device=level.device) + offset) * stride
            x = (torch.arange(width, device=level.device) + offset) * stride
            y, x = torch.meshgrid(y, x, indexing="ij")
            centres = torch.stack((x, y, x, y), dim=-1).view(-1, 1, 4)
            levels.append((centres + shapes).view(-1, 4))
        return levels

    @torch.no_grad()
    def proposals(
        self,
        scores: Sequence[Tensor],
        offsets: Sequence[Tensor],
        anchors: Sequence[Tensor],
        image_size: tuple[int, int],
    ) -> RoIs:
        """The best boxes of each image after non-maximum suppression within each level.

        They come image by image, the most promising first.

        All images and levels go through one suppression, told apart by their number.
        """
        config = self.config
        before = config.train_pre_nms if self.training else config.test_pre_nms
        after = config.train_post_nms if self.training else config.test_post_nms
        boxes, confidence, image_index, groups = [], [], [], []
        for level, (score, shift, anchor) in enumerate(zip(scores, offsets, anchors, strict=True)):
            best, index = score.topk(min(before, score.shape[1]), dim=1)
            moved = decode_boxes(
                shift.gather(1, index.unsqueeze(2).expand(-1, -1, 4)), anchor[index], _WEIGHTS
            )
            images = torch.arange(len(score), device=score.device).unsqueeze(1).expand_as(best)
            boxes.append(moved.flatten(0, 1))
            confidence.append(best.flatten())
            image_index.append(images.flatten())
            groups.append((images * len(scores) + level).flatten())
        return _suppress(
            clip_boxes(torch.cat(boxes), *image_size),
            torch.cat(confidence),
            torch.cat(image_index),
            torch.cat(groups),
            config,
            after,
        )

    def losses(
        self,
        scores: Sequence[Tensor],
        offsets: Sequence[Tensor],
        anchors: Sequence[Tensor],
        targets: Sequence[Target],
    ) -> dict[str, Tensor]:
        """Objectness and box loss, both averaged over the sampled anchors of the batch."""
        every = torch.cat(list(anchors))
        all_scores, all_offsets = torch.cat(list(scores), dim=1), torch.cat(list(offsets), dim=1)
        logits, truth, shifts, wanted = [], [], [], []
        for image, target in enumerate(targets):
            index, state = match_boxes(
                every,
                target.boxes,
                positive_iou=self.config.positive_iou,
                negative_iou=self.config.negative_iou,
                keep_best=True,
            )
            state = ignore_unlabelled(state, target.labelled, every)
            positive, negative = sample_matches(
                state, self.config.samples, self.config.positive_share
            )
            logits += [all_scores[image, positive], all_scores[image, negative]]
            truth += [torch.ones_like(logits[-2]), torch.zeros_like(logits[-1])]
            shifts.append(all_offsets[image, positive])
            wanted.append(encode_boxes(target.boxes[index[positive]], every[positive], _WEIGHTS))
        sampled = torch.cat(logits)
        # Sums, because the mean over no anchors is not a number: ground may be without labels.
        objectness_loss = F.binary_cross_entropy_with_logits(
            sampled, torch.cat(truth), reduction="sum"
        )
        box_loss = F.smooth_l1_loss(
            torch.cat(shifts), torch.cat(wanted), beta=_SMOOTH_L1_BETA, reduction="sum"
        )
        weight = own_weight(len(sampled), sampled.device) / max(len(sampled), 1)
        return {"loss_objectness": objectness_loss * weight, "loss_rpn_box": box_loss * weight}


def _suppress(
    boxes: Tensor,
    scores: Tensor,
    image_index: Tensor,
    groups: Tensor,
    config: RPNConfig,
    per_image: int,
) -> RoIs:
    sides = boxes[:, 2:] - boxes[:, :2]
    large = (sides >= config.min_side_px).all(dim=1).nonzero().squeeze(1)
    keep = large[batched_nms(boxes[large], scores[large], groups[large], config.nms_iou)]
    # Kept indices come by falling score; a stable sort by image keeps that order within each.
    order = image_index[keep].argsort(stable=True)
    keep = keep[order]
    images = image_index[keep]
    first = torch.searchsorted(images, images)
    rank = torch.arange(len(images), device=images.device) - first
    keep = keep[rank < per_image]
    return RoIs(boxes[keep], image_index[keep])
