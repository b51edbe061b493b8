"""Buildings of known shape, and what sensors and networks make of their outlines."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import shapely
from affine import Affine
from rasterio.features import rasterize, shapes
from shapely import Point, Polygon, affinity

PIXEL_M = 0.3
CORNERS = {"rectangle": 4, "L": 6, "T": 8, "U": 8, "courtyard": 8, "round": None}
"""How many corners each shape has; a circle has none."""


def rectangle(rng: np.random.Generator) -> Polygon:
    width, height = rng.uniform(8, 24), rng.uniform(6, 16)
    return shapely.box(0, 0, width, height)


def l_shape(rng: np.random.Generator) -> Polygon:
    width, height = rng.uniform(12, 24), rng.uniform(10, 20)
    return shapely.box(0, 0, width, height).difference(
        shapely.box(width * rng.uniform(0.4, 0.6), height * rng.uniform(0.4, 0.6), width, height)
    )


def t_shape(rng: np.random.Generator) -> Polygon:
    width, bar, stem = rng.uniform(15, 24), rng.uniform(4, 7), rng.uniform(4, 7)
    left = rng.uniform(4, width - stem - 4)
    leg = shapely.box(left, -rng.uniform(5, 10), left + stem, bar)
    return shapely.box(0, 0, width, bar).union(leg)


def u_shape(rng: np.random.Generator) -> Polygon:
    width, height = rng.uniform(16, 26), rng.uniform(12, 20)
    left, right = rng.uniform(4, 6, 2)
    notch = shapely.box(left, rng.uniform(4, 6), width - right, height + 1)
    return shapely.box(0, 0, width, height).difference(notch)


def courtyard(rng: np.random.Generator) -> Polygon:
    width, height = rng.uniform(16, 28), rng.uniform(16, 24)
    walls = rng.uniform(4, 6, 4)
    yard = shapely.box(walls[0], walls[1], width - walls[2], height - walls[3])
    return shapely.box(0, 0, width, height).difference(yard)


def round_shape(rng: np.random.Generator) -> Polygon:
    return Point(0, 0).buffer(rng.uniform(4, 10), quad_segs=32)


MAKERS: dict[str, Callable[[np.random.Generator], Polygon]] = {
    "rectangle": rectangle,
    "L": l_shape,
    "T": t_shape,
    "U": u_shape,
    "courtyard": courtyard,
    "round": round_shape,
}


def turned(polygon: Polygon, rng: np.random.Generator) -> Polygon:
    """At a random angle, its middle anywhere within a pixel."""
    middle = polygon.centroid
    moved = affinity.translate(polygon, *(rng.uniform(0, PIXEL_M, 2) - (middle.x, middle.y)))
    return affinity.rotate(moved, rng.uniform(0, 360), origin=(0, 0))


def staircase(polygon: Polygon, pixel_m: float = PIXEL_M) -> Polygon:
    """The outline of the pixels whose centres lie inside: along pixel edges."""
    x_min, y_min, x_max, y_max = polygon.bounds
    left = np.floor(x_min / pixel_m - 1) * pixel_m
    top = np.ceil(y_max / pixel_m + 1) * pixel_m
    size = (int((top - y_min) / pixel_m) + 3, int((x_max - left) / pixel_m) + 3)
    transform = Affine(pixel_m, 0, left, 0, -pixel_m, top)
    mask = rasterize([polygon], size, transform=transform, dtype="uint8")
    found = [shapely.geometry.shape(s) for s, value in shapes(mask, mask > 0, transform=transform)]
    return max(found, key=lambda part: part.area, default=polygon)


def rounded(polygon: Polygon, sigma_px: float, pixel_m: float = PIXEL_M) -> Polygon:
    """The outline with its corners worn by a Gaussian blur, as networks give it."""
    cell_m, reach = pixel_m / 4, int(np.ceil(16 * sigma_px))
    x_min, y_min, x_max, y_max = polygon.bounds
    left, top = x_min - reach * cell_m, y_max + reach * cell_m
    size = [int(length / cell_m) + 2 * reach + 1 for length in (y_max - y_min, x_max - x_min)]
    transform = Affine(cell_m, 0, left, 0, -cell_m, top)
    blurred = rasterize([polygon], size, transform=transform, dtype="uint8").astype(float)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / (4 * sigma_px)) ** 2)
    for axis in (0, 1):
        blurred = np.apply_along_axis(np.convolve, axis, blurred, kernel / kernel.sum(), "same")
    mask = (blurred > 0.5).astype(np.uint8)
    found = [shapely.geometry.shape(s) for s, _ in shapes(mask, mask > 0, transform=transform)]
    return max(found, key=lambda part: part.area)


def common_staircase(polygons: list[Polygon], pixel_m: float = PIXEL_M) -> list[Polygon | None]:
    """Outlines from one raster of several buildings, edge to edge where they touch.

    None stands for those without a pixel of their own.
    """
    x_min, y_min, x_max, y_max = shapely.total_bounds(np.array(polygons))
    size = (int((y_max - y_min) / pixel_m) + 4, int((x_max - x_min) / pixel_m) + 4)
    transform = Affine(pixel_m, 0, x_min - pixel_m, 0, -pixel_m, y_max + pixel_m)
    numbered = [(polygon, i + 1) for i, polygon in enumerate(polygons)]
    mask = rasterize(numbered, size, transform=transform, dtype="int32")
    found: list[Polygon | None] = [None] * len(polygons)
    for outline, value in shapes(mask, mask > 0, transform=transform):
        part, index = shapely.geometry.shape(outline), int(value) - 1
        best = found[index]
        if best is None or part.area > best.area:
            found[index] = part
    return found


def noisy(polygon: Polygon, rng: np.random.Generator, sigma_m: float = 0.25) -> Polygon:
    """An outline with a vertex every 0.7 m, each of them a little off."""
    dense = shapely.segmentize(polygon, 0.7)

    def jitter(points: np.ndarray) -> np.ndarray:
        moved = points + rng.normal(0, sigma_m, points.shape)
        moved[-1] = moved[0]
        return moved

    rings = [jitter(np.asarray(ring.coords)) for ring in (dense.exterior, *dense.interiors)]
    parts = shapely.get_parts(shapely.make_valid(Polygon(rings[0], rings[1:]), method="structure"))
    return max(parts, key=lambda part: part.area)


def corner_count(polygon: Polygon, straight_deg: float = 5.0) -> int:
    """Vertices at which the outline turns."""
    count = 0
    for ring in (polygon.exterior, *polygon.interiors):
        points = np.asarray(ring.coords)[:-1]
        step = np.roll(points, -1, axis=0) - points
        step = step[np.hypot(*step.T) > 1e-6]
        heading = np.degrees(np.arctan2(step[:, 1], step[:, 0]))
        turn = (np.diff(heading, append=heading[:1]) + 180) % 360 - 180
        count += int((np.abs(turn) > straight_deg).sum())
    return count


def is_round(polygon: Polygon) -> bool:
    """Whether an outline is a circle, drawn with corners that nobody sees."""
    points = np.asarray(polygon.exterior.coords)[:-1]
    if polygon.interiors or len(points) < 12:
        return False
    away = np.hypot(*(points - np.asarray(polygon.centroid.coords)[0]).T)
    return bool(np.ptp(away) < 0.02 * away.mean())


def is_exact(kind: str, polygon: Polygon) -> bool:
    """Whether a regularised outline has the corners its kind of building has."""
    if CORNERS[kind] is None:
        return is_round(polygon)
    return corner_count(polygon) == CORNERS[kind]
