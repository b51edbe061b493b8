"""Settings of the network.

Pixels are pixels at the weights' ground resolution unless a name says otherwise. Paper defaults:
Mask R-CNN arXiv 1703.06870, FPN arXiv 1612.03144, PointRend arXiv 1912.08193.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from footprints.config.settings import Count, Positive, Settings, Share

Norm = Literal["none", "frozen", "live"]

CORNERS = ("upper_left", "upper_right", "lower_right", "lower_left")
"""Keypoints of a building: the vertices nearest to the corners of its box, in raster pixels."""


class BackboneConfig(Settings):
    """Trunk and feature pyramid."""

    name: str = "tf_efficientnet_lite0"
    """Any timm model with ``features_only`` and strides 4, 8, 16, 32, such as resnet18, resnet50,
    resnet101, resnext101_64x4d; a tag after a point chooses among its weights."""
    pretrained: bool | str = False
    """True: timm's own weights from its hub. A path: a local ``.pth`` or ``.safetensors`` file of
    the timm model or of its tensors in the same order. False: random."""
    frozen_stages: Annotated[int, Field(ge=0, le=5)] = 1
    """How many stages from the stem on are not trained."""
    norm: Literal["frozen", "live"] = "frozen"
    """Frozen norms keep the pretrained statistics: right for the small batches of detection."""
    neck: Literal["fpn", "c4"] = "fpn"
    """A feature pyramid, or stage 4 alone with stage 5 as the start of the heads (ResNets only)."""
    channels: Count = 128
    """Channels of every pyramid level."""
    fpn_norm: Norm = "none"
    """Batch norms after the convolutions of the pyramid, instead of biases."""


class RPNConfig(Settings):
    """Region proposal network."""

    anchor_sizes: tuple[Positive, ...] = (16, 32, 64, 128, 256)
    """Anchor side in pixels: one per pyramid level P2, P3, ...; with C4 all on its one level."""
    anchor_ratios: tuple[Positive, ...] = (0.5, 1.0, 2.0)
    """Height over width."""
    anchor_offset: Share = 0.5
    """Where in its feature pixel an anchor is centred, as a share of the stride; 0 is the upper
    left corner, as torchvision has it."""
    anchor_rounding: bool = False
    """Corners at whole pixels from the centre, as torchvision has them."""
    positive_iou: Share = 0.7
    negative_iou: Share = 0.3
    samples: Count = 256
    """Anchors per image in the loss."""
    positive_share: Share = 0.5
    depth: Count = 1
    """3 x 3 convolutions before the predictions."""
    train_pre_nms: Count = 2000
    """Proposals per level before non-maximum suppression, in training."""
    train_post_nms: Count = 1000
    """Proposals per image after it, in training."""
    test_pre_nms: Count = 1000
    test_post_nms: Count = 1000
    nms_iou: Share = 0.7
    min_side_px: Annotated[float, Field(ge=0)] = 1.0
    """Proposals with a shorter side are dropped."""


class RoIConfig(Settings):
    """How the features of a box are cut out of the pyramid."""

    op: Literal["align", "warp", "pool"] = "align"
    """RoIAlign rounds nothing, RoIWarp the box, RoIPool the box and its bins."""
    reduce: Literal["average", "maximum"] = "average"
    """What becomes of the samples in a bin; RoIPool takes the maximum."""
    side: Count = 7
    """Cells along each side of the result."""
    sampling_ratio: Annotated[int, Field(ge=0)] = 2
    """Samples per bin and axis; 0: one for each feature pixel of the bin."""
    canonical_side_px: Positive = 224
    """A box of this side is read from the canonical level, smaller ones from finer levels."""
    canonical_level: Annotated[int, Field(ge=2, le=5)] = 4
    aligned: bool = True
    """RoIAlign with feature pixels centred at a half, as images have them. False: at whole
    numbers, half a feature pixel off, as torchvision's detection models were trained."""

    @model_validator(mode="after")
    def _can_be_reduced(self) -> Self:
        if not self.aligned and self.op != "align":
            raise ValueError(f"aligned can be false for op align only, got op {self.op}")
        if self.op == "pool" and self.reduce != "maximum":
            raise ValueError("op pool takes the maximum of a bin; set reduce to maximum")
        if self.reduce == "maximum" and self.op != "pool" and self.sampling_ratio == 0:
            raise ValueError("reduce maximum needs a sampling_ratio of at least 1, got 0")
        return self


class BoxHeadConfig(Settings):
    """Second stage: class and box."""

    roi: RoIConfig = RoIConfig()
    convs: Annotated[int, Field(ge=0)] = 0
    """3 x 3 convolutions before the fully connected layers."""
    conv_width: Count = 256
    norm: Norm = "none"
    """Batch norms after the convolutions, instead of biases."""
    average: bool = False
    """Average the cells of a box before the fully connected layers, as ResNets end, instead of
    giving each cell weights of its own."""
    layers: Annotated[int, Field(ge=0)] = 2
    """Fully connected layers before the predictions."""
    width: Count = 512
    """Width of each of them."""
    class_agnostic: bool = False
    """One box for all classes instead of one for each."""
    box_loss: Literal["smooth_l1", "giou"] = "smooth_l1"
    smooth_l1_beta: Annotated[float, Field(ge=0)] = 1.0
    """Where smooth L1 turns from a parabola into a line; 0 is plain L1."""
    positive_iou: Share = 0.5
    samples: Count = 512
    """RoIs per image in the loss."""
    positive_share: Share = 0.25


class MaskSettings(Settings):
    """What all mask heads have."""

    classes: Literal["sigmoid", "softmax", "agnostic"] = "sigmoid"
    """A mask for each class by itself; classes and background in competition; one for all."""
    box_margin: Share = 0.1
    """Share of its size by which a box grows on each side before it is masked."""


class FCNMaskConfig(MaskSettings):
    """Convolutions, a deconvolution, and a mask of twice the side of the features."""

    kind: Literal["fcn"]
    roi: RoIConfig = RoIConfig(side=14)
    convs: Annotated[int, Field(ge=0)] = 4
    width: Count = 256
    """Channels of the convolutions and of the deconvolution."""
    norm: Norm = "none"
    """Batch norms after the convolutions, instead of biases."""


class MLPMaskConfig(MaskSettings):
    """Fully connected layers."""

    kind: Literal["mlp"]
    roi: RoIConfig = RoIConfig(side=14)
    layers: Count = 2
    width: Count = 1024
    mask_side: Count = 28


class PointRendConfig(MaskSettings):
    """Coarse masks, refined point by point."""

    kind: Literal["pointrend"] = "pointrend"
    coarse_width: Count = 1024
    """Width of the coarse head's fully connected layers."""
    coarse_conv_width: Count = 256
    """Features wider than this are narrowed first."""
    point_width: Count = 256
    train_points: Count = 196
    """N, points per box in the loss."""
    train_oversampling: Count = 3
    """k, how many times N points are drawn to choose from."""
    train_importance: Share = 0.75
    """beta, share of the N points that are chosen for being uncertain."""
    first_side: Count = 28
    """Side of the first grid in prediction."""
    subdivision_steps: Annotated[int, Field(ge=0, le=6)] | None = None
    """Doublings of every box, 3 in the paper: 28 to 224. None: until a cell is at most a pixel."""
    max_steps: Annotated[int, Field(ge=0, le=6)] = 4
    """Doublings at most, in the second case."""
    subdivision_points: Count = 196
    """Cells settled by the point head in each doubling, at least; 784 in the paper."""
    points_per_side: Annotated[float, Field(ge=0)] = 6.0
    """Cells settled per cell of the grid's side: an outline's length grows with the side."""

    @property
    def train_important_points(self) -> int:
        """Points chosen for being uncertain, of ``train_points``."""
        return int(self.train_importance * self.train_points)

    def points_at(self, side: int) -> int:
        """Cells to settle on a grid of this side."""
        return max(self.subdivision_points, round(self.points_per_side * side))


class KeypointConfig(Settings):
    """Keypoints of every instance, each one spot of a grid over its box."""

    names: Annotated[tuple[str, ...], Field(min_length=1)] = CORNERS
    """What they are called. Training knows the corners of buildings."""
    roi: RoIConfig = RoIConfig(side=14)
    convs: Annotated[int, Field(ge=0)] = 8
    width: Count = 512
    """Channels of the convolutions."""


class DetectionConfig(Settings):
    """What leaves the network."""

    score_threshold: Share = 0.05
    nms_iou: Share = 0.5
    min_side_px: Annotated[float, Field(ge=0)] = 1.0
    """Boxes with a shorter side are dropped."""
    max_per_chip: Count = 500
    """Reaching it is reported, never silent."""


class ModelConfig(Settings):
    """The whole network."""

    bands: Count = 3
    classes: tuple[str, ...] = ("building",)
    backbone: BackboneConfig = BackboneConfig()
    rpn: RPNConfig = RPNConfig()
    box_head: BoxHeadConfig = BoxHeadConfig()
    mask_head: (
        Annotated[FCNMaskConfig | MLPMaskConfig | PointRendConfig, Field(discriminator="kind")]
        | None
    ) = PointRendConfig()
    """None: boxes only (Faster R-CNN), which come out as rectangles."""
    keypoint_head: KeypointConfig | None = None
    """None: no keypoints."""
    detection: DetectionConfig = DetectionConfig()

    @model_validator(mode="before")
    @classmethod
    def _kind_of_masks(cls, given: object) -> object:
        mask_head = given.get("mask_head") if isinstance(given, dict) else None
        if isinstance(given, dict) and isinstance(mask_head, dict):
            return {**given, "mask_head": {"kind": "pointrend", **mask_head}}
        return given

    @model_validator(mode="after")
    def _five_levels(self) -> Self:
        if self.backbone.neck == "fpn" and len(self.rpn.anchor_sizes) != 5:
            raise ValueError(
                f"anchor_sizes must name one size per level P2 to P6, got {self.rpn.anchor_sizes}"
            )
        if not self.classes:
            raise ValueError("classes must name at least one class")
        if len(set(self.classes)) < len(self.classes) or not all(self.classes):
            raise ValueError(f"classes must have names, and different ones, got {self.classes}")
        return self
