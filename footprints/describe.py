"""What ``footprints info`` says of a scene or a weights file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from footprints.card import facts
from footprints.errors import GeoreferenceError
from footprints.raster.source import Scene, open_scene

_WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt")


def describe(path: str | Path) -> str:
    """A few lines on a raster or a weights file.

    Raises:
        WeightsError: A weights file is missing or not ours.
        RasterError: A raster is missing or unreadable.
    """
    if str(path).endswith(_WEIGHTS_SUFFIXES):
        return _table(facts(path))
    try:
        with open_scene(path) as scene:
            return _table([*_content(scene).items(), *_place(scene).items()])
    except GeoreferenceError as err:
        with open_scene(path, pixels=True) as scene:
            return _table([*_content(scene).items(), ("georeference", f"none: {err}")])


def _content(scene: Scene) -> dict[str, str]:
    return {
        "scene": scene.name,
        "size": f"{scene.width} x {scene.height} px, {len(scene.bands)} bands, {scene.dtype}"
        + (", stored turned (EXIF orientation)" if scene.turned else ""),
    }


def _place(scene: Scene) -> dict[str, str]:
    lines = {}
    if scene.crs is not None:
        code = scene.crs.to_epsg()
        lines["CRS"] = scene.crs.name + ("" if code is None else f" (EPSG:{code})")
        ends = [(x, y) for x in (0, scene.width) for y in (0, scene.height)]
        xs, ys = zip(*(scene.transform @ end for end in ends), strict=True)
        digits = 6 if scene.crs.is_geographic else 1
        lines["x"] = f"{min(xs):.{digits}f} to {max(xs):.{digits}f}"
        lines["y"] = f"{min(ys):.{digits}f} to {max(ys):.{digits}f}"
    if (gsd := scene.gsd_m()) is not None:
        lines["resolution"] = f"{gsd[0]:.3g} x {gsd[1]:.3g} m per pixel"
        lines["area"] = f"{scene.width * gsd[0] * scene.height * gsd[1] / 1e6:.3g} km2"
    return lines


def _table(rows: Sequence[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)
