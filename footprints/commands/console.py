"""What the commands share: how they end, what they say, and texts that are numbers."""

from __future__ import annotations

import logging
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer
from typer.core import TyperGroup

from footprints.addresses import redact
from footprints.errors import BandError, FootprintsError, FootprintsWarning, LayerError

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

INTERRUPTED, TERMINATED = 130, 143
"""Exit status of a command stopped by the user, or by SIGTERM, as shells have it."""
FAILED_IN_PART = 3
"""Exit status of a command that wrote what it was asked for, as far as scenes could be read."""


class _Lines(logging.Handler):
    """Log messages as lines on standard error, each with the seconds since the start."""

    def emit(self, record: logging.LogRecord) -> None:
        _show_line(f"{record.relativeCreated / 1000:7.1f} s  {record.getMessage()}")


class OneLineErrors(TyperGroup):
    """A command that fails for a reason we know, or that is stopped, ends with one line."""

    def invoke(self, ctx: typer.Context) -> object:  # type: ignore[override]
        """Run a command."""
        try:
            return super().invoke(ctx)
        except FootprintsError as err:
            print(f"footprints: {redact(' '.join(str(err).splitlines()))}", file=sys.stderr)
            raise typer.Exit(1) from err
        except KeyboardInterrupt as err:
            print("footprints: stopped", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from err


@contextmanager
def resumable() -> Iterator[None]:
    """What is done here can be gone on with; who stops it is told so."""
    try:
        yield
    except KeyboardInterrupt as err:
        print("footprints: stopped; go on with --resume", file=sys.stderr)
        terminated = isinstance(err, _Terminated)
        raise typer.Exit(TERMINATED if terminated else INTERRUPTED) from err


class _Terminated(KeyboardInterrupt):
    """Another process asked this one to end, as schedulers do before they kill it."""


@contextmanager
def heeding_sigterm() -> Iterator[None]:
    """SIGTERM ends what is done here as Ctrl-C does; training has Lightning's own way."""

    def terminate(*_: object) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def parse_numbers(text: str | None) -> list[int] | None:
    """Band numbers such as ``1,2,3``."""
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as err:
        raise BandError(f"--bands takes band numbers such as 1,2,3, got {text!r}") from err


def parse_bounds(text: str | None) -> tuple[float, float, float, float] | None:
    """A box such as ``x_min,y_min,x_max,y_max``."""
    if text is None:
        return None
    try:
        x_min, y_min, x_max, y_max = map(float, text.split(","))
    except ValueError as err:
        raise LayerError(f"--bounds takes x_min,y_min,x_max,y_max, got {text!r}") from err
    return x_min, y_min, x_max, y_max


def print_sum(layer: GeoDataFrame, output: str, start: float, things: str) -> None:
    """One line on what was found, in how long, and where it is."""
    from footprints.vector.postgis import shown

    unit = "px2" if layer.crs is None else "m2"
    seconds = time.perf_counter() - start
    print(
        f"{len(layer):,} {things}, {layer['area_m2'].sum():,.0f} {unit}, {seconds:.1f} s, "
        f"{shown(output)}"
    )
    if "regularized" in layer:
        from footprints.vector.result import summary

        print(f"regularised: {summary(layer)}")


def configure(*, quiet: bool, verbose: bool) -> None:
    """Our warnings and logs as single lines on standard error; warnings of libraries not at all."""
    warnings.simplefilter("ignore")
    warnings.simplefilter("ignore" if quiet else "always", FootprintsWarning)
    warnings.showwarning = lambda message, *_: _show_line(f"warning: {message}")
    level = logging.INFO if verbose else logging.ERROR
    logging.basicConfig(level=logging.ERROR, handlers=[_Lines()])
    for handler in logging.getLogger().handlers:
        handler.addFilter(_without_secrets)
    logging.getLogger("footprints").setLevel(level)
    if not quiet:
        for news in ("cluster", "resuming", "batch"):
            logging.getLogger(f"footprints.{news}").setLevel(logging.INFO)
    if not verbose:
        # By name, because dask sets its levels when it is imported.
        for handler in logging.getLogger().handlers:
            handler.addFilter(lambda record: not record.name.startswith("distributed"))


def _without_secrets(record: logging.LogRecord) -> bool:
    """GDAL's own messages name addresses as they are."""
    record.msg, record.args = redact(record.getMessage()), ()
    return True


def _show_line(line: str) -> None:
    from footprints.progress import tqdm

    # A progress bar that is being drawn moves down instead of running into the line.
    tqdm.write(redact(line), file=sys.stderr)
