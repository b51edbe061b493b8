"""What a run has done so far, so that one that dies can go on where it was.

A row of chips is the unit: of the network's work, because batches never cross rows, and of what is
lost when a process is killed. Beside the output lies, until it is written, a hidden folder:

- `journal.json` says what the run was asked for; a run that was asked for something else does not
  go on from here.
- `1-1-00042.parquet` is row 42 of the first pass over the first scene, written beside and renamed.
- `lock` is held by the process at work.

The folder comes with the first row that is done, and goes when the output is there. Where scenes
failed in whole or in part it stays, so that another run does what is missing and nothing else.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow as pa
import shapely
from pyarrow import parquet

from footprints.errors import FootprintsError, OutputError, RunError
from footprints.files import lock_file, write_whole
from footprints.stages import staged
from footprints.vector.detected import ChipRow
from footprints.vector.kept import from_table, to_table

HEAD = "journal.json"
BATCH_SIZE = "batch size"
"""What a run was asked for under this name is not compared: a run that goes on takes over what was
in force, which may be less than what was asked for, because memory ran out."""
LOCK = "lock"
MEASURED = "grid"
"""Scenes that could be opened say this of themselves."""

_READ, _VALID = b"footprints_read", b"footprints_valid"


class Asked(NamedTuple):
    """What a run was asked for, by the names that a user knows."""

    run: Mapping[str, Any]
    """Of all scenes together."""
    scenes: Sequence[Mapping[str, Any]]
    """Of each; of one that could not be opened, its ``path`` alone."""


class Journal:
    """The rows of chips that are done.

    Args:
        output: What the run makes; the journal lies beside it.
        asked: What the run was asked for: all that its rows depend on. Values that JSON can hold.
        resume: Go on from what is there, if anything is.
        overwrite: Throw away what is there.
        changed: Numbers of the scenes, from 0, that may be others than before: what was done of
            those that are is thrown away.

    Raises:
        OutputError: A journal is there, and neither was asked for.
        RunError: The journal is of another run, or another process is at work on it.
    """

    def __init__(
        self,
        output: Path,
        asked: Asked,
        *,
        resume: bool,
        overwrite: bool,
        changed: Collection[int] = (),
    ) -> None:
        self._folder = journal_of(output)
        self._asked = Asked(*json.loads(json.dumps(asked)))
        self._lock: IO[bytes] | None = None
        self._stays = False
        if not (self._folder / HEAD).is_file():
            return
        if not (resume or overwrite):
            raise OutputError(
                f"an unfinished run of {output} is there; go on with --resume, or start anew with "
                f"--overwrite"
            )
        self._take()
        if not resume:
            self.remove()
            return
        try:
            self._check(changed)
            self._write_head()
        except FootprintsError:
            self.close()
            raise

    @property
    def batch_size(self) -> int:
        """How many chips go through together in the rows still to come."""
        size: int = self._asked.run[BATCH_SIZE]
        return size

    @batch_size.setter
    def batch_size(self, size: int) -> None:
        self._asked = self._asked._replace(run={**self._asked.run, BATCH_SIZE: size})
        if self._lock is not None:
            self._write_head()

    def has(self, scene: int, look: int, row: int) -> bool:
        """Whether a row of chips is done."""
        return self._lock is not None and self._part(scene, look, row).is_file()

    @staged("journal")
    def read(self, scene: int, look: int, row: int) -> ChipRow:
        """A row of chips that is done.

        Raises:
            RunError: It is damaged.
        """
        path = self._part(scene, look, row)
        try:
            table = parquet.ParquetFile(path, page_checksum_verification=True).read()
            about = table.schema.metadata
            read = np.frombuffer(about[_READ], dtype=np.bool_)
            return ChipRow(from_table(table), read, shapely.from_wkb(about[_VALID]))
        except (OSError, ValueError, KeyError, shapely.errors.GEOSException) as err:
            reason = (str(err) or type(err).__name__).splitlines()[0]
            raise RunError(
                f"{path} is damaged ({reason}); remove it, and --resume does that row again"
            ) from err

    @staged("journal")
    def write(self, scene: int, look: int, row: int, chips: ChipRow) -> None:
        """Note that a row of chips is done.

        Raises:
            OutputError: It cannot be written.
        """
        if self._lock is None:
            self._begin()
        table = to_table(chips.outlines)
        about = {
            **(table.schema.metadata or {}),
            _READ: chips.read.tobytes(),
            _VALID: shapely.to_wkb(chips.valid),
        }
        table = table.replace_schema_metadata(about)
        part = pa.BufferOutputStream()
        parquet.write_table(table, part, compression="zstd", write_page_checksum=True)
        content = part.getvalue().to_pybytes()
        write_whole(self._part(scene, look, row), content, "unfinished run")

    def forget(self, scene: int) -> None:
        """Throw away what was done of a scene."""
        for path in self._folder.glob(f"{scene + 1}-*.parquet"):
            path.unlink(missing_ok=True)

    def keep(self) -> None:
        """Stay when the output is there: something is missing in it.

        Raises:
            OutputError: It cannot be written.
        """
        if self._lock is None:
            self._begin()
        self._stays = True

    def finish(self) -> None:
        """The output is there: leave nothing behind, unless something is missing in it."""
        if not self._stays:
            self.remove()

    def remove(self) -> None:
        """Leave nothing behind."""
        if self._lock is not None:
            # These go last: what is left of a removal that is cut short is still a journal.
            for path in self._folder.iterdir():
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                elif path.name not in (HEAD, LOCK):
                    path.unlink(missing_ok=True)
            shutil.rmtree(self._folder, ignore_errors=True)
        self.close()

    def close(self) -> None:
        """Let another process go on."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _begin(self) -> None:
        try:
            self._folder.mkdir(exist_ok=True)
        except OSError as err:
            raise OutputError(f"cannot make {self._folder}: {err.strerror}") from err
        self._take()
        self._write_head()

    def _write_head(self) -> None:
        content = json.dumps(self._asked._asdict(), indent=1).encode()
        write_whole(self._folder / HEAD, content, "unfinished run")

    def _take(self) -> None:
        # No file of the run itself: those are renamed into place, and a lock is on what was there.
        path = self._folder / LOCK
        try:
            lock = path.open("ab")
        except OSError as err:
            raise OutputError(f"cannot write {path}: {err.strerror}") from err
        if not lock_file(lock):
            lock.close()
            raise RunError(
                f"another process is at work on {self._folder}; wait for it, or give another output"
            )
        self._lock = lock

    def _check(self, changed: Collection[int]) -> None:
        """Refuse to go on with what another run began."""
        head = self._folder / HEAD
        try:
            before = Asked(**json.loads(head.read_bytes()))
        except (ValueError, TypeError) as err:
            raise RunError(f"{head} is damaged; start anew with --overwrite") from err
        run = {**self._asked.run, BATCH_SIZE: before.run.get(BATCH_SIZE)}
        self._asked = self._asked._replace(run=run)
        _compare("", before.run, run)
        for number, now in enumerate(self._asked.scenes):
            was = before.scenes[number] if number < len(before.scenes) else {}
            of_scene = f" of scene {number + 1}"
            _compare(of_scene, {"path": was.get("path")}, {"path": now["path"]})
            if number in changed and was != now:
                self.forget(number)
            # Nothing was done of a scene that could not be opened.
            elif MEASURED in was and MEASURED in now:
                _compare(of_scene, was, now)
        if len(before.scenes) > len(self._asked.scenes):
            _compare("", {"scenes": len(before.scenes)}, {"scenes": len(self._asked.scenes)})

    def _part(self, scene: int, look: int, row: int) -> Path:
        return self._folder / f"{scene + 1}-{look + 1}-{row:05d}.parquet"


def journal_of(output: Path) -> Path:
    """Where the journal of a run lies that makes this output."""
    return output.with_name(f".{output.name}.unfinished")


@contextmanager
def open_journal(
    output: Path,
    asked: Asked,
    *,
    resume: bool,
    overwrite: bool,
    changed: Collection[int] = (),
) -> Iterator[Journal]:
    """The journal of a run, which goes when all has gone well; arguments as `Journal`."""
    journal = Journal(output, asked, resume=resume, overwrite=overwrite, changed=changed)
    try:
        yield journal
        journal.finish()
    finally:
        journal.close()


def _compare(of_what: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for name in sorted({*before, *now}):
        was, is_ = before.get(name), now.get(name)
        if was != is_:
            raise RunError(
                f"cannot go on: {name}{of_what} was {was}, is {is_}; put it back, or start anew "
                f"with --overwrite"
            )
