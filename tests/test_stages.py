"""Stages of a run: what they add up to, in which thread, and what `predict` has."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from known_buildings import KnownBuildings
from known_town import HEIGHT, NORTH_UP, TOWN, UTM, WIDTH, on_ground
from labelled_scenes import write_image

import footprints as fp
from footprints.stages import measure_stages, result, stage, staged, submit


@staged("napping")
def nap(seconds):
    time.sleep(seconds)
    return seconds


def test_a_stage_within_a_stage_counts_for_itself_alone():
    begun = time.perf_counter()
    with measure_stages() as stages:
        with stage("outer"):
            nap(0.05)
            time.sleep(0.02)
        table = stages.table()
    passed = time.perf_counter() - begun
    assert stages.seconds["napping"] >= 0.05
    assert stages.seconds["outer"] >= 0.02
    assert stages.seconds["outer"] + stages.seconds["napping"] <= passed, "one was counted twice"
    assert [line.split()[0] for line in table.splitlines()] == [
        "stage",
        "napping",
        "outer",
        "all",
        "in",
    ]


def test_other_threads_are_told_apart_and_waiting_for_them_is_a_stage():
    with measure_stages() as stages, ThreadPoolExecutor(1) as executor:
        assert result(submit(executor, nap, 0.05), "a nap") == 0.05
        assert "napping, meanwhile" in stages.table()
    assert stages.beside["napping"] >= 0.05
    assert stages.seconds["waiting for a nap"] > 0
    assert "napping" not in stages.seconds


def test_outside_nothing_is_measured():
    with measure_stages() as stages:
        pass
    nap(0)
    with pytest.raises(KeyError), stage("failing"):
        raise KeyError
    assert not stages.seconds


def test_the_stages_of_a_run(tmp_path):
    pixels = np.full((1, HEIGHT, WIDTH), 90, dtype=np.uint8)
    scene = write_image(tmp_path / "town.tif", pixels, transform=NORTH_UP, crs=UTM)
    with measure_stages() as stages:
        fp.predict(
            scene,
            output=tmp_path / "town.gpkg",
            detector=KnownBuildings(on_ground(TOWN)),
            chip_size=96,
            overlap=32,
            progress=False,
        )
    line = {"opening", "network", "network, wide roofs", "journal", "merging", "placing", "writing"}
    assert line <= set(stages.seconds)
    assert {"reading", "tracing", "merging"} <= set(stages.beside)
    assert min(stages.seconds.values()) >= 0
