"""The report of a comparison: one HTML file that asks nothing of any server."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np
import shapely
from geopandas import GeoSeries
from numpy.typing import NDArray

from footprints.charts import bar_chart, cell_map, unit_chart
from footprints.chip import Window
from footprints.errors import LayerError, OutputError
from footprints.figures import Figures, suggest, tabulate, tabulate_seams, tabulate_sizes
from footprints.files import check_place, write_whole
from footprints.measuring import Comparison, confidence_curve, reliability
from footprints.pictures import read_picture
from footprints.raster.source import Scene, open_scene
from footprints.tables import table
from footprints.vector.metric import metres_per_unit

PLACES = 6
"""Pictures of the worst places."""
PLACE_M = 100.0
"""Side of a picture."""
PLACE_PX = 400
"""The same in pixels of a scene without CRS, and the pixels of every picture."""
CELLS = 12
"""Along the longer side of the map."""
_STYLES = {
    "hit": ("#4cc9ff", "none"),
    "miss": ("#ffe14d", "7 4"),
    "false alarm": ("#ff8ad0", "10 3 2 3"),
}
"""Colour and dashes of each kind of outline."""
_HEAD = """<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:;
style-src 'unsafe-inline'"><title>Footprints against the truth</title><style>
body{font:15px/1.5 system-ui,sans-serif;color:#1a1a1a;background:#fff;margin:2rem auto;
max-width:64rem;padding:0 1rem}
svg{max-width:100%;height:auto}
.wide{overflow-x:auto;max-width:100%}.wide svg{max-width:none}
table{border-collapse:collapse;margin:.5rem 0}caption{text-align:left;font-weight:600}
th,td{padding:.15rem .8rem .15rem 0;text-align:right;border-bottom:1px solid #ccc}
th:first-child,td:first-child{text-align:left;white-space:nowrap}
.row{display:flex;flex-wrap:wrap;gap:1.5rem;align-items:flex-start}
figure{margin:0;max-width:100%}
.key{background:#222;color:#fff;padding:.3rem .6rem;display:inline-block}
</style></head><body>"""

Floats = NDArray[np.float64]
Polygons = NDArray[np.object_]


def check_report(path: str | Path) -> None:
    """Find out before the work starts whether a report can be written; one that is there may go.

    Raises:
        OutputError: It is not called ``.html``, or its folder is missing or not writable.
    """
    path = Path(path)
    if path.suffix.lower() != ".html":
        raise OutputError(f"a report must end in .html, got {path.name!r}")
    check_place(path, "report", overwrite=True)


def write_report(
    path: str | Path,
    compared: Comparison,
    measured: Figures,
    *,
    headline: Sequence[tuple[str, str]],
    classes: Sequence[Sequence[str]],
    scene: str | Path | None = None,
) -> None:
    """Write tables, charts, a map and, with a scene, pictures of the worst places.

    Args:
        path: HTML file; an existing one is replaced.
        compared: What was compared.
        measured: Its figures.
        headline: Names and values that come first.
        classes: A table of the classes with its head; empty for none.
        scene: Raster that shows the place.

    Raises:
        RasterError: The scene cannot be read.
        LayerError: The scene shows none of the buildings.
        OutputError: The file cannot be written.
    """
    groups = {"at this confidence": headline, **tabulate(measured)}
    tables = "".join(_wide(table(rows, caption=name)) for name, rows in groups.items())
    head, *sizes = tabulate_sizes(measured)
    parts = [
        _HEAD,
        "<h1>Footprints against the truth</h1>",
        *(f"<p>{escape(line)}</p>" for line in suggest(measured)),
        f'<div class="row">{tables}</div>',
        _wide(table(classes[1:], head=classes[0], caption="classes")) if classes else "",
        "<h2>By size</h2>",
        _wide(table(sizes, head=head)),
        _wide(_size_chart(measured)),
        *_seams(measured),
        "<h2>Confidence</h2>",
        _confidence_charts(compared, measured),
        "<h2>F1 by place</h2>",
        _map(compared),
        "" if scene is None else _worst_places(compared, scene),
        "</body></html>\n",
    ]
    write_whole(Path(path), "\n".join(parts).encode(), "report")


def _wide(content: str) -> str:
    """In narrow windows, what is wide scrolls by itself: shrunk, it could not be read."""
    return f'<div class="wide">{content}</div>'


def _seams(measured: Figures) -> list[str]:
    """The table at and off the edges of chips, where there is one."""
    rows = tabulate_seams(measured)
    if not rows:
        return []
    return ["<h2>At the edges of chips</h2>", _wide(table(rows[1:], head=rows[0]))]


def _size_chart(measured: Figures) -> str:
    names = [row[0] for row in tabulate_sizes(measured)[1:]]
    sizes = measured.by_size
    return bar_chart(
        names,
        {"recall": [s.recall for s in sizes], "precision": [s.precision for s in sizes]},
    )


def _confidence_charts(compared: Comparison, measured: Figures) -> str:
    curve, bins = confidence_curve(compared), reliability(compared)
    mark, error = None, ""
    if measured.confidence is not None:
        best = int(np.argmax(curve.f1))
        mark = float(curve.recall[best]), float(curve.precision[best])
        error = f"; expected error {measured.confidence.calibration_error:.3f}"
    charts = {
        "Precision and recall; the ring is the best F1": unit_chart(
            curve.recall, curve.precision, names=("recall", "precision"), mark=mark
        ),
        f"Reliability: on the dashed line a confidence is a probability{error}": unit_chart(
            bins.confidence, bins.hit_share, names=("confidence", "share of matches"), dots=True
        ),
    }
    return f'<div class="row">{"".join(_figure(*item) for item in charts.items())}</div>'


def _figure(caption: str, content: str) -> str:
    return f"<figure>{content}<figcaption>{escape(caption)}</figcaption></figure>"


def _map(compared: Comparison) -> str:
    kinds = _kinds(compared)
    points = {name: _middles(polygons) for name, polygons in kinds.items()}
    everything = np.concatenate([*points.values()])
    if not len(everything):
        return "<p>There is nothing to show.</p>"
    low, high = everything.min(axis=0), everything.max(axis=0)
    unit_m = np.abs(metres_per_unit((low + high)[None] / 2, compared.crs)[0]).max(axis=1)
    side_m = max(float(((high - low) * unit_m).max()) / CELLS, 1.0)
    columns, rows = np.floor((high - low) * unit_m / side_m).astype(int) + 1
    counts = {}
    for name, places in points.items():
        column, up = np.floor((places - low) * unit_m / side_m).astype(int).T
        cell = (rows - 1 - up) * columns + column
        counts[name] = np.bincount(cell, minlength=rows * columns).reshape(rows, columns)
    twice = 2 * counts["hit"]
    total = twice + counts["miss"] + counts["false alarm"]
    f1 = np.divide(twice, total, out=np.full(total.shape, np.nan), where=total > 0)
    unit = "px" if compared.crs is None else "m"
    return _figure(f"Cells of {side_m:,.0f} {unit}, y upwards", _wide(cell_map(f1)))


def _kinds(compared: Comparison) -> Mapping[str, Polygons]:
    """The polygons of each kind: footprints that match, truths and footprints that do not."""
    return {
        "hit": compared.found[compared.pairs[compared.hits(), 0]],
        "miss": compared.truth[compared.misses()],
        "false alarm": compared.found[compared.false_alarms()],
    }


def _middles(polygons: Polygons) -> Floats:
    bounds = shapely.bounds(polygons).reshape(-1, 4)
    return np.asarray((bounds[:, :2] + bounds[:, 2:]) / 2)


def _worst_places(compared: Comparison, scene: str | Path) -> str:
    # In pixel coordinates it may be a photograph, where black is the dark and no collar.
    pixels = compared.crs is None
    with open_scene(scene, pixels=pixels, collars=not pixels) as raster:
        kinds = {
            name: _in_raster(each, compared, raster) for name, each in _kinds(compared).items()
        }
        extent = shapely.box(0, 0, raster.width, raster.height)
        if not any(shapely.intersects(each, extent).any() for each in kinds.values()):
            raise LayerError(
                f"{raster.name} shows none of the buildings; give the scene of the place"
            )
        wrong = np.concatenate([_middles(kinds["miss"]), _middles(kinds["false alarm"])])
        wrong = wrong[((wrong >= 0) & (wrong < (raster.width, raster.height))).all(axis=1)]
        pictures = [
            _figure(f"{count} wrong", _picture(raster, window, kinds))
            for window, count in _windows(wrong, raster)
        ]
    key = "".join(
        f'<svg width="150" height="20"><line x1="4" y1="11" x2="40" y2="11" stroke="{colour}" '
        f'stroke-width="3" stroke-dasharray="{dashes}"/><text x="48" y="15" fill="#fff">{name}'
        f"</text></svg>"
        for name, (colour, dashes) in _STYLES.items()
    )
    shown = (
        f'<div class="row">{"".join(pictures)}</div>' if pictures else "<p>Nothing is wrong.</p>"
    )
    return f'<h2>Worst places of {escape(raster.name)}</h2><p class="key">{key}</p>{shown}'


def _in_raster(polygons: Polygons, compared: Comparison, raster: Scene) -> Polygons:
    """Polygons in raster pixels."""
    moved = GeoSeries(polygons, crs=compared.crs)
    if raster.crs is not None:
        moved = moved.to_crs(raster.crs)
    back = ~raster.transform
    placed: Polygons = shapely.transform(
        moved.to_numpy(), lambda xy: np.column_stack(back @ (xy[:, 0], xy[:, 1]))
    )
    return placed


def _windows(wrong: Floats, raster: Scene) -> list[tuple[Window, int]]:
    """Where most is wrong, window by window, and how much."""
    gsd = raster.gsd_m()
    sides = (PLACE_PX, PLACE_PX) if gsd is None else (PLACE_M / gsd[0], PLACE_M / gsd[1])
    # Whole pixels are shown as they are stored.
    size = np.maximum(np.round(np.minimum(sides, (raster.width, raster.height))), 1)
    windows: list[tuple[Window, int]] = []
    while len(wrong) and len(windows) < PLACES:
        corners = np.clip(wrong - size / 2, 0, np.array([raster.width, raster.height]) - size)
        corners = np.round(corners)
        boxes = shapely.box(*corners.T, *(corners + size).T)
        window, inside = shapely.STRtree(shapely.points(wrong)).query(boxes, predicate="intersects")
        counts = np.bincount(window, minlength=len(wrong))
        worst = int(counts.argmax())
        windows.append((Window(*corners[worst], *size), int(counts[worst])))
        wrong = np.delete(wrong, inside[window == worst], axis=0)
    return windows


def _picture(raster: Scene, window: Window, kinds: Mapping[str, Polygons]) -> str:
    """A window of the scene with the outlines over it."""
    # Here and not above: matplotlib takes a second to load and most jobs draw nothing.
    from matplotlib.image import imsave

    png = io.BytesIO()
    imsave(png, read_picture(raster, window, PLACE_PX), format="png", cmap="gray", vmin=0, vmax=255)
    scale = PLACE_PX / max(window.width, window.height)
    width, height = round(window.width * scale), round(window.height * scale)
    address = "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()
    drawn = [f'<image href="{address}" width="{width}" height="{height}"/>']
    frame = shapely.box(window.x, window.y, window.x + window.width, window.y + window.height)
    for name, polygons in kinds.items():
        colour, dashes = _STYLES[name]
        shown = polygons[shapely.intersects(polygons, frame)]
        outlines = "".join(
            "M" + " ".join(f"{x:.1f},{y:.1f}" for x, y in points) + "Z"
            for ring in shapely.get_rings(shown)
            for points in [(shapely.get_coordinates(ring) - (window.x, window.y)) * scale]
        )
        # A dark line below keeps every colour readable on bright roofs.
        drawn.append(
            f'<path d="{outlines}" fill="none" stroke="#000" stroke-width="4" opacity=".6"/>'
            f'<path d="{outlines}" fill="none" stroke="{colour}" stroke-width="2" '
            f'stroke-dasharray="{dashes}"/>'
        )
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    return f"<svg {size}>{''.join(drawn)}</svg>"
