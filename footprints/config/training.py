"""Settings of a training run: what to learn from, and how."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from footprints.config.network import ModelConfig
from footprints.config.settings import ClassMap, Count, Positive, Settings, Share


def _as_list(given: object) -> object:
    """One name as a list of one."""
    return (given,) if isinstance(given, str) else given


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
    class_map: ClassMap = {}  # noqa: RUF012  # pydantic gives each its own
    """Values of that column, with ``coco`` the names of its categories, to the model's classes,
    where they are not the names themselves. What
    is mapped to null, and empty values unless they are mapped, are left out of the labels; their
    ground is without labels then, not background."""
    aoi: str | None = None
    """Polygons inside which the labels are complete; None is everywhere."""
    bands: tuple[Count, ...] | None = None
    """Bands to read, from 1, as many as ``model.bands``; None is all but an alpha band."""
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
