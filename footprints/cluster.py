"""Rows of chips looked at by the workers of a dask cluster: other processes, other machines.

Blocks of a few rows go out in the order in which the run needs them, over passes and scenes, and
come back in that order, so that seams are closed and the journal is written here as without a
cluster. Batches of chips are the same ones too. dask does again what a lost worker had done.
"""

from __future__ import annotations

import logging
import os
import pickle
import sys
import uuid
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from footprints.chip import Detector, Scaling
from footprints.errors import ClusterError, ConfigError
from footprints.rows import Cover
from footprints.vector.detected import ChipRow, Fault

if TYPE_CHECKING:
    from distributed import Client, Future, SpecCluster

    from footprints.worker import Block, Shown

LOCAL = "local"
"""The cluster that is started on this machine for the run."""

BLOCK_CHIPS = 16
"""A block has at least this many chips, if the pass has: seconds of work, beside which sending it
does not count. It has no more rows than that takes; a row is never cut, as in the journal."""

AHEAD = 3
"""Blocks under way for each worker: one at work, one next, and one that may wait for a slower
worker's to be taken first. What they show stays with the workers until then."""

CONNECT_S = 10
"""Seconds until a scheduler has to answer."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be looked at in one scene."""

    scene: int
    """Its number."""
    looks: Sequence[Cover]
    """One cover for each pass."""
    scaling: Scaling
    """Of the scene's values to the detector's."""
    rows: Sequence[Sequence[int]]
    """For each pass, which rows of chips."""


class Crew:
    """The workers of a cluster, at work for one run.

    Args:
        client: Of the cluster.
        station: Name of the `footprints.worker.Station` that they have.
    """

    def __init__(self, client: Client, station: str) -> None:
        self._client = client
        self._station = station
        self._to_do: Iterator[Block] = iter(())
        self._sent: deque[tuple[Block, Future]] = deque()

    def take(self, orders: Iterable[Order]) -> None:
        """Look at these scenes, from now on, as far ahead as `AHEAD` says."""
        self._to_do = (block for order in orders for block in _blocks(order))

    def rows(
        self,
        scene: int,
        look: int,
        *,
        faults: list[Fault] | None,
        count: Callable[[int], object],
    ) -> Generator[ChipRow]:
        """What the ordered rows of one pass show, in order; passes are to be asked for in order.

        Args:
            scene: Number of the scene.
            look: Number of the pass.
            faults: Where chips that cannot be read are noted, before their rows come.
            count: Is told how many more chips have been seen.

        Raises:
            ClusterError: Workers die of a block, or the scheduler is lost.
            FootprintsError: What went wrong on a worker, which the message names.
        """
        while self._send() and self._sent[0][0].place <= (scene, look):
            block, future = self._sent.popleft()
            if block.place == (scene, look):
                self._send()
                shown = self._result(future)
                if faults is not None:
                    faults.extend(shown.faults)
                count(shown.chips)
                yield from shown.rows

    def stop(self) -> None:
        """Leave what has been sent and is not taken."""
        self._client.cancel([future for _, future in self._sent], force=True)
        self._sent.clear()

    def _send(self) -> bool:
        """Keep workers busy; whether anything is under way."""
        from footprints.worker import look_at_block

        with self._scheduler_needed():
            limit = AHEAD * max(1, len(self._client.nthreads()))
            while len(self._sent) < limit and (block := next(self._to_do, None)) is not None:
                future = self._client.submit(
                    look_at_block,
                    self._station,
                    block,
                    key=("look_at_block", self._station, *block.place, block.rows[0]),
                )
                self._sent.append((block, future))
        return bool(self._sent)

    def _result(self, future: Future) -> Shown:
        from distributed import KilledWorker

        shown: Shown
        try:
            with self._scheduler_needed():
                shown = future.result()
        except KilledWorker as err:
            _, worker, failures = err.args
            raise ClusterError(
                f"{failures + 1} workers died of the same chips, the last one {worker.address}; "
                "their logs may say why (out of memory?): go on with --resume and more of it"
            ) from err
        for warning in shown.warnings:
            warnings.warn(warning, stacklevel=3)
        return shown

    @contextmanager
    def _scheduler_needed(self) -> Iterator[None]:
        """Whichever call is the first to find the scheduler gone, the error is the same."""
        from distributed import CancelledError
        from distributed.client import ClosedClientError
        from distributed.comm import CommClosedError

        address = self._client.scheduler.address
        try:
            yield
        except (CancelledError, ClosedClientError, CommClosedError) as err:
            raise ClusterError(
                f"lost the dask scheduler {address}; start it anew and go on with --resume"
            ) from err


def _blocks(order: Order) -> Iterator[Block]:
    from footprints.worker import Block

    scene = pickle.dumps((order.looks, order.scaling))
    for look, (cover, rows) in enumerate(zip(order.looks, order.rows, strict=True)):
        together = -(-BLOCK_CHIPS // len(cover.chips.column_starts))
        for start in range(0, len(rows), together):
            yield Block((order.scene, look), rows[start : start + together], scene)


@contextmanager
def open_crew(
    cluster: str | Path | Client | None,
    detector: Detector,
    *,
    workers: int | None,
    batch_size: int,
    heard_from: float,
) -> Iterator[Crew | None]:
    """Give every worker of a cluster a detector.

    Args:
        cluster: ``local``, the address of a scheduler, its file, or a client, which stays open;
            None has no crew.
        detector: Is pickled; see `footprints.model.detector.NetworkDetector` for the network.
        workers: Processes of a local cluster; None takes one for each GPU, or one.
        batch_size: Chips that go through the detector together.
        heard_from: Instances below this confidence are left out.

    Raises:
        ClusterError: dask.distributed is not installed, no scheduler answers, or the workers
            cannot take the detector.
        ConfigError: The detector cannot be pickled, or ``workers`` given for another cluster.
    """
    if cluster is None:
        if workers is not None:
            raise ConfigError(f"{workers} workers need a cluster; add --cluster {LOCAL}")
        yield None
        return
    with ExitStack() as opened:
        client = opened.enter_context(_connected(cluster, workers))
        import cloudpickle
        from distributed.client import ClosedClientError

        from footprints.worker import Station

        try:
            pickled = cloudpickle.dumps(detector)
        except (TypeError, AttributeError, pickle.PicklingError) as err:
            raise ConfigError(
                f"detector {detector.name} cannot be sent to workers: {err}; keep open files, "
                "locks and the like out of it, or leave out the cluster"
            ) from err
        station = Station(
            f"footprints-{uuid.uuid4().hex[:8]}",
            pickled,
            batch_size=batch_size,
            heard_from=heard_from,
        )
        try:
            client.register_plugin(station)
        except ImportError as err:
            raise ClusterError(
                f"a worker cannot take the detector: {err}; install building-footprints there"
            ) from err
        count = len(client.nthreads())
        units = "worker" if count == 1 else "workers"
        _log.info("%d %s; dask's dashboard: %s", count, units, client.dashboard_link)
        crew = Crew(client, station.name)
        try:
            yield crew
        finally:
            if client.status == "running":
                # A worker or a scheduler that dies in this moment breaks the calls, and a worker
                # that was started in one's place has nothing to forget; the others have had it.
                with suppress(OSError, KeyError, ClosedClientError):
                    crew.stop()
                    client.unregister_worker_plugin(station.name)


@contextmanager
def _connected(cluster: str | Path | Client, workers: int | None) -> Iterator[Client]:
    try:
        from distributed import Client
    except ImportError as err:
        raise ClusterError(
            "clusters need dask.distributed; pip install 'building-footprints[cluster]'"
        ) from err
    if workers is not None and (cluster != LOCAL or workers < 1):
        raise ConfigError(
            f"--workers is the number of processes of --cluster {LOCAL}, at least 1; got {workers} "
            f"for {cluster}"
        )
    if isinstance(cluster, Client):
        yield cluster
        return
    with ExitStack() as opened:
        where: dict[str, Any] = {"address": str(cluster)}
        if cluster == LOCAL:
            where = {"address": opened.enter_context(_start_local(workers))}
        elif "://" not in str(cluster):
            if not Path(cluster).is_file():
                raise ClusterError(
                    f"no scheduler file {cluster}; name {LOCAL}, an address such as "
                    "tcp://host:8786, or what dask scheduler --scheduler-file wrote"
                )
            where = {"scheduler_file": str(cluster)}
        try:
            client = Client(**where, timeout=CONNECT_S, set_as_default=False)
        except (OSError, ValueError) as err:
            raise ClusterError(
                f"no dask scheduler answers at {cluster} within {CONNECT_S} s; is it running, and "
                "can this machine reach it?"
            ) from err
        yield opened.enter_context(client)


def _start_local(workers: int | None) -> SpecCluster:
    """A cluster of processes that only this machine can reach."""
    import dask
    from distributed import Nanny, Scheduler, SpecCluster

    gpus = _visible_gpus()
    count = workers or len(gpus) or 1
    each: dict[str, Any] = {
        "host": "127.0.0.1",
        "nthreads": max(1, _cores() // count),
        # dask would kill a process for memory that GDAL and the network use as they should.
        "memory_limit": 0,
        "dashboard": False,
        "silence_logs": logging.ERROR,
    }
    pinned = [{"CUDA_VISIBLE_DEVICES": gpus[n % len(gpus)]} if gpus else {} for n in range(count)]
    # Nannies would set the threads of OpenMP for this process, too, and leave it at that.
    with dask.config.set({"distributed.nanny.pre-spawn-environ": {}}):
        return SpecCluster(
            workers={
                number: {"cls": Nanny, "options": {**each, "env": env}}
                for number, env in enumerate(pinned)
            },
            scheduler={
                "cls": Scheduler,
                "options": {"host": "127.0.0.1", "port": 0, "dashboard_address": "127.0.0.1:0"},
            },
            silence_logs=logging.ERROR,
        )


def _visible_gpus() -> list[str]:
    """Names of the GPUs that this process can see, as CUDA has them."""
    # Who has not loaded torch has no detector that could use one.
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(n) for n in range(torch.cuda.device_count())]


def _cores() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
