"""Workers in other processes give the bytes of a run without them, whatever befalls them."""

import os
import pickle
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import psutil
import pytest
import shapely
from known_buildings import KnownBuildings, doubled, noisy
from known_town import HEIGHT, NORTH_UP, TOWN, UTM, WIDTH, on_ground
from labelled_scenes import write_image
from shapely.affinity import translate
from typer.testing import CliRunner

import footprints as fp
from footprints.chip import Chip, ChipGrid, Instances, Scaling
from footprints.cli import app
from footprints.cluster import Crew, Order
from footprints.errors import BandError, ClusterError, ConfigError, FootprintsWarning, RasterError
from footprints.rows import Cover
from footprints.vector.journal import journal_of

distributed = pytest.importorskip("distributed")

TWICE = [translate(b, x, 0) for x in (0, WIDTH) for b in TOWN]
GRID = {"chip_size": 96, "overlap": 32, "batch_size": 2, "progress": False}
BATCHES = 4 * 5 + 1
"""Of the scene: four rows of nine chips, and the coarse pass."""


@dataclass(frozen=True, eq=False)
class Signing(KnownBuildings):
    """Leaves a file for every batch, named after its process."""

    folder: str = ""

    def __call__(self, chips: list[Chip]) -> list[Instances]:
        self.befall(len(list(Path(self.folder).iterdir())))
        Path(self.folder, f"{os.getpid()}-{time.time_ns()}").touch()
        return super().__call__(chips)

    def befall(self, seen: int) -> None:
        """What happens when so many batches have been seen."""


class Dying(Signing):
    """The first process to look again kills itself."""

    def befall(self, seen: int) -> None:
        if seen >= 2 and not Path(self.folder, "killed").exists():
            Path(self.folder, "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)


class Deadly(Signing):
    """Every process that looks kills itself."""

    def befall(self, _seen: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class Slow(Signing):
    """The first process takes its time."""

    def befall(self, _seen: int) -> None:
        signs = sorted(Path(self.folder).iterdir(), key=lambda p: p.name.partition("-")[2])
        if signs and signs[0].name.startswith(f"{os.getpid()}-"):
            time.sleep(0.1)


class Fussy(Signing):
    """Warns of every chip, and does not like those of the lower rows."""

    def __call__(self, chips: list[Chip]) -> list[Instances]:
        warnings.warn("a chip is odd", FootprintsWarning, stacklevel=2)
        if chips[0].transform.f < NORTH_UP.f - 100 * NORTH_UP.a:
            raise BandError("the detector wants other bands")
        return super().__call__(chips)


@dataclass(frozen=True, eq=False)
class Ending(Signing):
    """Kills the scheduler on its way."""

    scheduler: int = 0

    def befall(self, seen: int) -> None:
        if seen == 12:
            os.kill(self.scheduler, signal.SIGKILL)


def known(kind: type[Signing], folder: Path, **values: object) -> Signing:
    folder.mkdir()
    return kind(on_ground(TWICE), flaws=[noisy, doubled], folder=str(folder), **values)


def processes(folder: Path) -> set[str]:
    return {path.name.partition("-")[0] for path in folder.iterdir()} - {"killed"}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("footprints.cluster.BLOCK_CHIPS", 1)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pixels = np.random.default_rng(0).integers(40, 250, (1, HEIGHT, 2 * WIDTH)).astype(np.uint8)
    pixels[:, :20, :20] = 0
    path = tmp_path_factory.mktemp("scene") / "town.tif"
    return write_image(path, pixels, transform=NORTH_UP, crs=UTM, nodata=0)


@pytest.fixture(scope="module")
def whole(scene: Path) -> bytes:
    """The layer's file as a run without workers writes it."""
    detector = KnownBuildings(on_ground(TWICE), flaws=[noisy, doubled])
    fp.predict(scene, output=scene.with_name("town.gpkg"), detector=detector, **GRID)
    return scene.with_name("town.gpkg").read_bytes()


@pytest.fixture(scope="module")
def client() -> Iterator[object]:
    """Two workers, with nannies that start them anew."""
    with (
        # Nannies leave their threads of OpenMP to this process, and to what other tests start.
        mock.patch.dict(os.environ),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", memory_limit=0
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "town.gpkg"


@pytest.mark.parametrize("kind", [Signing, Slow, Dying])
def test_workers_give_the_same_bytes(scene, whole, client, tmp_path, output, kind):
    detector = known(kind, tmp_path / "signs")
    fp.predict(scene, output=output, detector=detector, cluster=client, **GRID)
    assert output.read_bytes() == whole
    assert (tmp_path / "signs" / "killed").exists() == (kind is Dying)
    if kind is Signing:
        workers = {str(pid) for pid in client.run(os.getpid).values()}
        assert processes(tmp_path / "signs") == workers
    assert not journal_of(output).exists()


def test_scenes_overtake_each_other_and_nothing_stays(scene, client, tmp_path):
    scenes = [scene.rename(tmp_path / "0.tif")]
    for number in range(1, 4):
        scenes.append(tmp_path / f"{number}.tif")
        scenes[-1].write_bytes(scenes[0].read_bytes())
    detector = KnownBuildings(on_ground(TWICE), flaws=[noisy, doubled])
    alone = fp.predict(scenes, detector=detector, **GRID)
    assert fp.predict(scenes, detector=detector, cluster=client, **GRID).equals(alone)
    scenes[0].rename(scene)

    def plugins(dask_worker: object) -> list[str]:
        return [name for name in dask_worker.plugins if name.startswith("footprints")]

    assert set(map(tuple, client.run(plugins).values())) == {()}


@pytest.mark.slow
def test_a_network_gives_the_same_layer(scene, client, tmp_path):
    from tiny_network import tiny_config, tiny_network

    from footprints.chip import InputSpec, Scaling
    from footprints.model.checkpoint import WeightsInfo, save_weights

    config = tiny_config(detection={"max_per_chip": 100})
    spec = InputSpec(config.bands, None, Scaling((120.0,) * 3, (60.0,) * 3), multiple=32)
    weights = tmp_path / "tiny.safetensors"
    save_weights(weights, tiny_network(config, seed=2), WeightsInfo("tiny", config, spec, 0.05))
    asked = {"weights": weights, "bands": [1, 1, 1], "device": "cpu", "precision": "float32"}
    alone = fp.predict(scene, **asked, **GRID)
    detector = fp.load_detector(weights, device="cpu", precision="float32")
    assert pickle.loads(pickle.dumps(detector)).digest == detector.digest
    layer = fp.predict(scene, cluster=client, **asked, **GRID)
    assert len(layer) == len(alone) > 100
    first, second = layer.geometry.to_numpy(), alone.geometry.to_numpy()
    shared = shapely.area(shapely.intersection(first, second))
    assert (shared / shapely.area(shapely.union(first, second)) >= 0.999).all()


def test_runs_go_on_with_and_without_workers(scene, whole, client, tmp_path, output):
    detector = known(Fussy, tmp_path / "signs")
    asked = {"output": output, **GRID}
    with (
        pytest.warns(FootprintsWarning, match="a chip is odd"),
        pytest.raises(BandError, match=r"^worker tcp://127.0.0.1:\d+: the detector wants other b"),
    ):
        fp.predict(scene, detector=detector, cluster=client, **asked)
    assert any(journal_of(output).glob("1-1-*.parquet"))
    rest = known(Signing, tmp_path / "rest")
    fp.predict(scene, detector=rest, cluster=client, resume=True, **asked)
    assert output.read_bytes() == whole
    assert len(list((tmp_path / "rest").iterdir())) < BATCHES


def test_a_scene_that_a_worker_cannot_reach_is_named(scene, client, tmp_path, monkeypatch):
    from footprints.cluster import _blocks

    there = tmp_path / "there.tif"
    there.write_bytes(scene.read_bytes())

    def hide(*args: object) -> object:
        there.rename(tmp_path / "elsewhere.tif")
        return _blocks(*args)

    monkeypatch.setattr("footprints.cluster._blocks", hide)
    line = rf"^worker tcp://\S+: {there} does not exist; every worker has to reach the scenes"
    with pytest.raises(RasterError, match=line):
        fp.predict(there, detector=KnownBuildings(on_ground(TOWN)), cluster=client, **GRID)


@pytest.mark.filterwarnings("ignore::footprints.errors.FailureWarning")
def test_what_cannot_be_read_is_left_out_as_without_workers(scene, client, tmp_path):
    scenes = [tmp_path / name for name in ("cut.tif", "nothing.tif", "whole.tif")]
    for path in scenes:
        path.write_bytes(scene.read_bytes())
    os.truncate(scenes[0], 100_000)
    os.truncate(scenes[1], 0)
    files = []
    for cluster in (None, client):
        output = tmp_path / f"{cluster is None}" / "towns.gpkg"
        output.parent.mkdir()
        detector = KnownBuildings(on_ground(TWICE), flaws=[noisy, doubled])
        asked = {"output": output, "detector": detector, "keep_going": True, **GRID}
        fp.predict(scenes, cluster=cluster, **asked)
        files.append([output.read_bytes(), output.with_name("towns.gpkg.failures.csv").read_text()])
    assert files[0] == files[1]
    assert "cut.tif" in files[0][1]


def test_what_kills_workers_ends_the_run(scene, client, tmp_path):
    client.run_on_scheduler(allow_failures, 0)
    detector = known(Deadly, tmp_path / "signs")
    with pytest.raises(ClusterError, match=r"1 workers died of the same chips, the last one tcp"):
        fp.predict(scene, detector=detector, cluster=client, **GRID)
    client.run_on_scheduler(allow_failures, 3)


def allow_failures(count: int, dask_scheduler: object) -> None:
    dask_scheduler.allowed_failures = count


def test_a_detector_that_cannot_travel_is_refused(scene, client):
    detector = KnownBuildings(on_ground(TOWN), flaws=[(flaw for flaw in ())])
    with pytest.raises(ConfigError, match="known-buildings cannot be sent to workers: cannot pick"):
        fp.predict(scene, detector=detector, cluster=client, **GRID)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"cluster": "tcp://127.0.0.1:1"}, "no dask scheduler answers at tcp://127.0.0.1:1 within"),
        ({"cluster": "nowhere.json"}, "no scheduler file nowhere.json; name local, an address"),
        ({"cluster": "tcp://127.0.0.1:1", "workers": 2}, "--workers is the number of processes"),
        ({"workers": 2}, "2 workers need a cluster; add --cluster local"),
    ],
)
def test_no_cluster_is_one_line(scene, monkeypatch, asked, words):
    monkeypatch.setattr("footprints.cluster.CONNECT_S", 0.5)
    with pytest.raises((ClusterError, ConfigError), match=words):
        fp.predict(scene, detector=KnownBuildings(on_ground(TOWN)), **asked, **GRID)


def test_the_command_says_it_in_one_line(scene, output):
    asked = ["predict", str(scene), "-o", str(output), "--bands", "1,1,1", "--cluster", "no.json"]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 1
    assert result.stderr.startswith("footprints: no scheduler file no.json; name local, an address")
    assert result.stderr.count("\n") == 1


def test_a_missing_extra_is_named(scene, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ClusterError, match=r"pip install 'building-footprints\[cluster\]'"):
        fp.predict(scene, detector=KnownBuildings(on_ground(TOWN)), cluster="local", **GRID)


def test_a_local_cluster_leaves_the_environment_as_it_was(scene):
    before = dict(os.environ)
    fp.predict(scene, detector=KnownBuildings(on_ground(TOWN)), cluster="local", **GRID)
    assert dict(os.environ) == before


def test_dask_is_loaded_when_a_cluster_is_asked_for():
    script = "import sys, footprints.pipeline; print({'dask', 'distributed'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert found.stdout == "set()\n"


@pytest.mark.slow
def test_a_run_that_loses_its_scheduler_goes_on(scene, whole, tmp_path, output):
    file = tmp_path / "scheduler.json"
    scheduler = ["scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
    worker = ["worker", "--no-nanny", "--nthreads", "1", "--no-dashboard", "--death-timeout", "60"]
    with dask(scheduler, file) as process, dask(worker, file):
        while not file.exists():
            time.sleep(0.1)
        detector = known(Ending, tmp_path / "signs", scheduler=process.pid)
        asked = {"output": output, "detector": detector, **GRID}
        with pytest.raises(ClusterError, match=r"lost the dask scheduler tcp://.* with --resume$"):
            fp.predict(scene, cluster=str(file), **asked)
    assert any(journal_of(output).glob("1-1-*.parquet"))
    assert not output.exists()
    fp.predict(scene, resume=True, **asked)
    assert output.read_bytes() == whole


@pytest.mark.parametrize("call", ["nthreads", "submit", "result"])
@pytest.mark.parametrize(
    "gone",
    [
        distributed.CancelledError("look_at_block"),
        distributed.client.ClosedClientError("Client is closed. Can't send update-graph message."),
        distributed.comm.CommClosedError("ConnectionPool.ncores: Connection reset by peer"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_any_call_may_be_the_first_to_find_the_scheduler_gone(call, gone):
    client = mock.Mock()
    client.scheduler.address = "tcp://10.0.0.7:8786"
    client.nthreads.return_value = {"tcp://10.0.0.8:40123": 4}
    breaking = client.submit.return_value.result if call == "result" else getattr(client, call)
    breaking.side_effect = gone
    cover = Cover(grid=mock.sentinel.grid, chips=ChipGrid(96, 96, size=96, overlap=0))
    crew = Crew(client, "station")
    crew.take([Order(0, [cover], Scaling((0.0,), (1.0,)), [[0]])])
    with pytest.raises(ClusterError, match=r"^lost the dask scheduler tcp://10\.0\.0\.7:8786; "):
        list(crew.rows(0, 0, faults=None, count=lambda _: None))


@contextmanager
def dask(command: list[str], file: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A scheduler or a worker as users start them, until the end of the test."""
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    process = subprocess.Popen(
        [sys.executable, "-m", "dask", *command, "--scheduler-file", str(file)],
        env={**os.environ, "PYTHONPATH": paths},
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


STOPPED_RUN = """
import sys, time
from test_cluster import GRID, Signing, TWICE, doubled, noisy, on_ground
import footprints as fp, footprints.cluster
footprints.cluster.BLOCK_CHIPS = 1
class Slow(Signing):
    def __call__(self, chips):
        # The signal has to come before the end, however busy the machine is.
        time.sleep(0.5)
        return super().__call__(chips)
detector = Slow(on_ground(TWICE), flaws=[noisy, doubled], folder={folder!r})
try:
    fp.predict({scene!r}, output={output!r}, detector=detector, cluster="local", **GRID)
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.slow
def test_ctrl_c_leaves_a_run_that_goes_on_and_no_process(scene, whole, tmp_path, output):
    (tmp_path / "signs").mkdir()
    script = STOPPED_RUN.format(
        folder=str(tmp_path / "signs"), scene=str(scene), output=str(output)
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
        start_new_session=True,
        # Tests may run in the background, where shells let this signal be ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not any(journal_of(output).glob("1-1-*.parquet")):
        assert process.poll() is None
        time.sleep(0.01)
    children = psutil.Process(process.pid).children(recursive=True)
    # As a terminal does: to all of them.
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 130
    assert not psutil.wait_procs(children, timeout=20)[1]
    assert not output.exists()
    detector = KnownBuildings(on_ground(TWICE), flaws=[noisy, doubled])
    fp.predict(scene, output=output, detector=detector, resume=True, **GRID)
    assert output.read_bytes() == whole
