"""Runs that are cut short go on where they were, and end with the bytes of an undisturbed one."""

import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from known_buildings import KnownBuildings, doubled, noisy
from known_town import HEIGHT, NORTH_UP, TOWN, UTM, WIDTH, on_ground
from labelled_scenes import write_image
from typer.testing import CliRunner

import footprints as fp
from footprints import finishing, rows
from footprints.chip import Chip, Instances
from footprints.cli import app
from footprints.errors import OutputError, RunError
from footprints.vector import streaming
from footprints.vector.journal import Journal, journal_of
from footprints.vector.read import read_layer

GRID = {"chip_size": 96, "overlap": 32, "batch_size": 2, "progress": False}
KILLS = 10
STEPS = 100
"""Of `die_at_step` that a run over the scene takes; with workers, which read, a third less."""


class Cut(Exception):  # noqa: N818  # no error of ours
    """What ends a run in these tests."""


@dataclass(frozen=True, eq=False)
class Tired(KnownBuildings):
    """Sees so many batches of chips, and then no more."""

    batches: int = 10**9
    shown: list[tuple[float, float]] = field(default_factory=list)
    """Upper-left corners of the chips that it saw."""

    def __call__(self, chips: list[Chip]) -> list[Instances]:
        if len(self.shown) >= 2 * self.batches:
            raise Cut
        self.shown.extend((chip.transform.c, chip.transform.f) for chip in chips)
        return super().__call__(chips)


def write_scene(path: Path, seed: int = 0) -> Path:
    pixels = np.random.default_rng(seed).integers(40, 250, (1, HEIGHT, WIDTH)).astype(np.uint8)
    pixels[:, :20, :20] = 0
    return write_image(path, pixels, transform=NORTH_UP, crs=UTM, nodata=0)


def tired(batches: int = 10**9, **changes: object) -> Tired:
    return Tired(on_ground(TOWN), flaws=[noisy, doubled], batches=batches, **changes)


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return write_scene(tmp_path / "town.tif")


@pytest.fixture
def cut_short(scene: Path, tmp_path: Path) -> Path:
    """The output of a run that died in its third row of chips."""
    with pytest.raises(Cut):
        fp.predict(scene, output=tmp_path / "town.gpkg", detector=tired(5), **GRID)
    return tmp_path / "town.gpkg"


@pytest.mark.parametrize("batches", [0, 1, 4, 5, 7, 8])
@pytest.mark.parametrize("ending", [".gpkg", ".parquet"])
def test_a_resumed_run_ends_with_the_same_bytes(scene, tmp_path, batches, ending):
    whole = tmp_path / "whole" / f"town{ending}"
    whole.parent.mkdir()
    everything = tired()
    fp.predict(scene, output=whole, detector=everything, **GRID)
    output = tmp_path / f"town{ending}"
    with pytest.raises(Cut):
        fp.predict(scene, output=output, detector=tired(batches), **GRID)
    assert not output.exists()
    rest = tired()
    fp.predict(scene, output=output, detector=rest, resume=True, **GRID)
    assert output.read_bytes() == whole.read_bytes()
    row = 4
    done = 2 * batches // row * row
    assert rest.shown == everything.shown[done:]
    assert {path.name for path in tmp_path.iterdir()} == {"town.tif", "whole", output.name}


def test_of_several_scenes_only_the_rest_is_done(tmp_path):
    scenes = [write_scene(tmp_path / f"{n}.tif", seed=n) for n in range(3)]
    everything = tired()
    whole = fp.predict(scenes, detector=everything, **GRID)
    output = tmp_path / "towns.gpkg"
    half = len(everything.shown) // 4
    with pytest.raises(Cut):
        fp.predict(scenes, output=output, detector=tired(half), **GRID)
    rest = tired()
    layer = fp.predict(scenes, output=output, detector=rest, resume=True, **GRID)
    assert layer.equals(whole)
    assert 0 < len(rest.shown) < 0.6 * len(everything.shown)


def test_resuming_where_nothing_was_begun_is_a_run(scene, tmp_path):
    output = tmp_path / "town.gpkg"
    layer = fp.predict(scene, output=output, detector=tired(), resume=True, **GRID)
    assert len(read_layer(output)) == len(layer) > 5


def test_a_kept_run_goes_on_too(scene, tmp_path):
    wanted = {"output": tmp_path / "town.gpkg", "keep": tmp_path / "run", **GRID}
    with pytest.raises(Cut):
        fp.predict(scene, detector=tired(5), **wanted)
    layer = fp.predict(scene, detector=tired(), resume=True, **wanted)
    assert fp.finish(tmp_path / "run", progress=False).equals(layer)


def test_what_is_finished_is_left_as_it_is(scene, tmp_path, caplog):
    output = tmp_path / "town.gpkg"
    asked = {"output": output, "resume": True, **GRID}
    layer = fp.predict(scene, detector=tired(), **asked)
    content, nothing = output.read_bytes(), tired()
    with caplog.at_level("INFO", "footprints.resuming"):
        again = fp.predict(scene, detector=nothing, **asked)
    assert nothing.shown == []
    assert output.read_bytes() == content
    assert again.equals(layer)
    assert caplog.messages == [f"{output} is finished and left as it is; --overwrite makes it anew"]
    assert len(fp.predict(scene, detector=nothing, overwrite=True, **asked)) == len(layer)
    assert len(nothing.shown) == 17


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"min_area_m2": 9.0}, "made with min_area_m2 4.0 and now asked for with 9.0"),
        ({"chip_size": 128}, "made with chip_size 96 and now asked for with 128"),
        (
            {"detector": tired(name="other")},
            "made with model known-buildings and now .* other",
        ),
    ],
)
def test_what_was_finished_with_other_settings_is_not_taken_for_it(scene, tmp_path, change, words):
    asked = {"output": tmp_path / "town.gpkg", "detector": tired(), **GRID}
    fp.predict(scene, **asked)
    with pytest.raises(OutputError, match=words):
        fp.predict(scene, resume=True, **asked | change)
    fp.predict(scene, resume=True, **asked)


def test_what_was_made_of_other_scenes_is_not_taken_for_it(scene, tmp_path):
    asked = {"output": tmp_path / "town.gpkg", "detector": tired(), "resume": True, **GRID}
    fp.predict(scene, **asked)
    with pytest.raises(OutputError, match="made of 1 scenes that are not the 2 given"):
        fp.predict([scene, write_scene(tmp_path / "new.tif")], **asked)
    plain = read_layer(asked["output"]).set_geometry("geometry")
    plain.attrs = {}
    plain.to_file(asked["output"])
    with pytest.raises(OutputError, match="made of 0 scenes"):
        fp.predict(scene, **asked)


def test_a_run_that_was_killed_among_its_outputs_goes_on(scene, tmp_path, monkeypatch, caplog):
    """Kept run and keypoints are there before the layer is."""
    wanted = {"output": tmp_path / "town.gpkg", "keep": tmp_path / "run", **GRID}

    def die(*_args, **_kwargs):
        raise Cut

    with monkeypatch.context() as dying:
        dying.setattr(finishing, "write_layer", die)
        with pytest.raises(Cut):
            fp.predict(scene, detector=tired(), **wanted)
    assert (tmp_path / "run").is_dir()
    nothing = tired()
    with caplog.at_level("INFO", "footprints.resuming"):
        layer = fp.predict(scene, detector=nothing, resume=True, **wanted)
    assert nothing.shown == []
    assert caplog.messages == ["took over 4 of 4 rows of chips from an unfinished run"]
    assert fp.finish(tmp_path / "run", progress=False).equals(layer)


def test_what_is_taken_over_is_said(scene, cut_short, caplog):
    with caplog.at_level("INFO", "footprints.resuming"):
        fp.predict(scene, output=cut_short, detector=tired(), resume=True, **GRID)
    assert caplog.messages == ["took over 2 of 4 rows of chips from an unfinished run"]


def test_unfinished_work_is_not_thrown_away_unasked(scene, cut_short):
    with pytest.raises(OutputError, match=r"unfinished run .* --resume, or start anew with --over"):
        fp.predict(scene, output=cut_short, detector=tired(), **GRID)
    anew = tired()
    fp.predict(scene, output=cut_short, detector=anew, overwrite=True, **GRID)
    assert len(anew.shown) == 17
    assert not journal_of(cut_short).exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"confidence": 0.3}, "least confidence kept was 0.[0-9]+, is 0.[0-9]+"),
        ({"chip_size": 128}, "chip size of scene 1 was 96, is 128"),
        ({"detector": tired(digest="other")}, "digest of the weights was known, is other"),
        ({"nodata": 7}, "nodata of scene 1 was .*, is "),
    ],
)
def test_a_run_that_was_asked_for_something_else_does_not_go_on(scene, cut_short, change, words):
    asked = {"detector": tired(), **GRID, **change}
    with pytest.raises(RunError, match=f"cannot go on: {words}"):
        fp.predict(scene, output=cut_short, resume=True, **asked)
    fp.predict(scene, output=cut_short, resume=True, detector=tired(), **GRID)


def test_a_scene_that_was_replaced_is_noticed(scene, cut_short):
    write_scene(scene, seed=5)
    os.utime(scene, (1, 1))
    with pytest.raises(RunError, match=r"file of scene 1 was \d+ bytes of 20.*, is \d+ bytes of"):
        fp.predict(scene, output=cut_short, resume=True, detector=tired(), **GRID)


def test_two_runs_for_one_output_do_not_mix(scene, cut_short):
    class Meddling(KnownBuildings):
        def __call__(self, chips: list[Chip]) -> list[Instances]:
            with pytest.raises(RunError, match="another process is at work on"):
                fp.predict(scene, output=cut_short, resume=True, detector=tired(), **GRID)
            return super().__call__(chips)

    meddling = Meddling(on_ground(TOWN), flaws=[noisy, doubled])
    assert len(fp.predict(scene, output=cut_short, resume=True, detector=meddling, **GRID)) > 5


@pytest.mark.parametrize("part", ["1-1-00001.parquet", "journal.json"])
def test_damage_is_named(scene, cut_short, part):
    path = journal_of(cut_short) / part
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(RunError, match=f"{part} is damaged"):
        fp.predict(scene, output=cut_short, resume=True, detector=tired(), **GRID)


def test_a_stopped_command_says_how_to_go_on(scene, tmp_path, monkeypatch):
    def stop(*_args: object, **_kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("footprints.pipeline.detect", stop)
    result = CliRunner().invoke(
        app, ["predict", str(scene), "-o", str(tmp_path / "a.gpkg"), "--bands", "1,1,1"]
    )
    assert (result.exit_code, result.stderr) == (130, "footprints: stopped; go on with --resume\n")


SLOW_RUN = """
import sys
sys.path.insert(0, {tests!r})
from test_resume import GRID, Slow, tired
import footprints as fp
slow = Slow(tired().polygons, flaws=tired().flaws)
print("begun", flush=True)
fp.predict({scene!r}, output={output!r}, detector=slow, resume=True, **GRID)
"""

DEADLY_RUN = """
import sys
sys.path.insert(0, {tests!r})
from test_resume import GRID, die_at_step, tired
import footprints as fp
die_at_step({step})
fp.predict({scene!r}, output={output!r}, detector=tired(), resume=True, cluster={cluster}, **GRID)
"""


class Slow(KnownBuildings):
    """Takes long enough to be killed on the way."""

    def __call__(self, chips: list[Chip]) -> list[Instances]:
        time.sleep(0.02)
        return super().__call__(chips)


def die_at_step(wanted: int) -> None:
    """Have this process killed at a step of its run, counted over all of the kinds below."""
    steps = itertools.count()

    def die(step: int) -> None:
        if step == wanted:
            os.kill(os.getpid(), signal.SIGKILL)

    def dying(function: Callable[..., object]) -> Callable[..., object]:
        def run(*args: object, **kwargs: object) -> object:
            die(next(steps))
            done = function(*args, **kwargs)
            die(next(steps))
            return done

        return run

    Path.replace = dying(Path.replace)
    Path.write_bytes = dying(Path.write_bytes)
    Path.unlink = dying(Path.unlink)
    rows.read_chip = dying(rows.read_chip)
    Journal.write = dying(Journal.write)
    streaming.merge = dying(streaming.merge)
    finishing.snap_vertices = dying(finishing.snap_vertices)
    finishing.write_layer = dying(finishing.write_layer)


@pytest.fixture
def start(scene: Path, tmp_path: Path) -> Callable[[], subprocess.Popen[str]]:
    """Start a process, with a group of its own, that makes town.gpkg."""
    tests = str(Path(__file__).parent)
    script = SLOW_RUN.format(tests=tests, scene=str(scene), output=str(tmp_path / "town.gpkg"))

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", script],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    return start


@pytest.mark.slow
def test_a_run_that_is_killed_over_and_over_ends_with_the_same_bytes(scene, tmp_path, start):
    whole = tmp_path / "whole" / "town.gpkg"
    whole.parent.mkdir()
    begun = time.perf_counter()
    fp.predict(scene, output=whole, detector=tired(), **GRID)
    length = time.perf_counter() - begun + 1
    when = random.Random(0)
    output, killed = tmp_path / "town.gpkg", 0
    for _ in range(KILLS):
        with start() as process:
            assert process.stdout.readline() == "begun\n"
            time.sleep(when.uniform(0, length))
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                killed += 1
        if output.exists():
            assert output.read_bytes() == whole.read_bytes()
            output.unlink()
    assert killed > KILLS // 3
    with start() as process:
        assert process.stdout.readline() == "begun\n"
    assert process.returncode == 0
    assert output.read_bytes() == whole.read_bytes()
    assert not journal_of(output).exists()


@pytest.mark.full
@pytest.mark.parametrize(("kills", "cluster"), [(100, None), (2, "local")])
def test_wherever_a_run_is_killed_the_layer_is_the_same(scene, tmp_path, kills, cluster):
    """Among the steps are reading, merging, writing and renaming parts and the layer."""
    whole = tmp_path / "whole" / "town.gpkg"
    whole.parent.mkdir()
    fp.predict(scene, output=whole, detector=tired(), **GRID)
    output, script = tmp_path / "town.gpkg", DEADLY_RUN
    values = {"tests": str(Path(__file__).parent), "scene": str(scene), "output": str(output)}
    died = 0
    for step in random.Random(1).sample(range(STEPS if cluster is None else STEPS // 2), kills):
        code = script.format(**values, step=step, cluster=repr(cluster))
        ended = subprocess.run([sys.executable, "-c", code], check=False)
        assert ended.returncode in (0, -signal.SIGKILL)
        died += ended.returncode != 0
        fp.predict(scene, output=output, detector=tired(), resume=True, overwrite=True, **GRID)
        assert output.read_bytes() == whole.read_bytes()
        assert {path.name for path in tmp_path.iterdir()} >= {"town.tif", "whole", output.name}
        assert not journal_of(output).exists()
        output.unlink()
    assert died > 0.8 * kills
