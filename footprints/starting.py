"""What every run starts with: its scenes, opened and measured, its detector, and its memory."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pyproj import CRS

from footprints.budget import LEAST_CACHE_BYTES, Plan, parse_size, plan_run
from footprints.chip import Detector
from footprints.detection import Measured, cover_scene
from footprints.errors import ConfigError, OrientationWarning, RasterError
from footprints.failures import Tally
from footprints.finishing import check_reach
from footprints.ranges import check_count, check_number
from footprints.raster.listing import list_rasters
from footprints.raster.opening import limit_cache
from footprints.raster.source import Scene, open_scene
from footprints.rows import Cover
from footprints.stages import stage
from footprints.surveying import survey
from footprints.vector.area import Area

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """How scenes are read and cut into chips, as for `predict`. Checked when it is made."""

    chip_size: int | None
    overlap: int | None
    batch_size: int | None
    memory: str | int | None
    bands: Sequence[int] | None
    nodata: float | None
    crs: str | CRS | None
    pixels: bool
    out_crs: CRS | None
    allow_outside: bool = False

    def __post_init__(self) -> None:
        if self.batch_size is not None:
            check_count(self.batch_size, "--batch-size")
        for number, option in (
            (self.chip_size, "--chip-size"),
            (self.overlap, "--overlap"),
            (self.nodata, "--nodata"),
        ):
            if number is not None:
                check_number(number, option)
        for band in () if self.bands is None else self.bands:
            check_number(band, "a band (--bands)")
        if self.memory is not None:
            parse_size(self.memory)
        if self.pixels and not (self.crs is None and self.out_crs is None):
            raise ConfigError("pixel coordinates have no CRS; use --pixels, or --crs and --out-crs")

    @property
    def memory_bytes(self) -> int | None:
        """The budget; None sets none."""
        return None if self.memory is None else parse_size(self.memory)


def name_scenes(
    scenes: str | Path | Sequence[str | Path],
    *,
    asset: str | None = None,
    allow_outside: bool = False,
) -> list[str]:
    """The files and addresses of a run; arguments as for `predict`.

    Raises:
        RasterError: There are none, one comes twice, or as `list_rasters`.
    """
    paths = list_rasters(scenes, asset=asset, allow_outside=allow_outside)
    if not paths:
        raise RasterError("no scene given; name at least one raster")
    path, count = Counter(paths).most_common(1)[0]
    if count > 1:
        raise RasterError(f"{path} is given {count} times; name every scene once")
    return paths


def take_detector(
    detector: Detector | None,
    weights: str | Path | None,
    *,
    device: str | torch.device | None = None,
    precision: str | None = None,
    compiles: bool | None = None,
    tta: str | None = None,
) -> Detector:
    """The detector of a run; arguments as for `predict`."""
    if detector is None:
        with stage("loading weights"):
            # Torch takes seconds to load, and `finish` has no need of it.
            from footprints.model.detector import load_detector

            detector = load_detector(weights, device=device, precision=precision, compiles=compiles)
    if tta is None:
        return detector
    from footprints.tta import AugmentedDetector

    return AugmentedDetector(detector, tta)


@contextmanager
def measured_scenes(
    paths: Sequence[str],
    detector: Detector,
    sight: Sight,
    *,
    tally: Tally,
    area: Area | None = None,
) -> Iterator[tuple[list[Measured], Plan]]:
    """Scenes that were opened, measured and closed, and how a run keeps within its budget.

    What is read inside keeps within the budget, if there is one.

    Args:
        paths: Files and addresses.
        detector: What is to look at them.
        sight: How they are read and cut into chips.
        tally: Notes how each scene goes.
        area: Of interest; None is interested in all.

    Raises:
        FootprintsError: As `predict`.

    Warns:
        OrientationWarning: A photograph is stored turned.
    """
    spec = detector.input_spec
    memory = sight.memory_bytes

    def open_one(path: str) -> Scene:
        return open_scene(
            path,
            bands=sight.bands,
            want_bands=spec.bands,
            nodata=sight.nodata,
            crs=sight.crs,
            pixels=sight.pixels,
            collars=spec.short_side is None,
            trusted=sight.allow_outside,
        )

    def measure(scene: Scene) -> Cover:
        cover = cover_scene(scene, spec, chip_size=sight.chip_size, overlap=sight.overlap)
        check_reach(cover.chips, cover.grid.transform, scene.crs, sight.out_crs)
        return cover

    with limit_cache(None if memory is None else LEAST_CACHE_BYTES):
        measured = survey(paths, open_one, measure, area=area, tally=tally)
    _warn_of_turned(measured)
    plan = plan_run(detector, measured, batch_size=sight.batch_size, memory=memory)
    with limit_cache(plan.cache_bytes):
        yield measured, plan


def _warn_of_turned(measured: Sequence[Measured]) -> None:
    turned = [each.source for each in measured if each.cover.grid.scene.turned]
    if turned:
        warnings.warn(
            f"{len(turned)} photographs are stored turned (EXIF orientation), first {turned[0]}: "
            "they are read and outlined as stored, where things lie on their side; turn the pixels "
            "first, as with exiftran -ai or PIL.ImageOps.exif_transpose",
            OrientationWarning,
            stacklevel=5,
        )
