"""Files are whole or as they were."""

import errno
from pathlib import Path

import pytest

from footprints.errors import OutputError
from footprints.files import write_whole


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
