"""Progress: bars where somebody looks, whole percents as messages of the log elsewhere."""

import logging
import subprocess
import sys

import pytest

from footprints.progress import Progress, is_hidden

WITHOUT_WIDGETS = """
import sys, types, warnings
warnings.simplefilter("error")
# What tqdm takes for a notebook.
sys.modules["ipykernel.zmqshell"] = types.ModuleType("ipykernel.zmqshell")
sys.modules["ipywidgets"] = None
import IPython
from footprints.progress import is_hidden, tqdm
assert is_hidden(progress=True) is False
for _ in tqdm(range(3), disable=is_hidden(progress=True)):
    pass
"""


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


def test_bars_are_drawn_on_terminals_and_in_notebooks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ipykernel.zmqshell", raising=False)
    assert is_hidden(progress=True) is None, "tqdm looks whether there is a terminal"
    monkeypatch.setitem(sys.modules, "ipykernel.zmqshell", sys)
    assert is_hidden(progress=True) is False
    assert is_hidden(progress=False) is True


def test_notebooks_without_widgets_have_bars_of_text_and_no_warning() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_WIDGETS], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "3/3" in done.stderr
    assert "Warning" not in done.stderr
