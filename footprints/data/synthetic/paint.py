"""From the plan of a town to the light that a camera sees: colour times light, sample by sample.

A town is a height field with a colour. Every surface is rasterised as its number; heights, slopes
and colours are then looked up for all samples at once, and the sun does the rest: pitched roofs get
a bright and a dark side, and everything casts its shadow on whatever lies behind it.

Frames: *samples* are ``SAMPLES`` x ``SAMPLES`` to a pixel, pixel (0, 0) starts at town metre
(0, 0), and both are counted over the whole scene. All textures are functions of the sample's number
in the scene, so that windows painted apart agree where they meet.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import chain

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.features import rasterize
from rasterio.transform import Affine

from footprints.data.synthetic.blocks import Tree
from footprints.data.synthetic.roofs import Surface
from footprints.data.synthetic.town import Town

Plane = NDArray[np.float32]
"""(height, width), one value per sample or pixel."""

SAMPLES = 3
"""Samples per pixel and axis. Outlines are drawn to a third of a pixel, on average far better."""
SUN_AZIMUTH = math.radians(135.0)
"""Where the sun stands, clockwise from the upper edge of the image."""
SUN_ELEVATION = math.radians(52.0)
TALLEST_M = 22.0
"""No roof or tree is higher; it bounds how far a shadow reaches."""
SHADE = np.array([0.27, 0.30, 0.36, 0.22], np.float32)
"""What the sky alone gives to shadows, by band: bluish, and little near infrared."""
HAZE = np.array([0.035, 0.042, 0.055, 0.01], np.float32)
BLUR = (0.12, 0.76, 0.12)
"""Point spread of the camera along each axis, in pixels."""
LEAF_NIR = 0.62


@dataclass(frozen=True, slots=True)
class Samples:
    """A window of samples: first row and column in the scene, size, and the sample's side."""

    row: int
    column: int
    height: int
    width: int
    side_m: float

    @property
    def transform(self) -> Affine:
        """Samples of the window to town metres."""
        return Affine(
            self.side_m, 0.0, self.column * self.side_m, 0.0, self.side_m, self.row * self.side_m
        )

    @property
    def x(self) -> NDArray[np.float64]:
        """(width,) centres of the columns in town metres."""
        return (self.column + 0.5 + np.arange(self.width, dtype=np.float64)) * self.side_m

    @property
    def y(self) -> NDArray[np.float64]:
        """(height,) centres of the rows in town metres."""
        return (self.row + 0.5 + np.arange(self.height, dtype=np.float64)) * self.side_m

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """x_min, y_min, x_max, y_max in town metres."""
        x, y, side = self.column * self.side_m, self.row * self.side_m, self.side_m
        return x, y, x + self.width * side, y + self.height * side


@dataclass(slots=True)
class Relief:
    """Height above the street in metres and its slope along x and y."""

    height: Plane
    slope_x: Plane
    slope_y: Plane


def paint(town: Town, row: int, column: int, height: int, width: int, gsd_m: float) -> Plane:
    """Paint a window of a town.

    Args:
        town: What there is to see.
        row: First row of the window, in pixels of the scene.
        column: First column of the window.
        height: Rows of the window.
        width: Columns of the window.
        gsd_m: Metres per pixel.

    Returns:
        (4, height, width) red, green, blue and near infrared, 0 to 1 as a display shows them.
    """
    # Shadows come from the lower right, the blur from all sides.
    reach = math.ceil(TALLEST_M / math.tan(SUN_ELEVATION) / gsd_m)
    frame = Samples(
        (row - 1) * SAMPLES,
        (column - 1) * SAMPLES,
        (height + 2 + reach) * SAMPLES,
        (width + 2 + reach) * SAMPLES,
        gsd_m / SAMPLES,
    )
    surfaces, trees = _in_view(town, frame)
    fine, middle, coarse = (_noise(town.seed, frame, wave) for wave in (0.5, 2.5, 14.0))
    numbers = _rasterize(surfaces, frame)
    relief = _shape(surfaces, numbers, frame)
    colour = _colour(surfaces, numbers, frame, fine, 0.6 * middle + 0.4 * coarse)
    for tree in trees:
        _grow(tree, colour, relief, frame, fine, middle)
    view = colour[:, : (height + 2) * SAMPLES, : (width + 2) * SAMPLES]
    view *= _light(relief, frame)[:, : view.shape[1], : view.shape[2]]
    pixels = view.reshape(4, height + 2, SAMPLES, width + 2, SAMPLES).mean(axis=(2, 4))
    pixels = pixels * (1 - HAZE[:, None, None]) + 0.75 * HAZE[:, None, None]
    return _blur(pixels)


def _in_view(town: Town, frame: Samples) -> tuple[list[Surface], list[Tree]]:
    """Surfaces in painting order, and trees, that touch the window."""
    cells = list(town.cells(frame.bounds))
    layers = chain(
        (s for cell in cells for s in cell.streets),
        (s for cell in cells for s in cell.ground),
        (s for cell in cells for building in cell.buildings for s in building.surfaces),
        (s for cell in cells for s in cell.cars),
    )
    surfaces = [s for s in layers if not s.outline.is_empty]
    x0, y0, x1, y1 = frame.bounds
    box = shapely.bounds(np.array([s.outline for s in surfaces], dtype=object))
    seen = (box[:, 0] < x1) & (box[:, 2] > x0) & (box[:, 1] < y1) & (box[:, 3] > y0)
    trees = [
        tree
        for cell in cells
        for tree in cell.trees
        if x0 - tree.radius < tree.x < x1 + tree.radius
        and y0 - tree.radius < tree.y < y1 + tree.radius
    ]
    return [s for s, is_seen in zip(surfaces, seen, strict=True) if is_seen], trees


def _rasterize(surfaces: list[Surface], frame: Samples) -> NDArray[np.int32]:
    """(height, width) number of the uppermost surface at the centre of each sample."""
    numbers: NDArray[np.int32] = rasterize(
        ((s.outline, number) for number, s in enumerate(surfaces)),
        out_shape=(frame.height, frame.width),
        transform=frame.transform,
        dtype=np.int32,
    )
    return numbers


def _shape(surfaces: list[Surface], numbers: NDArray[np.int32], frame: Samples) -> Relief:
    """Heights and slopes of everything but trees."""
    tops = np.array([s.top_m for s in surfaces], np.float32)
    height = tops[numbers]
    relief = Relief(height, np.zeros_like(height), np.zeros_like(height))
    pitched = np.array([bool(s.wings) for s in surfaces])
    rows, columns = np.nonzero(pitched[numbers])
    if not len(rows):
        return relief
    number = numbers[rows, columns]
    x, y = frame.x[columns].astype(np.float32), frame.y[rows].astype(np.float32)
    best = np.zeros((3, len(rows)), np.float32)
    for order in range(max(len(s.wings) for s in surfaces)):
        wings = np.zeros((len(surfaces), 7), np.float32)
        for k, s in enumerate(surfaces):
            if len(s.wings) > order:
                wings[k] = s.wings[order]
        rise = _wing_rise(wings[number].T, x, y)
        best = np.where(rise[0] > best[0], rise, best)
    height[rows, columns] += best[0]
    relief.slope_x[rows, columns], relief.slope_y[rows, columns] = best[1:]
    return relief


def _wing_rise(wings: Plane, x: Plane, y: Plane) -> Plane:
    """(3, n) height over the eaves and slopes along x and y of wings (7, n); 0 beside them."""
    centre_x, centre_y, angle, half_length, half_width, rise, hipped = wings
    cos, sin = np.cos(angle), np.sin(angle)
    u = (x - centre_x) * cos + (y - centre_y) * sin
    v = (y - centre_y) * cos - (x - centre_x) * sin
    pitch = rise / np.maximum(half_width, 0.1)
    to_side, to_end = half_width - np.abs(v), half_length - np.abs(u)
    on_end = (hipped > 0) & (to_end < to_side)
    up = np.where(on_end, to_end, to_side) * pitch
    up[(to_end < 0) | (to_side < 0)] = 0.0
    slope_u = np.where(on_end, -np.sign(u) * pitch, 0.0)
    slope_v = np.where(on_end, 0.0, -np.sign(v) * pitch)
    return np.stack([up, slope_u * cos - slope_v * sin, slope_u * sin + slope_v * cos])


def _colour(
    surfaces: list[Surface],
    numbers: NDArray[np.int32],
    frame: Samples,
    fine: Plane,
    patches: Plane,
) -> Plane:
    """(4, height, width) colour of everything but trees, in full light."""
    looks = [s.material for s in surfaces]
    table = np.array(
        [(*m.colour, *m.stain, m.stained, m.grain, m.stripe_m, m.plants) for m in looks], np.float32
    ).T
    angle = np.array([s.angle for s in surfaces])
    stained, grain, stripe, plants = table[6:]
    # Soft patches: hard ones look like camouflage.
    share = np.clip((patches - 0.5) * 2.4 + (1.3 * stained - 0.35)[numbers], 0, 0.85)
    texture = 1 + (fine - 0.5) * 2 * grain[numbers]
    rows, columns = np.nonzero((stripe > 0)[numbers])
    number = numbers[rows, columns]
    # In turns before rounding to single precision: scenes are longer than stripes by far.
    turns = (frame.y[rows] * np.cos(angle)[number] - frame.x[columns] * np.sin(angle)[number]) / (
        stripe[number]
    )
    wave = np.sin((2 * np.pi * (turns % 1.0)).astype(np.float32))
    texture[rows, columns] *= 1 + 0.07 * wave
    result = np.empty((4, *numbers.shape), np.float32)
    for band in range(3):
        clean, spot = table[band][numbers], table[3 + band][numbers]
        result[band] = (clean + (spot - clean) * share) * texture
    leaves = plants[numbers] * (1 - 0.6 * share)
    result[3] = leaves * LEAF_NIR * texture + (1 - leaves) * (0.1 + 0.8 * result[:3].mean(axis=0))
    return result


def _grow(
    tree: Tree, colour: Plane, relief: Relief, frame: Samples, fine: Plane, middle: Plane
) -> None:
    """Paint a crown: lumpy at its rim, bright towards the sun."""
    size, x0, y0 = frame.side_m, frame.bounds[0], frame.bounds[1]
    first = max(0, int((tree.x - tree.radius - x0) / size))
    top = max(0, int((tree.y - tree.radius - y0) / size))
    last = int((tree.x + tree.radius - x0) / size) + 2
    bottom = int((tree.y + tree.radius - y0) / size) + 2
    patch = np.s_[top:bottom, first:last]
    x = (frame.x[None, first:last] - tree.x).astype(np.float32) / tree.radius
    y = (frame.y[top:bottom, None] - tree.y).astype(np.float32) / tree.radius
    lump = 0.55 * middle[patch] + 0.45 * fine[patch] - 0.5
    dome = 1 - x * x - y * y + 1.1 * lump
    crown = tree.height_m * (0.45 + 0.55 * np.sqrt(np.maximum(dome, 0)))
    inside = (dome > 0.12) & (crown > relief.height[patch])
    if not inside.any():
        return
    light = 0.95 + 0.9 * lump
    for band, value in enumerate((*tree.colour, LEAF_NIR)):
        colour[band][patch][inside] = (value * light)[inside]
    relief.height[patch][inside] = crown[inside]
    relief.slope_x[patch][inside] = (-0.8 * x + 0 * y)[inside]
    relief.slope_y[patch][inside] = (-0.8 * y + 0 * x)[inside]


def _light(relief: Relief, frame: Samples) -> Plane:
    """(4, height, width) share of full light that reaches each sample, by band."""
    toward_x, toward_y = math.sin(SUN_AZIMUTH), -math.cos(SUN_AZIMUTH)
    cot = 1 / math.tan(SUN_ELEVATION)
    tilt = 1 - (relief.slope_x * toward_x + relief.slope_y * toward_y) * cot
    tilt /= np.sqrt(1 + relief.slope_x**2 + relief.slope_y**2)
    shadow_top = _shadow_height(relief.height, toward_x, toward_y, frame.side_m / cot)
    is_lit = shadow_top <= relief.height + 0.12
    lit = np.where(is_lit, np.clip(tilt, 0, 1.5), 0)
    light: Plane = SHADE[:, None, None] + (1 - SHADE[:, None, None]) * lit
    return light


def _shadow_height(height: Plane, toward_x: float, toward_y: float, drop: float) -> Plane:
    """Height below which each sample lies in shadow.

    By doubling: what shades a sample from 2k steps away is what shades, from k steps away, the
    sample k steps towards the sun.

    Args:
        height: Height field in metres.
        toward_x: Direction of the sun along columns, unit length with ``toward_y``.
        toward_y: Direction of the sun along rows.
        drop: Metres by which a ray falls over one sample's side.
    """
    shade = height.copy()
    step = 1
    while step * drop < 2 * TALLEST_M:
        right, down = round(step * toward_x), round(step * toward_y)
        if right >= shade.shape[1] or down >= shade.shape[0]:
            break
        ahead = shade[down:, right:] - step * drop
        view = shade[: shade.shape[0] - down, : shade.shape[1] - right]
        np.maximum(view, ahead, out=view)
        step *= 2
    return shade


def _blur(pixels: Plane) -> Plane:
    """Convolve with `BLUR` along both axes; one pixel is lost on every side."""
    left, middle, right = BLUR
    rows = left * pixels[:, :-2] + middle * pixels[:, 1:-1] + right * pixels[:, 2:]
    blurred: Plane = left * rows[:, :, :-2] + middle * rows[:, :, 1:-1] + right * rows[:, :, 2:]
    return blurred


def _noise(seed: int, frame: Samples, wavelength_m: float) -> Plane:
    """Smooth noise, 0 to 1, of one wavelength: random values on a lattice, interpolated."""
    y, x = frame.y / wavelength_m, frame.x / wavelength_m
    row, column = np.floor(y).astype(np.int64), np.floor(x).astype(np.int64)
    lattice = scatter(
        np.arange(row[0], row[-1] + 2)[:, None],
        np.arange(column[0], column[-1] + 2)[None, :],
        seed + int(1000 * wavelength_m),
    )
    down, right = (_ease(y - row)[:, None], _ease(x - column)[None, :])
    row, column = row - row[0], column - column[0]
    lines = lattice[row] + (lattice[row + 1] - lattice[row]) * down
    start = lines[:, column]
    noise: Plane = start + (lines[:, column + 1] - start) * right
    return noise


def _ease(t: NDArray[np.float64]) -> Plane:
    return (t * t * (3 - 2 * t)).astype(np.float32)


def scatter(rows: NDArray[np.int64], columns: NDArray[np.int64], seed: int) -> Plane:
    """Random numbers, uniform in 0 to 1, that depend on row, column and seed alone.

    A generator would depend on the order in which windows are painted; this is an integer hash.
    """
    bits = np.asarray(rows, np.uint32) * np.uint32(0x9E3779B1)
    bits = bits ^ (np.asarray(columns, np.uint32) * np.uint32(0x85EBCA77))
    bits = bits + np.uint32((seed * 0xC2B2AE3D) & 0xFFFFFFFF)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        bits ^= bits >> np.uint32(shift)
        bits *= np.uint32(factor)
    bits ^= bits >> np.uint32(16)
    return bits.astype(np.float32) / np.float32(2**32)
