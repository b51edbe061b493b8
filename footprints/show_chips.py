"""Pictures of what a network learns from, and of what it makes of the ground kept apart.

Outlines are those of the targets themselves, after augmentation: what is wrong in them is wrong in
training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from footprints.chip import InputSpec, Instances
from footprints.config import RunConfig, load_config
from footprints.data.dataset import collate
from footprints.data.targets import Sample
from footprints.errors import ConfigError, OutputError, TrainingError
from footprints.files import check_place, write_whole
from footprints.model.detector import NetworkDetector, load_detector
from footprints.pictures import Panel, check_picture, draw_panels, stretch
from footprints.preparation import CONFIG, WEIGHTS, Prepared, complete, prepare
from footprints.validation import as_chip, true_instances
from footprints.vector.trace import trace

_PALE = 0.6
"""How far ground without labels goes towards white."""


@dataclass(frozen=True, slots=True, eq=False)
class _Row:
    """A chip as it is shown: one panel, or truth and predictions side by side."""

    name: str
    panels: list[Panel]


def show(
    source: RunConfig | str | Path,
    output: str | Path,
    *,
    count: int = 8,
    device: str | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Draw training and validation chips with their buildings.

    Training chips are augmented and show their targets. Validation chips show the truth; with a
    run, its predictions stand on the right of it, from the run's own confidence on. Ground without
    labels is paler.

    Args:
        source: Folder of a run, or a configuration, as a file or as `load_config` returns it.
        output: A PNG for all chips below each other, or a folder for a PNG of each; its parent
            must be there.
        count: Training chips, and validation chips, at most.
        device: Where the network runs; None takes the best there is.
        overwrite: Replace pictures that exist.

    Returns:
        The pictures.

    Raises:
        ConfigError: The count is not positive, or the configuration is not valid.
        TrainingError: The folder is no run, or there is nothing to learn from.
        OutputError: A picture exists or cannot be written; found out before the work starts.
    """
    if count < 1:
        raise ConfigError(f"the count of chips must be at least 1, got {count}")
    output = Path(output)
    _check_output(output, count, overwrite=overwrite)
    config, detector = _read_source(source, device)
    prepared = prepare(config)
    rows = [*_training_rows(prepared, config, count)]
    rows += _validation_rows(prepared, config, detector, count)
    names = len(config.model.classes) > 1
    if output.suffix.lower() == ".png":
        content = draw_panels([row.panels for row in rows], names=names)
        write_whole(output, content, "picture")
        return [output]
    output.mkdir(exist_ok=True)
    paths = []
    for row in rows:
        paths.append(output / f"{row.name}.png")
        write_whole(paths[-1], draw_panels([row.panels], names=names), "picture")
    return paths


def _check_output(output: Path, count: int, *, overwrite: bool) -> None:
    if output.suffix.lower() == ".png":
        check_picture(output, overwrite=overwrite)
        return
    if output.suffix:
        raise OutputError(f"chips are shown in a .png or in a folder, got {output.name!r}")
    if not output.is_dir():
        check_place(output, "folder of the pictures", overwrite=overwrite)
        return
    for name in (f"{kind}_{n:02d}" for kind in ("training", "validation") for n in range(count)):
        check_picture(output / f"{name}.png", overwrite=overwrite)


def _read_source(
    source: RunConfig | str | Path, device: str | None
) -> tuple[RunConfig, NetworkDetector | None]:
    """The complete configuration, and the network of a run."""
    if isinstance(source, RunConfig):
        return complete(source), None
    path = Path(source)
    if not path.is_dir():
        return complete(load_config(path)), None
    for name in (CONFIG, WEIGHTS):
        if not (path / name).is_file():
            raise TrainingError(f"{path} is no run: it has no {name}; give its configuration")
    return load_config(path / CONFIG), load_detector(path / WEIGHTS, device=device)


def _training_rows(prepared: Prepared, config: RunConfig, count: int) -> Iterator[_Row]:
    for number in range(min(count, len(prepared.chips))):
        sample = prepared.chips[number]
        picture = _picture(sample, prepared.spec)
        panel = _panel(picture, true_instances(collate([sample]), 0), config)
        yield _Row(f"training_{number:02d}", [panel])


def _validation_rows(
    prepared: Prepared, config: RunConfig, detector: NetworkDetector | None, count: int
) -> Iterator[_Row]:
    # Evenly over all of them, because neighbours in the list are neighbours on the ground.
    chosen = np.linspace(0, len(prepared.validation), count, endpoint=False).astype(int)
    for number, index in enumerate(np.unique(chosen) if len(prepared.validation) else ()):
        sample = prepared.validation[int(index)]
        picture = _picture(sample, prepared.spec)
        panels = [_panel(picture, true_instances(collate([sample]), 0), config)]
        if detector is not None:
            (found,) = detector([as_chip(sample, detector.input_spec.scaling)])
            sure = found.take(np.flatnonzero(found.scores >= detector.confidence))
            panels.append(_panel(picture, sure, config))
        yield _Row(f"validation_{number:02d}", panels)


def _picture(sample: Sample, spec: InputSpec) -> NDArray[np.uint8]:
    """The pixels of a chip, paler where it has no labels and white where it has no data."""
    is_byte = spec.dtype == "uint8"
    value_range: Sequence[tuple[float, float]] = (
        ((0, 255),) * len(sample.pixels) if is_byte else spec.value_range
    )
    picture = stretch(sample.pixels, value_range)
    unlabelled = picture[~sample.labelled]
    picture[~sample.labelled] = unlabelled + (_PALE * (255.0 - unlabelled)).astype(np.uint8)
    picture[~sample.valid] = 255
    return picture


def _panel(picture: NDArray[np.uint8], instances: Instances, config: RunConfig) -> Panel:
    outlines = trace(instances)
    traced = np.flatnonzero(outlines != None)  # noqa: E711  # element by element
    return Panel(
        picture,
        outlines[traced],
        instances.scores[traced].astype(np.float64),
        [config.model.classes[label] for label in instances.labels[traced]],
    )
