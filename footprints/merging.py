"""Layers of neighbouring or overlapping scenes -> one layer, every building once.

layers -> checked -> one CRS -> a plane of pixels -> merged across scene seams -> written
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import shapely
from geopandas import GeoDataFrame
from numpy.typing import NDArray
from pyproj import CRS, Transformer

from footprints.errors import LayerError
from footprints.stages import staged
from footprints.vector.layer import COLUMNS, areas_m2, check_layer, reproject
from footprints.vector.numbering import free_numbers
from footprints.vector.read import read_layer
from footprints.vector.scene_seams import Merged, Seen, merge_scenes
from footprints.vector.scenes import SceneRecord, attach_scenes, scenes_of
from footprints.vector.snapping import nominal_unit_m, snap_vertices
from footprints.vector.write import SUFFIXES, check_output, write_layer

TOGETHER = " + "
"""Between the sources of a building that several scenes show in part."""
CHORD_PX = 64.0
"""Edges of scenes are moved to another CRS in steps of this, because they bend there."""

_Plane = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def merge_layers(
    layers: str | Path | Sequence[str | Path | GeoDataFrame],
    *,
    output: str | Path | None = None,
    overwrite: bool = False,
) -> GeoDataFrame:
    """Make one layer of those of neighbouring or overlapping scenes, every building once.

    A building that one scene's edge cuts and another scene shows whole is the other's; one that
    both cut is joined; what both show whole is taken from where it lies farther inside. Complete
    neighbours are never joined. All scenes of all layers are merged, those of one layer too.

    Args:
        layers: Footprint layers with the record of their scenes, as `predict` gives and writes
            them: files, GeoDataFrames, or folders, of which all layers but the output are taken by
            name.
        output: Layer to write, as for `predict`. None writes nothing.
        overwrite: Replace ``output`` if it exists.

    Returns:
        The footprint layer in the CRS of the first. Column ``source`` says which scene a building
        is from, with `TOGETHER` between several; where two layers have scenes of one name, the
        layer's name stands before it. Other columns are those of the largest piece.

    Raises:
        LayerError: A layer is missing, is no footprint layer, or does not say where its scenes
            lie; a folder holds none; or some have a CRS and others none.
        OutputError: The output exists or cannot be written; found out before the work starts.
    """
    named = [layers] if isinstance(layers, str | Path) else layers
    if output is not None:
        check_output(output, overwrite=overwrite)
    each_layer = [layer for entry in named for layer in _layers_in(entry, output)]
    if not each_layer:
        raise LayerError("no layer given; name at least one")
    given = _unique_scenes([_read(layer, number) for number, layer in enumerate(each_layer, 1)])
    crs = given[0].layer.crs
    if any((each.layer.crs is None) != (crs is None) for each in given):
        raise LayerError("cannot merge layers with and without coordinate reference system")
    scenes = [scene for each in given for scene in each.scenes]
    rows = pd.concat(
        [each.layer if crs is None else reproject(each.layer, crs) for each in given],
        ignore_index=True,
    )
    layer = snap_vertices(_merge_rows(rows, scenes))
    if output is not None:
        write_layer(layer, output, overwrite=overwrite)
    return layer


@staged("merging scenes")
def merge_own_scenes(layer: GeoDataFrame) -> GeoDataFrame:
    """Settle what several scenes of one layer show, as `merge_layers` does.

    Args:
        layer: Footprint layer with the record of its scenes, straight from the scenes: vertices
            need not be rounded yet, and are not by this.
    """
    return _merge_rows(layer, scenes_of(layer))


def _merge_rows(rows: GeoDataFrame, scenes: Sequence[SceneRecord]) -> GeoDataFrame:
    """The footprints of all scenes, in one CRS, with every building once."""
    crs = rows.crs
    rows = rows.assign(id=free_numbers(rows["id"].to_numpy()))
    views = _views(rows, scenes)
    there, back = _plane(rows, crs, scenes)
    merged = merge_scenes(
        Seen(
            shapely.transform(rows.geometry.to_numpy(), there),
            rows["confidence"].to_numpy(),
            rows["cut"].to_numpy(dtype=bool),
            views.of_row,
        ),
        views.grounds(crs, there),
    )
    return _assemble(rows, merged, back, crs, scenes)


@dataclass(frozen=True, slots=True, eq=False)
class _Given:
    """A layer to merge."""

    name: str
    layer: GeoDataFrame
    scenes: tuple[SceneRecord, ...]


def _layers_in(
    named: str | Path | GeoDataFrame, output: str | Path | None
) -> list[str | Path | GeoDataFrame]:
    """A layer, or those of a folder less the one that is to be written."""
    if not isinstance(named, str | Path) or not Path(named).is_dir():
        return [named]
    files = sorted(path for path in Path(named).iterdir() if path.suffix.lower() in SUFFIXES)
    written = None if output is None else Path(output).resolve()
    found: list[str | Path | GeoDataFrame] = [p for p in files if p.resolve() != written]
    if not found:
        raise LayerError(
            f"no layer in {named}; name layers ({', '.join(SUFFIXES)}) or a folder of them"
        )
    return found


def _read(layer: str | Path | GeoDataFrame, number: int) -> _Given:
    if isinstance(layer, str | Path):
        name, what, frame = Path(layer).stem, str(layer), read_layer(layer, needs_crs=False)
        # Shapefiles have their shells clockwise.
        frame.geometry = shapely.orient_polygons(frame.geometry.to_numpy(), exterior_cw=False)
    else:
        name, what, frame = str(number), f"layer {number}", layer
    try:
        check_layer(frame)
        scenes = scenes_of(frame)
    except LayerError as err:
        raise LayerError(f"{what} is no footprint layer: {err}") from err
    if not scenes:
        raise LayerError(
            f"{what} does not say where its scenes lie; give the layer as footprints wrote it, "
            f"not a copy by another program"
        )
    return _Given(name, frame, scenes)


def _unique_scenes(given: list[_Given]) -> list[_Given]:
    """The same layers, with the layer's name before names of scenes that several have."""
    count = Counter(source for each in given for source in {s.source for s in each.scenes})
    layers = Counter(each.name for each in given)
    renamed = []
    for number, each in enumerate(given, 1):
        prefix = each.name if layers[each.name] == 1 else f"{number}-{each.name}"
        names = {
            scene.source: f"{prefix}/{scene.source}"
            for scene in each.scenes
            if count[scene.source] > 1
        }
        scenes = tuple(replace(s, source=names.get(s.source, s.source)) for s in each.scenes)
        sources = each.layer["source"].map(lambda source, names=names: _rename(source, names))
        renamed.append(_Given(each.name, each.layer.assign(source=sources), scenes))
    return renamed


def _rename(source: str, names: dict[str, str]) -> str:
    if source in names:
        return names[source]
    return TOGETHER.join(names.get(part, part) for part in source.split(TOGETHER))


@dataclass(frozen=True, slots=True, eq=False)
class _Views:
    """What the footprints were seen in: a scene, or several together that were merged before."""

    scenes: list[tuple[SceneRecord, ...]]
    of_row: NDArray[np.intp]
    """(n,) index of each footprint's."""

    def grounds(self, crs: CRS | None, there: _Plane) -> NDArray[np.object_]:
        """(k,) outlines in the plane of pixels."""
        each = {
            scene.source: shapely.transform(_outline(scene, crs), there)
            for scenes in self.scenes
            for scene in scenes
        }
        grounds = np.empty(len(self.scenes), dtype=object)
        for number, scenes in enumerate(self.scenes):
            grounds[number] = shapely.union_all([each[scene.source] for scene in scenes])
        return grounds


def _views(rows: GeoDataFrame, scenes: Sequence[SceneRecord]) -> _Views:
    by_name = {scene.source: scene for scene in scenes}
    number = {(name,): index for index, name in enumerate(by_name)}
    of_source = {}
    for source in rows["source"].unique():
        parts = (source,) if source in by_name else tuple(source.split(TOGETHER))
        unknown = [part for part in parts if part not in by_name]
        if unknown:
            raise LayerError(
                f"column source names {unknown[0]!r}, which is none of the layer's scenes: "
                f"{', '.join(by_name)}"
            )
        of_source[source] = number.setdefault(parts, len(number))
    return _Views(
        [tuple(by_name[name] for name in names) for names in number],
        rows["source"].map(of_source).to_numpy(dtype=np.intp),
    )


def _outline(scene: SceneRecord, crs: CRS | None) -> shapely.Geometry:
    """A scene's outline in the CRS of the layer."""
    if crs is None or scene.outline_crs is None:
        return scene.ground()
    own = CRS.from_user_input(scene.outline_crs)
    if own == crs:
        return scene.ground()
    step = CHORD_PX * (scene.pixel_m or 1.0) / nominal_unit_m(own)
    outline = GeoDataFrame(geometry=[shapely.segmentize(scene.ground(), step)], crs=own)
    parts = reproject(outline.explode(ignore_index=True), crs)
    return shapely.union_all(parts.geometry.to_numpy())


def _plane(
    rows: GeoDataFrame, crs: CRS | None, scenes: Sequence[SceneRecord]
) -> tuple[_Plane, _Plane]:
    """From CRS units to a plane of pixels of the coarsest scene, and back."""
    sizes = [scene.pixel_m for scene in scenes if scene.pixel_m is not None]
    pixel_m = max(sizes, default=1.0)
    if crs is None or crs.is_engineering or rows.empty:
        unit = pixel_m if crs is None else pixel_m / nominal_unit_m(crs)
        return (lambda xy: xy / unit), (lambda xy: xy * unit)
    x_min, y_min, x_max, y_max = rows.total_bounds
    to_degrees = Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    lon, lat = to_degrees.transform((x_min + x_max) / 2, (y_min + y_max) / 2)
    plane = CRS.from_dict(
        {"proj": "laea", "lat_0": lat, "lon_0": lon, "datum": "WGS84", "units": "m"}
    )
    flat = Transformer.from_crs(crs, plane, always_xy=True)
    round_ = Transformer.from_crs(plane, crs, always_xy=True)
    return (
        lambda xy: np.column_stack(flat.transform(xy[:, 0], xy[:, 1])) / pixel_m,
        lambda xy: np.column_stack(round_.transform(xy[:, 0] * pixel_m, xy[:, 1] * pixel_m)),
    )


def _assemble(
    rows: GeoDataFrame,
    merged: Merged,
    back: _Plane,
    crs: CRS | None,
    scenes: Sequence[SceneRecord],
) -> GeoDataFrame:
    """The layer of the buildings that are left."""
    first = np.array([members[0] for members in merged.members], dtype=np.intp)
    layer = rows.iloc[first].reset_index(drop=True)
    polygons = shapely.orient_polygons(shapely.transform(merged.polygons, back), exterior_cw=False)
    layer["cut"] = merged.cut
    for number, members in enumerate(merged.members):
        if len(members) > 1:
            for column, value in _joined_values(rows.iloc[members]).items():
                layer.loc[number, column] = value
    layer["id"] = free_numbers(layer["id"].to_numpy())
    layer["area_m2"] = np.round(areas_m2(polygons, crs), 2)
    others = [name for name in layer.columns if name not in (*COLUMNS, "geometry")]
    layer = GeoDataFrame(layer[[*COLUMNS, *others]], geometry=polygons, crs=crs)
    attach_scenes(layer, scenes)
    return layer


def _joined_values(pieces: GeoDataFrame) -> dict[str, object]:
    """What the columns say of a building that was joined from pieces."""
    area = pieces["area_m2"].to_numpy()
    evidence = pieces["area_m2"] * pieces["confidence"]
    parts = [part for source in pieces["source"] for part in source.split(TOGETHER)]
    return {
        "class": evidence.groupby(pieces["class"]).sum().idxmax(),
        "confidence": round(float(np.average(pieces["confidence"], weights=area)), 4),
        "source": TOGETHER.join(sorted(dict.fromkeys(parts))),
        "model": TOGETHER.join(sorted(pieces["model"].unique())),
    }
