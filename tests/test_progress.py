"""Bars are where somebody looks: on terminals and in notebooks."""

import subprocess
import sys

import pytest

from footprints.progress import is_hidden

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
