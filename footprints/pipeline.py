"""The straight line: scenes in, one footprint layer out.

raster -> grid -> chips -> instances -> outlines -> merged across seams -> placed -> straightened ->
written

From the outlines on it is `footprints.finishing`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

from geopandas import GeoDataFrame
from pyproj import CRS

from footprints.chip import Detector
from footprints.cluster import open_crew
from footprints.detection import Looking, detect, prepare
from footprints.errors import ConfigError
from footprints.failures import SceneOutcome, Tally, failed_before
from footprints.files import check_name
from footprints.finishing import Wanted, check_keypoints, make_layer, parse_crs
from footprints.raster.opening import check_files, gdal_settings
from footprints.resuming import finished_layer, is_begun, say_taken_over
from footprints.starting import Sight, measured_scenes, name_scenes, take_detector
from footprints.surveying import describe_asked, source_names
from footprints.vector.area import read_area
from footprints.vector.journal import open_journal
from footprints.vector.kept import (
    KeptArea,
    KeptRun,
    check_run_place,
    keep_scenes,
)
from footprints.vector.merge import EVIDENCE_SHARE
from footprints.vector.postgis import is_database

if TYPE_CHECKING:
    import torch
    from distributed import Client

logger = logging.getLogger(__name__)

KEPT_CONFIDENCE = 0.05
"""Layers can be made from a kept run down to this confidence: little below is a building."""


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
    compiles: bool | None = None,
    tta: str | None = None,
    confidence: float | None = None,
    min_area_m2: float = 4.0,
    regularize: str | None = None,
    tolerance_m: float | None = None,
    simplify_m: float | None = None,
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
        compiles: Compile what has a fixed shape in the network before the run, where a compiler is
            found. None does so for runs that are long enough to pay for it, False never. Not used
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
        memory: Budget of this process, in bytes or as ``4GB``, for the network, its chips and
            GDAL's cache of blocks: it bounds how many batches a CPU looks at side by side,
            ``batch_size``, if that is None, and the cache, before
            ``GDAL_CACHEMAX`` of the environment. The finished layer comes on top, and so does a
            GPU's own memory. None sets none.
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
            the same, to the last byte of its file. An output that such a run has finished is left
            as it is and returned.
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
        ConfigError: A number is out of range, a CRS, method or precision unknown, keypoints are
            asked of a detector that finds none, or ``memory`` does not hold it and a batch.
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
    paths = name_scenes(scenes, asset=asset, allow_outside=allow_outside)
    if resume and not (overwrite or retry_failed):
        finished = finished_layer(
            (output, keypoints, keep),
            source_names(paths),
            settings={
                "model": _model_name(detector, weights),
                "confidence": confidence,
                "min_area_m2": min_area_m2,
                "regularize": regularize,
                "tolerance_m": tolerance_m,
                "simplify_m": simplify_m,
                "chip_size": chip_size,
                "overlap": overlap,
                "overlaps": overlaps,
                "tta": tta,
            },
            beside=beside,
            in_area=aoi is not None,
            told=told,
        )
        if finished is not None:
            return finished
    # An unfinished run was begun to write its outputs; it may have been killed in between.
    replaces = overwrite or retry_failed or (resume and is_begun(beside))
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
        overwrite=replaces,
    )
    sight = Sight(
        chip_size=chip_size,
        overlap=overlap,
        batch_size=batch_size,
        memory=memory,
        bands=bands,
        nodata=nodata,
        crs=crs,
        pixels=pixels,
        out_crs=wanted.crs,
        allow_outside=allow_outside,
    )
    if keep is not None:
        check_run_place(Path(keep), overwrite=replaces)
    if not (keep_going or retry_failed):
        check_files(paths)
    area = None if aoi is None else read_area(aoi)
    detector = take_detector(
        detector, weights, device=device, precision=precision, compiles=compiles, tta=tta
    )
    threshold = detector.confidence if confidence is None else confidence
    run = KeptRun(
        model=detector.name,
        classes=detector.classes,
        keypoints=detector.keypoints,
        confidence=detector.confidence,
        kept_confidence=threshold if keep is None else min(threshold, KEPT_CONFIDENCE),
        overlaps=detector.input_spec.short_side is not None,
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
    check_keypoints(wanted, run)
    heard_from = EVIDENCE_SHARE * run.kept_confidence
    tally = Tally(paths, beside=beside, keep_going=keep_going or retry_failed, told=told)
    with ExitStack() as opened:
        measured, plan = opened.enter_context(
            measured_scenes(paths, detector, sight, area=area, tally=tally)
        )
        batch_size = plan.batch_size
        logger.info("%s", gdal_settings())
        journal = None
        if beside is not None:
            asked = describe_asked(
                paths,
                measured,
                detector,
                batch_size=batch_size,
                kept_confidence=run.kept_confidence,
                area=area,
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
            say_taken_over(journal, measured)
        prepare(detector, measured, batch_size)
        crew = opened.enter_context(
            open_crew(
                cluster, detector, workers=workers, batch_size=batch_size, heard_from=heard_from
            )
        )
        looking = Looking(
            detector, batch_size, plan.lanes, threshold, heard_from, progress, journal, crew
        )
        found = opened.enter_context(closing(detect(measured, looking)))
        if keep is not None:
            run.parameters["batch_size"] = batch_size
            found = opened.enter_context(closing(keep_scenes(found, run, Path(keep))))
        layer = make_layer(found, run, wanted, tally)
        if journal is not None and tally.failures:
            journal.keep()
        tally.write()
        return layer


def _model_name(detector: Detector | None, weights: str | Path | None) -> str:
    """What the column ``model`` would say; arguments as for `predict`."""
    if detector is not None:
        return detector.name
    from footprints.model.checkpoint import read_info
    from footprints.model.detector import DEFAULT_WEIGHTS

    return read_info(DEFAULT_WEIGHTS if weights is None else weights).name


def _journaled(output: str | Path | None, keep: str | Path | None) -> Path | None:
    """The output beside which unfinished work is remembered; None where no file is written."""
    for path in (output, keep):
        if path is not None:
            check_name(path)
    if keep is not None:
        return Path(keep)
    return None if output is None or is_database(output) else Path(output)


def _what_failed(beside: Path | None) -> set[int]:
    """Numbers of the scenes that an earlier run listed, from 0."""
    if beside is None:
        raise ConfigError("only runs that write a file can be tried again; give --output or --keep")
    return failed_before(beside)
