"""From what was found to the layer: merged across seams, placed, straightened, written.

`finish` starts from outlines that `predict` kept; `predict` ends here, too.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from affine import Affine
from geopandas import GeoDataFrame
from pyproj import CRS
from pyproj.exceptions import CRSError
from shapely import Geometry, Polygon

from footprints.chip import ChipGrid
from footprints.errors import ConfigError, RasterError, RunError
from footprints.failures import Tally
from footprints.merging import merge_own_scenes
from footprints.ranges import check_number, check_share
from footprints.stages import staged
from footprints.vector.area import cut_layer
from footprints.vector.detected import ChipRow, DetectedScene
from footprints.vector.kept import KeptRun, kept_scenes, read_run
from footprints.vector.keypoints import keypoint_layer
from footprints.vector.layer import concat_layers, place, reproject
from footprints.vector.outlines import Footprints
from footprints.vector.postgis import is_database
from footprints.vector.read import GEOJSON_SUFFIXES
from footprints.vector.scenes import attach_scenes, describe_grid, describe_scene, unite_seen
from footprints.vector.snapping import snap_vertices
from footprints.vector.straighten import check_options, straighten
from footprints.vector.streaming import merge_rows
from footprints.vector.wide_roofs import settle_wide_roofs
from footprints.vector.write import check_output, write_layer

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the layer is to be like; None leaves it to the detector. Checked when it is made."""

    output: str | Path | None
    keypoints: str | Path | None
    confidence: float | None
    min_area_m2: float
    regularize: str | None
    tolerance_m: float | None
    simplify_m: float | None
    overlaps: bool | None
    crs: CRS | None
    overwrite: bool

    def __post_init__(self) -> None:
        for path in (self.output, self.keypoints):
            if path is not None:
                check_output(path, overwrite=self.overwrite)
        check_thresholds(self.confidence, self.min_area_m2)
        check_options(self.regularize, self.tolerance_m, self.simplify_m)
        _check_geojson_crs(self.output, self.crs)


def finish(
    run: str | Path,
    *,
    output: str | Path | None = None,
    keypoints: str | Path | None = None,
    confidence: float | None = None,
    min_area_m2: float = 4.0,
    regularize: str | None = None,
    tolerance_m: float | None = None,
    simplify_m: float | None = None,
    overlaps: bool | None = None,
    out_crs: str | CRS | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> GeoDataFrame:
    """Make a layer from a kept run: what `predict` would make now, without the network.

    Args:
        run: Folder that `predict` kept.
        output: As for `predict`; so are all the others.
        keypoints: Likewise.
        confidence: Likewise.
        min_area_m2: Likewise.
        regularize: Likewise.
        tolerance_m: Likewise.
        simplify_m: Likewise.
        overlaps: Likewise.
        out_crs: Likewise.
        overwrite: Likewise.
        progress: Show a progress bar, on a terminal or in a notebook.

    Returns:
        The footprint layer, as `predict` gives it.

    Raises:
        RunError: The run is missing, of another version or damaged, or was not kept down to
            ``confidence``.
        ConfigError, LayerError, OutputError: As for `predict`.
    """
    wanted = Wanted(
        output=output,
        keypoints=keypoints,
        confidence=confidence,
        min_area_m2=min_area_m2,
        regularize=regularize,
        tolerance_m=tolerance_m,
        simplify_m=simplify_m,
        overlaps=overlaps,
        crs=parse_crs(out_crs),
        overwrite=overwrite,
    )
    kept = read_run(run)
    check_keypoints(wanted, kept)
    threshold = kept.confidence if confidence is None else confidence
    if threshold < kept.kept_confidence:
        raise RunError(
            f"{run} was kept down to confidence {kept.kept_confidence:g}, got {threshold:g}; "
            f"predict again with --keep and --confidence {threshold:g}"
        )
    for scene in kept.scenes:
        fine = scene.passes[0]
        check_reach(fine.chips, fine.affine, scene.place, wanted.crs)
    tally = Tally([scene.path for scene in kept.scenes])
    return make_layer(kept_scenes(run, kept, progress=progress), kept, wanted, tally)


def make_layer(
    scenes: Iterable[DetectedScene], run: KeptRun, wanted: Wanted, tally: Tally
) -> GeoDataFrame:
    """From what was found to the layer, written: all that `predict` and `finish` share."""
    may_overlap = run.overlaps if wanted.overlaps is None else wanted.overlaps
    layers = []
    began = time.perf_counter()
    for scene in scenes:
        with tally.watch(scene.number, scene.source):
            layer, chips = _scene_layer(scene, run, wanted, overlaps=may_overlap)
            layers.append(layer)
            logger.info("%s: %d outlines, seams closed", scene.source, len(layer))
            counted = layer if run.area is None else layer[run.area.area.holds(layer)]
            tally.through(scene, counted, chips=chips, began=began)
        began = time.perf_counter()
    if not layers:
        tally.write()
        raise RasterError(tally.all_failed())
    layer = concat_layers(layers, crs=wanted.crs)
    if len(layers) > 1 and not may_overlap:
        layer = merge_own_scenes(layer)
    points = None if wanted.keypoints is None else keypoint_layer(layer, run.keypoints)
    layer = straighten(
        layer.drop(columns="keypoints", errors="ignore"),
        method=wanted.regularize,
        tolerance_m=wanted.tolerance_m,
        simplify_m=wanted.simplify_m,
    )
    layer = snap_vertices(layer)
    if run.area is not None:
        # Last, because straight walls follow from neighbours beyond the area as well.
        layer = cut_layer(layer, run.area.area)
        points = None if points is None else points[points["building"].isin(layer["id"])]
    if points is not None and wanted.keypoints is not None:
        write_layer(points, wanted.keypoints, overwrite=wanted.overwrite, geometry="Point")
    if wanted.output is not None:
        write_layer(layer, wanted.output, overwrite=wanted.overwrite)
    return layer


def _scene_layer(
    scene: DetectedScene, run: KeptRun, wanted: Wanted, *, overlaps: bool
) -> tuple[GeoDataFrame, int]:
    """The footprints of one scene, with its record, and how many chips showed them."""
    confidence = run.confidence if wanted.confidence is None else wanted.confidence
    footprints, seen, chips = _merge_scene(scene, confidence, overlaps=overlaps)
    fine = scene.passes[0]
    layer = place(
        footprints,
        fine.transform,
        scene.crs,
        classes=run.classes,
        source=scene.source,
        model=run.model,
        min_area_m2=wanted.min_area_m2,
    )
    record = describe_scene(
        scene.source,
        run.model,
        seen,
        fine.transform,
        scene.crs,
        pixel_m=scene.pixel_m,
        parameters={
            "confidence": confidence,
            "min_area_m2": wanted.min_area_m2,
            "regularize": wanted.regularize,
            "tolerance_m": wanted.tolerance_m,
            "simplify_m": wanted.simplify_m,
            "chip_size": fine.chips.size,
            "overlap": fine.chips.overlap,
            "grid": describe_grid(fine.chips, fine.transform),
            "bands": scene.bands,
            "overlaps": overlaps,
            "tta": run.parameters.get("tta"),
        },
    )
    attach_scenes(layer, [record])
    return layer, chips


@staged("merging")
def _merge_scene(
    scene: DetectedScene, confidence: float, *, overlaps: bool
) -> tuple[Footprints, Geometry, int]:
    """Close the seams of each pass, and settle what only the coarse one sees whole.

    Returns:
        The footprints and the ground with data, both in grid pixels of the fine pass, and how many
        chips were read in all passes.
    """
    fine, *coarser = scene.passes
    seen: list[Geometry] = []
    chips = 0

    def counting(rows: Iterable[ChipRow]) -> Iterator[ChipRow]:
        nonlocal chips
        for row in rows:
            chips += int(row.read.sum())
            yield row

    def noting_ground() -> Iterator[ChipRow]:
        for row in fine.rows:
            seen.append(row.valid)
            yield row

    rows = replace(fine, rows=counting(noting_ground()))
    footprints = merge_rows(rows, confidence=confidence, overlaps=overlaps)
    for coarse in coarser:
        rows = replace(coarse, rows=counting(coarse.rows))
        roofs = merge_rows(rows, confidence=confidence, overlaps=overlaps)
        x_factor = fine.chips.width / coarse.chips.width
        y_factor = fine.chips.height / coarse.chips.height
        footprints = settle_wide_roofs(
            footprints,
            roofs.scaled(x_factor, y_factor),
            fine.chips,
            coarse_px=max(x_factor, y_factor),
            overlaps=overlaps,
        )
    return footprints, unite_seen(seen), chips


def check_keypoints(wanted: Wanted, run: KeptRun) -> None:
    """Refuse keypoints of a detector that finds none."""
    if wanted.keypoints is not None and not run.keypoints:
        raise ConfigError(f"{run.model} finds no keypoints; leave out --keypoints")


def check_thresholds(confidence: float | None, min_area_m2: float) -> None:
    """Refuse thresholds that are out of range, or no numbers.

    Raises:
        ConfigError: They are.
    """
    if confidence is not None:
        check_share(confidence, "--confidence")
    check_number(min_area_m2, "--min-area")
    if not 0 <= min_area_m2 < math.inf:
        raise ConfigError(f"--min-area must be finite and not negative, got {min_area_m2}")


def parse_crs(crs: str | CRS | None) -> CRS | None:
    """The CRS a user names.

    Raises:
        ConfigError: There is no such CRS.
    """
    try:
        return None if crs is None else CRS.from_user_input(crs)
    except CRSError as err:
        raise ConfigError(f"unknown CRS {crs!r}; give one such as EPSG:32645") from err


def _check_geojson_crs(output: str | Path | None, crs: CRS | None) -> None:
    if output is None or crs is None or is_database(output):
        return
    if Path(output).suffix.lower() not in GEOJSON_SUFFIXES:
        return
    if not crs.equals(CRS("EPSG:4326"), ignore_axis_order=True):
        raise ConfigError(
            f"GeoJSON is always WGS 84 (RFC 7946), got {crs.name} for {output}; leave out "
            f"--out-crs, or write .gpkg"
        )


def check_reach(chips: ChipGrid, transform: Affine, crs: CRS | None, target: CRS | None) -> None:
    """Refuse a CRS that is not defined where a scene lies, by the grid pixel at its centre."""
    if target is None:
        return
    x, y = chips.width / 2, chips.height / 2
    corners = [transform @ c for c in ((x, y), (x + 1, y), (x + 1, y + 1), (x, y + 1))]
    reproject(GeoDataFrame(geometry=[Polygon(corners)], crs=crs), target)
