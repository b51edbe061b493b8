"""Labels and scenes to weights: the training loop.

A run lives in one folder: ``config.yaml`` (resolved), ``metrics.csv`` (a row per epoch),
``last.ckpt`` (to resume from) and ``weights.safetensors`` (to predict with, after every epoch).
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from multiprocessing.context import BaseContext
from pathlib import Path
from statistics import fmean
from typing import Any

import lightning
import torch
import yaml
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, TQDMProgressBar
from torch.utils.data import DataLoader, Dataset

from footprints.chip import InputSpec, Scaling
from footprints.config import (
    CORNERS,
    DataConfig,
    ModelConfig,
    RunConfig,
    SceneConfig,
    load_config,
    parse_config,
)
from footprints.data.augment import Augmentation
from footprints.data.coco import CocoScene, read_coco_scene
from footprints.data.dataset import (
    EpochSampler,
    TrainingChips,
    TrainingSource,
    ValidationChips,
    check_bands,
    collate,
)
from footprints.data.labels import LabelledImage, TrainingScene, read_training_scene
from footprints.data.split import Split, split_by_place
from footprints.data.targets import Sample
from footprints.errors import OutputError, TrainingError
from footprints.loop import DetectionTask, WriteWeights
from footprints.model.allocator import keep_freed_memory
from footprints.model.backbone import trunk_scaling
from footprints.model.checkpoint import WeightsInfo, read_info, start_from
from footprints.model.detector import DEFAULT_WEIGHTS
from footprints.model.mask_rcnn import MaskRCNN
from footprints.raster.scaling import measure_value_range
from footprints.vector.read import read_layer

CHECKPOINT, WEIGHTS, CONFIG, METRICS = (
    "last.ckpt",
    "weights.safetensors",
    "config.yaml",
    "metrics.csv",
)
STRIDE = 32
"""Chip sides are a multiple of the coarsest trunk stage's stride."""
_IMAGES_MEASURED = 8


def train(
    config: RunConfig, output: str | Path, *, resume: bool = False, progress: bool = True
) -> Path:
    """Train a detector on scenes and vector labels.

    Args:
        config: Everything the run depends on; see `load_config`.
        output: Folder of the run; made if missing.
        resume: Go on from the folder's last checkpoint, with the chips and the state that an
            undisturbed run would have had.
        progress: Show a progress bar.

    Returns:
        The weights file.

    Raises:
        OutputError: The folder holds a run and ``resume`` is not asked for, or cannot be written.
        WeightsError: The weights to start from are missing or not ours, or of another trunk.
        TrainingError: There is nothing to resume or nothing to learn from, or the loss is not
            finite.
    """
    folder, config = Path(output), _complete(config)
    _check_folder(folder, config, resume=resume)
    keep_freed_memory()
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
    task = DetectionTask(_network(config), config, spec)
    _write_config(folder, config)
    trainer = _trainer(config, folder, spec, progress=progress)
    with warnings.catch_warnings():
        # Lightning remarks on every loop with few steps or workers; that is the user's choice.
        warnings.filterwarnings("ignore", module="lightning")
        try:
            trainer.fit(
                task,
                _loader(chips, config, sampler=EpochSampler(chips)),
                _loader(validation, config) if len(validation) else None,
                ckpt_path=folder / CHECKPOINT if resume else None,
                weights_only=True,
            )
        except SystemExit as err:
            # How Lightning ends what was interrupted: it would end a caller's program, too.
            raise KeyboardInterrupt from err
    return folder / WEIGHTS


def _complete(config: RunConfig) -> RunConfig:
    """What a configuration leaves open of the network is as in the weights it starts from."""
    if config.train.start_from is None:
        return config
    given = read_info(_start(config.train.start_from, config.data)).model
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


def _check_folder(folder: Path, config: RunConfig, *, resume: bool) -> None:
    """Refuse what would destroy a run, or go on with another one."""
    checkpoint = folder / CHECKPOINT
    if resume and not checkpoint.exists():
        raise TrainingError(f"nothing to resume: {checkpoint} is missing; leave out --resume")
    if not resume:
        if checkpoint.exists():
            raise OutputError(
                f"{folder} holds a run; go on with --resume or choose another folder with --output"
            )
        if (folder / WEIGHTS).exists():
            raise OutputError(
                f"{folder} holds weights, but no checkpoint to go on from; move them away or "
                f"choose another folder with --output"
            )
        return
    before = load_config(folder / CONFIG)
    for section in ("model", "data", "augment"):
        old, new = getattr(before, section), getattr(config, section)
        for key in type(old).model_fields:
            if getattr(old, key) != getattr(new, key):
                raise TrainingError(
                    f"{folder} was trained with another {section}.{key}; a run goes on with the "
                    f"network and the data it had, so undo the change or start a new run from its "
                    f"weights (train.start_from)"
                )


def _write_config(folder: Path, config: RunConfig) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        resolved = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
        (folder / CONFIG).write_text(resolved, encoding="utf-8")
    except OSError as err:
        raise OutputError(f"cannot write the run folder {folder}: {err.strerror}") from err


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


def _start(weights: str, data: DataConfig) -> Path:
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
    check_bands([image for images in scenes for image in images])
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
        scaling=_scaling(config, dtype, value_range),
        dtype=dtype,
        value_range=value_range,
        multiple=STRIDE,
    )


def _scaling(config: RunConfig, dtype: str, value_range: Sequence[tuple[float, float]]) -> Scaling:
    """That of the weights to start from, or that of the trunk's; else the range to (-1, 1)."""
    bands = config.model.bands
    given = None
    if config.train.start_from is not None:
        spec = read_info(_start(config.train.start_from, config.data)).input_spec
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


def _network(config: RunConfig) -> MaskRCNN:
    keypoints = config.model.keypoint_head
    if keypoints is not None and keypoints.names != CORNERS:
        raise TrainingError(
            f"training knows the keypoints {', '.join(CORNERS)}, got {', '.join(keypoints.names)}; "
            f"leave out model.keypoint_head.names"
        )
    torch.manual_seed(config.train.seed)
    model = MaskRCNN(config.model)
    if config.train.start_from is not None:
        start_from(model, _start(config.train.start_from, config.data))
    return model.to(memory_format=torch.channels_last)


def _loader(
    chips: Dataset[Sample], config: RunConfig, sampler: EpochSampler | None = None
) -> DataLoader[Sample]:
    workers = config.train.workers
    return DataLoader(
        chips,
        batch_size=config.train.batch_size if sampler else 1,
        sampler=sampler,
        drop_last=sampler is not None,
        num_workers=workers,
        collate_fn=collate,
        multiprocessing_context=_forkserver() if workers else None,
        worker_init_fn=_end_with_the_run if workers else None,
        persistent_workers=workers > 0,
    )


def _end_with_the_run(_worker: int) -> None:
    """Have a worker end when the run does, killed or not.

    Workers look whether their parent is alive, but that is the fork server, which in turn waits
    for its workers: both would stay for ever.
    """

    def wait() -> None:
        if (run := multiprocessing.parent_process()) is not None:
            run.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _forkserver() -> BaseContext:
    """How workers start: a forked one may inherit a lock that some library's thread holds.

    The server imports what all workers need once, and they share it.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", "footprints.data.dataset"])
    return context


def _trainer(
    config: RunConfig, folder: Path, spec: InputSpec, *, progress: bool
) -> lightning.Trainer:
    info = WeightsInfo(
        name=config.name, model=config.model, input_spec=spec, training=_provenance(config)
    )
    callbacks: list[Callback] = [
        WriteWeights(folder / WEIGHTS, folder / METRICS, info),
        ModelCheckpoint(
            folder,
            filename="last",
            enable_version_counter=False,
            # After every epoch, not only after those that validate.
            save_on_train_epoch_end=True,
        ),
    ]
    if progress:
        callbacks.append(TQDMProgressBar(refresh_rate=10))
    return lightning.Trainer(
        max_epochs=config.train.epochs,
        check_val_every_n_epoch=config.train.validate_every,
        precision=config.train.precision,
        gradient_clip_val=config.optimizer.clip_norm,
        callbacks=callbacks,
        logger=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_progress_bar=progress,
        enable_model_summary=False,
        default_root_dir=folder,
    )


def _provenance(config: RunConfig) -> dict[str, Any]:
    """What the weights say of their training."""
    return {
        "data": [
            {"images": list(s.images), "labels": s.labels or s.coco, "attribution": s.attribution}
            for s in config.data.scenes
        ],
        "seed": config.train.seed,
        "epochs": config.train.epochs,
        "chips_per_epoch": config.data.chips_per_epoch,
        "version": version("building-footprints"),
    }
