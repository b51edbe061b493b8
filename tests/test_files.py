"""Files are whole or as they were."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from footprints.errors import OutputError
from footprints.files import making_beside, put_folder, write_whole


def test_a_file_is_replaced(tmp_path):
    (tmp_path / "a.json").write_text("old")
    write_whole(tmp_path / "a.json", b"new", "figures")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.json", "new")]


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    (tmp_path / "a.json").write_text("old")
    write = Path.write_bytes

    def fill(path, content):
        write(path, content[:1])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fill)
    with pytest.raises(OutputError, match=r"cannot write figures .*a\.json: No space left"):
        write_whole(tmp_path / "a.json", b"new", "figures")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.json", "old")]


KILLED = """
import os, signal, sys
from pathlib import Path
from footprints.files import making_beside

with making_beside(Path(sys.argv[1])) as folder:
    (folder / "half").write_bytes(b"half of it")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(os.name != "posix", reason="nothing is cleared up without locks")
def test_what_a_killed_process_left_goes_with_the_next_one(tmp_path):
    place = tmp_path / "town.gpkg"
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", KILLED, str(place)], check=False)
        assert done.returncode == -signal.SIGKILL
        left = [path.name for path in tmp_path.iterdir()]
        assert left == [".town.gpkg.making"]
    write_whole(place, b"whole", "layer")
    assert [path.name for path in tmp_path.iterdir()] == ["town.gpkg"]


def test_a_process_at_work_keeps_its_folder(tmp_path):
    place = tmp_path / "town.gpkg"
    with making_beside(place) as mine:
        (mine / "half").write_bytes(b"half of it")
        write_whole(place, b"of another", "layer")
        assert (mine / "half").read_bytes() == b"half of it"
    assert [path.name for path in tmp_path.iterdir()] == ["town.gpkg"]


def test_a_folder_takes_the_place_of_another(tmp_path):
    place = tmp_path / "chips"
    for content in ("old", "new"):
        with making_beside(place) as folder:
            (folder / content).touch()
            put_folder(folder, place)
    assert [path.name for path in place.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["chips"]
