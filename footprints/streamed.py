"""Footprints while they come in: `predict` for those who bring a place of their own to put them.

The coarse pass over a scene goes first here. It is a sixteenth of the work, and with its roofs at
hand everything that rows of chips settle can be let go at once.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing
from contextvars import copy_context
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from geopandas import GeoDataFrame
from pyproj import CRS

from footprints.chip import Detector
from footprints.cluster import open_crew
from footprints.detection import Looking, detect, prepare
from footprints.failures import Tally
from footprints.finishing import check_thresholds, parse_crs
from footprints.starting import Sight, measured_scenes, name_scenes, take_detector
from footprints.vector.detected import DetectedScene
from footprints.vector.layer import place, reproject
from footprints.vector.merge import EVIDENCE_SHARE
from footprints.vector.numbering import free_of
from footprints.vector.outlines import Footprints
from footprints.vector.streaming import merge_in_parts, merge_rows
from footprints.vector.wide_roofs import settle_in_parts

if TYPE_CHECKING:
    from distributed import Client


def predict_iter(
    scenes: str | Path | Sequence[str | Path],
    *,
    detector: Detector | None = None,
    weights: str | Path | None = None,
    confidence: float | None = None,
    min_area_m2: float = 4.0,
    chip_size: int | None = None,
    overlap: int | None = None,
    batch_size: int | None = None,
    memory: str | int | None = None,
    bands: Sequence[int] | None = None,
    nodata: float | None = None,
    crs: str | CRS | None = None,
    pixels: bool = False,
    overlaps: bool | None = None,
    out_crs: str | CRS | None = None,
    cluster: str | Path | Client | None = None,
    workers: int | None = None,
    progress: bool = False,
) -> Generator[GeoDataFrame]:
    """Find the buildings of scenes and give them away while the rest is looked at.

    Each footprint comes once and is final: the seams around it are closed, roofs wider than a chip
    are settled, no ground belongs to two. Held are a row or two of chips, what hangs together with
    them, and the numbers given so far; memory does not grow with the scene.

    `predict` makes of the same footprints a layer, by steps that need all of them and are left out
    here: buildings that several scenes show are merged, walls straightened or simplified if asked
    for, vertices rounded to a common lattice, and the scenes recorded. Those who need them call
    `predict`, or `footprints.merge_layers`, `regularize` and `simplify` on the layer they collect.

    The work is done when the next chunk is asked for, but for a few batches of chips that are seen
    ahead. Closing the generator ends it, and its threads and workers; unlike `predict` it leaves
    nothing to resume.

    Args:
        scenes: As for `predict`; so are all the others.
        detector: Likewise.
        weights: Likewise.
        confidence: Likewise.
        min_area_m2: Likewise.
        chip_size: Likewise.
        overlap: Likewise.
        batch_size: Likewise.
        memory: Likewise.
        bands: Likewise.
        nodata: Likewise.
        crs: Likewise.
        pixels: Likewise.
        overlaps: Likewise.
        out_crs: Likewise.
        cluster: Likewise.
        workers: Likewise.
        progress: Likewise.

    Yields:
        Footprints with the columns that `footprints.vector.layer` documents, none empty, from the
        top of each scene to its bottom, roughly by rows of chips. Column ``id`` holds each number
        once over all chunks.

    Raises:
        FootprintsError: As `predict`, when the first chunk is asked for or the one concerned.
    """
    check_thresholds(confidence, min_area_m2)
    # What the run sets for its own reading is nobody else's while a chunk is given away.
    context = copy_context()
    chunks = _chunks(
        scenes,
        take_detector(detector, weights),
        Sight(
            chip_size=chip_size,
            overlap=overlap,
            batch_size=batch_size,
            memory=memory,
            bands=bands,
            nodata=nodata,
            crs=crs,
            pixels=pixels,
            out_crs=parse_crs(out_crs),
        ),
        confidence=confidence,
        min_area_m2=min_area_m2,
        overlaps=overlaps,
        cluster=cluster,
        workers=workers,
        progress=progress,
    )
    try:
        while (chunk := context.run(next, chunks, None)) is not None:
            yield chunk
    finally:
        context.run(chunks.close)


def _chunks(
    scenes: str | Path | Sequence[str | Path],
    detector: Detector,
    sight: Sight,
    *,
    confidence: float | None,
    min_area_m2: float,
    overlaps: bool | None,
    cluster: str | Path | Client | None,
    workers: int | None,
    progress: bool,
) -> Generator[GeoDataFrame]:
    """`predict_iter`, with what it is told in order."""
    sure = detector.confidence if confidence is None else confidence
    heard_from = EVIDENCE_SHARE * sure
    paths = name_scenes(scenes)
    with ExitStack() as opened:
        measured, plan = opened.enter_context(
            measured_scenes(paths, detector, sight, tally=Tally(paths))
        )
        size = plan.batch_size
        prepare(detector, measured, size)
        crew = opened.enter_context(
            open_crew(cluster, detector, workers=workers, batch_size=size, heard_from=heard_from)
        )
        looking = Looking(
            detector,
            size,
            plan.lanes,
            sure,
            heard_from,
            progress,
            crew=crew,
            coarse_first=True,
        )
        target = sight.out_crs or measured[0].cover.grid.scene.crs
        may_overlap = detector.input_spec.short_side is not None if overlaps is None else overlaps
        taken = np.empty(0, dtype=np.int64)
        for scene in opened.enter_context(closing(detect(measured, looking))):
            with closing(_final_parts(scene, sure, overlaps=may_overlap)) as parts:
                for part in parts:
                    chunk = _chunk(part, scene, detector, target, min_area_m2)
                    if len(chunk):
                        chunk["id"] = free_of(chunk["id"].to_numpy(), taken)
                        taken = np.union1d(taken, chunk["id"].to_numpy())
                        yield chunk


def _final_parts(
    scene: DetectedScene, confidence: float, *, overlaps: bool
) -> Generator[Footprints]:
    """Final footprints of a scene whose coarse pass, if there is one, comes first."""
    *coarser, fine = scene.passes
    roofs = [merge_rows(each, confidence=confidence, overlaps=overlaps) for each in coarser]
    with closing(merge_in_parts(fine, confidence=confidence, overlaps=overlaps)) as parts:
        if not coarser:
            yield from (part for part, _ in parts)
            return
        x_factor = fine.chips.width / coarser[0].chips.width
        y_factor = fine.chips.height / coarser[0].chips.height
        yield from settle_in_parts(
            parts,
            roofs[0].scaled(x_factor, y_factor),
            fine.chips,
            coarse_px=max(x_factor, y_factor),
            overlaps=overlaps,
        )


def _chunk(
    footprints: Footprints,
    scene: DetectedScene,
    detector: Detector,
    target: CRS | None,
    min_area_m2: float,
) -> GeoDataFrame:
    layer = place(
        footprints,
        scene.passes[-1].transform,
        scene.crs,
        classes=detector.classes,
        source=scene.source,
        model=detector.name,
        min_area_m2=min_area_m2,
    ).drop(columns="keypoints", errors="ignore")
    return layer if target is None else reproject(layer, target)
