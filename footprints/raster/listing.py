"""What a user names, as single rasters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from footprints.addresses import is_address
from footprints.errors import RasterError

RASTER_ENDINGS = frozenset({".tif", ".tiff", ".vrt", ".jp2", ".img"})
"""What is a raster in a folder; a file that is named may have any ending."""
LIST_ENDING = ".txt"


def list_rasters(named: str | Path | Sequence[str | Path]) -> list[str]:
    """The rasters that files, addresses, folders, patterns and lists stand for, in order.

    Args:
        named: A raster; a folder, of which all rasters are taken by name; a pattern like
            ``tiles/*.tif``; a text file with one of these on each line, relative to its folder,
            where lines after ``#`` are remarks; or several of them.

    Raises:
        RasterError: A folder, pattern or list holds no raster, or a list cannot be read.
    """
    if not isinstance(named, str | Path):
        return [raster for entry in named for raster in list_rasters(entry)]
    if is_address(str(named)):
        return [str(named)]
    path = Path(named)
    if path.is_dir():
        found = sorted(str(p) for p in path.iterdir() if p.suffix.lower() in RASTER_ENDINGS)
    elif path.suffix.lower() == LIST_ENDING:
        found = list_rasters(_lines(path))
    elif set("*?") & set(path.name) and not path.exists():
        found = sorted(map(str, path.parent.glob(path.name)))
    else:
        return [str(named)]
    if not found:
        raise RasterError(
            f"no raster in {named}; name a file, a folder, a pattern like *.tif or a list in a "
            f"{LIST_ENDING} file"
        )
    return found


def _lines(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as err:
        reason = getattr(err, "strerror", None) or "it is no text"
        raise RasterError(f"cannot read the list {path}: {reason}") from err
    named = [line for line in lines if line and not line.startswith("#")]
    # An absolute path stays as it is.
    return [line if is_address(line) else str(path.parent / line) for line in named]
