"""Progress where there is no terminal: whole percents, as messages of the log."""

import logging

import pytest

from footprints.progress import Progress


def test_every_whole_percent_is_one_message(caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level(logging.INFO, "footprints"),
        Progress(1000, "a.tif", "chip", shown=True) as p,
    ):
        for _ in range(500):
            p.update()
        p.rename("b.tif")
        p.update(500)
    assert len(caplog.messages) == 51
    assert caplog.messages[0] == "a.tif: 1 %, 10 of 1000 chips"
    assert caplog.messages[-1] == "b.tif: 100 %, 1000 of 1000 chips"


def test_nothing_to_do_is_no_message(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "footprints"), Progress(0, "a.tif", "chip", shown=True):
        pass
    assert caplog.messages == []


def test_without_a_terminal_no_bar_is_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(3, "a.tif", "chip", shown=True) as progress:
        progress.note(buildings=3)
        progress.update(3)
    assert capsys.readouterr().err == ""
