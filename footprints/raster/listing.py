"""What a user names, as single rasters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from footprints.addresses import is_address
from footprints.errors import RasterError
from footprints.raster.catalogues import rasters_in_catalogue

RASTER_ENDINGS = frozenset({".tif", ".tiff", ".vrt", ".jp2", ".img"})
"""What is a raster in a folder; a file that is named may have any ending."""
LIST_ENDING = ".txt"


def list_rasters(
    named: str | Path | Sequence[str | Path],
    *,
    asset: str | None = None,
    allow_outside: bool = False,
) -> list[str]:
    """The rasters that files, addresses, folders, patterns, lists and catalogues stand for.

    Args:
        named: A raster; a folder, of which all rasters are taken by name; a pattern like
            ``tiles/*.tif``; a text file with one of these on each line, relative to its folder,
            where lines after ``#`` are remarks; a STAC item or collection of items, or a tile
            index (`footprints.raster.catalogues`); or several of them.
        asset: Name of the STAC asset to take; None takes the one whose role is data or visual.
        allow_outside: Catalogues may name rasters anywhere, not only at or below their folder.

    Returns:
        Files and addresses, in order.

    Raises:
        RasterError: A folder, pattern or list holds no raster, or a list or catalogue cannot be
            read or names what it may not; of a list, the line is named.
    """
    if not isinstance(named, str | Path):
        if not isinstance(named, Iterable):
            raise RasterError(
                f"a scene is named by a text or a path, got {named!r}: name files, folders, "
                "patterns or addresses"
            )
        return [
            raster
            for entry in named
            for raster in list_rasters(entry, asset=asset, allow_outside=allow_outside)
        ]
    if is_address(str(named)):
        return [str(named)]
    path = Path(named)
    if path.is_dir():
        found = sorted(str(p) for p in path.iterdir() if p.suffix.lower() in RASTER_ENDINGS)
    elif path.suffix.lower() == LIST_ENDING:
        found = _listed(path, asset=asset, allow_outside=allow_outside)
    elif set("*?") & set(path.name) and not path.exists():
        found = sorted(map(str, path.parent.glob(path.name)))
    else:
        listed = rasters_in_catalogue(path, asset=asset, allow_outside=allow_outside)
        if listed is None:
            return [str(named)]
        found = listed
    if not found:
        raise RasterError(
            f"no raster in {named}; name a file, a folder, a pattern like *.tif or a list in a "
            f"{LIST_ENDING} file"
        )
    return found


def _listed(path: Path, *, asset: str | None, allow_outside: bool) -> list[str]:
    """The rasters that the lines of a text file name; arguments as `list_rasters`."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as err:
        reason = getattr(err, "strerror", None) or "it is no text"
        raise RasterError(f"cannot read the list {path}: {reason}") from err
    found = []
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line or line.startswith("#"):
            continue
        # An absolute path stays as it is.
        entry = line if is_address(line) else str(path.parent / line)
        place = f"{path}, line {number}, {line!r}"
        if Path(entry).suffix.lower() == LIST_ENDING:
            raise RasterError(f"{place}: a list names no other lists; give each by itself")
        try:
            found += list_rasters(entry, asset=asset, allow_outside=allow_outside)
        except RasterError as err:
            raise RasterError(f"{place}: {err}") from err
    return found
