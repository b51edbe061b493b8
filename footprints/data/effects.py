"""What stands between ground and pixels: haze, shadows of clouds, JPEG, a band that failed.

Each changes pixels in place of nothing else, in units of the training imagery's value range: 0 is
its usual darkest value and 1 its brightest. Where it is strong and where weak is a smooth field.

Shapes: (bands, height, width).
"""

from __future__ import annotations

import io

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL.Image import fromarray
from PIL.Image import open as open_picture

Image = NDArray[np.float32]

HAZE = (0.1, 0.5)
"""Share of the light that haze adds where it is thickest."""
HAZE_COLOUR = (0.75, 1.0)
"""How bright haze is."""
SHADOW = (0.35, 0.75)
"""Share of the light that is left in a shadow."""
SHADOWED_SHARE = (0.1, 0.5)
"""Share of a chip that lies in shadow."""
SHADOW_EDGE = 12.0
"""How steeply a shadow sets in, over the range of the smooth field."""
QUALITY = (30, 85)
"""JPEG quality: much imagery of open archives was compressed so before it came to its user."""
_CELLS = 4
"""Of a smooth field along each side."""


def add_haze(image: Image, rng: np.random.Generator) -> Image:
    """Mix in a bright veil that is thicker here and thinner there."""
    thick = np.float32(rng.uniform(*HAZE)) * smooth_field(image.shape[1:], rng)
    light = np.float32(rng.uniform(*HAZE_COLOUR))
    hazy: Image = image + thick * (light - image)
    return hazy


def cast_shadow(image: Image, rng: np.random.Generator) -> Image:
    """Darken a part of the chip as a cloud does, with soft edges."""
    field = smooth_field(image.shape[1:], rng)
    edge = np.quantile(field, 1 - rng.uniform(*SHADOWED_SHARE))
    depth = 1 / (1 + np.exp(-SHADOW_EDGE * (field - np.float32(edge))))
    shadowed: Image = image * (1 - np.float32(1 - rng.uniform(*SHADOW)) * depth)
    return shadowed


def drop_band(image: Image, rng: np.random.Generator) -> Image:
    """One band shows the middle of the range everywhere; a single band is left as it is."""
    number = int(rng.integers(len(image)))
    if len(image) == 1:
        return image
    dropped = image.copy()
    dropped[number] = 0.5
    return dropped


def compress(pixels: Image, rng: np.random.Generator) -> Image:
    """Send pixels from 0 to 255 through JPEG: three bands as colours, others one by one."""
    quality = int(rng.integers(QUALITY[0], QUALITY[1] + 1))
    stored = np.moveaxis(pixels.round().clip(0, 255).astype(np.uint8), 0, -1)
    parts = [stored] if stored.shape[2] == 3 else np.moveaxis(stored, -1, 0)
    seen = []
    for part in parts:
        file = io.BytesIO()
        fromarray(np.ascontiguousarray(part)).save(file, "JPEG", quality=quality)
        seen.append(np.atleast_3d(np.asarray(open_picture(file))))
    compressed = np.concatenate(seen, axis=2).astype(np.float32)
    return np.ascontiguousarray(np.moveaxis(compressed, -1, 0))


def smooth_field(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float32]:
    """(height, width) values from 0 to 1 that change slowly: coarse noise, bicubic in between."""
    coarse = torch.from_numpy(rng.random((1, 1, _CELLS, _CELLS), dtype=np.float32))
    field: NDArray[np.float32] = F.interpolate(coarse, shape, mode="bicubic", align_corners=True)[
        0, 0
    ].numpy()
    return field.clip(0, 1)
