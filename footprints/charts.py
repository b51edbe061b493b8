"""Charts as inline SVG: no library, no request, sharp at any size.

Colours have a contrast of at least 4.5 to what they stand on, and no chart relies on hue alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

INK, GRID, BLUE, ORANGE = "#1a1a1a", "#d0d0d0", "#1f5fa8", "#a84a00"
_SIDE, _LEFT, _TOP, _BOTTOM = 260, 58, 24, 44
_MOST_POINTS = 500
"""Of a line: more are not to be told apart."""
_BAD, _MIDDLE, _GOOD = ((179, 88, 6), (247, 247, 247), (33, 102, 172))
"""Ends and middle of the colours of a map, red, green and blue."""
_DARK_BELOW = 0.179
"""Relative luminance of a colour below which white text on it has more contrast than black."""
_CELL = 44


def unit_chart(
    x: Floats,
    y: Floats,
    *,
    names: tuple[str, str],
    dots: bool = False,
    mark: tuple[float, float] | None = None,
) -> str:
    """A line over the unit square.

    Args:
        x: (n,) from 0 to 1.
        y: (n,) from 0 to 1.
        names: Of the axes.
        dots: Draw the points, and the diagonal that they should lie on.
        mark: A point to point out.
    """
    rows = np.linspace(0, len(x) - 1, min(len(x), _MOST_POINTS)).astype(int)
    points = [_place(*point) for point in zip(x[rows], y[rows], strict=True)]
    drawn = [_axes(names)]
    if dots:
        (x0, y0), (x1, y1) = _place(0, 0), _place(1, 1)
        drawn.append(
            f'<line x1="{x0}" y1="{y0}" x2="{x1}" y2="{y1}" stroke="{INK}" stroke-dasharray="4"/>'
        )
        drawn += [f'<circle cx="{a}" cy="{b}" r="4" fill="{BLUE}"/>' for a, b in points]
    line = " ".join(f"{a},{b}" for a, b in points)
    drawn.append(f'<polyline points="{line}" fill="none" stroke="{BLUE}" stroke-width="2"/>')
    if mark is not None:
        a, b = _place(*mark)
        drawn.append(
            f'<circle cx="{a}" cy="{b}" r="6" fill="none" stroke="{ORANGE}" stroke-width="3"/>'
        )
    return _svg(_LEFT + _SIDE + 20, _TOP + _SIDE + _BOTTOM, f"{names[1]} over {names[0]}", drawn)


def bar_chart(groups: Sequence[str], series: Mapping[str, Sequence[float]]) -> str:
    """Bars from 0 to 1, side by side for each group, at most two series."""
    width = 100.0
    drawn = [_axes(("", ""), width * len(groups))]
    bar = width / (len(series) + 1)
    for number, (name, values) in enumerate(series.items()):
        colour = (BLUE, ORANGE)[number]
        drawn.append(
            f'<text x="{_LEFT + 90 * number}" y="10" fill="{colour}">\u25a0 {escape(name)}</text>'
        )
        for group, value in enumerate(values):
            x, y = _LEFT + group * width + (number + 0.5) * bar, _place(0, value)[1]
            drawn.append(
                f'<rect x="{x:.1f}" y="{y}" width="{bar:.1f}" height="{_TOP + _SIDE - y:.1f}" '
                f'fill="{colour}"/>'
            )
    for group, name in enumerate(groups):
        drawn.append(
            f'<text x="{_LEFT + (group + 0.5) * width:.1f}" y="{_TOP + _SIDE + 18}" '
            f'text-anchor="middle">{escape(name)}</text>'
        )
    total = _LEFT + width * len(groups) + 20
    return _svg(total, _TOP + _SIDE + 30, " and ".join(series), drawn)


def cell_map(values: Floats) -> str:
    """A grid of values from 0 to 1, the first row on top; NaN leaves a cell empty."""
    drawn = []
    for (row, column), value in np.ndenumerate(values):
        if np.isnan(value):
            continue
        x, y = column * _CELL, row * _CELL
        colour = _colour(float(value))
        ink = "#ffffff" if _luminance(colour) < _DARK_BELOW else "#000000"
        drawn.append(
            f'<rect x="{x}" y="{y}" width="{_CELL}" height="{_CELL}" fill="rgb{colour}" '
            f'stroke="#ffffff"/><text x="{x + _CELL / 2}" y="{y + _CELL / 2 + 4}" fill="{ink}" '
            f'text-anchor="middle">{value:.2f}</text>'
        )
    height, width = values.shape
    return _svg(width * _CELL, height * _CELL, "map", drawn)


def _colour(value: float) -> tuple[int, int, int]:
    ends = np.array([_BAD, _MIDDLE, _GOOD])
    red, green, blue = (round(float(np.interp(value, (0, 0.5, 1), each))) for each in ends.T)
    return red, green, blue


def _luminance(colour: tuple[int, int, int]) -> float:
    """Relative luminance from 0 to 1, gamma taken for 2.2."""
    return float(np.dot((np.array(colour) / 255) ** 2.2, (0.2126, 0.7152, 0.0722)))


def _axes(names: tuple[str, str], width: float = _SIDE) -> str:
    drawn = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = _place(tick, tick)
        drawn.append(
            f'<line x1="{_LEFT}" y1="{y}" x2="{_LEFT + width:.1f}" y2="{y}" stroke="{GRID}"/>'
            f'<text x="{_LEFT - 6}" y="{y + 4}" text-anchor="end">{tick:g}</text>'
        )
        if names[0]:
            drawn.append(
                f'<line x1="{x}" y1="{_TOP}" x2="{x}" y2="{_TOP + _SIDE}" stroke="{GRID}"/>'
                f'<text x="{x}" y="{_TOP + _SIDE + 16}" text-anchor="middle">{tick:g}</text>'
            )
    drawn.append(
        f'<text x="{_LEFT + _SIDE / 2}" y="{_TOP + _SIDE + 36}" text-anchor="middle">'
        f"{escape(names[0])}</text>"
        f'<text transform="translate(14 {_TOP + _SIDE / 2}) rotate(-90)" text-anchor="middle">'
        f"{escape(names[1])}</text>"
    )
    return "".join(drawn)


def _place(x: float, y: float) -> tuple[float, float]:
    """From the unit square to the drawing."""
    return round(_LEFT + x * _SIDE, 1), round(_TOP + (1 - y) * _SIDE, 1)


def _svg(width: float, height: float, title: str, drawn: Iterable[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" '
        f'role="img" fill="{INK}" font-size="12" font-family="system-ui, sans-serif">'
        f"<title>{escape(title)}</title>{''.join(drawn)}</svg>"
    )
