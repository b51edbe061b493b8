"""A kept run: a folder with everything a detector found, from which layers can be made again.

- `run.json` is a `KeptRun`: the detector, the parameters, the scenes and their chips.
- `scene-0001.parquet` is GeoParquet: the outlines of the first scene before seams are decided.
- `scene-0001-wide.parquet` has those of its coarse pass, if there is one.

Outlines are in grid pixels, with no CRS, because that is where seams are decided; `transform` in
`run.json` leads to the ground. A row group is a row of chips, so that they are read as they were
found. Columns: `chip`, its number; `class`, an index into the classes; `confidence`; the detected
box `x_min` to `y_max`; `cell`, the side of a mask cell; `at_nodata`; `geometry`; where there are
any, `keypoints`, x, y and confidence of each. Which edges cut an outline follows from its box, its
chip and the chips that were read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import shapely
from affine import Affine
from pyarrow import parquet
from pydantic import NonNegativeInt, model_validator
from pyproj import CRS
from pyproj.exceptions import CRSError

from footprints.chip import ChipGrid
from footprints.config import Count, Settings, Share, parse_config
from footprints.errors import ConfigError, FootprintsError, OutputError, RunError
from footprints.files import check_place, making_beside, put_folder
from footprints.progress import Progress
from footprints.vector.area import Area
from footprints.vector.detected import ChipRow, DetectedScene, Pass
from footprints.vector.outlines import Outlines

FORMAT_VERSION = 1
HEAD = "run.json"

_BOX = ("x_min", "y_min", "x_max", "y_max")

_GEO = {
    "version": "1.1.0",
    "primary_column": "geometry",
    "columns": {
        "geometry": {"encoding": "WKB", "geometry_types": ["Polygon", "MultiPolygon"], "crs": None}
    },
}


class KeptRow(Settings):
    """One row of chips."""

    read: str
    """One character a chip: 1 where it was read, 0 where it has no data."""
    valid: dict[str, Any]
    """Ground with data, a GeoJSON geometry in grid pixels."""


class KeptPass(Settings):
    """One look at a scene."""

    file: str
    """Name of the file with its outlines."""
    instances: NonNegativeInt
    """How many these are."""
    height: Count
    """Of the scene in grid pixels, as for `ChipGrid`; so are the next ones."""
    width: Count
    size: Count
    overlap: NonNegativeInt
    multiple: Count
    transform: tuple[float, float, float, float, float, float]
    """Grid pixels to CRS units: x = a column + b row + c, y = d column + e row + f."""
    rows: tuple[KeptRow, ...]
    """From top to bottom."""

    @model_validator(mode="after")
    def _check_rows(self) -> Self:
        chips = self.chips
        columns = {len(row.read) for row in self.rows}
        if len(self.rows) != len(chips.row_starts) or columns != {len(chips.column_starts)}:
            raise ValueError(f"rows do not fit a grid of {len(chips)} chips")
        return self

    @property
    def chips(self) -> ChipGrid:
        """The chips."""
        return ChipGrid(self.height, self.width, self.size, self.overlap, self.multiple)

    @property
    def affine(self) -> Affine:
        """``transform``."""
        return Affine(*self.transform)


class KeptScene(Settings):
    """One scene."""

    source: str
    """What the ``source`` column says."""
    path: str
    """File or address."""
    crs: str | None
    """WKT; None in plain pixel coordinates."""
    pixel_m: float | None
    """Metres per grid pixel; None in plain pixel coordinates."""
    bands: tuple[Count, ...]
    """Bands that were read, 1-based."""
    passes: tuple[KeptPass, ...]
    """The fine pass, and the coarse one if there is one."""

    @property
    def place(self) -> CRS | None:
        """``crs``."""
        return None if self.crs is None else CRS.from_wkt(self.crs)


class KeptArea(Settings):
    """The area of interest."""

    ground: str
    """WKT."""
    crs: str | None
    """WKT; None in plain pixel coordinates."""

    @classmethod
    def of(cls, area: Area) -> Self:
        """What is kept of an area."""
        ground = shapely.to_wkt(area.ground, rounding_precision=-1)
        return cls(ground=ground, crs=None if area.crs is None else area.crs.to_wkt())

    @property
    def area(self) -> Area:
        """The area."""
        crs = None if self.crs is None else CRS.from_wkt(self.crs)
        return Area(shapely.from_wkt(self.ground), crs)


class KeptRun(Settings):
    """What ``run.json`` says."""

    footprints_run: int = FORMAT_VERSION
    """Version of the format."""
    model: str
    """Name of the detector."""
    classes: tuple[str, ...]
    """Class names, in the order of the labels."""
    keypoints: tuple[str, ...]
    """Names of the keypoints."""
    confidence: Share
    """The detector's own."""
    kept_confidence: Share
    """Layers can be made down to this confidence."""
    overlaps: bool
    """Whether footprints may overlap unless the user says otherwise."""
    parameters: dict[str, Any]
    """What `predict` was asked for."""
    area: KeptArea | None = None
    """Ground it was asked for; None is all."""
    scenes: tuple[KeptScene, ...] = ()


def check_run_place(folder: Path, *, overwrite: bool) -> None:
    """Find out before the work starts whether a run can be kept in a folder.

    Raises:
        OutputError: It exists, or is no run and must not be replaced, or its parent cannot be made
            or is not writable.
    """
    if folder.exists() and overwrite and not (folder / HEAD).is_file():
        raise OutputError(f"not a kept run: {folder}; only those are replaced, give another name")
    if folder.is_dir():
        if not overwrite:
            raise OutputError(f"kept run exists: {folder}; replace it with --overwrite")
        folder = folder / HEAD
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise OutputError(f"cannot make {folder.parent} for the kept run: {err.strerror}") from err
    check_place(folder, "kept run", overwrite=overwrite)


def keep_scenes(
    scenes: Iterable[DetectedScene], run: KeptRun, folder: Path
) -> Generator[DetectedScene]:
    """Pass scenes on and store them while they are gone through.

    The folder appears, whole, when the last scene has passed; until then nothing is there, or
    the run that was.

    Args:
        scenes: Each is to be gone through before the next one is asked for.
        run: Everything but the scenes.
        folder: Place of the run; a run that is there is replaced.

    Raises:
        OutputError: It cannot be written.
    """
    with making_beside(folder) as unfinished:
        kept = []
        for number, scene in enumerate(scenes, 1):
            keepers = [
                _Keeper(each, unfinished / f"scene-{number:04d}{ending}.parquet")
                for each, ending in zip(scene.passes, ("", "-wide"), strict=False)
            ]
            passes = tuple(
                replace(each, rows=keeper.rows())
                for each, keeper in zip(scene.passes, keepers, strict=True)
            )
            yield replace(scene, passes=passes)
            if not all(keeper.is_whole for keeper in keepers):
                # The scene failed on the way.
                for keeper in keepers:
                    keeper.path.unlink(missing_ok=True)
                continue
            kept.append(
                KeptScene(
                    source=scene.source,
                    path=scene.path,
                    crs=None if scene.crs is None else scene.crs.to_wkt(),
                    pixel_m=scene.pixel_m,
                    bands=scene.bands,
                    passes=tuple(keeper.record() for keeper in keepers),
                )
            )
        whole = run.model_copy(update={"scenes": tuple(kept)})
        with _writing(folder / HEAD):
            (unfinished / HEAD).write_text(json.dumps(whole.model_dump(mode="json"), indent=1))
            put_folder(unfinished, folder)


class _Keeper:
    """Stores the rows of a pass while they are gone through."""

    def __init__(self, look: Pass, path: Path) -> None:
        self._look = look
        self.path = path
        self._instances = 0
        self._rows: list[KeptRow] = []
        self.is_whole = False

    def rows(self) -> Iterator[ChipRow]:
        with ExitStack() as opened:
            writer = None
            for row in self._look.rows:
                table = to_table(row.outlines)
                with _writing(self.path):
                    if writer is None:
                        writer = opened.enter_context(_open_writer(self.path, table.schema))
                    # Empty ones too: a row group is a row of chips.
                    writer.write_table(table)
                self._instances += len(row.outlines)
                read = "".join("1" if chip else "0" for chip in row.read)
                valid = json.loads(shapely.to_geojson(row.valid))
                self._rows.append(KeptRow(read=read, valid=valid))
                yield row
        self.is_whole = True

    def record(self) -> KeptPass:
        """What was stored; to be asked for when all rows have passed."""
        chips = self._look.chips
        return KeptPass(
            file=self.path.name,
            instances=self._instances,
            height=chips.height,
            width=chips.width,
            size=chips.size,
            overlap=chips.overlap,
            multiple=chips.multiple,
            transform=tuple(self._look.transform[:6]),
            rows=tuple(self._rows),
        )


@contextmanager
def _open_writer(path: Path, schema: pa.Schema) -> Iterator[parquet.ParquetWriter]:
    writer = parquet.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True)
    try:
        yield writer
    finally:
        with _writing(path):
            writer.close()


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as err:
        reason = (str(err) or type(err).__name__).splitlines()[0]
        raise OutputError(
            f"cannot write {path.name} of the kept run: {reason}; is the disk full?"
        ) from err


def read_run(folder: str | Path) -> KeptRun:
    """What a kept run says of itself; its files are all there, and as long as they should be.

    Raises:
        RunError: It is missing, of another version, or damaged.
    """
    head = Path(folder, HEAD)
    if not head.is_file():
        raise RunError(f"{folder} is no kept run: it holds no {HEAD}; predict --keep makes one")
    try:
        values = json.loads(head.read_bytes())
        version = values["footprints_run"]
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise RunError(f"{head} is damaged; predict again with --keep") from err
    if version != FORMAT_VERSION:
        raise RunError(
            f"{folder} is a run of format {version}, this version of footprints reads "
            f"{FORMAT_VERSION}; predict again with --keep"
        )
    try:
        run = parse_config(KeptRun, values, origin=str(head))
        for scene in run.scenes:
            _ = scene.place  # now, and not when the scenes before it are done
            for each in scene.passes:
                _check_file(Path(folder, each.file), each)
    except (ConfigError, CRSError) as err:
        raise RunError(f"{err}; the run is damaged, predict again with --keep") from err
    return run


def kept_scenes(folder: str | Path, run: KeptRun, *, progress: bool) -> Iterator[DetectedScene]:
    """The scenes of a kept run, as they were found.

    Args:
        folder: Place of the run.
        run: What `read_run` says of it.
        progress: Show a progress bar, on a terminal or in a notebook.

    Raises:
        RunError: A file is damaged; found out when its rows are gone through.
    """
    for number, scene in enumerate(run.scenes):
        total = sum(len(each.rows) for each in scene.passes)
        with Progress(total, scene.source, "row", shown=progress) as bar:
            passes = [
                Pass(each.chips, each.affine, _kept_rows(Path(folder, each.file), each, bar))
                for each in scene.passes
            ]
            yield DetectedScene(
                number,
                scene.source,
                scene.path,
                scene.place,
                scene.pixel_m,
                scene.bands,
                tuple(passes),
            )


def _kept_rows(path: Path, kept: KeptPass, bar: Progress) -> Iterator[ChipRow]:
    with _reading(path), parquet.ParquetFile(path, page_checksum_verification=True) as file:
        for number, row in enumerate(kept.rows):
            with _reading(path):
                outlines = from_table(file.read_row_group(number))
            read = np.array([chip == "1" for chip in row.read])
            yield ChipRow(outlines, read, shapely.from_geojson(json.dumps(row.valid)))
            bar.update()


def _check_file(path: Path, kept: KeptPass) -> None:
    if not path.is_file():
        raise RunError(f"{path} is missing; the run is damaged, predict again with --keep")
    with _reading(path):
        about = parquet.read_metadata(path)
    if (about.num_rows, about.num_row_groups) != (kept.instances, len(kept.rows)):
        raise RunError(
            f"{path} holds {about.num_rows} instances in {about.num_row_groups} rows of chips, "
            f"{HEAD} says {kept.instances} in {len(kept.rows)}; predict again with --keep"
        )


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    # ValueError is pyarrow's and shapely's word for damaged content, KeyError for a column less.
    except (OSError, ValueError, KeyError, shapely.errors.GEOSException) as err:
        if isinstance(err, FootprintsError):
            raise
        reason = (str(err) or type(err).__name__).splitlines()[0]
        raise RunError(f"{path} is damaged ({reason}); predict again with --keep") from err


def to_table(outlines: Outlines) -> pa.Table:
    """Outlines as columns; see the top of this module."""
    columns = {
        "chip": outlines.chips,
        "class": outlines.labels,
        "confidence": outlines.scores,
        **dict(zip(_BOX, outlines.boxes.T, strict=True)),
        "cell": outlines.cells,
        "at_nodata": outlines.at_nodata,
        "geometry": pa.array(shapely.to_wkb(outlines.polygons), pa.binary()),
    }
    numbers = math.prod(outlines.keypoints.shape[1:])
    if numbers:
        flat = pa.array(outlines.keypoints.ravel())
        columns["keypoints"] = pa.FixedSizeListArray.from_arrays(flat, numbers)
    return pa.table(columns).replace_schema_metadata({"geo": json.dumps(_GEO)})


def from_table(table: pa.Table) -> Outlines:
    """What `to_table` made a table of."""
    column = {name: table[name].combine_chunks() for name in table.column_names}
    keypoints = np.empty((len(table), 0, 3), dtype=np.float32)
    if "keypoints" in column:
        numbers = column["keypoints"].flatten().to_numpy()
        keypoints = numbers.reshape(len(table), column["keypoints"].type.list_size // 3, 3)
    return Outlines(
        polygons=shapely.from_wkb(column["geometry"].to_numpy(zero_copy_only=False)),
        boxes=np.column_stack([column[name].to_numpy() for name in _BOX]),
        scores=column["confidence"].to_numpy(),
        labels=column["class"].to_numpy(),
        chips=column["chip"].to_numpy(),
        cells=column["cell"].to_numpy(),
        at_nodata=column["at_nodata"].to_numpy(zero_copy_only=False),
        keypoints=keypoints,
    )
