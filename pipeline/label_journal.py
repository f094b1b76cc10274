"""What `label` has finished, kept beside its output so that a killed run goes on where it was."""

import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from regionspot_cache.errors import DamageError, UsageError
from regionspot_cache.identity import require_same


class Journal:
    """An append-only file: the identity of the run, then a line for every batch of images.

    A line that was cut off by the end of its process is no line. One process at a time has it open.

    Args:
        out: the output that the journal belongs to.
        identity: what decides the answers.

    Raises:
        IdentityError: it was begun with another identity.
        UsageError: another process has it open.
    """

    def __init__(self, out: Path, identity: dict[str, Any]) -> None:
        self.path = journal_path(out)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file: BinaryIO = open(self.path, "a+b")  # noqa: SIM115 - closed by `__exit__`
        try:
            self._lock(out)
            self.batches = self._begin(out, identity)
        except BaseException:
            self._file.close()
            raise

    def _lock(self, out: Path) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            found = f"Another process is labelling into {out}."
            raise UsageError(found, "One process for one output.", "wait for it, or --out another") from None

    def _begin(self, out: Path, identity: dict[str, Any]) -> int:
        """How many whole lines follow the identity; what is behind them is cut off."""
        self._file.seek(0)
        whole, lines = 0, 0
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            if not lines:
                again = f"the same settings as before, another --out, or: rm {self.path}"
                what = f"the unfinished {out}"
                require_same(
                    _identity(line, self.path), identity, what=what, wanted_by="this run", remedy=again
                )
            whole, lines = whole + len(line), lines + 1
        os.truncate(self.path, whole)
        if not lines:
            self._append(identity)
        return max(lines - 1, 0)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, batch: list[dict[str, Any]]) -> None:
        """One batch of finished images."""
        self._append(batch)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The finished images in order."""
        with self.path.open("rb") as file:
            next(file)
            for line in file:
                yield from json.loads(line)

    def remove(self) -> None:
        """When the output is there."""
        self.path.unlink()

    def _append(self, value: Any) -> None:
        self._file.write(json.dumps(value, default=str).encode() + b"\n")
        self._file.flush()


def _identity(line: bytes, path: Path) -> dict[str, Any]:
    """The first line of a journal. DamageError: it is none."""
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise DamageError(
            f"{path} is no journal of this program.", "What an unfinished run left.", f"rm {path}"
        )
    return found


def journal_path(out: Path) -> Path:
    """Where the journal of an output is."""
    return out.with_name(f".{out.name}.journal")
