"""From a configuration to what a run works with: chips to learn from and to judge by, a network.

Everything here reads and nothing writes, so that `lr_find` and `show` see what training would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from footprints.chip import InputSpec, Scaling
from footprints.config import (
    CORNERS,
    DataConfig,
    ModelConfig,
    RunConfig,
    SceneConfig,
    parse_config,
)
from footprints.data.augment import Augmentation
from footprints.data.coco import CocoScene, read_coco_scene
from footprints.data.dataset import (
    TrainingChips,
    TrainingSource,
    ValidationChips,
    check_bands,
)
from footprints.data.labels import LabelledImage, TrainingScene, read_training_scene
from footprints.data.split import Split, split_by_place
from footprints.errors import TrainingError
from footprints.model.backbone import trunk_scaling
from footprints.model.checkpoint import read_info, start_from
from footprints.model.detector import DEFAULT_WEIGHTS
from footprints.model.mask_rcnn import MaskRCNN
from footprints.raster.scaling import measure_value_range
from footprints.validation import UNKNOWN_CONFIDENCE
from footprints.vector.read import read_layer

CHECKPOINT, WEIGHTS, CONFIG, METRICS = (
    "last.ckpt",
    "weights.safetensors",
    "config.yaml",
    "metrics.csv",
)
"""The files of a run's folder."""
STRIDE = 32
"""Chip sides are a multiple of the coarsest trunk stage's stride."""
_IMAGES_MEASURED = 8


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """What the scenes and labels of a configuration give."""

    chips: TrainingChips
    """Augmented chips to learn from."""
    validation: ValidationChips
    """Chips of ground that is kept apart; none where nothing is."""
    spec: InputSpec
    """What chips look like."""
    split: Split
    """The ground that they are cut from."""


def prepare(config: RunConfig) -> Prepared:
    """Read the labels, keep ground for validation apart, and measure the pixels.

    Args:
        config: As `complete` returns it.

    Raises:
        TrainingError: There is nothing to learn from, or the scenes differ in their pixel type.
        RasterError, LayerError: A scene or its labels cannot be read.
    """
    scenes = [_read_scene(scene, config) for scene in config.data.scenes]
    split = _split(scenes, config)
    spec = _input_spec(scenes, config)
    chips = TrainingChips(
        [
            TrainingSource(images, scene.weight)
            for images, scene in zip(split.training, config.data.scenes, strict=True)
        ],
        chip_size=config.data.chip_size,
        gsd_m=config.data.gsd_m,
        length=config.data.chips_per_epoch,
        seed=config.train.seed,
        augmentation=Augmentation(**config.augment.model_dump()),
        empty_share=config.data.empty_share,
        value_range=spec.value_range,
    )
    validation = ValidationChips(
        split.validation, chip_size=config.data.chip_size, gsd_m=config.data.gsd_m
    )
    return Prepared(chips, validation, spec, split)


def complete(config: RunConfig) -> RunConfig:
    """What a configuration leaves open of the network is as in the weights it starts from."""
    if config.train.start_from is None:
        return config
    given = read_info(start_weights(config.train.start_from, config.data)).model
    model = _merge(given.model_dump(), config.model.model_dump(exclude_unset=True))
    return config.model_copy(
        update={"model": parse_config(ModelConfig, model, origin="model, with train.start_from")}
    )


def _merge(base: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Settings over settings; a section of another kind replaces the whole section."""
    merged = dict(base)
    for key, value in given.items():
        old = base.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            alike = value.get("kind", old.get("kind")) == old.get("kind")
            merged[key] = _merge(old, value) if alike else value
        else:
            merged[key] = value
    return merged


def _read_scene(scene: SceneConfig, config: RunConfig) -> list[LabelledImage]:
    """The images of a scene with their labels, of whichever kind."""
    images = [_path(image, config.data) for image in scene.images]
    aoi = None if scene.aoi is None else _path(scene.aoi, config.data)
    if scene.labels is None:
        assert scene.coco is not None, "a scene has one of the two"
        coco = CocoScene(
            images=images,
            annotations=_path(scene.coco, config.data),
            aoi=aoi,
            class_map=scene.class_map,
            bands=scene.bands,
            nodata=scene.nodata,
        )
        return read_coco_scene(coco, classes=config.model.classes)
    vector = TrainingScene(
        images=images,
        labels=_path(scene.labels, config.data),
        aoi=aoi,
        image_column=scene.image_field,
        class_column=scene.class_field,
        class_map=scene.class_map,
        bands=scene.bands,
        nodata=scene.nodata,
    )
    return read_training_scene(vector, classes=config.model.classes)


def _path(path: str, data: DataConfig) -> Path:
    return Path(data.root).expanduser() / path


def start_weights(weights: str, data: DataConfig) -> Path:
    """The weights to start from: those that ship, by name, or a file."""
    return DEFAULT_WEIGHTS if weights == DEFAULT_WEIGHTS.stem else _path(weights, data)


def _split(scenes: Sequence[Sequence[LabelledImage]], config: RunConfig) -> Split:
    data = config.data
    return split_by_place(
        scenes,
        chip_size=data.chip_size,
        gsd_m=data.gsd_m,
        holdout=None if data.holdout is None else read_layer(_path(data.holdout, data)),
        validation=None if data.validation is None else read_layer(_path(data.validation, data)),
        validation_share=data.validation_share,
        seed=config.train.seed,
    )


def _input_spec(scenes: Sequence[Sequence[LabelledImage]], config: RunConfig) -> InputSpec:
    """What chips look like: one pixel type, range and scaling for all scenes."""
    _check_bands([image for images in scenes for image in images], config.model.bands)
    types = {image.dtype: image.path for images in scenes for image in images}
    if len(types) > 1:
        named = ", ".join(f"{dtype} ({path})" for dtype, path in types.items())
        raise TrainingError(f"scenes differ in their pixel type: {named}; convert them to one")
    ranges = []
    for images in scenes:
        step = max(1, len(images) // _IMAGES_MEASURED)
        for image in images[::step]:
            with image.open() as scene:
                ranges.append(measure_value_range(scene))
    value_range = tuple(
        (min(low for low, _ in band), max(high for _, high in band))
        for band in zip(*ranges, strict=True)
    )
    (dtype,) = types
    return InputSpec(
        bands=config.model.bands,
        gsd_m=config.data.gsd_m,
        scaling=choose_scaling(config, dtype, value_range),
        dtype=dtype,
        value_range=value_range,
        multiple=STRIDE,
    )


def _check_bands(images: Sequence[LabelledImage], wanted: int) -> None:
    """Refuse images that differ in their number of bands, or do not fit the network."""
    check_bands(images)
    first = images[0]
    if first.count != wanted:
        example = ", ".join(str(min(band, first.count)) for band in range(1, wanted + 1))
        raise TrainingError(
            f"{first.path} gives {first.count} bands, but the network takes {wanted}: name as many "
            f"in the scene, as in bands: [{example}], or set model.bands to {first.count}"
        )


def choose_scaling(
    config: RunConfig, dtype: str, value_range: Sequence[tuple[float, float]]
) -> Scaling:
    """That of the weights to start from, or that of the trunk's; else the range to (-1, 1)."""
    bands = config.model.bands
    given = None
    if config.train.start_from is not None:
        spec = read_info(start_weights(config.train.start_from, config.data)).input_spec
        given = spec.scaling if spec.dtype == dtype else None
    elif dtype == "uint8":
        given = trunk_scaling(config.model.backbone.name)
    if given is None:
        mean = tuple((low + high) / 2 for low, high in value_range)
        std = tuple(max(high - low, 1e-6) / 2 for low, high in value_range)
        return Scaling(mean, std)
    if len(given.mean) == bands:
        return given
    # Which band is which is not known: they all get the mean of those that were given.
    return Scaling((fmean(given.mean),) * bands, (fmean(given.std),) * bands)


def start_confidence(config: RunConfig) -> float:
    """Least confidence to report before anything has validated: as in the weights to start from."""
    if config.train.start_from is None:
        return UNKNOWN_CONFIDENCE
    return read_info(start_weights(config.train.start_from, config.data)).confidence


def make_network(config: RunConfig) -> MaskRCNN:
    """The network at the start of a run: seeded, or from the weights to start from."""
    keypoints = config.model.keypoint_head
    if keypoints is not None and keypoints.names != CORNERS:
        raise TrainingError(
            f"training knows the keypoints {', '.join(CORNERS)}, got {', '.join(keypoints.names)}; "
            f"leave out model.keypoint_head.names"
        )
    torch.manual_seed(config.train.seed)
    model = MaskRCNN(config.model)
    if config.train.start_from is not None:
        start_from(model, start_weights(config.train.start_from, config.data))
    return model.to(memory_format=torch.channels_last)
