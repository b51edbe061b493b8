"""Training and validation chips, cut on the fly.

A training chip is one cut, or, where the images are smaller than a chip, a square of cuts from
several images, so that the network never spends its time on black pixels. Chip number i of a run
depends on the seed and on i alone: a resumed run goes on with the chips it would have seen.

Shapes: N samples in a batch, S chip side, n buildings on a chip, M mask side.
"""

from __future__ import annotations

import itertools
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import shapely
import torch
from affine import Affine
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from footprints.chip import Window
from footprints.data.augment import LEVEL, Augmentation, Range, Tilt, jitter_colours
from footprints.data.labels import LEFT_OUT, LabelledImage, window_box
from footprints.data.pasting import paste
from footprints.data.split import Block, TrainingImage
from footprints.data.targets import (
    Cut,
    Sample,
    finish_sample,
    lay_out,
    make_sample,
    tile_window,
)
from footprints.errors import TrainingError
from footprints.model.processes import rank_and_count
from footprints.raster.source import Scene
from footprints.vector.affine import apply_affine

ATTEMPTS = 32
"""Windows drawn anywhere in search of buildings, before they are drawn around known ones."""
MAX_ATTEMPTS = 1000
"""Windows drawn in search of ground that is free, before there is none."""
DEFAULT_AUGMENTATION = Augmentation()


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Samples as tensors: images stacked, instances in one tensor per image."""

    pixels: Tensor
    """(N, bands, S, S) float32."""
    valid: Tensor
    """(N, S, S) bool."""
    labelled: Tensor
    """(N, S, S) bool."""
    boxes: list[Tensor]
    """N of (n, 4) float32."""
    labels: list[Tensor]
    """N of (n,) int64."""
    masks: list[Tensor]
    """N of (n, M, M) uint8."""
    mask_boxes: list[Tensor]
    """N of (n, 4) float32."""
    keypoints: list[Tensor]
    """N of (n, 4, 3) float32."""
    origins: tuple[str, ...]
    """N descriptions of where they were cut from."""

    def __len__(self) -> int:
        return len(self.pixels)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """The same batch on another device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory, for quick transfers to a GPU."""
        return self._map(torch.Tensor.pin_memory)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        return Batch(
            pixels=change(self.pixels),
            valid=change(self.valid),
            labelled=change(self.labelled),
            boxes=[change(tensor) for tensor in self.boxes],
            labels=[change(tensor) for tensor in self.labels],
            masks=[change(tensor) for tensor in self.masks],
            mask_boxes=[change(tensor) for tensor in self.mask_boxes],
            keypoints=[change(tensor) for tensor in self.keypoints],
            origins=self.origins,
        )


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples; smaller ones are padded right and below with invalid, unlabelled ground."""
    height = max(sample.pixels.shape[1] for sample in samples)
    width = max(sample.pixels.shape[2] for sample in samples)

    def stacked(arrays: list[NDArray[np.generic]]) -> Tensor:
        stack = np.zeros((len(arrays), *arrays[0].shape[:-2], height, width), arrays[0].dtype)
        for array, place in zip(arrays, stack, strict=True):
            place[..., : array.shape[-2], : array.shape[-1]] = array
        return torch.from_numpy(stack)

    return Batch(
        pixels=stacked([sample.pixels for sample in samples]),
        valid=stacked([sample.valid for sample in samples]),
        labelled=stacked([sample.labelled for sample in samples]),
        boxes=[torch.from_numpy(sample.boxes) for sample in samples],
        labels=[torch.from_numpy(sample.labels) for sample in samples],
        masks=[torch.from_numpy(sample.masks) for sample in samples],
        mask_boxes=[torch.from_numpy(sample.mask_boxes) for sample in samples],
        keypoints=[torch.from_numpy(sample.keypoints) for sample in samples],
        origins=tuple(sample.origin for sample in samples),
    )


class ImageReader:
    """Reads windows of images and keeps the rasters it read last open, in each process its own."""

    def __init__(self, keep_open: int = 256) -> None:
        self._keep_open = keep_open
        self._open: OrderedDict[str, Scene] = OrderedDict()
        self._process = os.getpid()

    def __getstate__(self) -> dict[str, object]:
        return {"_keep_open": self._keep_open, "_open": OrderedDict(), "_process": os.getpid()}

    def __call__(
        self, image: LabelledImage, window: Window, shape: tuple[int, int]
    ) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """Read a window in raster pixels to (bands, height, width) pixels and their validity."""
        return self._scene(image).read(window, shape)

    def _scene(self, image: LabelledImage) -> Scene:
        if self._process != os.getpid():
            # GDAL's handles do not survive a fork.
            self._open, self._process = OrderedDict(), os.getpid()
        if image.path not in self._open:
            if len(self._open) >= self._keep_open:
                self._open.popitem(last=False)[1].close()
            self._open[image.path] = image.open()
        self._open.move_to_end(image.path)
        return self._open[image.path]


@dataclass(frozen=True, slots=True, eq=False)
class TrainingSource:
    """Images of one scene, from which chips are drawn."""

    images: Sequence[TrainingImage]
    weight: float = 1.0
    """How often its ground is shown, relative to ground of weight 1."""


class TrainingChips(Dataset[Sample]):
    """Augmented chips at random places of the training ground.

    Indices go on beyond the length: ``index // len`` is the epoch. `EpochSampler` deals them out.
    """

    def __init__(
        self,
        sources: Sequence[TrainingSource],
        *,
        chip_size: int,
        gsd_m: float | None,
        length: int,
        seed: int = 0,
        augmentation: Augmentation = DEFAULT_AUGMENTATION,
        empty_share: float = 0.1,
        value_range: Sequence[Range] = ((0.0, 255.0),),
    ) -> None:
        """Prepare to draw chips.

        Args:
            sources: Where from.
            chip_size: Side of a chip in pixels.
            gsd_m: Metres per chip pixel; None: every image at its own.
            length: Chips in an epoch.
            seed: Chooses places and augmentation, with the index.
            augmentation: How far chips differ from the imagery.
            empty_share: Share of cuts drawn anywhere, with buildings or without as it comes; the
                others show a building at least.
            value_range: Usual darkest and brightest pixel value by band, or one for all bands.

        Raises:
            TrainingError: No ground is left for training, or the band counts differ.
        """
        self.sources = [source for source in sources if source.images]
        _check_sources(self.sources)
        self.chip_size = chip_size
        self.gsd_m = gsd_m
        self.length = length
        self.seed = seed
        self.augmentation = augmentation
        self.empty_share = empty_share
        self.value_range = value_range
        self._read = ImageReader()
        grounds = [
            np.array([_ground(t.image, gsd_m) for t in source.images]) for source in self.sources
        ]
        self._image_chances = [ground / ground.sum() for ground in grounds]
        shares = np.array([s.weight * g.sum() for s, g in zip(self.sources, grounds, strict=True)])
        self._source_chances = shares / shares.sum()
        self._cells = [_cells_per_side(s.images, chip_size, gsd_m) for s in self.sources]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        """Chip ``index % len`` of epoch ``index // len``."""
        rng = np.random.default_rng((self.seed, *divmod(index, self.length)))
        number = int(rng.choice(len(self.sources), p=self._source_chances))
        cuts = self._draw_cuts(number, rng)
        shown = lay_out(cuts, self._read, self.chip_size, self.chip_size)
        if self.augmentation.draw_pasted(rng):
            other = int(rng.choice(len(self.sources), p=self._source_chances))
            donor = self._draw_cuts(other, rng)
            donated = lay_out(donor, self._read, self.chip_size, self.chip_size)
            shown = paste(shown, donated, rng)
        sample = finish_sample(shown)
        pixels = jitter_colours(
            sample.pixels,
            sample.valid,
            self.augmentation,
            rng,
            value_range=self.value_range,
            limits=_limits(cuts[0].image.dtype),
        )
        return replace(sample, pixels=pixels)

    def _draw_cuts(self, number: int, rng: np.random.Generator) -> list[Cut]:
        """Fill a chip from one source: a square of cuts."""
        edges = np.linspace(0, self.chip_size, self._cells[number] + 1).round().astype(int).tolist()
        spans = list(itertools.pairwise(edges))
        return [
            self._draw_cut(number, (y0, x0, y1 - y0, x1 - x0), rng)
            for y0, y1 in spans
            for x0, x1 in spans
        ]

    def _draw_cut(
        self, number: int, cell: tuple[int, int, int, int], rng: np.random.Generator
    ) -> Cut:
        """One cut of a source for a cell (y, x, height, width) of the chip."""
        y, x, height, width = cell
        orientation = self.augmentation.draw_orientation(rng)
        if orientation.swaps_sides:
            height, width = width, height
        thinned = self.augmentation.draw_thinned(rng)
        image, window, tilt = self._draw_window(number, height, width, rng)
        return Cut(image, window, height, width, orientation, x, y, tilt, thinned)

    def _draw_window(
        self, number: int, height: int, width: int, rng: np.random.Generator
    ) -> tuple[LabelledImage, Window, Tilt]:
        """A window for (height, width) chip pixels, tilted or not, on free ground of a source."""
        images, chances = self.sources[number].images, self._image_chances[number]
        anywhere = rng.random() < self.empty_share
        wanted_tilt = self.augmentation.draw_tilt(rng)
        fallback: tuple[LabelledImage, Window, Tilt] | None = None
        for attempt in range(MAX_ATTEMPTS):
            place = images[int(rng.choice(len(images), p=chances))]
            image, tilt = place.image, wanted_tilt
            scale = self.augmentation.draw_scale(rng)
            window = _size_window(image, self.gsd_m, scale, tilt.shape_under(height, width))
            if window.width > image.width or window.height > image.height:
                tilt, window = LEVEL, _size_window(image, self.gsd_m, scale, (height, width))
            if anywhere or attempt < ATTEMPTS:
                window = _put_anywhere(window, image, rng)
            else:
                window = _put_on_building(window, image, rng)
            if place.is_free(window) and _has_labels(image, window):
                if anywhere or image.has_buildings(_shown(window, tilt, height, width)):
                    return image, window, tilt
                fallback = fallback or (image, window, tilt)
            if fallback is not None and attempt >= 2 * ATTEMPTS:
                return fallback
        raise TrainingError(
            f"no room for training chips of {self.chip_size} px in {images[0].image.path} beside "
            f"the held-out ground; hold out less or use a smaller chip size"
        )


class ValidationChips(Dataset[Sample]):
    """Chips that tile held-out blocks, without augmentation."""

    def __init__(
        self,
        blocks: Sequence[Block],
        *,
        chip_size: int,
        gsd_m: float | None,
        multiple: int = 32,
    ) -> None:
        """Lay out the chips.

        Args:
            blocks: Held-out ground; no chip shows anything beside it.
            chip_size: Largest side of a chip in pixels.
            gsd_m: Metres per chip pixel; None: every image at its own.
            multiple: Chips of smaller blocks are filled up to a multiple of this with invalid
                pixels.
        """
        cuts = [cut for block in blocks for cut in tile_window(*block, chip_size, gsd_m)]
        self.cuts = [cut for cut in cuts if cut.image.is_labelled(cut.window)]
        self._multiple = multiple
        self._read = ImageReader()

    def __len__(self) -> int:
        return len(self.cuts)

    def __getitem__(self, index: int) -> Sample:
        cut = self.cuts[index]
        height, width = (-(-side // self._multiple) * self._multiple for side in cut[2:4])
        return make_sample([cut], self._read, height, width)


class EpochSampler(Sampler[int]):
    """Deals out the chips of the epoch at hand, so that no two epochs show the same.

    Several processes take turns; a rest that does not go round is left out.
    """

    def __init__(self, chips: TrainingChips) -> None:
        self._length = len(chips)
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Go to an epoch, counted from 0; Lightning does so at each start."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._length // rank_and_count()[1]

    def __iter__(self) -> Iterator[int]:
        rank, count = rank_and_count()
        first = self._epoch * self._length
        return iter(range(first + rank, first + len(self) * count, count))


class ShareSampler(Sampler[int]):
    """Deals out each chip once, to several processes in turns.

    They get equally many, or one would wait for another: the first chips fill up the last turn.
    """

    def __init__(self, chips: ValidationChips) -> None:
        self._length = len(chips)

    def __len__(self) -> int:
        return -(-self._length // rank_and_count()[1])

    def __iter__(self) -> Iterator[int]:
        rank, count = rank_and_count()
        return iter([(turn * count + rank) % self._length for turn in range(len(self))])


def _check_sources(sources: Sequence[TrainingSource]) -> None:
    if not sources:
        raise TrainingError("all ground is held out; leave some for training")
    check_bands([t.image for source in sources for t in source.images])


def check_bands(images: Sequence[LabelledImage]) -> None:
    """Raise TrainingError, with the counts, where images differ in their number of bands."""
    counts = {image.count: image.path for image in images}
    if len(counts) > 1:
        named = ", ".join(f"{count} ({path})" for count, path in counts.items())
        raise TrainingError(f"images differ in their number of bands: {named}; choose with bands")


def _ground(image: LabelledImage, gsd_m: float | None) -> float:
    """The image's area in chip pixels."""
    scale_x, scale_y = image.scale(gsd_m)
    return image.width * image.height / (scale_x * scale_y)


def _cells_per_side(images: Sequence[TrainingImage], chip_size: int, gsd_m: float | None) -> int:
    """How many images side by side fill a chip; an eighth of the side may stay empty."""
    side = float(np.median([_ground(t.image, gsd_m) for t in images])) ** 0.5
    return max(1, int(np.ceil(chip_size / side - 1 / 8)))


def _size_window(
    image: LabelledImage, gsd_m: float | None, scale: float, shape: tuple[int, int]
) -> Window:
    """The window at the image's corner that ``shape`` chip pixels show."""
    scale_x, scale_y = image.scale(gsd_m)
    return Window(0, 0, shape[1] * scale_x * scale, shape[0] * scale_y * scale)


def _shown(window: Window, tilt: Tilt, height: int, width: int) -> shapely.Polygon:
    """The ground, in raster pixels, that a tilted (height, width) in a window shows."""
    rows, columns = tilt.shape_under(height, width)
    to_raster = (
        Affine.translation(window.x, window.y)
        @ Affine.scale(window.width / columns, window.height / rows)
        @ ~tilt.affine(height, width)
    )
    return apply_affine(np.array([shapely.box(0, 0, width, height)]), to_raster)[0]


def _put_anywhere(window: Window, image: LabelledImage, rng: np.random.Generator) -> Window:
    """Move a window to a random place on an image, or around the image if that is smaller.

    Where labels are complete in areas only, its centre is drawn around those: most of the image
    may be without labels.
    """
    if image.aoi is not None and not image.aoi.is_empty:
        x_min, y_min, x_max, y_max = image.aoi.bounds
        x, y = rng.uniform(x_min, x_max), rng.uniform(y_min, y_max)
        return _put_inside(window, image, x - window.width / 2, y - window.height / 2)
    room_x, room_y = image.width - window.width, image.height - window.height
    x = rng.uniform(min(room_x, 0.0), max(room_x, 0.0))
    y = rng.uniform(min(room_y, 0.0), max(room_y, 0.0))
    return window._replace(x=x, y=y)


def _put_on_building(window: Window, image: LabelledImage, rng: np.random.Generator) -> Window:
    """Move a window to a place that shows a random building of an image, if it has any."""
    buildings = np.flatnonzero(image.labels != LEFT_OUT)
    if len(buildings) == 0:
        return _put_anywhere(window, image, rng)
    x_min, y_min, x_max, y_max = image.polygons[buildings[rng.integers(len(buildings))]].bounds
    x = (x_min + x_max) / 2 - rng.uniform() * window.width
    y = (y_min + y_max) / 2 - rng.uniform() * window.height
    return _put_inside(window, image, x, y)


def _put_inside(window: Window, image: LabelledImage, x: float, y: float) -> Window:
    """Move a window to a place, or from there onto the image; around it if that is smaller."""
    room_x, room_y = image.width - window.width, image.height - window.height
    x = min(max(x, min(room_x, 0.0)), max(room_x, 0.0))
    y = min(max(y, min(room_y, 0.0)), max(room_y, 0.0))
    return window._replace(x=x, y=y)


def _has_labels(image: LabelledImage, window: Window) -> bool:
    """Whether labels are complete at the centre of a window, or it shows half of where they are.

    The second is for a few labels in one place, smaller than a window or at the raster's edge.
    """
    if image.aoi is None:
        return True
    x, y = window.x + window.width / 2, window.y + window.height / 2
    if shapely.intersects_xy(image.aoi, x, y):
        return True
    shown = shapely.intersection(image.aoi, window_box(window)).area
    return bool(shown > 0.5 * image.aoi.area)


def _limits(dtype: str) -> Range | None:
    """Least and greatest value of a pixel type; None for floating point."""
    if not np.issubdtype(dtype, np.integer):
        return None
    info = np.iinfo(dtype)
    return float(info.min), float(info.max)
