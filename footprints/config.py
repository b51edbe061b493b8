"""One frozen, validated model per stage; unknown keys are errors that name the known ones.

Pixels are pixels at the weights' ground resolution unless a name says otherwise. Paper defaults:
Mask R-CNN arXiv 1703.06870, FPN arXiv 1612.03144, PointRend arXiv 1912.08193.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Annotated, Any, Literal, Self, TypeVar, cast, get_args

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails

from footprints.errors import ConfigError
from footprints.tables import folded, table

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Norm = Literal["none", "frozen", "live"]


def _with_text_keys(given: object) -> object:
    """A class map with its keys as text; JSON knows no others, and columns change their type."""
    if not isinstance(given, Mapping):
        return given
    for key in given:
        if isinstance(key, bool):
            # Not a TypeError: pydantic makes an error of its own of a ValueError only.
            raise ValueError(  # noqa: TRY004
                f"YAML reads yes, no, on and off as booleans, got {key}; put such keys in quotes"
            )
    return {
        "" if key is None else str(key) if isinstance(key, int) else key: name
        for key, name in given.items()
    }


def _as_list(given: object) -> object:
    """One name as a list of one."""
    return (given,) if isinstance(given, str) else given


ClassMap = Annotated[dict[str, str | None], BeforeValidator(_with_text_keys)]
"""Values of a column, as text, to names of classes. Empty values are the key ``""``, or null in
YAML. What is mapped to None belongs to no class: what stands there is unknown."""


CORNERS = ("upper_left", "upper_right", "lower_right", "lower_left")
"""Keypoints of a building: the vertices nearest to the corners of its box, in raster pixels."""


class Settings(BaseModel):
    """Base of all stages: immutable, and strict about keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def _repr_html_(self) -> str:
        return folded(type(self).__name__, _as_html(self), is_open=True)


S = TypeVar("S", bound=Settings)


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


class SceneConfig(Settings):
    """A scene, or a set of small images, with its labels."""

    images: Annotated[tuple[str, ...], BeforeValidator(_as_list)]
    """Raster files and folders, one or a list; ``*`` and ``?`` are expanded. With ``coco`` the
    folders of the images that it names."""
    labels: str | None = None
    """Polygons of the buildings; or a folder with a GeoJSON for each image, as SpaceNet has them,
    found by what the file names have in common."""
    coco: str | None = None
    """COCO annotations instead, a JSON file of instances; images may lack a georeference then, and
    are used at their own pixels."""
    image_field: str | None = None
    """Column of the labels that names the image they belong to; None goes by position."""
    class_field: str | None = None
    """Column of the labels with the class; None takes all as the first class."""
    class_map: ClassMap = {}
    """Values of that column, with ``coco`` the names of its categories, to the model's classes,
    where they are not the names themselves. What
    is mapped to null, and empty values unless they are mapped, are left out of the labels; their
    ground is without labels then, not background."""
    aoi: str | None = None
    """Polygons inside which the labels are complete; None is everywhere."""
    bands: tuple[Count, ...] | None = None
    """Bands to read, from 1; None is the first ones."""
    nodata: float | None = None
    """Value of pixels without data where the raster does not say so."""
    weight: Positive = 1.0
    """How often chips come from here, relative to the other scenes."""
    attribution: str = ""
    """Owners and licences of imagery and labels, for the model card."""

    @model_validator(mode="after")
    def _maps_a_column(self) -> Self:
        if self.class_map and self.class_field is None and self.coco is None:
            raise ValueError("class_map maps the values of class_field; name that column")
        return self

    @model_validator(mode="after")
    def _has_one_kind_of_labels(self) -> Self:
        if (self.labels is None) == (self.coco is None):
            raise ValueError(
                f"name either labels or coco, got labels {self.labels} and coco {self.coco}"
            )
        if self.coco is not None and (self.image_field or self.class_field):
            raise ValueError("coco says image and class itself; leave out image_field, class_field")
        return self


class DataConfig(Settings):
    """What to learn from."""

    root: str = ""
    """Folder that relative paths below start from; empty is the working directory."""
    scenes: Annotated[tuple[SceneConfig, ...], Field(min_length=1)]
    holdout: str | None = None
    """Polygons no pixel of which is used: neither for training nor for validation."""
    validation: str | None = None
    """Polygons that are kept for validation; None takes ``validation_share`` of the blocks."""
    validation_share: Share = 0.1
    gsd_m: Positive = 0.3
    """Ground resolution to train at, metres per pixel."""
    chip_size: Annotated[int, Field(ge=64, multiple_of=32)] = 512
    chips_per_epoch: Count = 1000
    empty_share: Share = 0.1
    """Share of chips drawn anywhere; the others are drawn around a building."""


class AugmentConfig(Settings):
    """Random changes to training chips."""

    scale: tuple[Positive, Positive] = (0.7, 1.4)
    """Range of ground resolutions, relative to the nominal one."""
    turn: bool = True
    """Mirror images and quarter turns: from above, no direction is up."""
    tilted: Share = 0.5
    """Share of cuts turned by any angle, where the image has room for it."""
    brightness: Share = 0.12
    """Largest shift of all bands, as a share of the value range."""
    contrast: Share = 0.25
    """Largest change of the spread around the chip's mean, as a share."""
    saturation: Share = 0.3
    """Largest change of the bands' distance from their mean, as a share."""
    hue: Share = 0.06
    """Largest turn about the grey axis, as a share of a full turn; three bands only."""
    band_gain: Share = 0.06
    """Largest change of each band by itself, as a share."""
    gamma: Share = 0.25
    """Largest exponent, as a share above 1, or one over it."""
    thinned: Share = 0.25
    """Share of cuts of imagery finer than it is read, for which the nearest pixels are taken, not
    averages: much imagery was thinned out so before it came to its user."""
    blur: Share = 0.2
    """Share of chips that are slightly blurred."""
    sharpen: Share = 0.3
    """Share of the other chips that are sharpened."""
    noise: Share = 0.02
    """Largest standard deviation of noise, as a share of the value range."""
    noisy: Share = 0.3
    """Share of chips with noise."""
    hazy: Share = 0.0
    """Share of chips seen through haze."""
    shadowed: Share = 0.0
    """Share of chips on a part of which a cloud's shadow lies."""
    band_dropped: Share = 0.0
    """Share of chips of which one band, if there are several, shows nothing: for sensors whose
    bands differ from scene to scene."""
    compressed: Share = 0.0
    """Share of chips that went through JPEG; 8-bit imagery only."""
    pasted: Share = 0.0
    """Share of chips onto which buildings of another place are pasted, over what stands there."""

    @model_validator(mode="after")
    def _scale_ascends(self) -> Self:
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale must be a range from low to high, got {self.scale}")
        return self


class OptimizerConfig(Settings):
    """Stochastic descent."""

    name: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Positive = 2e-4
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    """Never on norms and biases."""
    momentum: Share = 0.9
    """For sgd."""
    schedule: Literal["cosine", "step", "one-cycle"] = "cosine"
    """After the warm-up: half a cosine down to zero, or a tenth from three quarters of the steps
    on, as in the Mask R-CNN paper. ``one-cycle`` is a warm-up itself: up from a 25th along half a
    cosine for three tenths of the steps, then down along another to next to nothing."""
    warmup_steps: Annotated[int, Field(ge=0)] = 200
    """Steps of a rate that grows evenly; not for ``one-cycle``."""
    trunk_factor: Positive = 1.0
    """Learning rate of the pretrained trunk, relative to the rest."""
    clip_norm: Positive = 5.0
    """Largest norm of the gradient."""
    average: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of the exponential moving average of the weights; 0 keeps none."""


class TrainConfig(Settings):
    """The loop."""

    epochs: Count = 12
    validate_every: Count = 1
    """Epochs from one validation to the next."""
    batch_size: Count = 2
    """Chips that go through together, in each process."""
    accumulate: Count = 1
    """Batches whose gradients make one step."""
    patience: Count | None = None
    """The run ends after so many validations in a row without a better F1 score, and its weights
    are those of the best one. None: all epochs, and the weights of the last."""
    unfreeze_trunk: Annotated[int, Field(ge=0)] = 0
    """Epoch, from 0, from which on the trunk learns."""
    freeze_trunk: Count | None = None
    """Epoch from which on it does not any more; None: it learns to the end."""
    devices: Count | Literal["auto"] = 1
    """Processes on this machine, each with a GPU of its own where there are any; auto: one for each
    GPU."""
    nodes: Count = 1
    """Machines; each is given the same command, by ``torchrun`` or a batch system."""
    strategy: Literal["auto", "ddp"] = "auto"
    """How processes work together, as Lightning names it; auto: ddp where there are several."""
    tensorboard: bool = False
    """Also write the figures for TensorBoard, to the run's folder; needs the extra
    ``tensorboard``."""
    workers: Annotated[int, Field(ge=0)] = 2
    seed: int = 0
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    """16-bit formats pay on a GPU; on a CPU the backward pass is slower in them."""
    start_from: str | None = None
    """Weights of ours, or converted ones, to start from, or ``buildings-lite0``, those that ship.
    What ``model`` leaves open is as there, and heads that do not fit start anew."""

    @model_validator(mode="after")
    def _trunk_learns_in_between(self) -> Self:
        if self.freeze_trunk is not None and self.freeze_trunk <= self.unfreeze_trunk:
            raise ValueError(
                f"freeze_trunk must come after unfreeze_trunk, got {self.freeze_trunk} and "
                f"{self.unfreeze_trunk}"
            )
        return self


class RunConfig(Settings):
    """Everything a training run depends on: what ``configs/*.yaml`` hold."""

    name: str = "buildings"
    """Goes into the weights and the ``model`` column."""
    model: ModelConfig = ModelConfig()
    data: DataConfig
    augment: AugmentConfig = AugmentConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()

    @model_validator(mode="after")
    def _maps_lead_to_classes(self) -> Self:
        for number, scene in enumerate(self.data.scenes):
            for value, name in scene.class_map.items():
                if name is not None and name not in self.model.classes:
                    raise ValueError(
                        f"data.scenes.{number}.class_map maps {value!r} to {name!r}, which is none "
                        f"of model.classes: {', '.join(self.model.classes)}"
                    )
        return self


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML configuration.

    ``$NAME`` anywhere in the file stands for that environment variable, and ``$CONFIG_DIR`` for
    the folder of the file.

    Args:
        path: YAML file.
        overrides: ``key.key=value`` strings that win over the file, e.g. ``train.epochs=5``;
            values are YAML.

    Raises:
        ConfigError: The file is missing or not YAML, an environment variable is not set, a key is
            unknown, a value out of range.
    """
    values = _read_yaml(Path(path))
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold sections such as model, data and train")
    for override in overrides:
        _override(values, override)
    return parse_config(RunConfig, values, origin=str(path))


def load_class_map(given: Mapping[Any, Any] | str | Path) -> dict[str, str | None]:
    """Check a class map, or read one from a YAML file.

    Args:
        given: ``{value: class or None}``, or a YAML file that holds as much.

    Raises:
        ConfigError: The file is missing or not YAML, or does not hold such pairs.
    """
    origin, values = "class map", cast(object, given)
    if isinstance(given, str | Path):
        origin, values = str(given), _read_yaml(Path(given))
    try:
        return TypeAdapter(ClassMap).validate_python(values)
    except ValidationError as err:
        first = err.errors()[0]
        raise ConfigError(": ".join([origin, *map(str, first["loc"]), _message(first)])) from err


def _read_yaml(path: Path) -> object:
    names = os.environ | {"CONFIG_DIR": str(path.resolve().parent)}
    try:
        text = Template(path.read_text(encoding="utf-8")).substitute(names)
        return yaml.safe_load(text)
    except OSError as err:
        raise ConfigError(f"cannot read configuration {path}: {err.strerror}") from err
    except KeyError as err:
        raise ConfigError(
            f"{path} uses ${err.args[0]}: set the environment variable {err.args[0]}"
        ) from err
    except (yaml.YAMLError, ValueError) as err:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(err).split())}") from err


def parse_config(kind: type[S], values: Mapping[str, Any], *, origin: str) -> S:
    """Validate plain values as settings; errors name the key, its place and the known keys."""
    try:
        return kind.model_validate(values)
    except ValidationError as err:
        first = err.errors()[0]
        where, settings = _locate(kind, first["loc"])
        if first["type"] == "extra_forbidden":
            known = ", ".join(sorted(settings.model_fields))
            raise ConfigError(f"{origin}: unknown key {where}; known keys: {known}") from err
        parts = (origin, where, _message(first))
        raise ConfigError(": ".join(part for part in parts if part)) from err


def _as_html(settings: Settings) -> str:
    """Settings as tables: what is unlike the defaults, those folded, and each stage below."""
    given: list[tuple[str, str]] = []
    defaults: list[tuple[str, str]] = []
    stages: list[str] = []
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        is_default = not field.is_required() and value == field.get_default()
        parts = value if isinstance(value, tuple) else (value,)
        if any(isinstance(part, Settings) for part in parts):
            for number, part in enumerate(parts, start=1):
                title = name if part is value else f"{name}, {number} of {len(parts)}"
                stages.append(folded(title, _as_html(part), is_open=not is_default))
        else:
            (defaults if is_default else given).append((name, _as_text(value)))
    rest = folded(f"{len(defaults)} as by default", table(defaults, text=True)) if defaults else ""
    return "".join([table(given, text=True) if given else "", rest, *stages])


def _as_text(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(_as_text(each) for each in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_as_text(each)}" for key, each in value.items())
    return "none" if value is None else str(value)


def _message(error: ErrorDetails) -> str:
    if error["type"] == "value_error":
        # Rules of ours name the values themselves; a whole section would not fit a line.
        return error["msg"].removeprefix("Value error, ")
    return f"{error['msg']}, got {error['input']!r}"


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set takes key.key=value, got {override!r}")
    *sections, last = key.split(".")
    for section in sections:
        # A section whose keys are all commented out is None.
        values[section] = {} if values.get(section) is None else values[section]
        values = values[section]
        if not isinstance(values, dict):
            raise ConfigError(f"--set {override}: {section} is a value, not a section")
    try:
        values[last] = yaml.safe_load(text)
    except yaml.YAMLError as err:
        raise ConfigError(f"--set {override}: {text!r} is not YAML") from err


def _locate(kind: type[BaseModel], location: tuple[int | str, ...]) -> tuple[str, type[BaseModel]]:
    """The key an error is about, and the settings it is among; unions' tags are no keys."""
    keys, kinds = [], [kind]
    for part in location:
        tagged = [k for k in kinds if _tag(k) == part]
        if len(kinds) > 1 and tagged:
            kinds = tagged
            continue
        keys.append(str(part))
        if isinstance(part, str) and part in kinds[0].model_fields:
            kinds = _settings_in(kinds[0].model_fields[part].annotation) or kinds
    return ".".join(keys), kinds[0]


def _tag(kind: type[BaseModel]) -> str | None:
    """The only value that ``kind``, which tells settings of a union apart, can have."""
    field = kind.model_fields.get("kind")
    return None if field is None else get_args(field.annotation)[0]


def _settings_in(annotation: object) -> list[type[BaseModel]]:
    """The settings that a type is made of: itself, the items of a tuple, the choices of a union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [kind for part in get_args(annotation) for kind in _settings_in(part)]
