"""What a layer knows of its scenes: where each was looked at, by what, and how.

A building that the imagery's edge cuts can only be told from one that ends there, and ground
without buildings from ground nobody looked at, while it is known where the imagery ends. So a
footprint layer carries a record of its scenes, in `GeoDataFrame.attrs` under `RECORD`, as plain
values that JSON can hold; every format that we write stores it (see `footprints.vector.write`).

| key           | type          | meaning                                               |
|---------------|---------------|-------------------------------------------------------|
| `source`      | str           | the scene, as column ``source`` names it              |
| `model`       | str           | detector                                              |
| `version`     | str           | version of this package                               |
| `pixel_m`     | float or None | metres per pixel as read; None in pixel coordinates   |
| `parameters`  | dict          | settings of the run                                   |
| `outline`     | str           | WKT, the ground with data that was looked at          |
| `outline_crs` | str or None   | the scene's CRS, as an authority's code or WKT 2      |

The outline stays in its scene's CRS wherever the layer is moved, because its long edges are
straight there and nowhere else.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from typing import Any

import numpy as np
import shapely
from affine import Affine
from geopandas import GeoDataFrame
from numpy.typing import NDArray
from pyproj import CRS
from pyproj.exceptions import CRSError
from rasterio.features import shapes, sieve
from shapely.errors import GEOSException

from footprints.chip import ChipGrid, Window
from footprints.errors import LayerError
from footprints.vector.affine import apply_affine

RECORD = "footprints"
"""Key of the record in ``attrs`` and in files."""

SPECK_PX = 16
"""Fewer connected pixels than this, with or without data, are noise and not the imagery's edge."""
SMALL_HOLE_PX = 1024.0
"""Holes of less than this many square pixels are filled: black roofs, water that glitters."""
_PIECE_PX = 256.0
STAIR_PX = 1.0
"""The stairs of pixels along a slanting edge are smoothed by no more than this."""


@dataclass(frozen=True, slots=True)
class SceneRecord:
    """One scene of a layer; the fields are those of the table above."""

    source: str
    model: str
    version: str
    pixel_m: float | None
    parameters: Mapping[str, Any]
    outline: str
    outline_crs: str | None

    def ground(self) -> shapely.Geometry:
        """The outline, a MultiPolygon in ``outline_crs``."""
        return shapely.from_wkt(self.outline)


def describe_scene(
    source: str,
    model: str,
    seen: shapely.Geometry,
    transform: Affine,
    crs: CRS | None,
    *,
    pixel_m: float | None,
    parameters: Mapping[str, Any],
) -> SceneRecord:
    """Make the record of one scene.

    Args:
        source: Name of the scene.
        model: Name of the detector.
        seen: Ground with data, in grid pixels, as `unite_seen` has it.
        transform: Grid pixels to CRS units.
        crs: Of the scene.
        pixel_m: Metres per grid pixel; None in pixel coordinates.
        parameters: Settings of the run; values that JSON can hold.
    """
    placed = apply_affine(np.array([seen]), transform)[0]
    outline = shapely.to_wkt(shapely.normalize(placed), rounding_precision=-1)
    # As JSON gives it back, so that a layer in memory and the same one from a file are equal.
    settings = json.loads(json.dumps(dict(parameters)))
    crs_text = None if crs is None else crs.to_string()
    return SceneRecord(
        source, model, version("building-footprints"), pixel_m, settings, outline, crs_text
    )


def describe_grid(chips: ChipGrid, transform: Affine) -> dict[str, Any]:
    """Where the chips of a scene lay, as values that JSON can hold: for `chip_edges`."""
    return {
        "columns": [[x, x + chips.chip_width] for x in chips.column_starts],
        "rows": [[y, y + chips.chip_height] for y in chips.row_starts],
        "transform": list(transform[:6]),
    }


def chip_edges(scene: SceneRecord) -> shapely.Geometry | None:
    """Lines where the chips of a scene end and others go on.

    Returns:
        MultiLineString in ``outline_crs``, of short pieces; None where the record does not tell,
        or for one chip.
    """
    grid = scene.parameters.get("grid")
    if grid is None:
        return None
    columns, rows = np.array(grid["columns"]), np.array(grid["rows"])
    across = [x for x in columns.flat if columns.min() < x < columns.max()]
    down = [y for y in rows.flat if rows.min() < y < rows.max()]
    lines = [[(x, rows.min()), (x, rows.max())] for x in across]
    lines += [[(columns.min(), y), (columns.max(), y)] for y in down]
    if not lines:
        return None
    # Straight in the scene; in another CRS they bend, so they go there in pieces.
    points, line = shapely.get_coordinates(
        shapely.segmentize(shapely.linestrings(lines), _PIECE_PX), return_index=True
    )
    pieces = np.stack([points[:-1], points[1:]], axis=1)[line[1:] == line[:-1]]
    whole = shapely.multilinestrings(shapely.linestrings(pieces))
    placed: shapely.Geometry = apply_affine(np.array([whole]), Affine(*grid["transform"]))[0]
    return placed


def attach_scenes(layer: GeoDataFrame, scenes: Iterable[SceneRecord]) -> None:
    """Write the record of scenes into a layer, in place of any it has."""
    layer.attrs[RECORD] = [asdict(scene) for scene in scenes]


def scenes_of(layer: GeoDataFrame) -> tuple[SceneRecord, ...]:
    """Read a layer's record of scenes.

    Returns:
        Its scenes; none for a layer without a record.

    Raises:
        LayerError: There is a record, and it is damaged.
    """
    return parse_scenes(layer.attrs.get(RECORD, []))


def parse_scenes(record: object) -> tuple[SceneRecord, ...]:
    """Check a record as read from a file, and make scenes of it.

    Raises:
        LayerError: It is none; says what is wrong.
    """
    if not isinstance(record, list):
        raise LayerError(f"record of scenes must be a list, got {type(record).__name__}")
    return tuple(_parse_scene(entry) for entry in record)


def unite_seen(parts: Sequence[shapely.Geometry]) -> shapely.Geometry:
    """The ground with data of a scene, from that of its chips (`seen_ground`).

    Returns:
        MultiPolygon in grid pixels, empty where nothing has data.
    """
    ground = shapely.get_parts(shapely.union_all(parts))
    filled = shapely.union_all([_without_small_holes(part) for part in ground])
    return shapely.multipolygons(shapely.get_parts(filled))


def seen_ground(valid: NDArray[np.bool_], window: Window) -> shapely.Geometry:
    """Where a chip has data.

    Args:
        valid: (height, width) True = data.
        window: The chip's place in grid pixels.

    Returns:
        Polygon or MultiPolygon in grid pixels.
    """
    if valid.all():
        return shapely.box(window.x, window.y, window.x + window.width, window.y + window.height)
    data = sieve(valid.astype(np.uint8), SPECK_PX)
    found = [shapely.geometry.shape(part) for part, _ in shapes(data, mask=data > 0)]
    ground = shapely.simplify(shapely.union_all(found), STAIR_PX)
    return shapely.transform(ground, lambda xy: xy + np.array([window.x, window.y]))


def _without_small_holes(polygon: shapely.Geometry) -> shapely.Geometry:
    if not shapely.get_num_interior_rings(polygon):
        return polygon
    holes = [hole for hole in polygon.interiors if shapely.Polygon(hole).area >= SMALL_HOLE_PX]
    return shapely.Polygon(polygon.exterior, holes)


def _parse_scene(entry: object) -> SceneRecord:
    names = [field.name for field in fields(SceneRecord)]
    if not isinstance(entry, dict) or not set(names) <= set(entry):
        raise LayerError(f"record of a scene must have {', '.join(names)}, got {entry!r:.80}")
    scene = SceneRecord(**{name: entry[name] for name in names})
    try:
        ground = scene.ground()
        if scene.outline_crs is not None:
            CRS.from_user_input(scene.outline_crs)
    except (GEOSException, TypeError) as err:
        raise LayerError(f"scene {scene.source} has no outline but {scene.outline!r:.80}") from err
    except CRSError as err:
        raise LayerError(f"scene {scene.source} has unknown CRS {scene.outline_crs!r:.80}") from err
    if not isinstance(ground, shapely.MultiPolygon):
        raise LayerError(
            f"outline of scene {scene.source} must be a MultiPolygon, got {scene.outline!r:.80}"
        )
    return scene
