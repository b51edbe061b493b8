"""One step, one epoch: what Lightning is told of the network."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from footprints.calibration import Calibration
from footprints.chip import InputSpec
from footprints.config import OptimizerConfig, RunConfig
from footprints.data.dataset import Batch
from footprints.errors import OutputError, TrainingError
from footprints.files import write_whole
from footprints.model.checkpoint import WeightsInfo, save_weights
from footprints.model.detector import scale_pixels, to_instances
from footprints.model.mask_rcnn import MaskRCNN
from footprints.model.processes import gather, holds_anywhere, rank_and_count
from footprints.model.targets import Target
from footprints.precision import IOU_THRESHOLDS
from footprints.validation import (
    UNKNOWN_CONFIDENCE,
    Judged,
    average_precisions,
    calibration_of,
    choose_confidence,
    judge,
    ratios,
    true_instances,
)

_JUDGED_BY = "val_f1"
"""Figure by which one validation is better than another."""
_CYCLE_RISES = 0.3
"""Share of the steps in which one cycle rises. This and the next two are those of torch."""
_CYCLE_START = 1 / 25
"""Its first rate, as a share of the highest."""
_CYCLE_END = 1e-4
"""Its last rate, as a share of the first."""
_STEP_AT = 0.75
"""Share of the steps after which the step schedule goes down, as in arXiv 1703.06870."""


class DetectionTask(lightning.LightningModule):
    """A network in training.

    Args:
        model: The network.
        config: Optimiser and seed.
        spec: Scaling of the training chips.
        confidence: Least confidence to report until something has validated.
    """

    def __init__(
        self,
        model: MaskRCNN,
        config: RunConfig,
        spec: InputSpec,
        confidence: float = UNKNOWN_CONFIDENCE,
    ) -> None:
        super().__init__()
        self.config = config
        self.spec = spec
        self.model = model
        self.average = _average(model, config.optimizer.average)
        self.confidence = confidence
        self.calibration: Calibration | None = None
        self.figures: dict[str, float] = {}
        # Stages that are frozen for good are not among them.
        self._trunk = [p for p in model.backbone.trunk.parameters() if p.requires_grad]
        self._shown: list[str] = []
        self._judged: list[Judged] = []

    @property
    def best(self) -> MaskRCNN:
        """The network to predict with: the moving average, where one is kept."""
        if self.average is None:
            return self.model
        network = self.average.module
        assert isinstance(network, MaskRCNN)
        return network

    def on_train_epoch_start(self) -> None:
        """Have the trunk learn in its epochs, and keep it as it is in the others."""
        first, end = self.config.train.unfreeze_trunk, self.config.train.freeze_trunk
        learns = self.current_epoch >= first and (end is None or self.current_epoch < end)
        for parameter in self._trunk:
            parameter.requires_grad_(learns)
        # Norms that are not frozen would go on with their statistics.
        self.model.backbone.trunk.train(learns)

    def on_train_batch_start(self, _batch: Batch, index: int) -> None:
        """Seed the sampling of anchors and points by batch, so that a resumed run repeats it.

        Once an epoch would not do: loaders draw from the same generator, and at other times in a
        run that is resumed.
        """
        rank, _ = rank_and_count()
        seed = np.random.SeedSequence((self.config.train.seed, self.current_epoch, index, rank))
        torch.manual_seed(int(seed.generate_state(1)[0]))

    def training_step(self, batch: Batch, _index: int) -> Tensor:
        """Sum of the losses of a batch."""
        losses = self.model.losses(self._images(batch), make_targets(batch))
        total = torch.stack(list(losses.values())).sum()
        is_faulty = ~torch.isfinite(total)
        # All processes stop, or the others would wait for this one.
        if holds_anywhere(is_faulty):
            shares = gather(suspects(batch) if is_faulty else [])
            chips = [chip for share in shares for chip in share]
            named = ", ".join(f"{name} {float(loss.detach()):.3g}" for name, loss in losses.items())
            raise TrainingError(
                f"the loss is not finite at step {self.global_step} ({named}) on "
                f"{'; '.join(chips)}: look at these chips, or lower optimizer.learning_rate, and "
                f"go on with --resume"
            )
        self._shown += batch.origins
        self.log_dict(
            {name: loss.detach() for name, loss in losses.items()},
            on_step=False,
            on_epoch=True,
            batch_size=len(batch),
            sync_dist=True,
        )
        self.log(
            "loss",
            total.detach(),
            prog_bar=True,
            on_step=True,
            on_epoch=True,
            batch_size=len(batch),
            sync_dist=True,
        )
        return total

    def configure_gradient_clipping(
        self, optimizer: torch.optim.Optimizer, *_: object, **__: object
    ) -> None:
        """Clip the gradient; where it is not finite the step would ruin weights and checkpoint."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, self.config.optimizer.clip_norm)
        # With 16-mixed that happens now and then: the step is left out and the scale lowered.
        if self.config.train.precision != "16-mixed" and not torch.isfinite(norm):
            raise TrainingError(
                f"the gradient is not finite at step {self.global_step} on "
                f"{'; '.join(self._shown)}: look at these chips, or lower "
                f"optimizer.learning_rate, and go on with --resume"
            )
        self._shown.clear()

    def optimizer_step(self, *args: object, **options: object) -> None:
        """Take a step, and follow the weights with their average."""
        super().optimizer_step(*args, **options)  # type: ignore[arg-type]
        if self.average is not None:
            self.average.update_parameters(self.model)

    def on_validation_epoch_start(self) -> None:
        """Forget the last validation."""
        self._judged.clear()

    def validation_step(self, batch: Batch, _index: int) -> None:
        """Match detections with the truth, chip by chip."""
        network = self.best.eval()
        found = to_instances(network.predict(self._images(batch)), len(batch))
        for image, instances in enumerate(found):
            self._judged.append(
                judge(instances, true_instances(batch, image), batch.labelled[image].cpu())
            )

    def on_validation_epoch_end(self) -> None:
        """Choose the confidence to report buildings from, and log what it gives."""
        shares = gather(self._judged)
        if len(shares) > 1:
            # As `ShareSampler` dealt them out, less those that only fill up.
            loader: Any = self.trainer.val_dataloaders
            dealt = [chip for together in zip(*shares, strict=True) for chip in together]
            self._judged = dealt[: len(loader.dataset)]
        scores, hits, labels, true_labels = (
            np.concatenate([getattr(chip, name) for chip in self._judged])
            for name in ("scores", "hits", "labels", "true_labels")
        )
        self.confidence, kept = choose_confidence(scores, hits, len(true_labels))
        self.calibration, errors = calibration_of(self._judged)
        hits, labels = hits[kept], labels[kept]
        figures = {"val_confidence": self.confidence}
        figures |= ratios("val", hits, len(true_labels))
        further = errors | self._outline_figures()
        classes = self.config.model.classes
        for number, name in enumerate(classes if len(classes) > 1 else ()):
            true_count = int((true_labels == number).sum())
            further |= ratios(f"val_{name}", hits[labels == number], true_count)
        self.log_dict(figures, prog_bar=True)
        self.log_dict(further)
        # JSON has no word for what could not be measured.
        self.figures = {
            name: round(value, 4)
            for name, value in (figures | further).items()
            if math.isfinite(value)
        }

    def _outline_figures(self) -> dict[str, float]:
        """Average precision at all confidences, and how well the outlines of matches fit."""
        count = len(self.config.model.classes)
        precisions = average_precisions(self._judged, count)
        of_boxes = average_precisions(self._judged, count, of_boxes=True)
        fits = np.concatenate([chip.boundary_ious for chip in self._judged])
        at = dict(zip(np.rint(100 * IOU_THRESHOLDS).astype(int), precisions, strict=True))
        return {
            "val_ap": float(precisions.mean()),
            "val_ap50": float(at[50]),
            "val_ap75": float(at[75]),
            "val_boundary_iou": float(fits.mean()) if len(fits) else 0.0,
            "val_box_ap": float(of_boxes.mean()),
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what validation chose for a run that is resumed between two of them."""
        checkpoint["confidence"] = self.confidence
        checkpoint["calibration"] = self.calibration and dataclasses.asdict(self.calibration)
        checkpoint["figures"] = self.figures

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take it up again."""
        self.confidence = checkpoint["confidence"]
        # Runs of earlier releases have none.
        given = checkpoint.get("calibration")
        self.calibration = Calibration(**given) if given else None
        self.figures = checkpoint.get("figures", {})

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """No decay on norms and biases; linear warm-up, then as `OptimizerConfig` says."""
        settings = self.config.optimizer
        optimizer = make_optimizer(self.model, settings)
        total = int(self.trainer.estimated_stepping_batches)

        def factor(step: int) -> float:
            if settings.schedule == "one-cycle":
                return one_cycle(step, total)
            if step < settings.warmup_steps:
                return (step + 1) / settings.warmup_steps
            if settings.schedule == "step":
                return 1.0 if step < _STEP_AT * total else 0.1
            done = (step - settings.warmup_steps) / max(total - settings.warmup_steps, 1)
            return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _images(self, batch: Batch) -> Tensor:
        scalings = [self.spec.scaling] * len(batch)
        return scale_pixels(batch.pixels, batch.valid, scalings, self.device)


def suspects(batch: Batch) -> list[str]:
    """Where the chips of a batch come from: those with pixels that are no numbers, or else all."""
    finite = torch.isfinite(batch.pixels).flatten(1).all(dim=1).tolist()
    faulty = [origin for origin, is_fine in zip(batch.origins, finite, strict=True) if not is_fine]
    return faulty or list(batch.origins)


def one_cycle(step: int, total: int) -> float:
    """Share of the rate in a cycle of ``total`` steps: a 25th, 1 after three tenths, nothing."""
    top = _CYCLE_RISES * total - 1
    if step <= top:
        done = step / top if top > 0 else 1.0
        low, high = _CYCLE_START, 1.0
    else:
        done = 1 - min((step - top) / max(total - 1 - top, 1e-9), 1.0)
        low, high = _CYCLE_START * _CYCLE_END, 1.0
    return low + (high - low) * 0.5 * (1 - math.cos(math.pi * done))


class WriteWeights(Callback):
    """Writes the weights to predict with and a row of figures after every epoch.

    Args:
        weights: Where the weights go.
        metrics: Where the figures go.
        info: What the weights say of themselves.
        patience: End after so many validations without a better one, and write the weights of the
            best only; None writes those of every epoch.
    """

    def __init__(
        self, weights: Path, metrics: Path, info: WeightsInfo, patience: int | None = None
    ) -> None:
        self._weights = weights
        self._metrics = metrics
        self._info = info
        self._patience = patience
        self._best = -1.0
        self._waited = 0

    def state_dict(self) -> dict[str, Any]:
        """The best validation so far, for a run that is resumed."""
        return {"best": self._best, "waited": self._waited}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it up again."""
        self._best, self._waited = state_dict["best"], state_dict["waited"]

    def on_train_start(self, trainer: lightning.Trainer, _task: lightning.LightningModule) -> None:
        """Leave a run alone that had ended already."""
        if self._patience is not None and self._waited >= self._patience:
            trainer.should_stop = True

    def on_train_epoch_end(
        self, trainer: lightning.Trainer, task: lightning.LightningModule
    ) -> None:
        """Write both; a row that an earlier, killed run left for this epoch is replaced."""
        # Lightning goes on showing the last validation's figures in epochs without any.
        validated = (trainer.current_epoch + 1) % (trainer.check_val_every_n_epoch or 1) == 0
        is_wanted = self._patience is None or (validated and self._judge(trainer, self._patience))
        if not trainer.is_global_zero:
            return
        assert isinstance(task, DetectionTask)
        if is_wanted:
            info = dataclasses.replace(
                self._info,
                confidence=task.confidence,
                calibration=task.calibration,
                training=self._info.training | {"validation": task.figures},
            )
            save_weights(self._weights, task.best, info)
        row: dict[str, object] = {"epoch": trainer.current_epoch, "step": trainer.global_step}
        row |= {
            name: f"{float(value):.5g}"
            for name, value in sorted(trainer.callback_metrics.items())
            if not name.endswith(("_step", "_epoch")) and (validated or not name.startswith("val_"))
        }
        rows = [r for r in read_metrics(self._metrics) if int(r["epoch"]) < trainer.current_epoch]
        names = dict.fromkeys([*(rows[0] if rows else ()), *row])
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(names))
        writer.writeheader()
        writer.writerows([*rows, row])
        write_whole(self._metrics, text.getvalue().encode(), "metrics")

    def _judge(self, trainer: lightning.Trainer, patience: int) -> bool:
        """Whether this validation is the best one so far; ends the run if that is long ago."""
        figure = float(trainer.callback_metrics[_JUDGED_BY])
        if is_best := figure > self._best:
            self._best, self._waited = figure, 0
        else:
            self._waited += 1
        trainer.should_stop = trainer.should_stop or self._waited >= patience
        return is_best


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it: the one before stays until then.

    Lightning's own goes through a folder for temporary files. From another disk the last step is a
    copy, and if there is no room for it, both checkpoints are lost.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, *_: object, **__: object
    ) -> None:
        """Write it whole or not at all.

        Raises:
            OutputError: It cannot be written.
        """
        content = io.BytesIO()
        torch.save(checkpoint, content)
        try:
            write_whole(Path(path), content.getvalue(), "checkpoint")
        except OutputError as err:
            raise OutputError(
                f"{err}; the one of the epoch before is as it was, go on from it with --resume"
            ) from err


def read_metrics(path: Path) -> list[dict[str, str]]:
    """The rows of a run's ``metrics.csv``; none where there is no file yet."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def make_optimizer(model: nn.Module, settings: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW or SGD over trunk and rest, each with and without weight decay."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            key = (name.startswith("backbone.trunk"), parameter.dim() > 1)
            groups.setdefault(key, []).append(parameter)
    options: list[dict[str, Any]] = [
        {
            "params": parameters,
            "lr": settings.learning_rate * (settings.trunk_factor if trunk else 1.0),
            "weight_decay": settings.weight_decay if decays else 0.0,
        }
        for (trunk, decays), parameters in groups.items()
    ]
    if settings.name == "sgd":
        return torch.optim.SGD(options, lr=settings.learning_rate, momentum=settings.momentum)
    return torch.optim.AdamW(options, lr=settings.learning_rate)


def _average(model: MaskRCNN, decay: float) -> AveragedModel | None:
    if not decay:
        return None

    def follow(averages: Sequence[Tensor], current: Sequence[Tensor], count: Tensor | int) -> None:
        # A young average follows quickly, or the random start would stay in it for ever.
        share = 1 - min(decay, (1 + int(count)) / (10 + int(count)))
        torch._foreach_lerp_(list(averages), list(current), share)

    average = AveragedModel(model, multi_avg_fn=follow)
    # What takes no part in the loss is what processes would wait for.
    average.requires_grad_(requires_grad=False)
    return average


def make_targets(batch: Batch) -> list[Target]:
    """What the losses want to know of each image."""
    return [
        Target(*parts)
        for parts in zip(
            batch.boxes,
            batch.labels,
            batch.masks,
            batch.mask_boxes,
            batch.keypoints,
            batch.labelled,
            strict=True,
        )
    ]
