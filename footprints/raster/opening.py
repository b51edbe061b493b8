"""Opening and reading through GDAL: its options, and servers that fail now and then."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import pyogrio
import rasterio
from pyogrio.errors import DataLayerError, DataSourceError
from rasterio import DatasetReader
from rasterio.env import ensure_env_with_credentials
from rasterio.errors import NotGeoreferencedWarning, RasterioIOError

from footprints.addresses import is_address
from footprints.errors import RasterError
from footprints.raster.trust import HINT, check_names, harmless_drivers, may_name_rasters

CACHE_BYTES = 256 << 20
"""Of GDAL's cache of blocks, which would take 5% of the machine's memory, in every process."""
_cache_limit: ContextVar[int | None] = ContextVar("_cache_limit", default=None)

# Goes behind the user's environment. A server that stops answering must fail a read, not hang it.
# Code in a VRT is never run.
_GDAL_OPTIONS = {
    "GDAL_CACHEMAX": CACHE_BYTES,
    "GDAL_HTTP_CONNECTTIMEOUT": 20,
    "GDAL_HTTP_TIMEOUT": 60,
    "GDAL_HTTP_MAX_RETRY": 3,
    "GDAL_HTTP_RETRY_DELAY": 1,
    "GDAL_VRT_ENABLE_PYTHON": "NO",
}
# A raster far away: side files are asked for by name, because the listing of a folder can be long;
# neighbouring tiles come in one request.
_REMOTE_OPTIONS = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "TRUE",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_INGESTED_BYTES_AT_OPEN": 32768,
}

# GDAL asks again after an answer that says so, but not where a connection breaks in the middle.
_PAUSES_S = (0.5, 2.0, 8.0)

_NO_FORMAT = "not recognized as being in a supported"
"""GDAL's words where none of the drivers asked knows a file."""

_PYARROW_SUFFIXES = (".parquet", ".geoparquet")
"""Of vector files that GDAL may have no driver for."""

_Result = TypeVar("_Result")


@contextmanager
def limit_cache(size: int | None) -> Iterator[None]:
    """Bound GDAL's cache of blocks, in what this thread and those that it starts read inside.

    GDAL has one cache in a process: what reads elsewhere at the same time shares it.

    Args:
        size: Bytes, which go before ``GDAL_CACHEMAX`` of the environment; None sets no bound.
    """
    token = _cache_limit.set(size)
    try:
        yield
    finally:
        _cache_limit.reset(token)


def gdal_options(address: str) -> rasterio.Env:
    """Our options for the calls into GDAL made inside it, in this thread.

    Args:
        address: File or address that the calls are for.
    """
    options = _GDAL_OPTIONS | (_REMOTE_OPTIONS if is_address(address) else {})
    unset = {k: v for k, v in options.items() if k not in os.environ}
    return rasterio.Env(**(unset | _limits()))


def _limits() -> dict[str, int]:
    """Options that go before the user's environment."""
    size = _cache_limit.get()
    return {} if size is None else {"GDAL_CACHEMAX": size}


def check_files(addresses: Iterable[str]) -> None:
    """Find out before any work starts whether files are there.

    Raises:
        RasterError: One is missing, by its name; what has a colon may be GDAL's name for a part of
            a file, and is left to `open_dataset`.
    """
    for address in addresses:
        if ":" not in address and not is_address(address) and not Path(address).exists():
            raise RasterError(_missing(address))


def _missing(address: str) -> str:
    return f"{address} does not exist"


def open_dataset(address: str, *, trusted: bool = True, **options: int) -> DatasetReader:
    """Open a raster.

    Args:
        address: File or address.
        trusted: It may name rasters anywhere; see `footprints.raster.trust`.
        options: GDAL's open options.

    Raises:
        RasterError: It is missing, unreadable, or names what it may not.
    """
    if not trusted:
        check_names(address)
    drivers = None if trusted else harmless_drivers(address)
    try:
        with gdal_options(address), warnings.catch_warnings():
            # A missing georeference is an error of ours, or what the user asked for.
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            return patiently(address, lambda: _open(address, drivers, **options))
    except RasterioIOError as err:
        if not is_address(address) and not Path(address).exists():
            raise RasterError(_missing(address)) from err
        if _holds_vectors(address):
            raise RasterError(
                f"{address} is a vector file, and a scene must be a raster; vector files go where "
                "a command takes labels, a layer or an area of interest (--aoi)"
            ) from err
        # The name stands before it already.
        reason = " ".join(str(err).split()).removeprefix(f"'{address}' ").rstrip(".")
        if drivers is not None and _NO_FORMAT in reason and may_name_rasters(address):
            reason += f"; virtual rasters far away and services are not looked at; {HINT}"
        raise RasterError(f"cannot open {address} as a raster: {reason}") from err


def _holds_vectors(address: str) -> bool:
    """Whether a file of this machine holds layers with geometries."""
    if Path(address).suffix.lower() in _PYARROW_SUFFIXES:
        return True
    try:
        return any(kind is not None for _, kind in pyogrio.list_layers(address))
    except (DataSourceError, DataLayerError):
        return False


@ensure_env_with_credentials  # type: ignore[untyped-decorator]
def _open(fp: str, drivers: Sequence[str] | None, **options: int) -> DatasetReader:
    """`rasterio.open` for a choice of drivers, of which it takes one or all."""
    return DatasetReader(fp, driver=drivers, **options)


def patiently(address: str, read: Callable[[], _Result]) -> _Result:
    """Do what GDAL may fail at; where a connection broke, again after a while.

    Raises:
        RasterioIOError: It fails still, or for another reason.
    """
    for pause_s in _PAUSES_S if is_address(address) else ():
        try:
            return read()
        except RasterioIOError as err:
            if _says_no(err):
                raise
            time.sleep(pause_s)
    return read()


def _says_no(err: RasterioIOError) -> bool:
    """Whether the server gave an answer that will be the same the next time."""
    reason = str(err)
    codes = ("400", "401", "403", "404", "410")
    return any(f"code: {code}" in reason for code in codes) or _NO_FORMAT in reason


def stamp_of(address: str) -> str | None:
    """Tells a file from one that replaces it; None where it is far away."""
    try:
        about = Path(address).stat()
    except OSError:
        return None
    return f"{about.st_size} bytes of {datetime.fromtimestamp(about.st_mtime).isoformat()}"


def gdal_settings() -> str:
    """How GDAL reads here, for the log: its version and the settings that we or the user made."""
    ours = {name: os.environ.get(name, value) for name, value in _GDAL_OPTIONS.items()}
    settings = (f"{name}={value}" for name, value in (ours | _limits()).items())
    return f"GDAL {rasterio.__gdal_version__}, {', '.join(settings)}"
