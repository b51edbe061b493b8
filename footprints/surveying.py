"""Before the work: every scene is opened, measured and closed again.

A mistake in the last name should not cost the hours spent on the others, and ten thousand scenes
must not be ten thousand open files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import numpy as np
import shapely

from footprints.addresses import file_name, redact
from footprints.chip import Detector
from footprints.detection import Measured
from footprints.errors import AreaError, LayerError
from footprints.failures import Tally
from footprints.raster.source import Scene
from footprints.rows import Cover
from footprints.vector.area import Area, chips_near, show_bounds
from footprints.vector.journal import BATCH_SIZE, MEASURED, Asked


def survey(
    paths: Sequence[str],
    open_scene: Callable[[str], Scene],
    measure: Callable[[Scene], Cover],
    *,
    area: Area | None,
    tally: Tally,
) -> list[Measured]:
    """Open and measure scenes.

    Args:
        paths: Files and addresses.
        open_scene: Opens one.
        measure: Covers one with chips; raises where it cannot be worked on.
        area: Of interest; None is interested in all.
        tally: Is told of scenes that fail, and of those beside the area.

    Returns:
        The scenes to look at, closed.

    Raises:
        RasterError, LayerError: A scene failed, and the run is not to go on.
        AreaError: All scenes lie beside the area.
    """
    measured: list[Measured] = []
    beside: list[Measured] = []
    for number, (path, source) in enumerate(zip(paths, source_names(paths), strict=True)):
        with tally.watch(number, source):
            with open_scene(path) as scene:
                cover = replace(measure(scene), faults=[] if tally.keep_going else None)
            each = _cut_to(area, Measured(number, source, cover))
            if each.cover.wanted is None or each.cover.wanted.any():
                measured.append(each)
            else:
                beside.append(each)
                tally.beside(source)
    if area is not None and not tally.failures and not any(map(_touches, measured)):
        for each in measured:
            tally.beside(each.source)
        raise AreaError(_say_beside(area, beside + measured))
    return measured


def source_names(paths: Sequence[str]) -> list[str]:
    """What the ``source`` column says: file names, or whole paths where two would be the same."""
    names = [file_name(path) for path in paths]
    count = Counter(names)
    return [
        name if count[name] == 1 else redact(path) for name, path in zip(names, paths, strict=True)
    ]


def _cut_to(area: Area | None, measured: Measured) -> Measured:
    if area is None:
        return measured
    cover = measured.cover
    grid = cover.grid
    try:
        ground = area.on_grid(cover.chips, grid.transform, grid.scene.crs)
    except LayerError as err:
        raise LayerError(f"{area.name} beside {measured.source}: {err}") from err
    cover = replace(cover, wanted=chips_near(cover.chips, ground))
    return replace(measured, cover=cover, area=shapely.make_valid(ground))


def _touches(measured: Measured) -> bool:
    """Whether the area reaches the scene itself: chips are looked at beyond the area, too."""
    chips = measured.cover.chips
    extent = shapely.box(0, 0, chips.width, chips.height)
    return bool(shapely.intersects(extent, measured.area))


def _say_beside(area: Area, scenes: Sequence[Measured]) -> str:
    """Where the area lies and where the scenes do, in one line."""
    grids = [each.cover.grid for each in scenes]
    bounds = [
        area.bounds_of(each.cover.chips, grid.transform, grid.scene.crs)
        for each, grid in zip(scenes, grids, strict=True)
    ]
    lowest, highest = np.min(bounds, axis=0)[:2], np.max(bounds, axis=0)[2:]
    name = scenes[0].source if len(scenes) == 1 else f"any of the {len(scenes)} scenes"
    units = "pixels" if area.crs is None else area.crs.name
    return (
        f"{area.name} {show_bounds(shapely.bounds(area.ground))} does not touch {name} "
        f"{show_bounds([*lowest, *highest])}, both in {units}; check its place and the CRS of both"
    )


def describe_asked(
    paths: Sequence[str],
    measured: Sequence[Measured],
    detector: Detector,
    *,
    batch_size: int,
    kept_confidence: float,
    area: Area | None,
) -> Asked:
    """All that the rows of chips of a run depend on, by the names that a user knows."""
    run = {
        "version of footprints": version("building-footprints"),
        "model": detector.name,
        "digest of the weights": detector.digest,
        BATCH_SIZE: batch_size,
        "least confidence kept": kept_confidence,
        "area of interest": None if area is None else area.digest,
    }
    scenes: list[dict[str, Any]] = [{"path": redact(path)} for path in paths]
    for each in measured:
        scene, chips = each.cover.grid.scene, each.cover.chips
        scenes[each.number] |= {
            "file": scene.stamp,
            MEASURED: f"{chips.width} x {chips.height} px",
            "chip size": chips.size,
            "overlap": chips.overlap,
            "bands": list(scene.bands),
            "nodata": repr(scene.rule),
            "place": list(each.cover.grid.transform[:6]),
        }
    return Asked(run, scenes)
