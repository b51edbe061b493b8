"""The straight line: scenes in, one footprint layer out.

raster -> grid -> chips -> instances -> outlines -> merged across seams -> placed -> straightened ->
written

`predict` goes all the way; `finish` starts from outlines that an earlier `predict` kept.
"""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from affine import Affine
from geopandas import GeoDataFrame
from pyproj import CRS
from pyproj.exceptions import CRSError
from shapely import Geometry, Polygon

from footprints.chip import ChipGrid, Detector
from footprints.cluster import open_crew
from footprints.detection import Looking, Measured, cover_scene, detect, fitting_batch
from footprints.errors import ConfigError, OrientationWarning, RasterError, RunError
from footprints.failures import SceneOutcome, Tally, failed_before
from footprints.merging import merge_own_scenes
from footprints.raster.listing import list_rasters
from footprints.raster.opening import gdal_settings
from footprints.raster.source import Scene, open_scene
from footprints.rows import Cover
from footprints.stages import staged
from footprints.surveying import describe_asked, survey
from footprints.vector.area import cut_layer, read_area
from footprints.vector.detected import ChipRow, DetectedScene
from footprints.vector.journal import open_journal
from footprints.vector.kept import (
    KeptArea,
    KeptRun,
    check_run_place,
    keep_scenes,
    kept_scenes,
    read_run,
)
from footprints.vector.keypoints import keypoint_layer
from footprints.vector.layer import concat_layers, place, reproject
from footprints.vector.merge import EVIDENCE_SHARE
from footprints.vector.outlines import Footprints
from footprints.vector.postgis import is_database
from footprints.vector.read import GEOJSON_SUFFIXES
from footprints.vector.scenes import (
    attach_scenes,
    describe_grid,
    describe_scene,
    unite_seen,
)
from footprints.vector.snapping import snap_vertices
from footprints.vector.straighten import check_options, straighten
from footprints.vector.streaming import merge_rows
from footprints.vector.wide_roofs import settle_wide_roofs
from footprints.vector.write import check_output, write_layer

if TYPE_CHECKING:
    import torch
    from distributed import Client

logger = logging.getLogger(__name__)

KEPT_CONFIDENCE = 0.05
"""Layers can be made from a kept run down to this confidence: little below is a building."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
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
        if self.confidence is not None and not 0 <= self.confidence <= 1:
            raise ConfigError(f"confidence must be in [0, 1], got {self.confidence}")
        if not 0 <= self.min_area_m2 < math.inf:
            raise ConfigError(f"min area must be finite and not negative, got {self.min_area_m2}")
        check_options(self.regularize, self.tolerance_m, self.simplify_m)
        _check_geojson_crs(self.output, self.crs)


def predict(
    scenes: str | Path | Sequence[str | Path],
    *,
    output: str | Path | None = None,
    keypoints: str | Path | None = None,
    keep: str | Path | None = None,
    detector: Detector | None = None,
    weights: str | Path | None = None,
    device: str | torch.device | None = None,
    precision: str | None = None,
    tta: str | None = None,
    confidence: float | None = None,
    min_area_m2: float = 4.0,
    regularize: str | None = None,
    tolerance_m: float | None = None,
    simplify_m: float | None = None,
    chip_size: int | None = None,
    overlap: int | None = None,
    batch_size: int | None = None,
    bands: Sequence[int] | None = None,
    nodata: float | None = None,
    crs: str | CRS | None = None,
    pixels: bool = False,
    overlaps: bool | None = None,
    out_crs: str | CRS | None = None,
    aoi: str | Path | GeoDataFrame | None = None,
    overwrite: bool = False,
    resume: bool = False,
    keep_going: bool = False,
    retry_failed: bool = False,
    asset: str | None = None,
    allow_outside: bool = False,
    told: Callable[[SceneOutcome], object] | None = None,
    cluster: str | Path | Client | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> GeoDataFrame:
    """Find the buildings of one or more scenes.

    A run that is cut short, even by a crash of the machine, leaves its finished rows of chips in a
    hidden folder beside ``keep`` or else ``output``, where ``resume`` finds them.

    Args:
        scenes: Rasters: files, or ``https://``, ``s3://`` and ``/vsi...`` addresses; and folders,
            patterns, lists, STAC items and tile indexes (`footprints.raster.listing.list_rasters`).
        output: Layer to write; its ending names the format, or it is the address of a table in a
            PostGIS database (`footprints.vector.postgis`). None writes nothing.
        keypoints: Point layer to write, of the keypoints of every building; its columns are
            documented in `footprints.vector.keypoints.keypoint_layer`. None writes none.
        keep: Folder for all that is found, down to a confidence of 0.05, before seams are decided:
            `finish` makes layers from it in seconds. The layer is the same with and without.
        detector: What finds the buildings; see `load_detector`. None loads ``weights``.
        weights: A ``.safetensors`` file of ours; None takes the weights that ship. Not used with
            ``detector``.
        device: Where the network runs; None takes the best there is. Not used with ``detector``.
        precision: ``float32`` or ``bfloat16``; None takes the quicker one on the device. Not used
            with ``detector``.
        tta: Show every chip several times: ``flips`` mirrors it, ``all`` also turns it by quarters
            and changes its size; see `footprints.tta`. None shows it once.
        confidence: Buildings below it are left out, 0 to 1; None takes the detector's own.
        min_area_m2: Buildings smaller than this are left out, in square metres on the ground (in
            square pixels with ``pixels``).
        regularize: Method that gives buildings straight walls, as for
            `footprints.vector.regularize.regularize`; None leaves outlines as they were traced.
        tolerance_m: Metres that regularised outlines may move (pixels with ``pixels``); None takes
            the method's own.
        simplify_m: Metres that outlines may move when vertices are dropped, in the end; None drops
            none.
        chip_size: Side of a chip in pixels at the detector's ground resolution; None takes the
            detector's own. Detectors of photographs see a picture whole, resized to their size;
            a chip size cuts it into chips of its own pixels instead.
        overlap: Pixels shared by neighbouring chips; None takes a quarter of the chip.
        batch_size: Chips that go through the network together; None takes what fits a GPU's free
            memory, and 2 on a CPU. Where memory runs out, it is halved. A run that goes on
            (``resume``) takes over what was in force.
        bands: Bands to read, 1-based, repeats allowed; None takes the first ones.
        nodata: Value of pixels without data; goes before the one the raster declares.
        crs: CRS of the rasters; goes before the one they declare.
        pixels: Work in plain pixel coordinates and ignore any georeference: x to the right and y
            down from the upper-left corner of the picture as it is stored.
        overlaps: Keep footprints that overlap as they are found; False leaves no ground to two of
            them. None takes the detector's kind: objects in photographs overlap, buildings on the
            ground do not.
        out_crs: CRS of the layer; None takes the first scene's.
        aoi: Area of interest: a polygon layer in any CRS, or its file. Nothing is read that its
            buildings do not need; `footprints.vector.area` says which buildings are its own. None
            takes all ground.
        overwrite: Replace ``output``, ``keypoints`` and ``keep`` if they exist; without ``resume``,
            an unfinished run, too.
        resume: Go on where a run with the same arguments was cut short, if one was; the layer is
            the same, to the last byte of its file.
        keep_going: Scenes that cannot be opened or read do not end the run, nor do chips that
            cannot be read. They are warned of and, where a file is written, listed beside it
            (`footprints.failures`); the unfinished run stays there, for ``retry_failed``.
        retry_failed: Of a run that went on like this, do what is listed, and make the outputs
            anew: in the end they are those of a run where nothing failed. What fails again is
            listed again.
        asset: Name of the asset to take of STAC items; None takes the one whose role is data or
            visual.
        allow_outside: Scenes may name rasters anywhere, as virtual rasters do; otherwise those at
            or below their folder (`footprints.raster.trust`).
        told: Is told how each scene went, when it is through.
        cluster: Workers of dask.distributed that look at the chips, which makes no difference to
            the layer but for the last digits of a network's arithmetic: ``local`` starts some on
            this machine, one for each GPU; or the address of a scheduler, the path of its file, or
            a client. None looks in this process.
        workers: Processes of a ``local`` cluster instead.
        progress: Show a progress bar, on a terminal or in a notebook.

    Returns:
        The footprint layer; its columns are documented in `footprints.vector.layer`. Column
        ``source`` says which scene a building was found in: its file name, or its whole path where
        two scenes have the same name. What several scenes show is there once, as `merge_layers`
        has it, unless footprints may overlap.

    Raises:
        ConfigError: A number is out of range, a CRS, method or precision unknown, or keypoints
            asked of a detector that finds none.
        RasterError: A scene is missing, unreadable or without georeference.
        BandError: A scene has fewer bands than the detector takes.
        ChipSizeError: Chip size and overlap do not fit together, or an overlap is given for
            pictures that are seen whole.
        WeightsError, DeviceError: The detector cannot be loaded.
        LayerError: ``out_crs`` is not defined where a scene lies.
        OutputError: The output exists or cannot be written, or an unfinished run is there; found
            out before the work starts.
        RunError: The unfinished run was asked for something else, its scenes or weights have
            changed, or another process is at work on it.
        ClusterError: No scheduler answers, it is lost, or workers die of what they are given.

    Warns:
        OrientationWarning: A photograph is stored turned; it is read as it is stored.
        FailureWarning: A scene or chip failed, and ``keep_going`` is set.
    """
    beside = _journaled(output, keep)
    changed = _what_failed(beside) if retry_failed else set()
    replaces = overwrite or retry_failed
    wanted = _Wanted(
        output=output,
        keypoints=keypoints,
        confidence=confidence,
        min_area_m2=min_area_m2,
        regularize=regularize,
        tolerance_m=tolerance_m,
        simplify_m=simplify_m,
        overlaps=overlaps,
        crs=_parse_crs(out_crs),
        overwrite=replaces,
    )
    if keep is not None:
        check_run_place(Path(keep), overwrite=replaces)
    area = None if aoi is None else read_area(aoi)
    paths = list_rasters(scenes, asset=asset, allow_outside=allow_outside)
    _check_paths(paths)
    if batch_size is not None and batch_size < 1:
        raise ConfigError(f"batch size must be at least 1, got {batch_size}")
    if pixels and not (crs is None and wanted.crs is None):
        raise ConfigError("pixel coordinates have no CRS; use --pixels, or --crs and --out-crs")
    detector = _load(detector, weights, device=device, precision=precision, tta=tta)
    spec = detector.input_spec
    threshold = detector.confidence if confidence is None else confidence
    run = KeptRun(
        model=detector.name,
        classes=detector.classes,
        keypoints=detector.keypoints,
        confidence=detector.confidence,
        kept_confidence=threshold if keep is None else min(threshold, KEPT_CONFIDENCE),
        overlaps=spec.short_side is not None,
        area=None if area is None else KeptArea.of(area),
        parameters={
            "batch_size": batch_size,
            "bands": None if bands is None else [int(band) for band in bands],
            "nodata": None if nodata is None else str(nodata),
            "crs": None if crs is None else str(crs),
            "pixels": pixels,
            "tta": tta,
        },
    )
    _check_keypoints(wanted, run)
    heard_from = EVIDENCE_SHARE * run.kept_confidence
    tally = Tally(paths, beside=beside, keep_going=keep_going or retry_failed, told=told)

    def measure(scene: Scene) -> Cover:
        cover = cover_scene(scene, spec, chip_size=chip_size, overlap=overlap)
        _check_reach(cover.chips, cover.grid.transform, scene.crs, wanted.crs)
        return cover

    measured = survey(
        paths,
        lambda path: open_scene(
            path,
            bands=bands,
            want_bands=spec.bands,
            nodata=nodata,
            crs=crs,
            pixels=pixels,
            collars=not run.overlaps,
            trusted=allow_outside,
        ),
        measure,
        area=area,
        tally=tally,
    )
    _warn_of_turned(measured)
    logger.info("%s", gdal_settings())
    if batch_size is None:
        batch_size = fitting_batch(detector, measured)
    with ExitStack() as opened:
        journal = None
        if beside is not None:
            asked = describe_asked(
                paths, measured, detector, batch_size=batch_size, heard_from=heard_from, area=area
            )
            journal = opened.enter_context(
                open_journal(
                    beside,
                    asked,
                    resume=resume or retry_failed,
                    overwrite=overwrite,
                    changed=changed,
                )
            )
            batch_size = journal.batch_size
        crew = opened.enter_context(
            open_crew(
                cluster, detector, workers=workers, batch_size=batch_size, heard_from=heard_from
            )
        )
        looking = Looking(detector, batch_size, threshold, heard_from, progress, journal, crew)
        found = opened.enter_context(closing(detect(measured, looking)))
        if keep is not None:
            run.parameters["batch_size"] = batch_size
            found = opened.enter_context(closing(keep_scenes(found, run, Path(keep))))
        layer = _make_layer(found, run, wanted, tally)
        if journal is not None and tally.failures:
            journal.keep()
        tally.write()
        return layer


def _load(
    detector: Detector | None,
    weights: str | Path | None,
    *,
    device: str | torch.device | None,
    precision: str | None,
    tta: str | None,
) -> Detector:
    if detector is None:
        # Torch takes seconds to load, and `finish` has no need of it.
        from footprints.model.detector import load_detector

        detector = load_detector(weights, device=device, precision=precision)
    if tta is None:
        return detector
    from footprints.tta import AugmentedDetector

    return AugmentedDetector(detector, tta)


def _journaled(output: str | Path | None, keep: str | Path | None) -> Path | None:
    """The output beside which unfinished work is remembered; None where no file is written."""
    if keep is not None:
        return Path(keep)
    return None if output is None or is_database(output) else Path(output)


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
    wanted = _Wanted(
        output=output,
        keypoints=keypoints,
        confidence=confidence,
        min_area_m2=min_area_m2,
        regularize=regularize,
        tolerance_m=tolerance_m,
        simplify_m=simplify_m,
        overlaps=overlaps,
        crs=_parse_crs(out_crs),
        overwrite=overwrite,
    )
    kept = read_run(run)
    _check_keypoints(wanted, kept)
    threshold = kept.confidence if confidence is None else confidence
    if threshold < kept.kept_confidence:
        raise RunError(
            f"{run} was kept down to confidence {kept.kept_confidence:g}, got {threshold:g}; "
            f"predict again with --keep and --confidence {threshold:g}"
        )
    for scene in kept.scenes:
        fine = scene.passes[0]
        _check_reach(fine.chips, fine.affine, scene.place, wanted.crs)
    tally = Tally([scene.path for scene in kept.scenes])
    return _make_layer(kept_scenes(run, kept, progress=progress), kept, wanted, tally)


def _make_layer(
    scenes: Iterable[DetectedScene], run: KeptRun, wanted: _Wanted, tally: Tally
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
            tally.through(scene, layer, chips=chips, began=began)
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
    scene: DetectedScene, run: KeptRun, wanted: _Wanted, *, overlaps: bool
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


def _warn_of_turned(measured: Sequence[Measured]) -> None:
    turned = [each.source for each in measured if each.cover.grid.scene.turned]
    if turned:
        warnings.warn(
            f"{len(turned)} photographs are stored turned (EXIF orientation), first {turned[0]}: "
            "they are read and outlined as stored, where things lie on their side; turn the pixels "
            "first, as with exiftran -ai or PIL.ImageOps.exif_transpose",
            OrientationWarning,
            stacklevel=3,
        )


def _what_failed(beside: Path | None) -> set[int]:
    """Numbers of the scenes that an earlier run listed, from 0."""
    if beside is None:
        raise ConfigError("only runs that write a file can be tried again; give --output or --keep")
    return failed_before(beside)


def _check_paths(paths: Sequence[str | Path]) -> None:
    if not paths:
        raise RasterError("no scene given; name at least one raster")
    path, count = Counter(map(str, paths)).most_common(1)[0]
    if count > 1:
        raise RasterError(f"{path} is given {count} times; name every scene once")


def _check_keypoints(wanted: _Wanted, run: KeptRun) -> None:
    if wanted.keypoints is not None and not run.keypoints:
        raise ConfigError(f"{run.model} finds no keypoints; leave out --keypoints")


def _parse_crs(crs: str | CRS | None) -> CRS | None:
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


def _check_reach(chips: ChipGrid, transform: Affine, crs: CRS | None, target: CRS | None) -> None:
    """Refuse a CRS that is not defined where a scene lies, by the grid pixel at its centre."""
    if target is None:
        return
    x, y = chips.width / 2, chips.height / 2
    corners = [transform @ c for c in ((x, y), (x + 1, y), (x + 1, y + 1), (x, y + 1))]
    reproject(GeoDataFrame(geometry=[Polygon(corners)], crs=crs), target)
