"""How prediction grows with workers, what its journal costs, how long the command takes to start.

    python tests/benchmarks/scaling.py             # the sample scene, the weights that ship

Workers are started before the clock is. What is compared runs by turns, because other work on the
machine comes and goes; what counts is the ratio.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from unittest import mock

import torch
from distributed import Client, LocalCluster
from machine import describe

import footprints as fp

CREWS = ((1, 1), (2, 1), (1, 2))
"""Workers, and threads of each."""
COMMANDS = (("--help",), ("predict", "--help"), ("--version",))


class Stop(Exception):  # noqa: N818  # no error of ours
    """What cuts a run short when everything but its layer is done."""


def start(opened: ExitStack, workers: int, threads: int) -> Client:
    cluster = opened.enter_context(
        LocalCluster(
            n_workers=workers,
            threads_per_worker=threads,
            memory_limit=0,
            dashboard_address="127.0.0.1:0",
        )
    )
    return opened.enter_context(Client(cluster, set_as_default=False))


def by_turns(runs: int, what: dict[str, Callable[[], object]]) -> None:
    """Print the median, least and ratio to the first of some calls, by the wall clock."""
    seconds: dict[str, list[float]] = {name: [] for name in what}
    for turn in range(runs + 1):
        for name, call in what.items():
            begun = time.perf_counter()
            call()
            # In the first turn weights arrive and libraries are imported.
            if turn:
                seconds[name].append(time.perf_counter() - begun)
    first = statistics.median(next(iter(seconds.values())))
    for name, all_ in seconds.items():
        middle = statistics.median(all_)
        print(f"{name:40} {middle:7.2f} s, least {min(all_):7.2f} s, {middle / first:5.2f} times")


def scale(scene: str, runs: int) -> None:
    torch.set_num_threads(1)
    detector = fp.load_detector(device="cpu")
    asked = {"detector": detector, "progress": False}
    with ExitStack() as opened:
        calls: dict[str, Callable[[], object]] = {
            "this process, 1 thread": lambda: fp.predict(scene, **asked)
        }
        for workers, threads in CREWS:
            client = start(opened, workers, threads)
            calls[f"{workers} workers, {threads} threads each"] = lambda client=client: fp.predict(
                scene, cluster=client, **asked
            )
        by_turns(runs, calls)


def resume(scene: str, runs: int, folder: Path) -> None:
    torch.set_num_threads(1)
    output = folder / "town.gpkg"
    asked = {"detector": fp.load_detector(device="cpu"), "progress": False, "overwrite": True}
    with (
        mock.patch("footprints.finishing.write_layer", side_effect=Stop),
        suppress(Stop),
    ):
        fp.predict(scene, output=output, **asked)
    (journal,) = folder.glob(".*.unfinished")
    size = sum(path.stat().st_size for path in journal.iterdir())
    print(f"journal of the whole scene: {size / 2**20:.2f} MiB")

    def go_on() -> None:
        with (
            mock.patch("footprints.finishing.write_layer", side_effect=Stop),
            suppress(Stop),
        ):
            fp.predict(scene, output=output, resume=True, **asked)

    by_turns(runs, {"without a journal": lambda: fp.predict(scene, **asked)})
    by_turns(runs, {"resumed with every row done": go_on})
    journal.rename(folder / "aside")
    by_turns(runs, {"with a journal": lambda: fp.predict(scene, output=output, **asked)})


def command(*arguments: str) -> None:
    run = [sys.executable, "-m", "footprints.cli", *arguments]
    subprocess.run(run, check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--scene", default="data_samples/town.tif")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f}; {describe('torch', 'distributed')}")
    by_turns(
        options.runs,
        {"python -c pass": lambda: subprocess.run([sys.executable, "-c", "pass"], check=True)}
        | {f"footprints {' '.join(each)}": lambda each=each: command(*each) for each in COMMANDS},
    )
    scale(options.scene, options.runs)
    with tempfile.TemporaryDirectory() as folder:
        resume(options.scene, options.runs, Path(folder))


if __name__ == "__main__":
    main()
