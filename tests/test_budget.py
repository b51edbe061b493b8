"""A budget of memory: sizes in words, what it bounds, and what is too little."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import psutil
import pytest
from known_buildings import KnownBuildings
from known_town import HEIGHT, NORTH_UP, TOWN, UTM, WIDTH, on_ground
from labelled_scenes import write_image
from rasterio.env import get_gdal_config

import footprints as fp
from footprints import budget
from footprints.budget import LEAST_CACHE_BYTES, parse_size
from footprints.errors import ConfigError
from footprints.raster.opening import CACHE_BYTES, patiently
from footprints.vector.journal import journal_of

GRID = {"chip_size": 96, "overlap": 32, "progress": False}
"""Rows of four chips."""


@dataclass(frozen=True, eq=False)
class Hungry(KnownBuildings):
    """Keeps so many bytes for every chip of the largest batch it saw, and notes its batches."""

    keeps: int = 0
    kept: tuple[list[np.ndarray], ...] = ()
    sizes: tuple[list[int], ...] = ()

    def __call__(self, chips):
        while len(self.kept[0]) < len(chips):
            self.kept[0].append(np.ones(self.keeps, dtype=np.uint8))
        if chips[0].source != "blank":
            self.sizes[0].append(len(chips))
        return super().__call__(chips)


@pytest.fixture
def hungry():
    def make(keeps=0):
        return Hungry(
            on_ground(TOWN), digest=f"hungry {keeps}", keeps=keeps, kept=([],), sizes=([],)
        )

    yield make
    budget._measured.clear()


@pytest.fixture
def scene(tmp_path):
    pixels = np.random.default_rng(0).integers(40, 250, (1, HEIGHT, WIDTH)).astype(np.uint8)
    return write_image(tmp_path / "town.tif", pixels, transform=NORTH_UP, crs=UTM)


@pytest.fixture
def blank_takes(monkeypatch):
    """Let the process hold so many MB after blank batches of one and of two chips of 512 px."""

    def hold(one, two):
        held = iter([one * 10**6, two * 10**6])
        monkeypatch.setattr(budget, "_resident_bytes", lambda: next(held))

    return hold


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4GB", 4 * 10**9),
        ("1.5GiB", 3 << 29),
        ("800 mb", 8 * 10**8),
        ("2tib", 2 << 40),
        (" 512MiB ", 1 << 29),
        (123_456, 123_456),
    ],
)
def test_sizes_are_read_with_their_unit(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["4", "4G", "GB", "-1GB", "0GB", "1,5GB", "4 gigabytes", 0, -3])
def test_what_is_no_size_is_refused_with_an_example(text):
    with pytest.raises(ConfigError, match=rf"such as 4GB, got '{re.escape(str(text))}'"):
        parse_size(text)


def test_too_little_is_refused_before_the_work_and_what_is_named_works(scene, tmp_path, hungry):
    output = tmp_path / "town.gpkg"
    with pytest.raises(ConfigError, match="memory of 50 MB does not hold known-buildings") as err:
        fp.predict(scene, output=output, detector=hungry(), memory="50MB", **GRID)
    assert "one chip of 96 x 96 px" in str(err.value)
    assert not output.exists()
    assert not journal_of(output).exists()
    least = re.search(r"give at least (\d+) MB", str(err.value))[1]
    layer = fp.predict(scene, output=output, detector=hungry(), memory=f"{least}MB", **GRID)
    assert layer.equals(fp.predict(scene, detector=hungry(), **GRID))


def test_what_a_detector_takes_is_measured(scene, hungry, monkeypatch):
    def least(keeps):
        detector = hungry(keeps)
        # A process that has freed memory before takes no more from the system: what counts here is
        # what the detector holds.
        monkeypatch.setattr(
            budget, "_resident_bytes", lambda: 10**9 + sum(kept.nbytes for kept in detector.kept[0])
        )
        with pytest.raises(ConfigError) as err:
            fp.predict(scene, detector=detector, memory="1MB", **GRID)
        return int(re.search(r"give at least (\d+) MB", str(err.value))[1])

    without = least(0)
    assert 300 < least(300 * 10**6) - without < 350


def test_the_memory_of_this_process_is_known():
    assert budget._resident_bytes() == pytest.approx(psutil.Process().memory_info().rss, rel=0.1)


def test_the_batch_size_follows_from_the_budget(scene, hungry, blank_takes, tmp_path):
    blank_takes(1000, 1000 + 28.44 * 100)
    # 512 / 96 squared is 28.44, so that a chip takes 100 MB and a bit for its pixels; cache and
    # rest take 470 MB.
    for memory, size in (("1.62GB", 1), ("1.72GB", 2)):
        detector = hungry()
        output = tmp_path / f"{memory}.gpkg"
        fp.predict(scene, detector=detector, output=output, memory=memory, **GRID)
        assert max(detector.sizes[0]) == size


def test_lanes_go_before_the_batch_size_does(scene, blank_takes, monkeypatch):
    @dataclass(frozen=True, eq=False)
    class InLanes(KnownBuildings):
        opened: tuple[list[int], ...] = ()
        lanes = 3

        def open_lanes(self, count):
            self.opened[0].append(count)
            return ThreadPoolExecutor(count)

    monkeypatch.setattr(budget, "_measured", {})
    # As above, a chip takes 100 MB, and cache and rest 470 MB.
    for memory, lanes in (("1.72GB", 1), ("1.9GB", 2), ("2.2GB", 3), (None, 3)):
        blank_takes(1000, 1000 + 28.44 * 100)
        detector = InLanes(on_ground(TOWN), opened=([],))
        fp.predict(scene, detector=detector, batch_size=2, memory=memory, **GRID)
        assert detector.opened[0] == [lanes, lanes]


def test_a_batch_size_that_is_asked_for_is_kept_or_refused(scene, hungry, blank_takes):
    blank_takes(1000, 1000 + 28.44 * 100)
    with pytest.raises(ConfigError, match=r"and 4 chips at once.* 192\d MB, or .*--batch-size"):
        fp.predict(scene, detector=hungry(), memory="1.75GB", batch_size=4, **GRID)
    detector = hungry()
    fp.predict(scene, detector=detector, memory="1.88GB", batch_size=4, **GRID)
    assert max(detector.sizes[0]) == 4


@pytest.mark.parametrize("environment", [None, "300"])
def test_gdals_cache_is_bounded_whatever_the_environment_says(
    scene, hungry, blank_takes, monkeypatch, environment
):
    caches = set()

    def read(path, how):
        caches.add(get_gdal_config("GDAL_CACHEMAX"))
        return patiently(path, how)

    monkeypatch.setattr("footprints.raster.source.patiently", read)
    if environment is not None:
        monkeypatch.setenv("GDAL_CACHEMAX", environment)
    blank_takes(1000, 1000)
    room = LEAST_CACHE_BYTES / 1e6 + budget._REST_BYTES / 1e6
    for spare_mb, cache in ((0.5, LEAST_CACHE_BYTES), (50, None), (5000, CACHE_BYTES)):
        caches.clear()
        memory = int((1000 + room + spare_mb) * 1e6)
        fp.predict(scene, detector=hungry(), memory=memory, **GRID)
        expected = LEAST_CACHE_BYTES + spare_mb * 1e6 if cache is None else cache
        assert list(caches) == [pytest.approx(expected, abs=1e6)]


def test_a_run_goes_on_with_its_batch_size_under_another_budget(
    scene, hungry, blank_takes, tmp_path
):
    blank_takes(1000, 1000 + 28.44 * 100)
    output = tmp_path / "town.gpkg"

    @dataclass(frozen=True, eq=False)
    class Stopped(Hungry):
        def __call__(self, chips):
            if len(self.sizes[0]) == 5:
                raise KeyError
            return super().__call__(chips)

    stopped = Stopped(
        on_ground(TOWN), digest="hungry 0", kept=([],), sizes=([],)
    )  # fmt: skip
    with pytest.raises(KeyError):
        fp.predict(scene, output=output, detector=stopped, memory="1.62GB", **GRID)
    head = json.loads((journal_of(output) / "journal.json").read_text())
    assert head["run"]["batch size"] == 1
    rest = hungry()
    fp.predict(scene, output=output, detector=rest, memory="4GB", resume=True, **GRID)
    assert set(rest.sizes[0]) == {1}
