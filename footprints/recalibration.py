"""Weights for another place: what their confidence is worth there, by labels they never saw."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from footprints.calibration import LEAST_OF_EACH
from footprints.card import write_card
from footprints.chip import Window
from footprints.config import load_class_map
from footprints.data.dataset import ValidationChips, collate
from footprints.data.labels import LabelledImage, TrainingScene, read_training_scene
from footprints.data.split import Block
from footprints.errors import ConfigError, OutputError, TrainingError
from footprints.files import check_place
from footprints.model.checkpoint import load_weights, save_weights
from footprints.model.detector import DEFAULT_WEIGHTS, NetworkDetector
from footprints.model.devices import choose_device
from footprints.progress import is_hidden, tqdm
from footprints.raster.scaling import fit_scaling
from footprints.validation import Judged, as_chip, calibration_of, judge, true_instances


class Calibrated(NamedTuple):
    """What came of it."""

    chips: int
    """Chips that were looked at; they may overlap, and what two show counts in both."""
    detections: int
    """Detections of all scores, on ground with complete labels."""
    matches: int
    """Those that match a building at IoU 0.5."""
    score_error: float
    """Expected difference of the network's own scores and the share of matches."""
    calibrated_error: float | None
    """The same of calibrated confidence, each half of the chips by the map of the other half; None
    where that is too few."""
    files: tuple[Path, ...]
    """What was written: weights, model card and STAC item."""


def calibrate(
    images: str | Path | Sequence[str | Path],
    labels: str | Path,
    output: str | Path,
    *,
    weights: str | Path | None = None,
    bands: Sequence[int] | None = None,
    nodata: float | None = None,
    aoi: str | Path | None = None,
    class_column: str | None = None,
    class_map: Mapping[Any, str | None] | str | Path | None = None,
    device: str | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> Calibrated:
    """Fit the confidence of weights to a place, and write them with it, a card and a STAC item.

    The network stays as it is, and so do the buildings of a layer at the default confidence.

    Args:
        images: A raster, a folder of rasters, a pattern such as ``images/*.tif``, or a list.
        labels: Polygon layer in any CRS. The weights must not have been trained on them.
        output: ``.safetensors`` file to write.
        weights: Weights of ours; None takes those that ship.
        bands: 1-based bands, in order; None: as the raster has them.
        nodata: Overrides the raster's nodata value.
        aoi: Polygon layer of the areas in which labels are complete; None: everywhere.
        class_column: Column with the class; None: all are of the weights' first class.
        class_map: Values of that column to classes, or a YAML file of them.
        device: Where the network runs; None takes the best there is.
        overwrite: Replace a file that exists.
        progress: Show a bar.

    Returns:
        How much there was to fit to, and the errors before and after.

    Raises:
        TrainingError: There are too few matches, or too few detections that are none.
        ConfigError: The weights are of photographs, which see pictures whole; the class map is
            none, or there is no class column whose values it maps.
        OutputError: The output exists, has another ending, or cannot be written.
        WeightsError, DeviceError: The weights cannot be loaded.
        RasterError, BandError, LayerError: A scene or its labels cannot be read.
    """
    output = Path(output)
    if output.suffix != ".safetensors":
        raise OutputError(f"weights must end in .safetensors, got {output.name!r}")
    check_place(output, "weights", overwrite=overwrite, plural=True)
    if class_map is not None and class_column is None:
        raise ConfigError("--class-map needs the column whose values it maps: --class-field")
    network, info = load_weights(DEFAULT_WEIGHTS if weights is None else weights)
    if info.input_spec.short_side is not None:
        raise ConfigError(f"{info.name} sees pictures whole; only weights of scenes are calibrated")
    raw = dataclasses.replace(info, calibration=None)
    scene = TrainingScene(
        images=images,
        labels=labels,
        aoi=aoi,
        class_column=class_column,
        class_map=load_class_map({} if class_map is None else class_map),
        bands=None if bands is None else tuple(bands),
        nodata=nodata,
    )
    labelled = read_training_scene(scene, classes=info.model.classes)
    detector = NetworkDetector(network, raw, choose_device(device))
    judged = list(_judge_all(labelled, detector, progress=progress))
    calibration, errors = calibration_of(judged)
    matches = sum(int(chip.hits.sum()) for chip in judged)
    detections = sum(len(chip.hits) for chip in judged)
    if calibration is None:
        raise TrainingError(
            f"too little to calibrate by: {matches} of {detections} detections match a label, and "
            f"{LEAST_OF_EACH} must, and {LEAST_OF_EACH} must not; give more ground, or check that "
            "the labels fit the imagery"
        )
    note = {"labels": Path(labels).name, "detections": detections, "matches": matches}
    training = info.training | {"calibrated_on": note}
    training["validation"] = info.training.get("validation", {}) | errors
    save_weights(
        output, network, dataclasses.replace(info, calibration=calibration, training=training)
    )
    return Calibrated(
        len(judged),
        detections,
        matches,
        errors["val_score_error"],
        errors.get("val_calibrated_error"),
        (output, *write_card(output)),
    )


def _judge_all(
    images: Sequence[LabelledImage], detector: NetworkDetector, *, progress: bool
) -> Iterator[Judged]:
    """Match the detections of every chip with its labels."""
    spec = detector.input_spec
    scalings = {}
    for image in images:
        with image.open() as raster:
            scalings[image.path] = fit_scaling(raster, spec)
    blocks = [Block(image, Window(0, 0, image.width, image.height)) for image in images]
    chips = ValidationChips(
        blocks, chip_size=spec.chip_size, gsd_m=spec.gsd_m, multiple=spec.multiple
    )
    bar = tqdm(range(len(chips)), unit="chip", disable=is_hidden(progress=progress))
    for number in bar:
        sample = chips[number]
        batch = collate([sample])
        scaling = scalings[chips.cuts[number].image.path]
        (found,) = detector([as_chip(sample, scaling)])
        yield judge(found, true_instances(batch, 0), batch.labelled[0])
