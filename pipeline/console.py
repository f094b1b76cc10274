"""What people see: results on stdout, progress and warnings on stderr, plain lines when nobody watches."""

import io
import json
import os
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

from regionspot_cache.backbones.arithmetic import Precision, choose, slowdown
from regionspot_cache.errors import visible

PLAIN_EVERY_SECONDS = 5.0


out = Console(highlight=False, soft_wrap=True, emoji=False)
err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
_documents: list[dict[str, Any]] | None = None  # that wait for the end of a command, see `one_document`
_muted = False


class LastingStream(io.TextIOWrapper):
    """Text to a reader that may leave, as `head` does, or knows ASCII only, or to a full disk: none of them
    stops the work."""

    failure: OSError | None = None  # why what was written is not complete, unless its reader has left

    @classmethod
    def of(cls, stream: Any) -> "LastingStream":
        """In place of stdout or stderr, on the same buffer."""
        buffered = {"line_buffering": stream.line_buffering, "write_through": stream.write_through}
        return cls(stream.buffer, stream.encoding, errors="backslashreplace", **buffered)

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self._drop(error)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, error: OSError) -> None:
        """Sends what is printed from now on, and what is still in the buffer, nowhere."""
        if not isinstance(error, BrokenPipeError):
            self.failure = error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)


@contextmanager
def muted(silent: bool = True) -> Generator[None]:
    """Without progress, warnings and results, where another process says the same; errors are still told."""
    global _muted
    before, _muted = _muted, silent
    try:
        yield
    finally:
        _muted = before


def say(text: str) -> None:
    """A progress line, for people."""
    if not _muted:
        err.print(visible(text), markup=False)


def warn(text: str) -> None:
    """A warning that does not stop the work."""
    if not _muted:
        err.print(f"warning: {visible(text)}", style="yellow", markup=False)


def arithmetic(
    device: str, precisions: Mapping[str, Precision], compilation: Mapping[str, str] | None = None
) -> None:
    """Says in which arithmetic each part of the work runs, whether it is compiled, and why; warns of an
    arithmetic that is slow here."""
    choices = {name: choose(precision, device) for name, precision in precisions.items()}
    compiled = compilation or {}
    said = {
        k: f"{choice.reason}; {compiled[k]}" if k in compiled else choice.reason
        for k, choice in choices.items()
    }
    for reason in dict.fromkeys(said.values()):
        say(f"{', '.join(name for name in said if said[name] == reason)}: {reason}")
    if any(choice.slow for choice in choices.values()):
        warn(
            f"bfloat16 is emulated here: a product takes {slowdown(device):.0f} times as long as in "
            "float32; `precision: auto` chooses the faster one"
        )


def result(value: dict[str, Any], text: str | None = None, *, as_json: bool = False) -> None:
    """The result of a verb: `text` for people or one JSON document for programs."""
    if _muted:
        return
    if as_json and _documents is not None:
        _documents.append(value)
    elif as_json:
        write_json(value)
    elif text is not None:
        out.print(visible(text), markup=False)


def write_json(value: Mapping[str, Any]) -> None:
    """One JSON document on stdout, in ASCII."""
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


@contextmanager
def one_document() -> Generator[list[dict[str, Any]]]:
    """Keeps the JSON results of a command: an error after them belongs into the same document."""
    global _documents
    before, _documents = _documents, []
    try:
        yield _documents
    finally:
        _documents = before


class Ticker:
    """Progress of one job: a bar on a terminal, a line every few seconds elsewhere."""

    def __init__(self, label: str, total: int, bar: Progress | None) -> None:
        self._label, self._total, self._bar = label, total, bar
        self._started = self._said = time.monotonic()
        self.done = 0
        self._task = bar.add_task(label, total=total, note="") if bar else None

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    def update(self, done: int, note: str, *, total: int | None = None) -> None:
        """Shows that `done` of the total is done; `note` carries rates and losses."""
        self.done, self._total = done, total or self._total
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=self._total, note=visible(note))
            return
        now = time.monotonic()
        if now - self._said >= PLAIN_EVERY_SECONDS or done >= self._total:
            self._said = now
            left = time_left(now - self._started, done, self._total)
            say(f"{self._label}: {done}/{self._total}  {note}  {left} left")


@contextmanager
def progress(label: str, total: int) -> Generator[Ticker]:
    """A ticker for `total` units of work."""
    if _muted or not err.is_terminal:
        yield Ticker(label, total, None)
        return
    columns: list[ProgressColumn] = [
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TextColumn("{task.fields[note]}", markup=False),
        TimeRemainingColumn(),
    ]
    with Progress(*columns, console=err) as bar:
        yield Ticker(label, total, bar)


_last_fetching = 0.0


def fetching(name: str, done: int, total: int | None) -> None:
    """Progress of weight files: a line every few seconds, from whichever thread fetches."""
    global _last_fetching
    now = time.monotonic()
    if now - _last_fetching >= PLAIN_EVERY_SECONDS or done == total:
        _last_fetching = now
        say(f"fetching {name}: {size(done)}" + (f" of {size(total)}" if total else ""))


def time_left(elapsed: float, done: int, total: int) -> str:
    """Time left at the mean rate so far, such as `1:04:09` or `2:31`."""
    if done <= 0:
        return "?"
    return clock(elapsed / done * max(total - done, 0))


def counts(values: Mapping[str, int]) -> str:
    """Counts by reason as one line: `3 crowd, 1 missing`."""
    return ", ".join(f"{count} {reason}" for reason, count in sorted(values.items())) or "none"


def rate(per_second: float, unit: str, units: str | None = None) -> str:
    """`32.1 images/s`, or `8.4 s/image` for work so slow that its rate would read 0.0."""
    if 0 < per_second < 1:
        return f"{1 / per_second:.1f} s/{unit}"
    return f"{per_second:.{0 if per_second >= 100 else 1}f} {units or unit + 's'}/s"


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def size(num_bytes: float) -> str:
    """Bytes with a decimal unit: `526.3 KB`, `1.58 TB`."""
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if num_bytes < 1000 or unit == "TB":
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.2f} {unit}"
        num_bytes /= 1000
    raise AssertionError
