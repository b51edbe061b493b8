"""One layer for each of many scenes: a run of its own for each, with one detector.

Outputs are named by a pattern, ``layers/{scene}.gpkg``, where ``{scene}`` stands for the scene's
file name without its ending. So every scene is resumed and tried again for itself, and layers that
are there need no second thought.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from footprints.addresses import file_name, redact
from footprints.chip import Detector
from footprints.errors import AreaError, ConfigError, RasterError
from footprints.failures import SceneOutcome, failures_of
from footprints.files import make_folder
from footprints.pipeline import predict
from footprints.raster.listing import list_rasters
from footprints.starting import take_detector

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

PLACEHOLDER = "{scene}"
"""In the name of an output, stands for the name of the scene."""
_NAMED = ("output", "keypoints", "keep")


def is_pattern(output: str | Path | None) -> bool:
    """Whether an output is one of each scene."""
    return output is not None and PLACEHOLDER in str(output)


def predict_each(
    scenes: str | Path | Sequence[str | Path],
    *,
    output: str | Path,
    detector: Detector | None = None,
    weights: str | Path | None = None,
    device: str | torch.device | None = None,
    precision: str | None = None,
    compiles: bool | None = None,
    resume: bool = False,
    keep_going: bool = False,
    retry_failed: bool = False,
    overwrite: bool = False,
    told: Callable[[SceneOutcome], object] | None = None,
    **options: Any,  # noqa: ANN401  # those of `predict`, which checks them
) -> list[SceneOutcome]:
    """Find the buildings of scenes and write a layer for each.

    Args:
        scenes: As for `predict`.
        output: Pattern of the layers; its folder is made.
        detector: What finds the buildings; None loads ``weights``, once.
        weights: As for `predict`.
        device: Likewise.
        precision: Likewise.
        compiles: Likewise.
        resume: Leave out scenes whose layer is there, go on with one that was cut short. Layers in
            which something listed is missing are left as they are, and warned of.
        keep_going: A scene that fails does not end the run; it is listed beside its layer.
        retry_failed: Do scenes that failed, those with chips that could not be read, and those
            that have no layer yet.
        overwrite: Replace layers that exist, with ``resume`` too.
        told: Is told how each scene went.
        options: All others of `predict`; ``keypoints`` and ``keep`` are patterns, too.

    Returns:
        How each scene went that was not done before.

    Raises:
        ConfigError: An output does not name the scene, or two scenes have one name.
        AreaError: All scenes lie beside the area of interest; those that do when others do not
            have no layer.
        FootprintsError: As `predict`.
    """
    asset, outside = options.get("asset"), options.get("allow_outside", False)
    paths = list_rasters(scenes, asset=asset, allow_outside=outside)
    outcomes: list[SceneOutcome] = []
    beside_area: list[AreaError] = []
    goes_on = resume or retry_failed

    def note(outcome: SceneOutcome) -> None:
        outcomes.append(outcome)
        if told is not None:
            told(outcome)

    each = list(_name_outputs(paths, {"output": output, **options}))
    leaves = retry_failed or (resume and not overwrite)
    todo = [(path, named) for path, named in each if not (leaves and _is_finished(named))]
    if len(todo) < len(each):
        done = len(each) - len(todo)
        logger.info("%d of %d layers are finished and left as they are", done, len(each))
    if todo:
        detector = take_detector(
            detector, weights, device=device, precision=precision, compiles=compiles
        )
    for path, named in todo:
        try:
            predict(
                path,
                detector=detector,
                resume=goes_on,
                keep_going=keep_going or retry_failed,
                retry_failed=retry_failed and _failures(named).exists(),
                overwrite=overwrite,
                told=note,
                **(options | named),
            )
        except AreaError as err:
            beside_area.append(err)
        except RasterError:
            # With either, it was noted and listed.
            if not (keep_going or retry_failed):
                raise
    if len(beside_area) == len(paths):
        raise beside_area[0]
    return outcomes


def _failures(named: Mapping[str, str]) -> Path:
    """The list of what failed in a scene, by its outputs."""
    return failures_of(Path(named.get("keep") or named["output"]))


def _is_finished(named: Mapping[str, str]) -> bool:
    return Path(named["output"]).exists() and not _failures(named).exists()


def _name_outputs(
    paths: Sequence[str], options: dict[str, Any]
) -> Iterator[tuple[str, dict[str, str]]]:
    """Each scene, and its own outputs."""
    patterns = {key: str(options[key]) for key in _NAMED if options.get(key) is not None}
    for key, pattern in patterns.items():
        if PLACEHOLDER not in pattern:
            raise ConfigError(
                f"{key} {pattern} is one for all scenes, and the output one for each; put "
                f"{PLACEHOLDER} into its name"
            )
    taken: dict[str, str] = {}
    for path in paths:
        stem = Path(file_name(path)).stem
        if stem in taken:
            raise ConfigError(
                f"{redact(path)} and {redact(taken[stem])} would have layers of one name; rename "
                "one, or give them different outputs"
            )
        taken[stem] = path
    for stem, path in taken.items():
        named = {key: pattern.replace(PLACEHOLDER, stem) for key, pattern in patterns.items()}
        make_folder(Path(named["output"]).parent, "layers")
        yield path, named
