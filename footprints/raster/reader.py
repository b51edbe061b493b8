"""From a scene to the chips that a detector wants: its ground resolution or size, its scaling."""

from __future__ import annotations

from dataclasses import dataclass

from affine import Affine

from footprints.chip import Chip, Scaling, Window
from footprints.errors import RasterError
from footprints.raster.source import Scene

# A scene whose ground resolution is this near to the one wanted is read as it is: a network does
# not notice, and resampling would blur.
_CLOSE_ENOUGH = 0.05
# Enlarging further shows a detector nothing but blur, and means that a georeference is wrong.
_MAX_ENLARGEMENT = 10


@dataclass(frozen=True, slots=True, eq=False)
class SceneGrid:
    """A scene seen at another resolution: its grid pixels are resampled raster pixels.

    The grid covers the raster exactly: there is a whole number of grid pixels along each axis,
    and one factor per axis for the whole scene.
    """

    scene: Scene
    """The raster."""
    width: int
    """Columns, in grid pixels."""
    height: int
    """Rows, in grid pixels."""

    @property
    def factor(self) -> tuple[float, float]:
        """Raster pixels per grid pixel along x and y."""
        return self.scene.width / self.width, self.scene.height / self.height

    @property
    def transform(self) -> Affine:
        """Grid pixels to CRS units."""
        return self.scene.transform @ Affine.scale(*self.factor)

    def on_raster(self, window: Window) -> Window:
        """A window of grid pixels in raster pixels."""
        x_factor, y_factor = self.factor
        return Window(
            window.x * x_factor,
            window.y * y_factor,
            window.width * x_factor,
            window.height * y_factor,
        )


def resample_scene(scene: Scene, gsd_m: float | None) -> SceneGrid:
    """See a scene at a ground resolution.

    A scene within 5% of it on both axes is left as it is, pixel by pixel; so is a scene in plain
    pixel coordinates, whose ground resolution nobody knows.

    Args:
        scene: The raster.
        gsd_m: Metres per pixel wanted; None = the scene's own.

    Raises:
        RasterError: The scene's pixels are more than ten times too coarse.
    """
    own = scene.gsd_m()
    if gsd_m is None or own is None:
        return SceneGrid(scene, scene.width, scene.height)
    shrink_x, shrink_y = gsd_m / own[0], gsd_m / own[1]
    if max(abs(shrink_x - 1), abs(shrink_y - 1)) <= _CLOSE_ENOUGH:
        return SceneGrid(scene, scene.width, scene.height)
    if min(shrink_x, shrink_y) < 1 / _MAX_ENLARGEMENT:
        raise RasterError(
            f"{scene.name} has pixels of {max(own):.3g} m on the ground, too coarse for a "
            f"detector that works at {gsd_m:.3g} m (at most {_MAX_ENLARGEMENT} times that); if "
            "this is not so, its georeference is wrong: --crs gives the right one"
        )
    return SceneGrid(
        scene,
        max(1, round(scene.width / shrink_x)),
        max(1, round(scene.height / shrink_y)),
    )


def resize_picture(scene: Scene, short_side: int, long_side: int | None) -> SceneGrid:
    """See a whole scene at a size in pixels, whatever it shows of the ground.

    There is no range within which a picture is left as it is, and no largest factor: networks of
    photographs were trained on this very size, thumbnails included.

    Args:
        scene: The raster.
        short_side: Pixels along the shorter side.
        long_side: Most pixels along the longer side; goes before ``short_side``. None = any.
    """
    factor = short_side / min(scene.width, scene.height)
    if long_side is not None:
        factor = min(factor, long_side / max(scene.width, scene.height))
    return SceneGrid(
        scene,
        width=max(1, round(scene.width * factor)),
        height=max(1, round(scene.height * factor)),
    )


def read_chip(grid: SceneGrid, window: Window, scaling: Scaling) -> Chip:
    """Read one chip.

    Neighbouring chips agree to the grey level where they overlap.

    Args:
        grid: The scene at the detector's resolution.
        window: Place of the chip in whole grid pixels; may reach beyond the grid.
        scaling: Pixel values to network input, for the chip to carry.

    Raises:
        RasterError: The pixels cannot be read.
    """
    on_raster = grid.on_raster(window)
    pixels, valid = grid.scene.read(on_raster, (int(window.height), int(window.width)))
    return Chip(
        pixels=pixels,
        valid=valid,
        scaling=scaling,
        window=on_raster,
        transform=grid.transform @ Affine.translation(window.x, window.y),
        crs=grid.scene.crs,
        source=grid.scene.name,
    )
