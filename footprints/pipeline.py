"""The straight line: scenes in, one footprint layer out.

raster -> grid -> chips -> instances -> outlines -> merged across seams -> placed -> straightened ->
written
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np
from geopandas import GeoDataFrame
from numpy.typing import NDArray
from pyproj import CRS
from pyproj.exceptions import CRSError
from shapely import Polygon
from tqdm.auto import tqdm

from footprints.chip import Chip, ChipGrid, Detector, InputSpec, Scaling
from footprints.errors import (
    ChipSizeError,
    ConfigError,
    DetectionCapWarning,
    FootprintsWarning,
    OrientationWarning,
    RasterError,
)
from footprints.model.detector import load_detector
from footprints.raster.reader import SceneGrid, read_chip, resample_scene, resize_picture
from footprints.raster.scaling import fit_scaling
from footprints.raster.source import Scene, open_scene
from footprints.vector.keypoints import keypoint_layer
from footprints.vector.layer import concat_layers, place, reproject
from footprints.vector.merge import EVIDENCE_SHARE, merge
from footprints.vector.outlines import Footprints, Outlines
from footprints.vector.read import GEOJSON_SUFFIXES
from footprints.vector.straighten import check_options, straighten
from footprints.vector.trace import trace
from footprints.vector.wide_roofs import settle_wide_roofs
from footprints.vector.write import check_output, write_layer

if TYPE_CHECKING:
    import torch

COARSE_FACTOR = 4
"""Fine pixels per coarse pixel: in the coarse pass a chip shows sixteen times the ground, so that
a roof as wide as three chips is seen with everything around it."""


@dataclass(frozen=True, slots=True)
class _Pass:
    """One reading of a scene by a detector, at one resolution."""

    grid: SceneGrid
    chips: ChipGrid
    scaling: Scaling
    batch_size: int
    confidence: float
    overlaps: bool


def predict(
    scenes: str | Path | Sequence[str | Path],
    *,
    output: str | Path | None = None,
    keypoints: str | Path | None = None,
    detector: Detector | None = None,
    weights: str | Path | None = None,
    device: str | torch.device | None = None,
    confidence: float | None = None,
    min_area_m2: float = 4.0,
    regularize: str | None = None,
    tolerance_m: float | None = None,
    simplify_m: float | None = None,
    chip_size: int | None = None,
    overlap: int | None = None,
    batch_size: int = 2,
    bands: Sequence[int] | None = None,
    nodata: float | None = None,
    crs: str | CRS | None = None,
    pixels: bool = False,
    overlaps: bool | None = None,
    out_crs: str | CRS | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> GeoDataFrame:
    """Find the buildings of one or more scenes.

    Args:
        scenes: Rasters: files, or ``https://``, ``s3://`` and ``/vsi...`` addresses.
        output: Layer to write; its ending names the format. None writes nothing.
        keypoints: Point layer to write, of the keypoints of every building; its columns are
            documented in `footprints.vector.keypoints.keypoint_layer`. None writes none.
        detector: What finds the buildings; see `load_detector`. None loads ``weights``.
        weights: A ``.safetensors`` file of ours; None takes the weights that ship. Not used with
            ``detector``.
        device: Where the network runs; None takes the best there is. Not used with ``detector``.
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
        batch_size: Chips that go through the network together.
        bands: Bands to read, 1-based, repeats allowed; None takes the first ones.
        nodata: Value of pixels without data; goes before the one the raster declares.
        crs: CRS of the rasters; goes before the one they declare.
        pixels: Work in plain pixel coordinates and ignore any georeference: x to the right and y
            down from the upper-left corner of the picture as it is stored.
        overlaps: Keep footprints that overlap as they are found; False leaves no ground to two of
            them. None takes the detector's kind: objects in photographs overlap, buildings on the
            ground do not.
        out_crs: CRS of the layer; None takes the first scene's.
        overwrite: Replace ``output`` if it exists.
        progress: Show a progress bar.

    Returns:
        The footprint layer; its columns are documented in `footprints.vector.layer`. Column
        ``source`` says which scene a building was found in: its file name, or its whole path where
        two scenes have the same name.

    Raises:
        ConfigError: A number is out of range, a CRS or method unknown, or keypoints asked of a
            detector that finds none.
        RasterError: A scene is missing, unreadable or without georeference.
        BandError: A scene has fewer bands than the detector takes.
        ChipSizeError: Chip size and overlap do not fit together, or an overlap is given for
            pictures that are seen whole.
        WeightsError, DeviceError: The detector cannot be loaded.
        LayerError: ``out_crs`` is not defined where a scene lies.
        OutputError: The output exists or cannot be written; found out before the work starts.

    Warns:
        OrientationWarning: A photograph is stored turned; it is read as it is stored.
    """
    for path in (output, keypoints):
        if path is not None:
            check_output(path, overwrite=overwrite)
    paths = [scenes] if isinstance(scenes, str | Path) else list(scenes)
    _check_paths(paths)
    _check_numbers(confidence, min_area_m2, batch_size)
    check_options(regularize, tolerance_m, simplify_m)
    target = _parse_crs(out_crs)
    _check_geojson_crs(output, target)
    if pixels and not (crs is None and target is None):
        raise ConfigError("pixel coordinates have no CRS; use --pixels, or --crs and --out-crs")
    if detector is None:
        detector = load_detector(weights, device=device)
    if keypoints is not None and not detector.keypoints:
        raise ConfigError(f"{detector.name} finds no keypoints; leave out --keypoints")
    spec = detector.input_spec
    shows_pictures = spec.short_side is not None
    threshold = detector.confidence if confidence is None else confidence
    may_overlap = shows_pictures if overlaps is None else overlaps
    with ExitStack() as opened:
        # All are opened and measured first: a mistake in the last name should not cost the hours
        # spent on the others.
        rasters = [
            opened.enter_context(
                open_scene(
                    path,
                    bands=bands,
                    want_bands=spec.bands,
                    nodata=nodata,
                    crs=crs,
                    pixels=pixels,
                    collars=not shows_pictures,
                )
            )
            for path in paths
        ]
        covers = [_cover(scene, spec, chip_size, overlap) for scene in rasters]
        if target is not None:
            for scene in rasters:
                _check_reach(scene, target)
        _warn_of_turned(rasters)
        layers = [
            place(
                _find_footprints(
                    _Pass(
                        grid,
                        chips,
                        fit_scaling(grid.scene, spec),
                        batch_size,
                        threshold,
                        may_overlap,
                    ),
                    detector,
                    progress=progress,
                ),
                grid.transform,
                grid.scene.crs,
                classes=detector.classes,
                source=source,
                model=detector.name,
                min_area_m2=min_area_m2,
            )
            for (grid, chips), source in zip(covers, _source_names(rasters), strict=True)
        ]
    layer = concat_layers(layers, crs=target)
    if keypoints is not None:
        points = keypoint_layer(layer, detector.keypoints)
        write_layer(points, keypoints, overwrite=overwrite, geometry="Point")
    layer = straighten(
        layer.drop(columns="keypoints", errors="ignore"),
        method=regularize,
        tolerance_m=tolerance_m,
        simplify_m=simplify_m,
    )
    if output is not None:
        write_layer(layer, output, overwrite=overwrite)
    return layer


def _cover(
    scene: Scene, spec: InputSpec, chip_size: int | None, overlap: int | None
) -> tuple[SceneGrid, ChipGrid]:
    """A scene at the detector's resolution, and the chips that cover it."""
    if spec.short_side is not None and chip_size is None:
        if overlap is not None:
            raise ChipSizeError(
                f"overlap {overlap} is of neighbouring chips, but this detector sees pictures "
                "whole; cut them with --chip-size, or leave out --overlap"
            )
        grid = resize_picture(scene, spec.short_side, spec.long_side)
        side = -(-max(grid.height, grid.width) // spec.multiple) * spec.multiple
        return grid, ChipGrid(grid.height, grid.width, side, 0, spec.multiple)
    grid = resample_scene(scene, spec.gsd_m)
    size = spec.chip_size if chip_size is None else chip_size
    shared = size // 4 if overlap is None else overlap
    return grid, ChipGrid(grid.height, grid.width, size, shared, spec.multiple)


def _source_names(scenes: Sequence[Scene]) -> list[str]:
    """What the ``source`` column says: file names, or whole paths where two would be the same."""
    count = Counter(scene.name for scene in scenes)
    return [scene.name if count[scene.name] == 1 else scene.path for scene in scenes]


def _find_footprints(fine: _Pass, detector: Detector, *, progress: bool) -> Footprints:
    """Detect and merge; a scene of several chips is looked at coarsely, too."""
    passes = [fine]
    if len(fine.chips) > 1:
        passes.append(_coarse(fine))
    total = sum(len(each.chips) for each in passes)
    name = fine.grid.scene.name
    with tqdm(total=total, desc=name, unit="chip", disable=not progress) as bar:
        outlines, read = _detect(fine, detector, bar)
        if not read.any():
            warnings.warn(
                f"{name} has no pixel with data; check --nodata and --bands",
                FootprintsWarning,
                stacklevel=3,
            )
        footprints = merge(
            outlines, fine.chips, read, confidence=fine.confidence, overlaps=fine.overlaps
        )
        for coarse in passes[1:]:
            bar.set_description(f"{name}, wide roofs")
            with warnings.catch_warnings():
                # At the cap the coarse pass misses small roofs, which it is not asked for.
                warnings.simplefilter("ignore", DetectionCapWarning)
                wide, wide_read = _detect(coarse, detector, bar)
            roofs = merge(
                wide,
                coarse.chips,
                wide_read,
                confidence=coarse.confidence,
                overlaps=coarse.overlaps,
            )
            scale = np.divide(coarse.grid.factor, fine.grid.factor)
            footprints = settle_wide_roofs(
                footprints,
                roofs.scaled(*scale),
                fine.chips,
                coarse_px=float(max(scale)),
                overlaps=fine.overlaps,
            )
    return footprints


def _coarse(fine: _Pass) -> _Pass:
    grid = SceneGrid(
        fine.grid.scene,
        width=max(1, round(fine.grid.width / COARSE_FACTOR)),
        height=max(1, round(fine.grid.height / COARSE_FACTOR)),
    )
    chips = ChipGrid(
        grid.height, grid.width, fine.chips.size, fine.chips.overlap, fine.chips.multiple
    )
    return replace(fine, grid=grid, chips=chips)


def _detect(
    each: _Pass, detector: Detector, bar: tqdm[NoReturn]
) -> tuple[Outlines, NDArray[np.bool_]]:
    """Outlines of all chips of a pass, and which chips had data."""
    read = np.zeros(len(each.chips), dtype=bool)
    found = []
    buildings = 0
    for batch in _read_ahead(each):
        shown = [(number, chip) for number, chip in batch if chip.valid.any()]
        instances = detector([chip for _, chip in shown]) if shown else []
        for (number, chip), detected in zip(shown, instances, strict=True):
            heard = detected.take(
                np.flatnonzero(detected.scores >= EVIDENCE_SHARE * each.confidence)
            )
            found.append(
                Outlines.from_instances(
                    heard, trace(heard), each.chips.window(number), number, chip.valid
                )
            )
            buildings += int((found[-1].scores >= each.confidence).sum())
            read[number] = True
        bar.set_postfix(buildings=buildings, refresh=False)
        bar.update(len(batch))
    return Outlines.concatenate(found), read


def _read_ahead(each: _Pass) -> Iterator[list[tuple[int, Chip]]]:
    """Batches of numbered chips; the next one is read while the last one is in the network."""

    def read(numbers: Sequence[int]) -> list[tuple[int, Chip]]:
        return [(n, read_chip(each.grid, each.chips.window(n), each.scaling)) for n in numbers]

    with ThreadPoolExecutor(max_workers=1) as reader:
        waiting = None
        for start in range(0, len(each.chips), each.batch_size):
            numbers = range(start, min(start + each.batch_size, len(each.chips)))
            coming = reader.submit(read, numbers)
            if waiting is not None:
                yield waiting.result()
            waiting = coming
        if waiting is not None:
            yield waiting.result()


def _warn_of_turned(scenes: Sequence[Scene]) -> None:
    turned = [scene.name for scene in scenes if scene.turned]
    if turned:
        warnings.warn(
            f"{len(turned)} photographs are stored turned (EXIF orientation), first {turned[0]}: "
            "they are read and outlined as stored, where things lie on their side; turn the pixels "
            "first, as with exiftran -ai or PIL.ImageOps.exif_transpose",
            OrientationWarning,
            stacklevel=3,
        )


def _check_paths(paths: Sequence[str | Path]) -> None:
    if not paths:
        raise RasterError("no scene given; name at least one raster")
    path, count = Counter(map(str, paths)).most_common(1)[0]
    if count > 1:
        raise RasterError(f"{path} is given {count} times; name every scene once")


def _check_numbers(confidence: float | None, min_area_m2: float, batch_size: int) -> None:
    if confidence is not None and not 0 <= confidence <= 1:
        raise ConfigError(f"confidence must be in [0, 1], got {confidence}")
    if not 0 <= min_area_m2 < math.inf:
        raise ConfigError(f"min area must be finite and not negative, got {min_area_m2}")
    if batch_size < 1:
        raise ConfigError(f"batch size must be at least 1, got {batch_size}")


def _parse_crs(crs: str | CRS | None) -> CRS | None:
    try:
        return None if crs is None else CRS.from_user_input(crs)
    except CRSError as err:
        raise ConfigError(f"unknown CRS {crs!r}; give one such as EPSG:32645") from err


def _check_geojson_crs(output: str | Path | None, crs: CRS | None) -> None:
    if output is None or crs is None or Path(output).suffix.lower() not in GEOJSON_SUFFIXES:
        return
    if not crs.equals(CRS("EPSG:4326"), ignore_axis_order=True):
        raise ConfigError(
            f"GeoJSON is always WGS 84 (RFC 7946), got {crs.name} for {output}; leave out "
            f"--out-crs, or write .gpkg"
        )


def _check_reach(scene: Scene, crs: CRS) -> None:
    """Refuse a CRS that is not defined where a scene lies, by the pixel at its centre."""
    x, y = scene.width / 2, scene.height / 2
    corners = [scene.transform @ c for c in ((x, y), (x + 1, y), (x + 1, y + 1), (x, y + 1))]
    reproject(GeoDataFrame(geometry=[Polygon(corners)], crs=scene.crs), crs)
