"""A detector made of known buildings: perfect, or bad in a way that is known.

It sees what a chip shows through `Chip.transform` alone, so it works at any chip size, overlap,
offset and resolution. Each building is clipped at its chip and at the chip's data, rasterised into
a grid over its own box, and given a jittered box, as a network would.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import shapes

from footprints.chip import Chip, ChipGrid, InputSpec, Instances, MaskGroup, Scaling, Window
from footprints.data.targets import find_corners
from footprints.vector.coverage import rasterize_coverage
from footprints.vector.outlines import Outlines
from footprints.vector.trace import trace

SIDES = (28, 56, 112, 224, 448, 896)
MIN_SEEN_PX = 1.0
"""Less of a building than this many square pixels is not detected."""


@dataclass(frozen=True, eq=False)
class Seen:
    """What a chip shows of the buildings, in chip pixels, before it is rasterised."""

    polygons: NDArray[np.object_]
    """(n,) visible ground."""
    scores: NDArray[np.float64]
    """(n,)"""
    building: NDArray[np.int64]
    """(n,) index of the building, -1 for what is none."""
    labels: NDArray[np.int64]
    """(n,) class."""
    chip: shapely.Polygon
    """The chip's ground."""
    place: tuple[int, int]
    """Where the chip lies on the ground: a seed."""
    to_chip: list[float]
    """Affine matrix from CRS units to chip pixels, as shapely wants it."""

    def rng(self, instance: int) -> np.random.Generator:
        """Randomness that depends on the building and on the chip it is seen in."""
        return np.random.default_rng([*self.place, int(self.building[instance]) + 1])

    def each(self, change: Callable[[shapely.Polygon, np.random.Generator], object]) -> Seen:
        """Change every outline, each with its own randomness."""
        changed = [change(p, self.rng(i)) for i, p in enumerate(self.polygons)]
        return replace(self, polygons=_objects(changed))

    def take(self, which: NDArray[np.generic]) -> Seen:
        return replace(
            self,
            polygons=self.polygons[which],
            scores=self.scores[which],
            building=self.building[which],
            labels=self.labels[which],
        )

    def add(self, polygons: NDArray[np.object_], **columns: NDArray[np.generic]) -> Seen:
        """More outlines, behind those that are there."""
        columns["polygons"] = polygons
        return replace(
            self, **{n: np.concatenate([getattr(self, n), c]) for n, c in columns.items()}
        )


Flaw = Callable[[Seen], Seen]


@dataclass(frozen=True, eq=False)
class KnownBuildings:
    """The known-buildings detector, a `footprints.chip.Detector`."""

    polygons: Sequence[shapely.Polygon]
    """True outlines in CRS units."""
    flaws: Sequence[Flaw] = ()
    """What the detector does wrong, in this order."""
    jitter_px: float = 2.0
    """How far the sides of a box may lie from the ground it is for."""
    jitter_by_chip: bool = False
    """Whether every chip jitters a building's box in its own way."""
    name: str = "known-buildings"
    digest: str = "known"
    classes: tuple[str, ...] = ("building",)
    labels: Sequence[int] | None = None
    """True class of each building; all are of the first by default."""
    keypoints: tuple[str, ...] = ()
    """`CORNERS`, for one that gives the corners of what it sees."""
    confidence: float = 0.5
    input_spec: InputSpec = field(
        default_factory=lambda: InputSpec(bands=1, gsd_m=None, scaling=Scaling((0.0,), (1.0,)))
    )

    def __call__(self, chips: Sequence[Chip]) -> list[Instances]:
        return [self._detect(chip) for chip in chips]

    def _detect(self, chip: Chip) -> Instances:
        seen = self._see(chip)
        for flaw in self.flaws:
            seen = flaw(seen)
        seen = seen.take(shapely.area(seen.polygons) >= MIN_SEEN_PX)
        height, width = chip.valid.shape
        limit = np.array([0, 0, width, height])
        bounds = shapely.bounds(seen.polygons).reshape(-1, 4)
        outwards = np.array([-1, -1, 1, 1])
        seeds = [
            (*seen.place, number) if self.jitter_by_chip else number
            for number in (seen.building + 1).tolist()
        ]
        jitter = np.array([np.random.default_rng(seed).uniform(-1, 1, 4) for seed in seeds])
        boxes = bounds + outwards * self.jitter_px * jitter.reshape(-1, 4)
        mask_boxes = bounds + outwards * (self.jitter_px + 1)
        boxes, mask_boxes = (
            np.clip(b, np.tile(limit[:2], 2), np.tile(limit[2:], 2)).astype(np.float32)
            for b in (boxes, mask_boxes)
        )
        return Instances(
            boxes=boxes,
            scores=seen.scores.astype(np.float32),
            labels=seen.labels,
            mask_boxes=mask_boxes,
            masks=_rasterize(seen.polygons, mask_boxes),
            keypoints=_corners(seen.polygons, bounds) if self.keypoints else None,
        )

    def _see(self, chip: Chip) -> Seen:
        ground = _ground(chip)
        inverse = ~chip.transform
        matrix = [inverse.a, inverse.b, inverse.d, inverse.e, inverse.c, inverse.f]
        buildings = _objects([shapely.affinity.affine_transform(p, matrix) for p in self.polygons])
        visible = shapely.intersection(buildings, ground)
        index = np.flatnonzero(shapely.area(visible) > 0)
        labels = np.zeros(len(buildings), np.int64) if self.labels is None else self.labels
        return Seen(
            polygons=visible[index],
            scores=np.array([np.random.default_rng(i).uniform(0.6, 1) for i in index]),
            building=index,
            labels=np.asarray(labels, dtype=np.int64)[index],
            chip=ground,
            place=(int(abs(chip.transform.c) * 16), int(abs(chip.transform.f) * 16)),
            to_chip=matrix,
        )


# What a detector may do wrong.


def noisy(seen: Seen) -> Seen:
    """Outlines are shifted, too wide or too narrow, by up to a pixel and a half."""

    def blur(polygon, rng):
        shifted = shapely.affinity.translate(polygon, *rng.uniform(-1, 1, 2))
        grown = shapely.buffer(shifted, rng.uniform(-0.75, 0.75), join_style="mitre")
        return shapely.intersection(grown, seen.chip)

    return seen.each(blur)


def short(seen: Seen) -> Seen:
    """Boxes, and with them the masks, stop one to three pixels short on every side."""

    def shorten(polygon, rng):
        margin = rng.uniform(1, 3, 4) * np.array([1, 1, -1, -1])
        return shapely.intersection(polygon, shapely.box(*(np.array(polygon.bounds) + margin)))

    return seen.each(shorten)


def doubled(seen: Seen) -> Seen:
    """Everything is found twice, the second time less surely and a little beside."""
    second = seen.each(
        lambda polygon, rng: shapely.intersection(
            shapely.affinity.translate(polygon, *rng.uniform(-2, 2, 2)), seen.chip
        )
    )
    return seen.add(
        second.polygons, scores=seen.scores * 0.8, building=seen.building, labels=seen.labels
    )


def under_every_name(classes: int) -> Flaw:
    """Everything is found once for each class, a little beside, most surely for the right one.

    So do networks that suppress doubles class by class.
    """

    def add(seen: Seen) -> Seen:
        everything = seen
        for turn in range(1, classes):
            beside = seen.each(
                lambda polygon, rng, turn=turn: shapely.intersection(
                    shapely.affinity.translate(polygon, *rng.uniform(-turn, turn, 2)), seen.chip
                )
            )
            everything = everything.add(
                beside.polygons,
                scores=seen.scores * 0.8**turn,
                building=seen.building,
                labels=(seen.labels + turn) % classes,
            )
        return everything

    return add


def misnamed_at_edges(classes: int) -> Flaw:
    """What a chip cuts is taken, less surely, for a random class."""

    def misname(seen: Seen) -> Seen:
        cut = shapely.distance(seen.polygons, shapely.boundary(seen.chip)) == 0
        names = [seen.rng(i).integers(classes) for i in range(len(seen.polygons))]
        return replace(
            seen,
            labels=np.where(cut, np.array(names, dtype=np.int64), seen.labels),
            scores=np.where(cut, 0.9 * seen.scores, seen.scores),
        )

    return misname


def missing(share: float) -> Flaw:
    """A share of the pieces that a chip cuts is not found."""

    def miss(seen: Seen) -> Seen:
        edge = shapely.boundary(seen.chip)
        found = [
            seen.rng(i).random() >= share or shapely.distance(polygon, edge) > 0
            for i, polygon in enumerate(seen.polygons)
        ]
        return seen.take(np.array(found, dtype=bool))

    return miss


def blind(seen: Seen) -> Seen:
    """Nothing is found where a chip shows only roof."""
    share = shapely.area(seen.polygons) / shapely.area(seen.chip)
    return seen.take(share < 0.98)


def with_blob(blob: shapely.Polygon) -> Flaw:
    """One more outline, in CRS units, is found more surely than anything else."""

    def add(seen: Seen) -> Seen:
        there = shapely.affinity.affine_transform(blob, seen.to_chip)
        return seen.add(
            _objects([shapely.intersection(there, seen.chip)]),
            scores=np.array([0.999]),
            building=np.array([-1]),
            labels=np.array([0]),
        )

    return add


# Scenes without files.


def detect_scene(
    detector: KnownBuildings,
    grid: ChipGrid,
    *,
    transform: Affine | None = None,
    read: NDArray[np.bool_] | None = None,
    raster: NDArray[np.bool_] | None = None,
) -> Outlines:
    """Run a detector over the chips of a scene that has no pixels.

    Args:
        detector: The detector.
        grid: The chips.
        transform: Grid pixels to CRS units; the identity by default.
        read: (chips,) which chips to look at; all by default.
        raster: (height, width) True where the scene has data; everywhere by default.
    """
    transform = Affine.identity() if transform is None else transform
    read = np.ones(len(grid), dtype=bool) if read is None else read
    raster = np.ones((grid.height, grid.width), dtype=bool) if raster is None else raster
    outlines = []
    for number in np.flatnonzero(read):
        window = grid.window(number)
        chip = _chip(window, raster, transform)
        (instances,) = detector([chip])
        outlines.append(
            Outlines.from_instances(instances, trace(instances), window, number, chip.valid)
        )
    return Outlines.concatenate(outlines)


def exact_outlines(polygons: Sequence[shapely.Polygon], grid: ChipGrid) -> Outlines:
    """What a detector without masks and boxes of its own would give: buildings clipped at chips."""
    outlines = [Outlines.empty()]
    for number, (x, y, width, height) in enumerate(grid):
        chip = shapely.box(x, y, x + width, y + height)
        seen = shapely.intersection(_objects(polygons), chip)
        # What touches the chip's edge from outside comes as a line.
        seen = shapely.buffer(seen, 0)
        seen = seen[shapely.area(seen) >= MIN_SEEN_PX]
        outlines.append(outlines_of(seen, chips=number))
    return Outlines.concatenate(outlines)


def outlines_of(
    polygons: Sequence[shapely.Polygon],
    *,
    scores: float | Sequence[float] = 0.9,
    chips: int | Sequence[int] = 0,
    labels: int | Sequence[int] = 0,
) -> Outlines:
    """Outlines in grid pixels as a detector with very fine masks would give."""
    n = len(polygons)
    return Outlines(
        polygons=_objects(polygons),
        boxes=shapely.bounds(_objects(polygons)).reshape(-1, 4),
        scores=np.full(n, scores, dtype=np.float32),
        labels=np.full(n, labels, dtype=np.int64),
        chips=np.full(n, chips, dtype=np.int64),
        cells=np.full(n, 0.1, dtype=np.float32),
        at_nodata=np.zeros(n, dtype=np.bool_),
        keypoints=np.empty((n, 0, 3), dtype=np.float32),
    )


def best_ious(found: NDArray[np.object_], truth: Sequence[shapely.Polygon]) -> NDArray[np.float64]:
    """(n,) IoU of each true building with the footprint that fits it best."""
    best = np.zeros(len(truth))
    index, other = shapely.STRtree(found).query(_objects(truth), predicate="intersects")
    true = _objects(truth)[index]
    shared = shapely.area(shapely.intersection(true, found[other]))
    np.maximum.at(best, index, shared / (shapely.area(true) + shapely.area(found[other]) - shared))
    return best


def _corners(polygons: NDArray[np.object_], bounds: NDArray[np.float64]) -> NDArray[np.float32]:
    """(n, 4, 3) corners, as sure where a chip's edge makes them as where the building has them."""
    return find_corners(polygons, polygons, bounds) * np.array([1, 1, 0.9], dtype=np.float32)


def _chip(window: Window, raster: NDArray[np.bool_], transform: Affine) -> Chip:
    x, y, width, height = (int(v) for v in window)
    valid = np.zeros((height, width), dtype=bool)
    data = raster[y : y + height, x : x + width]
    valid[: data.shape[0], : data.shape[1]] = data
    return Chip(
        pixels=np.zeros((1, height, width), dtype=np.uint8),
        valid=valid,
        scaling=Scaling((0.0,), (1.0,)),
        window=window,
        transform=transform @ Affine.translation(x, y),
        crs=None,
        source="made of known buildings",
    )


def _ground(chip: Chip) -> shapely.Polygon:
    """The chip's data in chip pixels."""
    height, width = chip.valid.shape
    if chip.valid.all():
        return shapely.box(0, 0, width, height)
    found = shapes(chip.valid.astype(np.uint8), mask=chip.valid)
    return shapely.union_all([shapely.geometry.shape(geometry) for geometry, _ in found])


def _rasterize(polygons: NDArray[np.object_], boxes: NDArray[np.float32]) -> tuple[MaskGroup, ...]:
    """Mask grids with cells of at most a pixel, where the largest side allows it."""
    longer = np.max(boxes[:, 2:] - boxes[:, :2], axis=1, initial=0)
    size = np.minimum(np.searchsorted(SIDES, longer), len(SIDES) - 1)
    groups = []
    for number in np.unique(size):
        index = np.flatnonzero(size == number)
        coverage = rasterize_coverage(polygons[index], boxes[index], SIDES[number])
        with np.errstate(divide="ignore"):
            logits = 16 * np.log(coverage / (1 - coverage))
        quantised = np.round(np.clip(logits, -128, 127)).astype(np.int8)
        groups.append(MaskGroup(index, quantised))
    return tuple(groups)


def _objects(polygons: Sequence[object]) -> NDArray[np.object_]:
    array = np.empty(len(polygons), dtype=object)
    array[:] = polygons
    return array
