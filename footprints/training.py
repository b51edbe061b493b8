"""Labels and scenes to weights: the training loop.

A run lives in one folder: ``config.yaml`` (resolved), ``metrics.csv`` (a row per epoch),
``last.ckpt`` (to resume from), ``weights.safetensors`` (to predict with, after every epoch), and in
the end ``weights.md`` and ``weights.json`` (what these weights are: a model card and a STAC item).
"""

from __future__ import annotations

import importlib.util
import logging
import multiprocessing
import os
import threading
import warnings
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import lightning
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.data import DataLoader, Dataset

from footprints.card import write_card
from footprints.config import (
    RunConfig,
    load_config,
)
from footprints.data.dataset import (
    EpochSampler,
    ShareSampler,
    collate,
)
from footprints.data.targets import Sample
from footprints.errors import DeviceError, OutputError, TrainingError
from footprints.files import write_whole
from footprints.loop import DetectionTask, WholeCheckpoints, WriteWeights
from footprints.model.allocator import keep_freed_memory
from footprints.model.checkpoint import WeightsInfo
from footprints.preparation import (
    CHECKPOINT,
    CONFIG,
    METRICS,
    WEIGHTS,
    complete,
    make_network,
    prepare,
    start_confidence,
)
from footprints.provenance import describe_training


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
            finite; the checkpoint is that of the epoch before then.
        DeviceError: There are fewer devices than processes.
    """
    folder, config = Path(output), complete(config)
    _check_folder(folder, config, resume=resume)
    keep_freed_memory()
    prepared = prepare(config)
    chips, validation, spec = prepared.chips, prepared.validation, prepared.spec
    task = DetectionTask(make_network(config), config, spec, start_confidence(config))
    info = WeightsInfo(
        name=config.name,
        model=config.model,
        input_spec=spec,
        training=describe_training(config, prepared.split),
    )
    _hush_lightning()
    trainer = _trainer(config, folder, info, progress=progress)
    _check_counts(config, len(validation), trainer.world_size)
    if trainer.is_global_zero:
        _write_config(folder, config)
    with warnings.catch_warnings():
        # Lightning remarks on every loop with few steps or workers; that is the user's choice.
        warnings.filterwarnings("ignore", module="lightning")
        try:
            trainer.fit(
                task,
                _loader(chips, config, EpochSampler(chips)),
                _loader(validation, config, ShareSampler(validation)) if len(validation) else None,
                ckpt_path=folder / CHECKPOINT if resume else None,
                weights_only=True,
            )
        except SystemExit as err:
            # How Lightning ends what was interrupted: it would end a caller's program, too.
            raise KeyboardInterrupt from err
    if trainer.is_global_zero:
        write_card(folder / WEIGHTS)
    return folder / WEIGHTS


def _hush_lightning() -> None:
    """Hear Lightning from where on we are heard: by itself it tells everybody of its settings."""
    level = logging.getLogger("footprints").getEffectiveLevel()
    logging.getLogger("lightning.pytorch").setLevel(level)


def is_first_process() -> bool:
    """Whether this is the one of a run's processes that speaks, before they have met."""
    environment: Any = rank_zero_only
    return bool(environment.rank == 0)


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
    except OSError as err:
        raise OutputError(f"cannot write the run folder {folder}: {err.strerror}") from err
    resolved = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    write_whole(folder / CONFIG, resolved.encode(), "configuration")


def _check_counts(config: RunConfig, validation: int, processes: int) -> None:
    """Refuse what would end without a step, or never."""
    needed = config.train.batch_size * processes
    if config.data.chips_per_epoch < needed:
        raise TrainingError(
            f"an epoch of {config.data.chips_per_epoch} chips has no batch of "
            f"{config.train.batch_size} for each of {processes} processes; set "
            f"data.chips_per_epoch to {needed} or more"
        )
    if config.train.patience is not None and not validation:
        raise TrainingError(
            f"train.patience {config.train.patience} waits for a better validation, but no ground "
            f"is kept for one; set data.validation_share or data.validation"
        )


def _loader(
    chips: Dataset[Sample], config: RunConfig, sampler: EpochSampler | ShareSampler
) -> DataLoader[Sample]:
    workers, trains = config.train.workers, isinstance(sampler, EpochSampler)
    return DataLoader(
        chips,
        batch_size=config.train.batch_size if trains else 1,
        sampler=sampler,
        drop_last=trains,
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
    config: RunConfig, folder: Path, info: WeightsInfo, *, progress: bool
) -> lightning.Trainer:
    callbacks: list[Callback] = [
        WriteWeights(folder / WEIGHTS, folder / METRICS, info, config.train.patience),
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
    try:
        return lightning.Trainer(
            devices=config.train.devices,
            num_nodes=config.train.nodes,
            strategy=_strategy(config),
            accumulate_grad_batches=config.train.accumulate,
            plugins=[WholeCheckpoints()],
            max_epochs=config.train.epochs,
            check_val_every_n_epoch=config.train.validate_every,
            precision=config.train.precision,
            gradient_clip_val=config.optimizer.clip_norm,
            callbacks=callbacks,
            logger=_logger(folder) if config.train.tensorboard else False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            enable_progress_bar=progress,
            enable_model_summary=False,
            default_root_dir=folder,
        )
    except MisconfigurationException as err:
        raise DeviceError(
            f"train.devices {config.train.devices}: {' '.join(str(err).split())}; use fewer"
        ) from err


def _strategy(config: RunConfig) -> str:
    """How several processes work together."""
    settings = config.train
    changes = settings.unfreeze_trunk > 0 or settings.freeze_trunk is not None
    if (settings.devices, settings.nodes) != (1, 1) and changes:
        # The processes agree on what learns before the first epoch, and would wait for the trunk.
        return "ddp_find_unused_parameters_true"
    return settings.strategy


def _logger(folder: Path) -> Logger:
    if importlib.util.find_spec("tensorboard") is None:
        raise TrainingError(
            "train.tensorboard needs TensorBoard: pip install 'building-footprints[tensorboard]'"
        )
    from lightning.pytorch.loggers import TensorBoardLogger

    return TensorBoardLogger(folder, name=None, version="tensorboard")
