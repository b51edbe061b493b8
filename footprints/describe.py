"""What ``footprints info`` says of a scene, a layer or a weights file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pyogrio import list_layers
from pyogrio.errors import DataSourceError
from pyproj import CRS

from footprints.card import facts
from footprints.errors import GeoreferenceError
from footprints.raster.source import Scene, open_scene
from footprints.vector.read import read_layer
from footprints.vector.scenes import scenes_of
from footprints.vector.write import SUFFIXES

_LONG = {"grid"}
"""Of a layer's settings, what is for programs."""
_WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt")


def describe(path: str | Path) -> str:
    """A few lines on a raster, a polygon layer or a weights file.

    Raises:
        WeightsError: A weights file is missing or not ours.
        LayerError: A layer is missing or unreadable.
        RasterError: A raster is missing or unreadable.
    """
    if str(path).endswith(_WEIGHTS_SUFFIXES):
        return _table(facts(path))
    if str(path).endswith(SUFFIXES) and not _is_raster(path):
        return _table(_layer(path))
    try:
        with open_scene(path) as scene:
            return _table([*_content(scene).items(), *_place(scene).items()])
    except GeoreferenceError as err:
        with open_scene(path, pixels=True) as scene:
            return _table([*_content(scene).items(), ("georeference", f"none: {err}")])


def _is_raster(path: str | Path) -> bool:
    """Whether a GeoPackage holds pixels and no features."""
    if not str(path).endswith(".gpkg") or not Path(path).is_file():
        return False
    try:
        return not len(list_layers(path))
    except DataSourceError:
        return True


def _layer(path: str | Path) -> list[tuple[str, str]]:
    layer = read_layer(path, needs_crs=False)
    records = scenes_of(layer)
    rows = [("layer", Path(path).name), ("footprints", f"{len(layer):,}")]
    if "area_m2" in layer:
        rows.append(("area", f"{layer['area_m2'].sum():,.0f} m2"))
    if layer.crs is not None and len(layer):
        rows += _ground(layer.crs, layer.total_bounds)
    if "confidence" in layer and len(layer):
        low, high = layer["confidence"].min(), layer["confidence"].max()
        rows.append(("confidence", f"{low:.3g} to {high:.3g}"))
    found = dict.fromkeys(f"{each.model}, footprints {each.version}" for each in records)
    rows += [("found by", each) for each in found]
    for each in records:
        settings = [
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in each.parameters.items()
            if value is not None and name not in _LONG
        ]
        rows.append((f"scene {each.source}", ", ".join(settings)))
    return rows


def _ground(crs: CRS, bounds: Sequence[float]) -> list[tuple[str, str]]:
    """CRS, and x_min, y_min, x_max, y_max in its units."""
    code, digits = crs.to_epsg(), 6 if crs.is_geographic else 1
    name = crs.name if code is None else f"{crs.name} (EPSG:{code})"
    x_min, y_min, x_max, y_max = (f"{value:.{digits}f}" for value in bounds)
    return [("CRS", name), ("x", f"{x_min} to {x_max}"), ("y", f"{y_min} to {y_max}")]


def _content(scene: Scene) -> dict[str, str]:
    return {
        "scene": scene.name,
        "size": f"{scene.width} x {scene.height} px, {len(scene.bands)} bands, {scene.dtype}"
        + (", stored turned (EXIF orientation)" if scene.turned else ""),
    }


def _place(scene: Scene) -> dict[str, str]:
    lines: dict[str, str] = {}
    if scene.crs is not None:
        ends = [(x, y) for x in (0, scene.width) for y in (0, scene.height)]
        xs, ys = zip(*(scene.transform @ end for end in ends), strict=True)
        lines |= dict(_ground(scene.crs, (min(xs), min(ys), max(xs), max(ys))))
    if (gsd := scene.gsd_m()) is not None:
        lines["resolution"] = f"{gsd[0]:.3g} x {gsd[1]:.3g} m per pixel"
        lines["area"] = f"{scene.width * gsd[0] * scene.height * gsd[1] / 1e6:.3g} km2"
    return lines


def _table(rows: Sequence[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)
