"""Augmentation: what a chip shows may turn and change colour, never its buildings' truth.

Geometry is an affine that moves pixels and polygons alike, so that targets are rasterised after
augmentation and never resampled; pixels are only where a chip is tilted. Colour is one linear map
over the bands, a gamma, a slight blur and noise, in units of the training imagery's value range;
`footprints.data.effects` has what befalls imagery besides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from affine import Affine
from numpy.typing import NDArray

from footprints.data.effects import add_haze, cast_shadow, compress, drop_band

Range = tuple[float, float]
T = TypeVar("T", bound=np.generic)


_BYTE = (0.0, 255.0)
"""Limits of 8-bit pixels."""
_EFFECTS = ("hazy", "shadowed", "band_dropped", "compressed")


class Orientation(NamedTuple):
    """A mirror image and quarter turns: one of the eight symmetries of the square."""

    turns: int
    """Quarter turns counter-clockwise, after mirroring."""
    mirrored: bool
    """Left and right swapped."""

    @property
    def swaps_sides(self) -> bool:
        """Whether height and width change places."""
        return self.turns % 2 == 1

    def turn_pixels(self, pixels: NDArray[T]) -> NDArray[T]:
        """Turn (..., height, width) pixels; a view of the input."""
        if self.mirrored:
            pixels = pixels[..., ::-1]
        return np.rot90(pixels, self.turns, axes=(-2, -1))

    def affine(self, height: float, width: float) -> Affine:
        """The same for points in pixels of an image of the given size before the turn."""
        transform = Affine(-1, 0, width, 0, 1, 0) if self.mirrored else Affine.identity()
        for _ in range(self.turns % 4):
            transform = Affine(0, 1, 0, -1, 0, width) @ transform
            height, width = width, height
        return transform


UPRIGHT = Orientation(0, mirrored=False)


class Tilt(NamedTuple):
    """A turn by any angle about the centre, for the middle of a larger image to be shown."""

    degrees: float
    """Clockwise as seen on the chip, where y goes down."""

    def shape_under(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the upright image that covers (height, width) pixels tilted."""
        angle = np.deg2rad(self.degrees)
        cos, sin = abs(np.cos(angle)), abs(np.sin(angle))
        # Rounding first: a tilt of nothing, or of a quarter, needs no pixel more.
        return (
            int(np.ceil(np.round(height * cos + width * sin, 6))),
            int(np.ceil(np.round(width * cos + height * sin, 6))),
        )

    def affine(self, height: int, width: int) -> Affine:
        """From pixels of the image under a tilted one of (height, width) to that one's."""
        under = self.shape_under(height, width)
        return (
            Affine.translation(width / 2, height / 2)
            @ Affine.rotation(self.degrees)
            @ Affine.translation(-under[1] / 2, -under[0] / 2)
        )

    def pixels(self, image: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
        """Tilt (bands, *shape_under) to (bands, height, width); bilinear, 0 beyond the image."""
        if not self.degrees:
            return image
        back = ~self.affine(height, width)
        size = np.array(image.shape[:0:-1])
        y, x = np.mgrid[0:height, 0:width] + 0.5
        points = np.stack([back.a * x + back.b * y + back.c, back.d * x + back.e * y + back.f], -1)
        grid = torch.from_numpy((2 * points / size - 1).astype(np.float32))
        tilted: NDArray[np.float32] = F.grid_sample(
            torch.from_numpy(image).unsqueeze(0), grid.unsqueeze(0), align_corners=False
        )[0].numpy()
        return tilted


LEVEL = Tilt(0.0)


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How far training chips differ from the imagery. The default is for vertical RGB imagery."""

    scale: Range = (0.7, 1.4)
    """Ground resolution relative to the target, drawn evenly on a logarithmic scale."""
    turn: bool = True
    """Mirror images and quarter turns: from above, no direction is up."""
    tilted: float = 0.5
    """Share of cuts turned by any angle, where the image has room for it."""
    brightness: float = 0.12
    """Largest shift of all bands, as a share of the value range."""
    contrast: float = 0.25
    """Largest change of the spread around the chip's mean, as a share."""
    saturation: float = 0.3
    """Largest change of the bands' distance from their mean, as a share."""
    hue: float = 0.06
    """Largest turn about the grey axis, as a share of a full turn; three bands only."""
    band_gain: float = 0.06
    """Largest change of each band by itself, as a share."""
    gamma: float = 0.25
    """Largest exponent, as a share above 1, or one over it."""
    thinned: float = 0.25
    """Share of cuts of finer imagery for which the nearest pixels are taken, not averages."""
    blur: float = 0.2
    """Share of chips that are slightly blurred."""
    sharpen: float = 0.3
    """Share of the other chips that are sharpened."""
    noise: float = 0.02
    """Largest standard deviation of noise, as a share of the value range."""
    noisy: float = 0.3
    """Share of chips with noise."""
    hazy: float = 0.0
    """Share of chips seen through haze."""
    shadowed: float = 0.0
    """Share of chips on a part of which a cloud's shadow lies."""
    band_dropped: float = 0.0
    """Share of chips of which one band, if there are several, shows nothing: for sensors whose
    bands differ from scene to scene."""
    compressed: float = 0.0
    """Share of chips that went through JPEG; 8-bit imagery only."""
    pasted: float = 0.0
    """Share of chips onto which buildings of another place are pasted, over what stands there."""

    def with_colour(self, strength: float) -> Augmentation:
        """The same, with all changes of colour and sharpness this many times as strong."""
        shares = ("thinned", "blur", "sharpen", "noisy", *_EFFECTS)
        bounds = ("brightness", "contrast", "saturation", "hue", "band_gain", "gamma", "noise")
        return replace(
            self,
            **{name: min(strength * getattr(self, name), 1.0) for name in shares},
            **{name: strength * getattr(self, name) for name in bounds},
        )

    def draw_scale(self, rng: np.random.Generator) -> float:
        """Ground resolution of a cut relative to the target."""
        low, high = np.log(self.scale)
        return float(np.exp(rng.uniform(low, high)))

    def draw_orientation(self, rng: np.random.Generator) -> Orientation:
        """One of the eight orientations, or none."""
        if not self.turn:
            return UPRIGHT
        return Orientation(int(rng.integers(4)), mirrored=bool(rng.integers(2)))

    def draw_tilt(self, rng: np.random.Generator) -> Tilt:
        """Less than half a quarter turn either way, or none."""
        if rng.random() >= self.tilted:
            return LEVEL
        return Tilt(float(rng.uniform(-45, 45)))

    def draw_pasted(self, rng: np.random.Generator) -> bool:
        """Whether buildings of another place are pasted."""
        return _happens(self.pasted, rng)

    def draw_thinned(self, rng: np.random.Generator) -> bool:
        """Whether a cut of finer imagery is thinned out."""
        return bool(rng.random() < self.thinned)


def _happens(share: float, rng: np.random.Generator) -> bool:
    """Whether what befalls a share of the chips befalls this one.

    What is off draws nothing: chips are what they were before there was such a thing.
    """
    return share > 0 and bool(rng.random() < share)


def jitter_colours(
    pixels: NDArray[np.float32],
    valid: NDArray[np.bool_],
    augmentation: Augmentation,
    rng: np.random.Generator,
    *,
    value_range: Sequence[Range],
    limits: Range | None,
) -> NDArray[np.float32]:
    """Change colours as weather, season, time of day and sensors do.

    Args:
        pixels: (bands, height, width).
        valid: (height, width), True where there is data; the rest stays 0.
        augmentation: How far.
        rng: Where chance comes from.
        value_range: Usual darkest and brightest value by band, or one for all bands.
        limits: Values that the pixel type can hold; None: any.

    Returns:
        (bands, height, width) in the units of the input.
    """
    bands, height, width = pixels.shape
    low, high = np.broadcast_to(np.asarray(value_range, np.float32), (bands, 2)).T
    # A band of one value has no range to change in.
    span = np.where(high > low, high - low, np.float32(1))
    flat = (pixels.reshape(bands, -1) - low[:, None]) / span[:, None]
    mean = flat[:, valid.ravel()].mean(axis=1) if valid.any() else np.full(bands, 0.5)
    matrix, offset = _colour_map(mean, augmentation, rng)
    flat = matrix @ flat + offset[:, None]
    exponent = (1 + augmentation.gamma) ** rng.uniform(-1, 1)
    np.power(np.maximum(flat, 0, out=flat), np.float32(exponent), out=flat)
    image = flat.reshape(bands, height, width)
    if _happens(augmentation.hazy, rng):
        image = add_haze(image, rng)
    if _happens(augmentation.shadowed, rng):
        image = cast_shadow(image, rng)
    if rng.random() < augmentation.blur:
        image = _weigh_neighbours(image, np.float32(rng.uniform(0.05, 0.25)))
    elif rng.random() < augmentation.sharpen:
        image = _weigh_neighbours(image, -np.float32(rng.uniform(0.05, 0.35)))
    if rng.random() < augmentation.noisy:
        deviation = np.float32(rng.uniform(0, augmentation.noise))
        image = image + deviation * rng.standard_normal(image.shape, dtype=np.float32)
    if _happens(augmentation.band_dropped, rng):
        image = drop_band(image, rng)
    changed: NDArray[np.float32] = image * span[:, None, None] + low[:, None, None]
    if limits is not None:
        np.clip(changed, *limits, out=changed)
    if limits == _BYTE and _happens(augmentation.compressed, rng):
        changed = compress(changed, rng)
    changed *= valid
    return changed


def _colour_map(
    mean: NDArray[np.floating], augmentation: Augmentation, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Brightness, contrast, saturation, hue and gain as one (bands, bands) matrix and offset."""
    bands = len(mean)
    saturation = 1 + augmentation.saturation * rng.uniform(-1, 1)
    grey = np.full((bands, bands), 1 / bands)
    matrix = saturation * np.eye(bands) + (1 - saturation) * grey
    angle = 2 * np.pi * augmentation.hue * rng.uniform(-1, 1)
    if bands == 3:
        matrix = _turn_about_grey(angle) @ matrix
    gain = 1 + augmentation.band_gain * rng.uniform(-1, 1, bands)
    contrast = 1 + augmentation.contrast * rng.uniform(-1, 1)
    matrix = contrast * gain[:, None] * matrix
    # The mean grey stays where it is while the spread changes.
    offset = (1 - contrast) * mean.mean() + augmentation.brightness * rng.uniform(-1, 1)
    return matrix.astype(np.float32), np.full(bands, offset, dtype=np.float32)


def _turn_about_grey(angle: float) -> NDArray[np.float64]:
    """Rotation of RGB about (1, 1, 1), which leaves grey as it is (Rodrigues' formula)."""
    axis = np.full(3, 1 / np.sqrt(3))
    cross = np.cross(axis, np.eye(3)).T
    outer = np.outer(axis, axis)
    turned: NDArray[np.float64] = (
        np.cos(angle) * np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * outer
    )
    return turned


def _weigh_neighbours(image: NDArray[np.float32], side: np.float32) -> NDArray[np.float32]:
    """Weigh each pixel with its neighbours, ``side`` for each, along both axes.

    Above 0 that blurs, below it sharpens.
    """
    for axis in (1, 2):
        padded = np.pad(image, [(int(a == axis),) * 2 for a in range(3)], mode="edge")
        size = image.shape[axis]
        before, after = (np.take(padded, range(i, i + size), axis=axis) for i in (0, 2))
        image = (1 - 2 * side) * image + side * (before + after)
    return image
