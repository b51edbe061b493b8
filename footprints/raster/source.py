"""Open a raster and read windows of it: pixels and, for each, whether it is data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS
from rasterio import DatasetReader
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioIOError
from rasterio.windows import Window as RasterWindow

from footprints.addresses import file_name, redact
from footprints.chip import Window
from footprints.errors import BandError, RasterError
from footprints.raster.georeference import ground_resolution, locate
from footprints.raster.nodata import (
    Collar,
    NodataRule,
    find_collar,
    may_be_collar,
    nodata_rule,
)
from footprints.raster.opening import gdal_options, open_dataset, patiently, stamp_of
from footprints.raster.resample import resample, triangle_taps
from footprints.stages import staged

_PIXEL_TYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")

# EXIF orientations of photographs that are stored otherwise than they are to be seen. GDAL reports
# them for JPEG alone.
_TURNED = frozenset("2345678")

_MAX_BLOCK_BYTES = 1 << 30

# Source values held at once while resampling; larger windows are read strip by strip.
_MAX_VALUES = 1 << 25


@staged("opening")
def open_scene(
    path: str | Path,
    *,
    bands: Sequence[int] | None = None,
    want_bands: int | None = None,
    nodata: float | None = None,
    crs: str | CRS | None = None,
    pixels: bool = False,
    collars: bool = True,
    trusted: bool = True,
) -> Scene:
    """Open a raster: any format GDAL reads, local, ``https://``, ``s3://`` or ``/vsi...``.

    Args:
        path: File or address.
        bands: Bands to read, 1-based, repeats allowed; by default the first ``want_bands`` that
            are not alpha.
        want_bands: Number of bands that the detector takes; None takes what there is.
        nodata: Value of pixels without data; goes before the one the file declares.
        crs: CRS of the raster; goes before the one the file declares.
        pixels: Work in plain pixel coordinates and ignore any georeference.
        collars: Where nothing is declared, black or white ground around the image is no data. In a
            photograph the dark may be a night or a wall.
        trusted: It may name rasters anywhere, as virtual rasters do; False lets it name what lies
            at or below its folder.

    Returns:
        The open scene; use it as a context manager, or close it.

    Raises:
        RasterError: The raster is missing, unreadable, empty, of a type that holds no image, cut
            into huge blocks, has no georeference, or names what it may not; or ``nodata`` or
            ``crs`` makes no sense.
        BandError: The bands asked for are not there, or not as many as wanted.
    """
    address = str(path)
    stamp = stamp_of(address)
    with _redacting(), ExitStack() as resources:
        dataset = open_dataset(address, trusted=trusted)
        resources.callback(dataset.close)
        _check_content(dataset)
        chosen = _choose_bands(dataset, bands, want_bands)
        dtype = _pixel_type(dataset, chosen)
        _check_blocks(dataset, dtype)
        place, transform = locate(dataset, crs, pixels=pixels)
        return Scene(
            path=address,
            name=file_name(address),
            width=dataset.width,
            height=dataset.height,
            bands=chosen,
            dtype=dtype,
            crs=place,
            transform=transform,
            rule=nodata_rule(dataset, chosen, dtype, nodata),
            collars=collars,
            turned=dataset.tags().get("EXIF_Orientation") in _TURNED,
            stamp=stamp,
            _trusted=trusted,
            _dataset=dataset,
            _resources=resources.pop_all(),
        )


@dataclass(eq=False, kw_only=True)
class Scene:
    """An open raster. Use it in one thread at a time, and in a ``with`` statement."""

    path: str
    """File or address, as it was given."""
    name: str
    """File name, for messages and the ``source`` column."""
    width: int
    """Columns."""
    height: int
    """Rows."""
    bands: tuple[int, ...]
    """Bands that are read, 1-based."""
    dtype: str
    """Pixel type."""
    crs: CRS | None
    """None in plain pixel coordinates."""
    transform: Affine
    """Raster pixels to CRS units."""
    rule: NodataRule
    """What is declared about pixels without data."""
    collars: bool
    """Whether black or white ground around the image is no data where nothing is declared."""
    turned: bool
    """Whether viewers show a photograph turned or mirrored, as its EXIF orientation says; pixels
    are always read as they are stored."""
    stamp: str | None
    """Tells the file from one that replaces it; None where it is far away."""
    _trusted: bool
    """Whether it may name rasters anywhere."""
    _dataset: DatasetReader
    """The raster at full resolution."""
    _resources: ExitStack
    """Closes every dataset."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        """All but the open files: pickled, a scene goes to another process or machine."""
        there = Path(self.path)
        path = str(there.absolute()) if there.exists() else self.path
        unsent = ("_dataset", "_resources", "_overviews")
        return {k: v for k, v in self.__dict__.items() if k not in unsent} | {"path": path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open the file where the scene arrives.

        Raises:
            RasterError: It is not there, unreadable, or of another size.
        """
        self.__dict__.update(state)
        with ExitStack() as resources, _redacting():
            self._dataset = open_dataset(self.path, trusted=self._trusted)
            # Not as a context, as below: who closes it may be another thread.
            resources.callback(self._dataset.close)
            if (self._dataset.width, self._dataset.height) != (self.width, self.height):
                raise RasterError(
                    f"{self.path} has {self._dataset.width} x {self._dataset.height} pixels, not "
                    f"{self.width} x {self.height}: another file"
                )
            self._resources = resources.pop_all()

    def close(self) -> None:
        """Close the file; what is known of it stays."""
        self._resources.close()
        self.__dict__.pop("_overviews", None)

    def reopen(self) -> None:
        """Open the file again.

        Raises:
            RasterError: It is gone, or another one has its place.
        """
        self.check_same()
        with _redacting():
            self._dataset = open_dataset(self.path, trusted=self._trusted)
        self._resources.callback(self._dataset.close)

    def check_same(self) -> None:
        """See that the file is still the one that was opened first.

        Raises:
            RasterError: It is not.
        """
        now = stamp_of(self.path)
        if now != self.stamp:
            raise RasterError(
                f"{self.path} changed while it was worked on: {self.stamp} before, "
                f"{now or 'not there'} now; let nothing write to scenes during a run"
            )

    def gsd_m(self) -> tuple[float, float] | None:
        """Metres on the ground per pixel along x and y at the centre; None in pixel coordinates.

        Raises:
            RasterError: The georeference puts the raster outside the area of its CRS.
        """
        if self.crs is None:
            return None
        centre = self.width / 2, self.height / 2
        return ground_resolution(self.crs, self.transform, centre)

    def read(
        self, window: Window, shape: tuple[int, int]
    ) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """Read a window, resampled to ``shape``.

        A window of whole pixels read at its own size gives the stored pixels. Any other is
        resampled without aliasing; windows on one lattice agree to the grey level where they
        overlap. From a factor of 4 on, overviews are used where there are any.

        Args:
            window: In raster pixels; may be fractional and reach beyond the raster.
            shape: (height, width) of the result.

        Returns:
            Pixels (bands, height, width) in the raster's type, 0 where there is no data, and
            valid (height, width), True = data.

        Raises:
            RasterError: The pixels cannot be read.
        """
        height, width = shape
        if (window.width, window.height) == (width, height) and _is_whole(window.x, window.y):
            x, y = int(window.x), int(window.y)
            return self._read_box(self._dataset, slice(y, y + height), slice(x, x + width))
        level = self._level_for(min(window.width / width, window.height / height))
        down, across = level.height / self.height, level.width / self.width
        rows = triangle_taps(window.y * down, window.height * down, height)
        columns = triangle_taps(window.x * across, window.width * across, width)
        area = (rows.span.stop - rows.span.start) * (columns.span.stop - columns.span.start)
        strips = [
            resample(*self._read_box(level, part.span, columns.span), part, columns)
            for part in rows.split(-(-area * len(self.bands) // _MAX_VALUES))
        ]
        pixels, valid = zip(*strips, strict=True)
        return np.concatenate(pixels, axis=1), np.concatenate(valid)

    def _level_for(self, shrink: float) -> DatasetReader:
        """The coarsest overview that still has two pixels for every one wanted, or the raster.

        Overviews are often made by taking every n-th pixel; averaging two of them on each axis
        keeps the result smooth.
        """
        # Not a hair's breadth may decide: neighbouring chips must use the same overview.
        limit = shrink / 2 * (1 + 1e-6)
        if limit < 2:
            return self._dataset
        fitting = [factor for factor in self._overviews if factor <= limit]
        return self._overviews[max(fitting)] if fitting else self._dataset

    @cached_property
    def _overviews(self) -> dict[int, DatasetReader]:
        """The overviews by their factor."""
        levels = {}
        for index, factor in enumerate(self._dataset.overviews(self.bands[0])):
            levels[factor] = open_dataset(self.path, trusted=self._trusted, overview_level=index)
            # Not as a context: rasterio's is bound to its thread, and another one may be reading.
            self._resources.callback(levels[factor].close)
        return levels

    def _read_box(
        self, level: DatasetReader, rows: slice, columns: slice
    ) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """Read whole pixels of the raster or of an overview; 0 and invalid beyond its border."""
        shape = rows.stop - rows.start, columns.stop - columns.start
        pixels = np.zeros((len(self.bands), *shape), dtype=self.dtype)
        valid = np.zeros(shape, dtype=bool)
        top, bottom = max(rows.start, 0), min(rows.stop, level.height)
        left, right = max(columns.start, 0), min(columns.stop, level.width)
        if top >= bottom or left >= right:
            return pixels, valid
        box = RasterWindow(left, top, right - left, bottom - top)
        inside = np.s_[
            top - rows.start : bottom - rows.start, left - columns.start : right - columns.start
        ]
        with gdal_options(self.path), _reading(self.name, box, self.width / level.width):
            stored, data = patiently(self.path, lambda: self._read_inside(level, box))
        pixels[:, *inside] = stored if data.all() else np.where(data, stored, 0)
        valid[inside] = data
        return pixels, valid

    def _read_inside(
        self, level: DatasetReader, box: RasterWindow
    ) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """Read whole pixels of the raster or of an overview, and which of them are data."""
        stored = level.read(self.bands, window=box, out_dtype=self.dtype)
        data = self.rule.valid(self._dataset, level, box, stored)
        if self._may_have_collar and may_be_collar(stored).any() and self._collar:
            columns = np.arange(box.col_off, box.col_off + box.width)
            rows = np.arange(box.row_off, box.row_off + box.height)
            data &= ~self._collar.covers(
                stored, (columns + 0.5) / level.width, (rows + 0.5) / level.height
            )
        return stored, data

    @property
    def _may_have_collar(self) -> bool:
        return self.collars and not self.rule.declared

    @cached_property
    def _collar(self) -> Collar | None:
        """Black or white ground around the image; looked for when the first such pixel turns up."""
        return find_collar(self._dataset, sorted(set(self.bands)), self.gsd_m())


def _is_whole(*places: float) -> bool:
    return all(float(place).is_integer() for place in places)


@contextmanager
def _reading(name: str, box: RasterWindow, factor: float) -> Iterator[None]:
    """Reading errors name the raster and the window in raster pixels (``factor`` times ``box``)."""
    try:
        yield
    except RasterioIOError as err:
        x, y, width, height = (round(factor * part) for part in box.flatten())
        raise RasterError(
            f"{name}: cannot read pixels x {x}-{x + width}, y {y}-{y + height}; the file is "
            "truncated or damaged, or the connection broke (gdalinfo -checksum tells)"
        ) from err


@contextmanager
def _redacting() -> Iterator[None]:
    """Errors do not tell the secrets of an address."""
    try:
        yield
    except RasterError as err:
        text = redact(str(err))
        if text == str(err):
            raise
        # Not chained: a traceback would tell.
        raise type(err)(text) from None


def _check_blocks(dataset: DatasetReader, dtype: str) -> None:
    """Refuse what cannot be read in parts: GDAL holds whole blocks of all bands."""
    height, width = max(dataset.block_shapes, key=math.prod)
    size = height * width * dataset.count * np.dtype(dtype).itemsize
    if size > _MAX_BLOCK_BYTES:
        raise RasterError(
            f"{dataset.name} has blocks of {width} x {height} px, {size / 2**30:,.1f} GiB each, "
            "to be read at once; cut it into tiles first: gdal_translate -co TILED=YES"
        )


def _check_content(dataset: DatasetReader) -> None:
    if dataset.count and dataset.width and dataset.height:
        return
    if dataset.subdatasets:
        raise RasterError(
            f"{dataset.name} holds {len(dataset.subdatasets)} rasters; name one of them, as in "
            f"{dataset.subdatasets[0]}"
        )
    raise RasterError(
        f"{dataset.name} is empty: {dataset.width} x {dataset.height} pixels, {dataset.count} bands"
    )


def _choose_bands(
    dataset: DatasetReader, bands: Sequence[int] | None, want: int | None
) -> tuple[int, ...]:
    """The bands to read, checked against those there are and those wanted."""
    colours = [
        band for band, colour in enumerate(dataset.colorinterp, 1) if colour != ColorInterp.alpha
    ]
    chosen = tuple(colours[:want] if bands is None else bands)
    for band in chosen:
        if not 1 <= band <= dataset.count:
            raise BandError(
                f"band {band} is not in {dataset.name}, which has bands 1 to {dataset.count}"
            )
        if dataset.colorinterp[band - 1] == ColorInterp.palette:
            raise BandError(
                f"band {band} of {dataset.name} holds indices into a colour table; expand it "
                f"first: gdal_translate -expand rgb {dataset.name} rgb.tif"
            )
    if not chosen or (want is not None and len(chosen) != want):
        raise BandError(_how_to_choose(dataset, len(chosen), want or 1, named=bands is not None))
    return chosen


def _how_to_choose(dataset: DatasetReader, got: int, want: int, *, named: bool) -> str:
    """What to do about a wrong number of bands."""
    example = ",".join("1" * want) if dataset.count <= 2 else ",".join(map(str, range(1, want + 1)))
    what = f"--bands names {got}" if named else f"{dataset.name} has {got} without alpha"
    return f"the detector takes {want} bands, but {what}; choose them as in --bands {example}"


def _pixel_type(dataset: DatasetReader, bands: Sequence[int]) -> str:
    """The one type that holds the pixels of all bands."""
    types = {dataset.dtypes[band - 1] for band in bands}
    foreign = types.difference(_PIXEL_TYPES)
    if foreign:
        raise RasterError(
            f"{dataset.name} has pixels of type {foreign.pop()}; supported are "
            f"{', '.join(_PIXEL_TYPES)}"
        )
    return str(np.result_type(*types))
