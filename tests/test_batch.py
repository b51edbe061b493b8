"""Runs over many scenes: those that fail are left out, listed, and brought in later."""

import errno
import os
import re
import resource
import shutil
import signal
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely
from affine import Affine
from known_buildings import KnownBuildings
from known_town import HEIGHT, NORTH_UP, TOWN, UTM, WIDTH, on_ground
from labelled_scenes import write_image
from test_resume import Cut, Tired
from typer.testing import CliRunner

import footprints as fp
from footprints import rows
from footprints.batch import predict_each
from footprints.cli import app
from footprints.errors import (
    AreaError,
    ConfigError,
    FailureWarning,
    OutputError,
    RasterError,
    RunError,
)
from footprints.failures import SceneOutcome, failures_of
from footprints.vector.journal import Asked, Journal, journal_of
from footprints.vector.read import read_layer

GRID = {"chip_size": 96, "overlap": 32, "batch_size": 2, "progress": False}
SIDE = 0.3 * WIDTH
NAMES = ["a.tif", "b with 'quotes'.tif", "Ünï cødé 東京.tif"]


def place(number: int) -> Affine:
    """Scenes stand beside each other, with a gap."""
    return Affine.translation(number * (SIDE + 50), 0) @ NORTH_UP


TOWNS = [building for number in range(3) for building in on_ground(TOWN, place(number))]


def write_scene(path: Path, number: int) -> Path:
    pixels = np.random.default_rng(number).integers(40, 250, (1, HEIGHT, WIDTH)).astype(np.uint8)
    return write_image(path, pixels, transform=place(number), crs=UTM)


def detector(**changes: object) -> Tired:
    return Tired(TOWNS, **changes)


def write_scenes(folder: Path) -> list[Path]:
    return [write_scene(folder / name, number) for number, name in enumerate(NAMES)]


@pytest.fixture
def scenes(tmp_path: Path) -> list[Path]:
    return write_scenes(tmp_path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    """The file of a run where nothing fails, wherever its scenes lie."""
    folder = tmp_path_factory.mktemp("whole")
    output = folder / "towns.gpkg"
    fp.predict(write_scenes(folder), output=output, detector=detector(), **GRID)
    return output.read_bytes()


def truncate(path: Path) -> None:
    """The last rows of pixels are missing, as after a copy that was cut short."""
    os.truncate(path, int(0.8 * path.stat().st_size))


def lose(path: Path) -> None:
    path.unlink()


def spoil(path: Path) -> None:
    path.write_text("no raster")


def strip(path: Path) -> None:
    pixels = np.full((1, HEIGHT, WIDTH), 90, np.uint8)
    write_image(path, pixels, transform=place(1), crs=None)


FAULTS = [
    pytest.param(lose, "does not exist", "failed", id="missing"),
    pytest.param(spoil, "cannot open .* as a raster", "failed", id="unreadable"),
    pytest.param(strip, "has no CRS", "failed", id="without CRS"),
    pytest.param(truncate, "cannot read pixels x", "in part", id="truncated"),
]


@pytest.mark.parametrize(("fault", "words", "state"), FAULTS)
def test_what_fails_is_listed_and_tried_again(scenes, whole, tmp_path, fault, words, state):
    safe = shutil.copy2(scenes[1], tmp_path / "safe")
    fault(scenes[1])
    output = tmp_path / "towns.gpkg"
    told: list[SceneOutcome] = []
    with pytest.warns(FailureWarning, match=words):
        part = fp.predict(
            scenes, output=output, detector=detector(), keep_going=True, told=told.append, **GRID
        )
    assert {(o.source, o.state) for o in told} == {
        (name, state if number == 1 else "done") for number, name in enumerate(NAMES)
    }
    assert set(part["source"]) >= {NAMES[0], NAMES[2]}
    assert (NAMES[1] in set(part["source"])) == (state == "in part")
    listed = gpd.pd.read_csv(failures_of(output))
    assert set(listed["scene"]) == {str(scenes[1])}
    assert listed["reason"].str.contains(words).all()
    assert listed["x"].notna().all() == (state == "in part")

    shutil.copy2(safe, scenes[1])
    rest = detector()
    layer = fp.predict(scenes, output=output, detector=rest, retry_failed=True, **GRID)
    assert output.read_bytes() == whole
    assert not layer.equals(part)
    assert part.loc[part["source"] == NAMES[1], "cut"].any() == (state == "in part")
    assert len(rest.shown) == len(detector_shows(scenes[1]))
    assert not failures_of(output).exists()
    assert not journal_of(output).exists()


def detector_shows(scene: Path) -> list[tuple[float, float]]:
    every = detector()
    fp.predict(scene, detector=every, **GRID)
    return every.shown


def test_of_the_same_file_only_chips_that_failed_are_tried_again(
    scenes, whole, tmp_path, monkeypatch
):
    """As after a connection that broke."""
    output = tmp_path / "towns.gpkg"
    read = rows.read_chip

    def read_or_fail(grid, window, scaling):
        if grid.scene.name == NAMES[1] and (window.y, window.x) == (128, 64):
            raise RasterError("the connection broke")
        return read(grid, window, scaling)

    monkeypatch.setattr(rows, "read_chip", read_or_fail)
    with pytest.warns(FailureWarning, match="1 chip could not"):
        fp.predict(scenes, output=output, detector=detector(), keep_going=True, **GRID)
    monkeypatch.setattr(rows, "read_chip", read)
    rest = detector()
    fp.predict(scenes, output=output, detector=rest, retry_failed=True, **GRID)
    assert output.read_bytes() == whole
    assert {y for _, y in rest.shown} == {rest.shown[0][1]}


def test_nothing_is_left_out_unasked(scenes, tmp_path):
    lose(scenes[1])
    with pytest.raises(RasterError, match="does not exist"):
        fp.predict(scenes, output=tmp_path / "towns.gpkg", detector=detector(), **GRID)
    assert not list(tmp_path.glob(".*")) + list(tmp_path.glob("towns*"))


def test_where_all_fail_there_is_no_layer(scenes, tmp_path):
    for scene in scenes:
        lose(scene)
    with (
        pytest.warns(FailureWarning),
        pytest.raises(RasterError, match=r"^all 3 scenes failed, first: .*/a.tif does not exist$"),
    ):
        fp.predict(scenes, output=tmp_path / "a.gpkg", detector=detector(), keep_going=True, **GRID)
    assert [path.name for path in tmp_path.glob("*a.gpkg*")] == ["a.gpkg.failures.csv"]
    for number, scene in enumerate(scenes):
        write_scene(scene, number)
    layer = fp.predict(
        scenes, output=tmp_path / "a.gpkg", detector=detector(), retry_failed=True, **GRID
    )
    assert len(layer) == 36


def test_there_must_be_something_to_try_again(scenes, tmp_path):
    with pytest.raises(RunError, match=r"there is no .*a.gpkg.failures.csv"):
        fp.predict(
            scenes, output=tmp_path / "a.gpkg", detector=detector(), retry_failed=True, **GRID
        )
    with pytest.raises(ConfigError, match="give --output or --keep"):
        fp.predict(scenes, detector=detector(), retry_failed=True, **GRID)


def test_a_scene_that_was_done_must_stay_what_it_was(scenes, tmp_path):
    output = tmp_path / "towns.gpkg"
    lose(scenes[1])
    with pytest.warns(FailureWarning):
        fp.predict(scenes, output=output, detector=detector(), keep_going=True, **GRID)
    os.utime(scenes[2], (1, 1))
    with pytest.warns(FailureWarning), pytest.raises(RunError, match="file of scene 3 was"):
        fp.predict(scenes, output=output, detector=detector(), retry_failed=True, **GRID)


def test_a_kept_run_has_what_worked_and_later_all(scenes, tmp_path):
    wanted = {"keep": tmp_path / "run", "detector": detector(), **GRID}
    truncate(scenes[0])
    safe = scenes[1].read_bytes()
    lose(scenes[1])
    with pytest.warns(FailureWarning):
        part = fp.predict(scenes, keep_going=True, **wanted)
    assert fp.finish(tmp_path / "run", progress=False).equals(part)
    scenes[1].write_bytes(safe)
    write_scene(scenes[0], 0)
    layer = fp.predict(scenes, retry_failed=True, **wanted)
    assert fp.finish(tmp_path / "run", progress=False).equals(layer)
    assert set(layer["source"]) == set(NAMES)


class Replacing(KnownBuildings):
    """While it looks at a scene, somebody writes another one in its place."""

    def __call__(self, chips):
        os.utime(self.digest, (1, 1))
        return super().__call__(chips)


def test_a_scene_that_is_replaced_while_it_is_read_is_noticed(scenes, tmp_path):
    output = tmp_path / "towns.gpkg"
    replacing = Replacing(TOWNS, digest=str(scenes[0]))
    with pytest.raises(RasterError, match=r"a.tif changed while .* bytes of .* now; let nothing"):
        fp.predict(scenes[0], output=output, detector=replacing, **GRID)
    assert not output.exists()
    assert not list(journal_of(output).glob("*.parquet"))
    with pytest.raises(RunError, match="file of scene 1 was"):
        fp.predict(scenes[0], output=output, detector=replacing, resume=True, **GRID)


def test_a_killed_run_that_goes_on_keeps_its_list(scenes, whole, tmp_path):
    output = tmp_path / "towns.gpkg"
    safe = scenes[0].read_bytes()
    lose(scenes[0])
    asked = {"output": output, **GRID}
    with pytest.warns(FailureWarning), pytest.raises(Cut):
        fp.predict(scenes, detector=detector(batches=12), keep_going=True, **asked)
    with pytest.warns(FailureWarning):
        fp.predict(scenes, detector=detector(), keep_going=True, resume=True, **asked)
    with pytest.raises(OutputError, match="exists"):
        fp.predict(scenes, detector=detector(), **asked)
    scenes[0].write_bytes(safe)
    fp.predict(scenes, detector=detector(), retry_failed=True, **asked)
    assert output.read_bytes() == whole


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are counted in /proc")
def test_many_scenes_are_few_open_files(tmp_path):
    """More scenes than this process may have files open."""
    limit, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = len(list(Path("/proc/self/fd").iterdir())) + 12
    pixels = np.full((1, 8, 8), 90, np.uint8)
    paths = [
        write_image(
            tmp_path / f"{n}.tif",
            pixels,
            transform=Affine.translation(3 * n, 0) @ NORTH_UP,
            crs=UTM,
        )
        for n in range(40)
    ]
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, hard))
    try:
        layer = fp.predict(paths, detector=KnownBuildings([shapely.box(0, 0, 1, 1)]), **GRID)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    assert len(layer.attrs["footprints"]) == 40


# One layer for each scene.


def test_each_scene_can_have_its_own_layer(scenes, tmp_path):
    safe = scenes[1].read_bytes()
    lose(scenes[1])
    pattern = tmp_path / "layers" / "{scene}.parquet"
    asked = {"output": pattern, "detector": detector(), **GRID}
    with pytest.warns(FailureWarning, match="does not exist"):
        outcomes = predict_each(scenes, keep_going=True, **asked)
    assert [outcome.state for outcome in outcomes] == ["done", "failed", "done"]
    layers = tmp_path / "layers"
    left = "b with 'quotes'.parquet"
    assert {path.name for path in layers.iterdir()} == {
        "a.parquet",
        "Ünï cødé 東京.parquet",
        f"{left}.failures.csv",
    }
    scenes[1].write_bytes(safe)
    (again,) = predict_each(scenes, retry_failed=True, **asked)
    assert (again.source, again.state) == (NAMES[1], "done")
    assert not list(layers.glob("*.csv")) + list(layers.glob(".*"))
    alone = fp.predict(scenes[1], detector=detector(), **GRID)
    assert len(read_layer(layers / left)) == len(alone) == again.buildings
    assert predict_each(scenes, resume=True, **asked) == []


def test_layers_of_one_name_are_refused(scenes, tmp_path):
    other = write_scene(tmp_path / "other" / NAMES[0], 0)
    with pytest.raises(ConfigError, match="layers of one name"):
        predict_each([*scenes, other], output=tmp_path / "{scene}.gpkg", detector=detector())
    with pytest.raises(ConfigError, match=r"keep .*run is one for all scenes"):
        predict_each(
            scenes, output=tmp_path / "{scene}.gpkg", keep=tmp_path / "run", detector=detector()
        )


# The command.


@pytest.fixture
def command(monkeypatch):
    """Runs `footprints predict` with the detector of known buildings."""
    monkeypatch.setattr("footprints.model.detector.load_detector", lambda *_, **__: detector())

    def run(*arguments: object):
        grid = ["--chip-size", "96", "--overlap", "32"]
        return CliRunner().invoke(app, ["predict", *map(str, arguments), *grid])

    return run


def test_the_command_sums_up_and_says_that_something_is_missing(scenes, tmp_path, command):
    lose(scenes[1])
    output = tmp_path / "towns.gpkg"
    result = command(*scenes, "-o", output, "--keep-going")
    assert result.exit_code == 3
    head, *lines, total = result.stdout.splitlines()
    assert head.split() == ["scene", "chips", "buildings", "m2", "seconds", "state"]
    assert [line.split("  ")[0].strip() for line in lines] == [NAMES[1], NAMES[0], NAMES[2]]
    assert lines[1].endswith("  done")
    assert "does not exist" in lines[0]
    assert total.startswith("24 buildings, ")
    last = result.stderr.splitlines()[-1]
    assert last == (
        f"footprints: 1 of 3 scenes failed in whole or in part, listed in {output}.failures.csv; "
        "go on with --retry-failed"
    )
    write_scene(scenes[1], 1)
    result = command(*scenes, "-o", output, "--retry-failed", "-q")
    assert (result.exit_code, result.output) == (0, "")
    assert len(read_layer(output)) == 36


def test_a_folder_gets_a_layer_for_each_scene(scenes, tmp_path, command):
    result = command(*scenes, "-o", f"{tmp_path / 'layers'}/")
    assert result.exit_code == 0
    layers = tmp_path / "layers"
    lines = result.stdout.splitlines()
    assert len(lines) == 5
    assert re.fullmatch(
        rf"36 buildings, 8,4\d\d m2, in 3 new layers, [\d.]+ s, {layers}/{{scene}}.gpkg", lines[-1]
    )
    assert len(list(layers.glob("*.gpkg"))) == 3


def test_overwrite_makes_layers_anew_with_resume_too(scenes, tmp_path, command):
    asked = (*scenes, "-o", f"{tmp_path / 'layers'}/", "--resume")
    assert "in 3 new layers" in command(*asked).stdout
    assert "in 0 new layers" in command(*asked).stdout
    assert "in 3 new layers" in command(*asked, "--overwrite").stdout


def test_a_folder_that_cannot_be_made_is_one_line(scenes, tmp_path, command):
    (tmp_path / "notes.md").write_text("mine")
    result = command(*scenes, "-o", f"{tmp_path / 'notes.md'}/")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].endswith("notes.md: a file has that name")
    assert (tmp_path / "notes.md").read_text() == "mine"


def test_a_folder_of_layers_can_be_gone_on_with_over_and_over(scenes, tmp_path, command, caplog):
    """As in a loop at night: what is there stays, what was listed stays listed."""
    asked = (*scenes, "-o", f"{tmp_path / 'layers'}/", "--keep-going", "--resume")
    truncate(scenes[1])
    assert command(*asked).exit_code == 3
    before = {path: path.read_bytes() for path in (tmp_path / "layers").iterdir() if path.is_file()}
    result = command(*asked)
    assert result.exit_code == 3
    assert caplog.messages == ["2 of 3 layers are finished and left as they are"]
    assert "is left as it is, but 1 of 1 scenes failed" in result.stderr
    assert {path: path.read_bytes() for path in before} == before
    write_scene(scenes[1], 1)
    asked = asked[:-1]
    assert command(*asked, "--retry-failed").exit_code == 0
    result = command(*asked, "--resume")
    assert (result.exit_code, result.stdout.splitlines()[-1][:12]) == (0, "0 buildings,")


def test_layers_of_scenes_beside_the_area_are_not_made(scenes, tmp_path):
    square = shapely.box(*place(1) @ (0, 0), *place(1) @ (99, 99))
    ground = gpd.GeoDataFrame(geometry=[square], crs=UTM)
    asked = {"output": tmp_path / "{scene}.gpkg", "detector": detector(), "aoi": ground, **GRID}
    outcomes = predict_each(scenes, **asked)
    assert [each.state for each in outcomes] == ["beside the area", "done", "beside the area"]
    assert [path.name for path in tmp_path.glob("*.gpkg")] == ["b with 'quotes'.gpkg"]
    with pytest.raises(AreaError, match=r"does not touch a.tif"):
        predict_each(scenes[:1], **asked)


def test_failures_name_the_scene_once(scenes, tmp_path, command):
    lose(scenes[0])
    spoil(scenes[1])
    result = command(*scenes, "-o", tmp_path / "towns.gpkg", "--keep-going")
    warned = [line for line in result.stderr.splitlines() if line.startswith("warning: ")]
    assert warned[0] == f"warning: failed: {scenes[0]} does not exist"
    assert warned[1].count(scenes[1].name) == 1
    table = result.stdout.splitlines()
    assert table[1].split() == ["a.tif", "0", "0", "0", "0.0", "failed:", "does", "not", "exist"]


def test_a_terminated_command_can_be_gone_on_with(scenes, tmp_path, command, monkeypatch):
    class Terminated(Tired):
        def __call__(self, chips):
            found = super().__call__(chips)
            if len(self.shown) > 6:
                os.kill(os.getpid(), signal.SIGTERM)
            return found

    output = tmp_path / "towns.gpkg"
    with monkeypatch.context() as stopped:
        stopped.setattr(
            "footprints.model.detector.load_detector", lambda *_, **__: Terminated(TOWNS)
        )
        result = command(*scenes, "-o", output)
    assert result.exit_code == 143
    assert result.stderr.splitlines()[-1] == "footprints: stopped; go on with --resume"
    assert not output.exists()
    assert list(journal_of(output).glob("*.parquet"))
    assert command(*scenes, "-o", output, "--resume").exit_code == 0
    assert len(read_layer(output)) == 36


def test_a_full_disk_ends_the_run_in_one_line_and_can_be_gone_on_with(
    scenes, tmp_path, command, monkeypatch
):
    output = tmp_path / "towns.gpkg"
    replace = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if "1-1-00002" in path.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return replace(path, content)

    with monkeypatch.context() as disk:
        disk.setattr(Path, "write_bytes", full)
        result = command(*scenes, "-o", output, "--keep-going")
    assert result.exit_code == 1
    assert "cannot write unfinished run" in result.stderr.splitlines()[-1]
    assert "No space left on device" in result.stderr.splitlines()[-1]
    assert command(*scenes, "-o", output, "--resume").exit_code == 0


def test_runs_that_begin_together_do_not_mix(scenes, tmp_path):
    """Both find no journal; the first row that is done settles whose the output is."""
    output = tmp_path / "towns.gpkg"

    class Meddling(KnownBuildings):
        def __call__(self, chips):
            if not journal_of(output).exists():
                other = Journal(output, Asked({}, []), resume=False, overwrite=False)
                other.keep()
                others.append(other)
            return super().__call__(chips)

    others: list[Journal] = []
    with pytest.raises(RunError, match="another process is at work on"):
        fp.predict(scenes, output=output, detector=Meddling(TOWNS), **GRID)
    others[0].close()
