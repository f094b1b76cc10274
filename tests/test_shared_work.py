"""Calls shared with other processes: the same results whatever happens to those."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event, current_thread, main_thread
from typing import Any

import pytest

from regionspot_cache.shared_work import MOST, shared_work

CALLS = 12
# Nothing in it says that it may be run twice.
SCRIPT = """
import os, signal, sys, time
from regionspot_cache.shared_work import shared_work
from tests.test_shared_work import whose

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell began the tests with &
print("begun", flush=True)
seconds, wait = map(float, sys.argv[1:])
try:
    with shared_work(whose, [lambda n=n: (n, seconds) for n in range(12)], 3) as results:
        for _ in range(int(100 * wait)):
            time.sleep(0.01)  # a signal just before a sleep does not shorten it
        print([number for number, _ in results()])
finally:
    try:
        os.waitpid(-1, os.WNOHANG)
        print("a process is left")
    except ChildProcessError:
        print("none is left")
"""


def whose(number: int, seconds: float = 0.0) -> tuple[int, int]:
    """The number, and the process that was asked."""
    time.sleep(seconds)
    return number, os.getpid()


def only_in(pid: int, number: int) -> int:
    """Ends every other process."""
    if os.getpid() != pid:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def fail(number: int) -> int:
    if number == CALLS - 1:
        raise ValueError(f"call {number}")
    return number


def shared(function: Callable[..., Any], *first: Any, processes: int = 3) -> list[Any]:
    """Results of numbered calls, of which other processes take some before this one does."""
    taken = Event()

    def call(number: int) -> tuple[Any, ...]:
        if current_thread() is not main_thread():
            taken.set()
        return (*first, number)

    calls = [lambda number=number: call(number) for number in range(CALLS)]
    with shared_work(function, calls, processes) as results:
        assert processes == 1 or taken.wait(60)
        return results()


def test_results_are_in_order_and_of_several_processes() -> None:
    alone, together = shared(whose, processes=1), shared(whose)
    assert [number for number, _ in together] == [number for number, _ in alone] == list(range(CALLS))
    assert {pid for _, pid in alone} == {os.getpid()}
    assert {pid for _, pid in together} - {os.getpid()}


def test_nothing_is_started_for_little_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", None)
    with shared_work(whose, [lambda: (0,)] * 7, 8) as results:
        assert {pid for _, pid in results()} == {os.getpid()}
    with shared_work(whose, [], 8) as results:
        assert results() == []


def test_a_machine_of_many_cores_does_not_start_as_many_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []

    def refuse(*args: Any, **how: Any) -> None:
        started.append(args)
        raise OSError

    monkeypatch.setattr(subprocess, "Popen", refuse)
    with shared_work(whose, [lambda n=n: (n,) for n in range(400)], 64) as results:
        assert [number for number, _ in results()] == list(range(400))
    assert len(started) == MOST - 1


def test_what_killed_processes_leave_is_done_here() -> None:
    assert shared(only_in, os.getpid()) == list(range(CALLS))


def test_an_error_is_that_of_the_call() -> None:
    with pytest.raises(ValueError, match=f"call {CALLS - 1}"):
        shared(fail)


@pytest.mark.parametrize("program", ["", "/nowhere/python"])
def test_where_no_process_starts_all_is_done_here(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", program)
    with shared_work(whose, [lambda: (0,)] * CALLS, 3) as results:
        assert {pid for _, pid in results()} == {os.getpid()}


def begin(folder: Path, *, seconds: float, wait: float) -> subprocess.Popen[str]:
    """The script, whose calls take so many seconds, and which waits before it takes part."""
    (folder / "script.py").write_text(SCRIPT)
    return subprocess.Popen(
        [sys.executable, "script.py", str(seconds), str(wait)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def children(pid: int) -> list[int]:
    """The processes that any thread of a process has started."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for each in lists for child in each.read_text().split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_script_is_not_run_again(tmp_path: Path) -> None:
    output, errors = begin(tmp_path, seconds=0, wait=0.5).communicate(timeout=60)
    assert output.splitlines() == ["begun", str(list(range(CALLS))), "none is left"]
    assert errors == ""


def test_ctrl_c_ends_all_with_one_error(tmp_path: Path) -> None:
    script = begin(tmp_path, seconds=0.2, wait=60)
    until(lambda: len(children(script.pid)) == 2)
    script.send_signal(signal.SIGINT)
    output, errors = script.communicate(timeout=60)
    assert output.splitlines() == ["begun", "none is left"]
    assert errors.count("Traceback") == 1
    assert errors.rstrip().endswith("KeyboardInterrupt")


def test_processes_end_with_the_first_one(tmp_path: Path) -> None:
    script = begin(tmp_path, seconds=0.2, wait=60)
    until(lambda: len(children(script.pid)) == 2)
    others = children(script.pid)
    script.kill()
    script.communicate(timeout=60)
    until(lambda: not any(map(alive, others)))
