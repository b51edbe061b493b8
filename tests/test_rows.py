"""Rows of chips: reading, looking and tracing side by side, and memory that runs out."""

import itertools
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Barrier

import numpy as np
import pytest
import torch
from known_buildings import KnownBuildings, doubled, noisy
from known_town import HEIGHT, NORTH_UP, TOWN, UTM, WIDTH, on_ground
from labelled_scenes import write_image

import footprints as fp
from footprints.errors import BatchSizeWarning, DeviceError
from footprints.vector.journal import journal_of

GRID = {"chip_size": 96, "overlap": 32, "progress": False}
"""Rows of four chips."""
OUT = {
    "torch": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "allocator": RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    "python": MemoryError(),
}


@dataclass(frozen=True, eq=False)
class Small(KnownBuildings):
    """Has memory for so many chips, after some calls for any number, and lasts some calls."""

    holds: int = 10**9
    error: Exception = OUT["torch"]
    calls: int = 0
    lasts: int = 10**9
    sizes: tuple[list[int], ...] = ()

    def __call__(self, chips):
        (sizes,) = self.sizes
        if len(sizes) >= self.lasts:
            raise KeyError
        if len(chips) > self.holds and len(sizes) >= self.calls:
            raise self.error
        sizes.append(len(chips))
        return super().__call__(chips)


def small(**changes):
    return Small(on_ground(TOWN), flaws=[noisy, doubled], sizes=([],), **changes)


@pytest.fixture
def scene(tmp_path):
    pixels = np.random.default_rng(0).integers(40, 250, (1, HEIGHT, WIDTH)).astype(np.uint8)
    return write_image(tmp_path / "town.tif", pixels, transform=NORTH_UP, crs=UTM)


@pytest.mark.parametrize("error", OUT.values(), ids=OUT.keys())
def test_memory_that_runs_out_halves_the_batch_once_and_changes_nothing(scene, error):
    whole = fp.predict(scene, detector=small(), batch_size=4, **GRID)
    detector = small(holds=2, error=error, calls=1)
    with pytest.warns(BatchSizeWarning, match=r"4 chips at once .* --batch-size 2") as said:
        layer = fp.predict(scene, detector=detector, batch_size=4, **GRID)
    assert len(said) == 1
    assert layer.equals(whole)
    assert detector.sizes[0][:5] == [4, 2, 2, 2, 2]


def test_a_chip_that_does_not_fit_alone_is_an_error(scene):
    with (
        pytest.warns(BatchSizeWarning),
        pytest.raises(DeviceError, match="single chip of 96 x 96 px; use a smaller --chip-size"),
    ):
        fp.predict(scene, detector=small(holds=0), batch_size=2, **GRID)


def test_other_errors_of_a_detector_are_no_lack_of_memory(scene):
    detector = small(holds=0, error=RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        fp.predict(scene, detector=detector, batch_size=2, **GRID)


def test_a_run_that_goes_on_takes_over_the_batch_size_in_force(scene, tmp_path):
    output = tmp_path / "town.gpkg"
    with pytest.warns(BatchSizeWarning), pytest.raises(KeyError):
        fp.predict(scene, output=output, detector=small(holds=2, lasts=5), batch_size=4, **GRID)
    head = json.loads((journal_of(output) / "journal.json").read_text())
    assert head["run"]["batch size"] == 2
    rest = small(holds=2)
    layer = fp.predict(scene, output=output, detector=rest, batch_size=4, resume=True, **GRID)
    assert set(rest.sizes[0]) == {2, 1}
    assert layer.equals(fp.predict(scene, detector=small(), batch_size=4, **GRID))


def test_without_a_batch_size_two_chips_go_through_together(scene):
    detector = small()
    fp.predict(scene, detector=detector, **GRID)
    assert max(detector.sizes[0]) == 2


@dataclass(frozen=True, eq=False)
class SideBySide(Small):
    """Sees three batches at the same time: each waits for two others before it looks."""

    meeting: Barrier = field(default_factory=lambda: Barrier(3))
    meets: int = 3
    """So many calls wait; those after them have nobody to wait for."""
    numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def lanes(self):
        return 3

    def open_lanes(self, count):
        return ThreadPoolExecutor(count)

    def __call__(self, chips):
        if next(self.numbers) < self.meets:
            self.meeting.wait(timeout=60)
        return super().__call__(chips)


def side_by_side(**changes):
    return SideBySide(on_ground(TOWN), flaws=[noisy, doubled], sizes=([],), **changes)


def test_batches_side_by_side_make_the_same_layer(scene):
    met = []
    # Of sixteen fine chips the last one would wait in vain, and so would the coarse one.
    detector = side_by_side(meeting=Barrier(3, action=lambda: met.append(True)), meets=15)
    layer = fp.predict(scene, detector=detector, batch_size=1, **GRID)
    assert layer.equals(fp.predict(scene, detector=small(), batch_size=1, **GRID))
    assert len(met) == 5


def test_memory_that_runs_out_in_several_lanes_halves_the_batch_once(scene):
    detector = side_by_side(holds=2)
    with pytest.warns(BatchSizeWarning) as said:
        layer = fp.predict(scene, detector=detector, batch_size=4, **GRID)
    assert len(said) == 1
    assert max(detector.sizes[0]) == 2
    assert layer.equals(fp.predict(scene, detector=small(), batch_size=4, **GRID))
