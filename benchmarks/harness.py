"""What all measurements share: a row of a table, contenders that take turns, and the table itself."""

import os
import platform
import resource
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from threading import Event, Thread
from typing import Any, TypeVar

T = TypeVar("T")
OURS = "ours"
PLACES = ("workplace", "fetched weights")  # of one machine, of no interest to others
PEERS = (
    *("zarr", "zarrs", "tensorstore", "litdata", "mosaicml-streaming", "webdataset"),
    *("faster-coco-eval", "hotcoco"),
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a table: the values of every run of ours, and of a peer's unless they stand alone."""

    what: str
    unit: str
    ours: Sequence[float]
    peer: str = "-"
    theirs: Sequence[float] = ()
    lower: bool = False
    """Less is better."""
    goal: str = "-"
    """Such as ">= 3x" (of the ratio) or "<= 60" (of our value)."""

    @property
    def ratio(self) -> float | None:
        """How many times better we are, from medians."""
        if not self.theirs:
            return None
        ours, theirs = median(self.ours), median(self.theirs)
        return theirs / ours if self.lower else ours / theirs

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None without one."""
        if self.goal == "-":
            return None
        sign, bound = self.goal.split()
        value = (self.ratio or 0) if bound.endswith("x") else median(self.ours)
        limit = float(bound.removesuffix("x"))
        return value >= limit if sign == ">=" else value <= limit

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, with all runs."""
        return {**asdict(self), "ratio": self.ratio, "met": self.met}


Findings = list[Row | str]
"""Rows, and remarks: conditions, and what was not measured and why."""


def take_turns(contenders: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Runs every contender once, then all again (A B A B), so that a change of the machine hits all alike."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, measure in contenders.items():
            found[name].append(measure())
    return found


def against(
    what: str,
    unit: str,
    runs: Mapping[str, Sequence[float]],
    *,
    lower: bool = False,
    goals: Mapping[str, str] | None = None,
) -> list[Row]:
    """A row for every peer in `runs`; ours are the runs called "ours", `goals` are by peer."""
    ours, goals = runs[OURS], goals or {}
    return [
        Row(what=what, unit=unit, ours=ours, peer=peer, theirs=theirs, lower=lower, goal=goals.get(peer, "-"))
        for peer, theirs in runs.items()
        if peer != OURS
    ]


def markdown(found: Findings) -> str:
    """The rows as a table, the remarks as a list below it."""
    rows = [row for row in found if isinstance(row, Row)]
    lines = ["| what | unit | ours | peer | theirs | ratio | goal | met |", "|---" + "|---:" * 7 + "|"]
    lines += ["| " + " | ".join(_cells(row)) + " |" for row in rows]
    remarks = [f"- {remark}" for remark in found if isinstance(remark, str)]
    return "\n".join([*(lines if rows else []), *([""] if rows and remarks else []), *remarks])


def _cells(row: Row) -> list[str]:
    theirs = number(median(row.theirs)) if row.theirs else "-"
    ratio = "-" if row.ratio is None else f"{number(row.ratio)}x"
    met = {True: "yes", False: "no", None: "-"}[row.met]
    return [row.what, row.unit, number(median(row.ours)), row.peer, theirs, ratio, row.goal, met]


def number(value: float) -> str:
    """Three digits: `12,300`, `4.56`, `1.2e-05`."""
    if value and abs(value) < 1e-3:
        return f"{value:.1e}"
    digits = 0 if abs(value) >= 100 or not value else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{digits}f}"


def machine() -> dict[str, Any]:
    """What figures depend on beside the code; what the system does not tell is "unknown"."""
    from pipeline.verbs.about import facts, installed  # with torch, which processes measured for memory lack

    return {
        "cpu": _proc_field("/proc/cpuinfo", "model name") or "unknown",
        "memory": _proc_field("/proc/meminfo", "MemTotal") or "unknown",
        "load before": round(os.getloadavg()[0], 2),
        **{key: value for key, value in facts().items() if key not in PLACES},
        "python": platform.python_version(),
        "cores": len(cores()),
        **{name: installed(name) for name in PEERS},
    }


def cores() -> list[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def in_new_process(work: Callable[..., T], *arguments: Any) -> T:
    """Runs a function of a module in a process of its own, whose peak memory is then its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def peak_gigabytes() -> float:
    """Peak memory of this process, on Linux its VmHWM: ru_maxrss counts the parent's memory too."""
    if kibibytes := _proc_field("/proc/self/status", "VmHWM"):
        return int(kibibytes.split()[0]) * 1024 / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


@contextmanager
def memory_of_all(seconds: float = 0.05) -> Generator[Callable[[], float]]:
    """What is given says the peak memory, in GB, of this process and those that it starts, taken together.

    They are looked at every so many seconds; pages that they share count for each. On Linux only: elsewhere
    it is that of this process alone.
    """
    ended, peak, own = Event(), 0.0, _text(Path("/proc/self/cmdline"))

    def watch() -> None:
        nonlocal peak
        while not ended.wait(seconds):
            lists = Path("/proc/self/task").glob("*/children")
            children = [child for each in lists for child in _text(each).split()]
            # Until it begins its own program, a process has the memory of this one.
            begun = [child for child in children if _text(Path(f"/proc/{child}/cmdline")) != own]
            held = [_proc_field(f"/proc/{process}/status", "VmRSS") or "0" for process in ("self", *begun)]
            peak = max(peak, sum(int(value.split()[0]) for value in held) * 1024 / 1e9)

    thread = Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield lambda: max(peak, peak_gigabytes())
    finally:
        ended.set()
        thread.join()


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:  # the thread or process has ended
        return ""


def _proc_field(file: str, name: str) -> str | None:
    """First value of a `name: value` line of a file of /proc."""
    try:
        lines = Path(file).read_text().splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), None)
