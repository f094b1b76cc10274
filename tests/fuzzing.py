"""Seeded mutants of files and folders, and what readers make of them: a RegionSpotError or an answer.

A module named `*fuzz_targets.py` below tests/ lists `TARGETS`; `tests/test_fuzz.py` runs a few mutants of
each, `make fuzz` tens of thousands. A mutant is a function of (target, seed, number):

    python -m tests.fuzzing --target NAME --seed 0 --only 17     # one mutant again, with its traceback
"""

import argparse
import importlib
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from random import Random

from regionspot_cache.errors import RegionSpotError, printable
from tests.mutants import mutate, mutate_place

FOLDER = Path(__file__).parent
CHUNK = 500  # mutants of a target in one task
LONGEST = 10.0  # seconds that a reader may take over one mutant
MEMORY = 4 << 30  # bytes of address space that a reader may add
FAST = 80  # mutants of a target in the ordinary suite, times its share
_OURS = ("/regionspot_cache/", "/pipeline/")
_PLACES = 0.04  # share of mutants that are no file, or another kind of file


@dataclass(frozen=True, kw_only=True)
class Target:
    """A reader under attack.

    Attributes:
        name: unique among all targets.
        sample: the bytes of a good file, or a function that fills an empty folder with good files.
        read: reads the file, or the folder.
        suffix: of the file. Files are mutated by their suffix: .json, .yaml, .csv and .safetensors by their
            structure half of the time, others as bytes.
        structured: False for bytes only.
        files: which files of a folder are mutated, as a glob; one at a time.
        also: exceptions that are right beside RegionSpotError.
        share: of the mutants; below 1 for slow readers.
    """

    name: str
    sample: bytes | Callable[[Path], object]
    read: Callable[[Path], object]
    suffix: str = ""
    structured: bool = True
    files: str = "**/*"
    also: tuple[type[Exception], ...] = ()
    share: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A mutant that made something else than a RegionSpotError."""

    target: str
    seed: int
    number: int
    problem: str  # exception and the line that raised it
    mutant: str
    trace: str

    def __str__(self) -> str:
        again = f"python -m tests.fuzzing --target {self.target} --seed {self.seed} --only {self.number}"
        return f"{self.target}: {self.problem}\n  mutant: {self.mutant}\n  again: {again}"


@dataclass(kw_only=True)
class Outcome:
    """What became of the mutants of a target."""

    refused: int = 0
    read: int = 0
    seconds: float = 0.0
    failures: list[Failure] = field(default_factory=list)

    @property
    def mutants(self) -> int:
        return self.refused + self.read + len(self.failures)

    def add(self, other: "Outcome") -> None:
        self.refused += other.refused
        self.read += other.read
        self.seconds += other.seconds
        self.failures += other.failures


class _TooSlow(BaseException):
    """Passes through every `except Exception`."""


def attack(target: Target, count: int, seed: int, folder: Path, start: int = 0) -> Outcome:
    """Reads mutants number `start` to `start + count` of a target's sample in an empty `folder`.

    Warnings count as exceptions, as do messages that cannot be printed.

    Raises:
        AssertionError: the reader does not read, or spoils, the good sample.
    """
    place, files = _prepare(target, folder)
    good = {file: file.read_bytes() for file in files}
    outcome, began = Outcome(), time.monotonic()
    with _limits():
        _assert_good(target, place, "reads its own sample")
        for number in range(start, start + count):
            rng = Random(f"{target.name}/{seed}/{number}")
            file = rng.choice(files)
            mutant = _write_mutant(target, file, good[file], rng)
            _read(target, place, outcome, seed=seed, number=number, mutant=f"{file.name} {mutant}")
            _remove(file)
            file.write_bytes(good[file])
        _assert_good(target, place, "leaves its sample as it was")
    outcome.seconds = time.monotonic() - began
    return outcome


def _prepare(target: Target, folder: Path) -> tuple[Path, list[Path]]:
    """What the reader is given, and the files in it that are mutated."""
    if isinstance(target.sample, bytes):
        file = folder / f"sample{target.suffix}"
        file.write_bytes(target.sample)
        return file, [file]
    target.sample(folder)
    files = sorted(path for path in folder.glob(target.files) if path.is_file())
    assert files, f"{target.name}: no file matches {target.files}"
    return folder, files


def _assert_good(target: Target, place: Path, what: str) -> None:
    try:
        target.read(place)
    except Exception as error:
        raise AssertionError(f"{target.name} does not hold that it {what}: {error!r}") from error


def _write_mutant(target: Target, file: Path, good: bytes, rng: Random) -> str:
    """Puts a mutant in the place of a file; what it is, for people."""
    if rng.random() < _PLACES:
        return mutate_place(file, rng)
    data = mutate(good, file.suffix if target.structured else "", rng)
    file.write_bytes(data)
    at = next((i for i, (a, b) in enumerate(zip(good, data, strict=False)) if a != b), 0)
    return f"from byte {at}: {data[max(0, at - 40) : at + 80]!r}"


def _read(target: Target, place: Path, outcome: Outcome, *, seed: int, number: int, mutant: str) -> None:
    signal.setitimer(signal.ITIMER_REAL, LONGEST)
    try:
        target.read(place)
        outcome.read += 1
        return
    except RegionSpotError as error:
        if not (problem := _unprintable(str(error))):
            outcome.refused += 1
            return
        trace = traceback.format_exc()
    except target.also:
        outcome.refused += 1
        return
    except _TooSlow:
        problem, trace = f"more than {LONGEST} s {_raised_at(sys.exc_info()[2])}", traceback.format_exc()
    except Exception as error:
        text = str(error)[:120].encode("ascii", "backslashreplace").decode()
        problem = f"{type(error).__name__}: {text} {_raised_at(error.__traceback__)}"
        trace = traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    outcome.failures.append(
        Failure(target=target.name, seed=seed, number=number, problem=problem, mutant=mutant, trace=trace)
    )


def _unprintable(message: str) -> str:
    bad = next((line for line in message.split("\n") if printable(line) != line), None)
    return "" if bad is None else f"a message that cannot be printed: {bad[:120]!a}"


def _raised_at(trace: object) -> str:
    """The innermost line of this project."""
    frames = [frame for frame in traceback.extract_tb(trace) if "site-packages" not in frame.filename]  # type: ignore[arg-type]
    ours = [frame for frame in frames if any(part in frame.filename for part in _OURS)]
    last = (ours or frames)[-1]
    return f"({Path(last.filename).name}:{last.lineno})"


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()


@contextmanager
def _limits() -> Iterator[None]:
    """Bounds time and memory of this process; gives both back afterwards."""

    def too_slow(*_: object) -> None:
        raise _TooSlow

    began, old = time.monotonic(), signal.signal(signal.SIGALRM, too_slow)
    remaining, _ = signal.setitimer(signal.ITIMER_REAL, 0)  # of pytest-timeout
    memory = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, memory[1]))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, memory)
        signal.signal(signal.SIGALRM, old)
        if remaining:
            signal.setitimer(signal.ITIMER_REAL, max(1.0, remaining - (time.monotonic() - began)))


def discover() -> dict[str, Target]:
    """The targets of all modules `*fuzz_targets.py` below tests/, by name."""
    targets: dict[str, Target] = {}
    for file in sorted(FOLDER.rglob("*fuzz_targets.py")):
        name = ".".join(("tests", *file.relative_to(FOLDER).with_suffix("").parts))
        for target in importlib.import_module(name).TARGETS:
            assert target.name not in targets, f"two fuzz targets are called {target.name}"
            targets[target.name] = target
    return targets


def _without_stderr() -> None:
    """libtiff writes what it thinks of a file to the terminal."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _task(name: str, count: int, seed: int, start: int) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="rs-fuzz-") as folder:
        return attack(discover()[name], count, seed, Path(folder), start)


def run_all(targets: Sequence[Target], count: int, seed: int, processes: int) -> dict[str, Outcome]:
    """At least `count` mutants in all, spread over the targets by their shares."""
    whole = sum(target.share for target in targets)
    tasks = []
    for target in targets:
        size = -int(-count * target.share // whole)
        tasks += [(target.name, min(CHUNK, size - at), seed, at) for at in range(0, size, CHUNK)]
    outcomes = {target.name: Outcome() for target in targets}
    context = get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_without_stderr) as pool:
        for (name, *_), outcome in zip(tasks, pool.map(_task, *zip(*tasks, strict=True)), strict=True):
            outcomes[name].add(outcome)
    return outcomes


def table(outcomes: dict[str, Outcome]) -> str:
    lines = [
        "| reader | mutants | refused | read | other exceptions | seconds |",
        "|---|---|---|---|---|---|",
    ]
    total = Outcome()
    for name, outcome in outcomes.items():
        lines.append(_row(name, outcome))
        total.add(outcome)
    return "\n".join([*lines, _row("all", total)])


def _row(name: str, outcome: Outcome) -> str:
    counts = (outcome.mutants, outcome.refused, outcome.read, len(outcome.failures))
    return f"| {name} | {' | '.join(f'{n:,}' for n in counts)} | {outcome.seconds:.0f} |"


def _main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzzing", description="Fuzz every reader.")
    parser.add_argument("--count", type=int, default=40_000, help="mutants in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--target", action="append", help="only this one; may be repeated")
    parser.add_argument("--only", type=int, help="one mutant of the target, with its traceback")
    parser.add_argument("--out", type=Path, help="write the table here too")
    options = parser.parse_args()
    known = discover()
    if unknown := set(options.target or ()) - set(known):
        parser.error(f"no target {unknown.pop()}; there are {', '.join(known)}")
    targets = [known[name] for name in options.target or known]
    if options.only is not None:
        outcome = _task(targets[0].name, 1, options.seed, options.only)
        print(outcome.failures[0].trace if outcome.failures else f"nothing wrong: {outcome}")
        return bool(outcome.failures)
    began = time.monotonic()
    outcomes = run_all(targets, options.count, options.seed, options.processes)
    report = f"{table(outcomes)}\n\n{_summary(options, outcomes, time.monotonic() - began)}\n"
    print(report)
    failures = [failure for outcome in outcomes.values() for failure in outcome.failures]
    kinds: Counter[str] = Counter()
    for failure in failures:
        kinds[kind := f"{failure.target} {failure.problem.rpartition('(')[2]}"] += 1
        if kinds[kind] == 1:
            print(failure)
    if options.out:
        options.out.write_text(f"# Mutated inputs\n\n{report}", encoding="utf-8")
    return bool(failures)


def _summary(options: argparse.Namespace, outcomes: dict[str, Outcome], seconds: float) -> str:
    mutants = sum(outcome.mutants for outcome in outcomes.values())
    failures = sum(len(outcome.failures) for outcome in outcomes.values())
    return (
        f"{time.strftime('%Y-%m-%d')}, {options.processes} processes, {seconds:.0f} s: {mutants:,} mutants "
        f"by `python -m tests.fuzzing --count {options.count} --seed {options.seed}`.\n"
        f"{failures:,} exceptions that are not ours; warnings, more than {LONGEST:.0f} s, more than "
        f"{MEMORY >> 30} GiB and messages that cannot be printed count as such."
    )


if __name__ == "__main__":
    sys.exit(_main())
