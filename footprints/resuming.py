"""Going on with a run: an output that is finished is left as it is, and what is taken over is said.

A loop over scenes can so be started again and again with ``--resume``, until all is there.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from geopandas import GeoDataFrame

from footprints.detection import Measured, rows_wanted
from footprints.errors import FailureWarning, OutputError
from footprints.failures import IN_PART, SceneOutcome, failed_before, failures_of
from footprints.vector.journal import HEAD, Journal, journal_of
from footprints.vector.postgis import is_database
from footprints.vector.read import read_layer
from footprints.vector.scenes import SceneRecord, scenes_of

logger = logging.getLogger(__name__)


def is_begun(beside: Path | None) -> bool:
    """Whether an unfinished run is there that `predict` can go on with.

    Args:
        beside: The output that it lies beside; None for runs that write no file.
    """
    return beside is not None and (journal_of(beside) / HEAD).is_file()


def finished_layer(
    outputs: Sequence[str | Path | None],
    sources: Sequence[str],
    *,
    settings: Mapping[str, Any],
    beside: Path | None,
    in_area: bool,
    told: Callable[[SceneOutcome], object] | None,
) -> GeoDataFrame | None:
    """The layer that a run with the same arguments has finished before.

    Args:
        outputs: All that the run writes, the layer first.
        sources: The scenes, as column ``source`` names them.
        settings: What the layer's record of scenes has to say of each, by its own names; None says
            nothing.
        beside: The output that an unfinished run or a list of failures would lie beside.
        in_area: Whether scenes may be missing because they lie beside the area of interest.
        told: Is told of the scenes that are listed as failed.

    Returns:
        None where there is something to do.

    Raises:
        OutputError: The layer was made of other scenes, or with other settings.

    Warns:
        FailureWarning: Scenes are missing in it, and listed.
    """
    output = outputs[0]
    if output is None or beside is None or is_database(output):
        return None
    failed = sorted(failed_before(beside)) if failures_of(beside).exists() else []
    is_there = all(path is None or Path(path).exists() for path in outputs)
    if not is_there or (is_begun(beside) and not failed):
        return None
    layer = read_layer(output, needs_crs=False)
    _check_same(output, scenes_of(layer), sources, settings, complete=not (failed or in_area))
    if failed:
        warnings.warn(
            f"{output} is left as it is, but {len(failed)} of {len(sources)} scenes failed in "
            f"whole or in part, listed in {failures_of(beside)}; go on with --retry-failed",
            FailureWarning,
            stacklevel=3,
        )
    else:
        logger.info("%s is finished and left as it is; --overwrite makes it anew", output)
    if told is not None:
        for number, source in enumerate(sources):
            if number in failed:
                told(SceneOutcome(source, IN_PART, reason="failed before"))
    return layer


def say_taken_over(journal: Journal, measured: Sequence[Measured]) -> None:
    """Say how much of the work an unfinished run has done."""
    done = total = 0
    for each in measured:
        rows = rows_wanted(each.cover)
        done += sum(journal.has(each.number, 0, row) for row in rows)
        total += len(rows)
    if done:
        logger.info("took over %d of %d rows of chips from an unfinished run", done, total)


def _check_same(
    output: str | Path,
    records: Sequence[SceneRecord],
    sources: Sequence[str],
    settings: Mapping[str, Any],
    *,
    complete: bool,
) -> None:
    """Refuse to take a layer for the output of a run that would give another one."""
    made_of = {record.source for record in records}
    if not records or not made_of <= set(sources) or (complete and made_of != set(sources)):
        raise OutputError(
            f"output exists: {output}, made of {len(made_of)} scenes that are not the "
            f"{len(sources)} given; give another output, or start anew with --overwrite"
        )
    for record in records:
        for name, wanted in settings.items():
            was = record.model if name == "model" else record.parameters.get(name)
            if wanted is not None and was != wanted:
                raise OutputError(
                    f"output exists: {output}, made with {name} {was} and now asked for with "
                    f"{wanted}; put it back, or start anew with --overwrite"
                )
