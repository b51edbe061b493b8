"""One step, one epoch: what Lightning is told of the network."""

from __future__ import annotations

import csv
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import numpy as np
import shapely
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from footprints.chip import InputSpec, Instances, MaskGroup
from footprints.config import OptimizerConfig, RunConfig
from footprints.data.dataset import Batch
from footprints.errors import TrainingError
from footprints.evaluation import match
from footprints.model.boxes import ignore_unlabelled
from footprints.model.checkpoint import WeightsInfo, save_weights
from footprints.model.detector import scale_pixels, to_instances
from footprints.model.mask_rcnn import MaskRCNN
from footprints.model.targets import Target
from footprints.precision import (
    IOU_THRESHOLDS,
    ScoredImage,
    average_precision,
    boundary_iou,
    iou_matrix,
)
from footprints.vector.overlaps import find_doubles, find_overlaps, surest
from footprints.vector.trace import trace

_IOU = 0.5
"""What counts as found in validation."""
_BOUNDARY_PX = 2.0
"""Width of the strip inside outlines whose IoU says how well they fit."""
_STEP_AT = 0.75
"""Share of the steps after which the step schedule goes down, as in arXiv 1703.06870."""
_UNKNOWN_CONFIDENCE = 0.5
"""Where nothing has validated yet."""
_PLATEAU = 0.995
"""Confidences with this share of the best F1 are as good; the middle one is the safest."""


class Judged(NamedTuple):
    """Detections of a validation chip, beside what stands there."""

    scores: NDArray[np.float32]
    """(n,) confidences."""
    hits: NDArray[np.bool_]
    """(n,) which of them match a true building."""
    labels: NDArray[np.int64]
    """(n,) their 0-based classes."""
    true_labels: NDArray[np.int64]
    """(m,) those of the true buildings."""
    ious: NDArray[np.float64]
    """(n, m) of outlines."""
    box_ious: NDArray[np.float64]
    """(n, m)."""
    boundary_ious: NDArray[np.float64]
    """(k,) of matches."""


class DetectionTask(lightning.LightningModule):
    """A network in training.

    Args:
        model: The network.
        config: Optimiser and seed.
        spec: Scaling of the training chips.
    """

    def __init__(self, model: MaskRCNN, config: RunConfig, spec: InputSpec) -> None:
        super().__init__()
        self.config = config
        self.spec = spec
        self.model = model
        self.average = _average(model, config.optimizer.average)
        self.confidence = _UNKNOWN_CONFIDENCE
        self._judged: list[Judged] = []

    @property
    def best(self) -> MaskRCNN:
        """The network to predict with: the moving average, where one is kept."""
        if self.average is None:
            return self.model
        network = self.average.module
        assert isinstance(network, MaskRCNN)
        return network

    def on_train_batch_start(self, *_: object) -> None:
        """Seed the sampling of anchors and points by step, so that a resumed run repeats it.

        Once an epoch would not do: loaders draw from the same generator, and at other times in a
        run that is resumed.
        """
        seed = np.random.SeedSequence((self.config.train.seed, self.global_step))
        torch.manual_seed(int(seed.generate_state(1)[0]))

    def training_step(self, batch: Batch, _index: int) -> Tensor:
        """Sum of the losses of a batch."""
        losses = self.model.losses(self._images(batch), _targets(batch))
        total = torch.stack(list(losses.values())).sum()
        if not torch.isfinite(total):
            named = ", ".join(f"{name} {float(loss.detach()):.3g}" for name, loss in losses.items())
            raise TrainingError(
                f"the loss is not finite at step {self.global_step} ({named}); lower "
                f"optimizer.learning_rate and go on with --resume"
            )
        self.log_dict(
            {name: loss.detach() for name, loss in losses.items()},
            on_step=False,
            on_epoch=True,
            batch_size=len(batch),
        )
        self.log(
            "loss",
            total.detach(),
            prog_bar=True,
            on_step=True,
            on_epoch=True,
            batch_size=len(batch),
        )
        return total

    def on_train_batch_end(self, *_: object) -> None:
        """Follow the weights with their average."""
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
            self._judged.append(judge(instances, _truth(batch, image), batch.labelled[image].cpu()))

    def on_validation_epoch_end(self) -> None:
        """Choose the confidence to report buildings from, and log what it gives."""
        scores, hits, labels, true_labels = (
            np.concatenate([getattr(chip, name) for chip in self._judged])
            for name in ("scores", "hits", "labels", "true_labels")
        )
        self.confidence, kept = choose_confidence(scores, hits, len(true_labels))
        hits, labels = hits[kept], labels[kept]
        figures = {"val_confidence": self.confidence}
        figures |= ratios("val", hits, len(true_labels))
        self.log_dict(figures, prog_bar=True)
        self.log_dict(self._outline_figures())
        classes = self.config.model.classes
        for number, name in enumerate(classes if len(classes) > 1 else ()):
            true_count = int((true_labels == number).sum())
            self.log_dict(ratios(f"val_{name}", hits[labels == number], true_count))

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
        """Keep the confidence for a run that is resumed between two validations."""
        checkpoint["confidence"] = self.confidence

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take it up again."""
        self.confidence = checkpoint["confidence"]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """No decay on norms and biases; linear warm-up, then as `OptimizerConfig` says."""
        settings = self.config.optimizer
        optimizer = make_optimizer(self.model, settings)
        total = int(self.trainer.estimated_stepping_batches)

        def factor(step: int) -> float:
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


def judge(found: Instances, truth: Instances, labelled: Tensor) -> Judged:
    """Match the detections of one chip with the truth.

    A match has the right class. A building detected under several classes counts once, under the
    surest, as in prediction. What matches nothing on ground without labels does not count.

    Args:
        found: Detections in chip pixels.
        truth: Buildings in chip pixels.
        labelled: (H, W) bool, True where labels are complete.
    """
    outlines, true_outlines = trace(found), trace(truth)
    traced = np.flatnonzero(outlines != None)  # noqa: E711  # element by element
    seen = true_outlines != None  # noqa: E711
    overlaps = find_overlaps(outlines[traced])
    doubles = find_doubles(outlines[traced], overlaps)
    rows = traced[surest(outlines[traced], found.scores[traced], doubles)]
    scores, labels, true_labels = found.scores[rows], found.labels[rows], truth.labels[seen]
    outlines, true_outlines = outlines[rows], true_outlines[seen]
    pairs, _ = match(outlines, true_outlines, scores, iou=_IOU, classes=(labels, true_labels))
    state = torch.zeros(len(rows), dtype=torch.long)
    state[pairs[:, 0]] = 1
    state = ignore_unlabelled(state, labelled, torch.from_numpy(found.boxes[rows]))
    counts = (state >= 0).numpy()
    return Judged(
        scores[counts],
        (state == 1).numpy()[counts],
        labels[counts],
        true_labels,
        iou_matrix(outlines[counts], true_outlines),
        iou_matrix(_rectangles(found.boxes[rows][counts]), _rectangles(truth.boxes[seen])),
        boundary_iou(outlines[pairs[:, 0]], true_outlines[pairs[:, 1]], _BOUNDARY_PX),
    )


def _rectangles(boxes: NDArray[np.float32]) -> NDArray[np.object_]:
    rectangles: NDArray[np.object_] = shapely.box(*boxes.T)
    return rectangles


def average_precisions(
    judged: Sequence[Judged], class_count: int, *, of_boxes: bool = False
) -> NDArray[np.float64]:
    """Mean over the classes of the average precision at each of `IOU_THRESHOLDS`.

    Args:
        judged: Detections of every chip.
        class_count: Number of classes.
        of_boxes: By the IoU of boxes instead of that of outlines.

    Returns:
        (T,); NaN where there are no true buildings.
    """
    by_class = [
        average_precision(
            [
                ScoredImage(
                    chip.scores[chip.labels == number],
                    (chip.box_ious if of_boxes else chip.ious)[
                        np.ix_(chip.labels == number, chip.true_labels == number)
                    ],
                )
                for chip in judged
            ]
        )
        for number in range(class_count)
    ]
    present = [figures for figures in by_class if not np.isnan(figures).any()]
    means: NDArray[np.float64] = np.mean(present or by_class, axis=0)
    return means


def choose_confidence(
    scores: NDArray[np.float32], hits: NDArray[np.bool_], true_count: int
) -> tuple[float, NDArray[np.bool_]]:
    """The confidence with the best F1, from the middle of its plateau.

    Matching is greedy by confidence, so leaving out less confident detections changes no match.

    Args:
        scores: (n,) confidences of all detections.
        hits: (n,) which of them match a true building.
        true_count: Number of true buildings.

    Returns:
        The confidence, and (n,) which detections reach it; none where there are no hits.
    """
    order = np.argsort(-scores, kind="stable")
    found, kept = np.cumsum(hits[order]), np.arange(1, len(order) + 1)
    f1 = 2 * found / np.maximum(kept + true_count, 1)
    reach = np.zeros(len(scores), dtype=bool)
    if not len(f1) or not f1.max():
        return _UNKNOWN_CONFIDENCE, reach
    good = np.flatnonzero(f1 >= _PLATEAU * f1.max())
    at = good[len(good) // 2]
    reach[order[: at + 1]] = True
    return round(float(scores[order[at]]), 3), reach


def ratios(name: str, hits: NDArray[np.bool_], true_count: int) -> dict[str, float]:
    """Precision, recall and F1 of detections; 0 where there is nothing to count.

    Args:
        name: What the names of the figures start with.
        hits: (n,) which detections match a true building.
        true_count: Number of true buildings.
    """
    found = int(hits.sum())
    return {
        f"{name}_precision": found / max(len(hits), 1),
        f"{name}_recall": found / max(true_count, 1),
        f"{name}_f1": 2 * found / max(len(hits) + true_count, 1),
    }


class WriteWeights(Callback):
    """Writes the weights to predict with and a row of figures after every epoch."""

    def __init__(self, weights: Path, metrics: Path, info: WeightsInfo) -> None:
        self._weights = weights
        self._metrics = metrics
        self._info = info

    def on_train_epoch_end(
        self, trainer: lightning.Trainer, task: lightning.LightningModule
    ) -> None:
        """Write both; a row that an earlier, killed run left for this epoch is replaced."""
        if not trainer.is_global_zero:
            return
        assert isinstance(task, DetectionTask)
        info = dataclasses.replace(self._info, confidence=task.confidence)
        save_weights(self._weights, task.best, info)
        # Lightning goes on showing the last validation's figures in epochs without any.
        validated = (trainer.current_epoch + 1) % (trainer.check_val_every_n_epoch or 1) == 0
        row: dict[str, object] = {"epoch": trainer.current_epoch, "step": trainer.global_step}
        row |= {
            name: f"{float(value):.5g}"
            for name, value in sorted(trainer.callback_metrics.items())
            if not name.endswith(("_step", "_epoch")) and (validated or not name.startswith("val_"))
        }
        rows = [r for r in read_metrics(self._metrics) if int(r["epoch"]) < trainer.current_epoch]
        names = dict.fromkeys([*(rows[0] if rows else ()), *row])
        with self._metrics.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(names))
            writer.writeheader()
            writer.writerows([*rows, row])


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

    return AveragedModel(model, multi_avg_fn=follow)


def _targets(batch: Batch) -> list[Target]:
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


def _truth(batch: Batch, image: int) -> Instances:
    """The ground truth of an image as instances, to be traced like detections."""
    count = len(batch.boxes[image])
    logits = (batch.masks[image].cpu().numpy().astype(np.int16) - 128).clip(-127, 127)
    return Instances(
        boxes=batch.boxes[image].cpu().numpy(),
        scores=np.ones(count, dtype=np.float32),
        labels=batch.labels[image].cpu().numpy(),
        mask_boxes=batch.mask_boxes[image].cpu().numpy(),
        masks=(MaskGroup(np.arange(count), logits.astype(np.int8)),) if count else (),
    )
