"""What people and programs see."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from pipeline import console


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 KB"),
        (526_300, "526.30 KB"),
        (1.58e12, "1.58 TB"),
        (3e16, "30000.00 TB"),
    ],
)
def test_sizes(value: float, text: str) -> None:
    assert console.size(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0.0 boxes/s"),
        (0.004, "250.0 s/box"),
        (1, "1.0 boxes/s"),
        (13.66, "13.7 boxes/s"),
        (161.2, "161 boxes/s"),
    ],
)
def test_slow_work_has_a_rate_too(value: float, text: str) -> None:
    assert console.rate(value, "box", "boxes") == text


@pytest.mark.parametrize(("value", "text"), [(0, "0:00"), (59.6, "1:00"), (151, "2:31"), (3849, "1:04:09")])
def test_clock(value: float, text: str) -> None:
    assert console.clock(value) == text


def test_time_left_is_unknown_at_first_and_none_at_the_end() -> None:
    assert console.time_left(10, 0, 5) == "?"
    assert console.time_left(10, 1, 5) == "0:40"
    assert console.time_left(10, 7, 5) == "0:00"


def test_without_a_terminal_lines_come_seldom_and_at_the_end(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("pipeline.console.time.monotonic", lambda: now[0])
    with console.progress("work", 100) as ticker:
        for done in range(1, 101):
            now[0] += 0.1
            ticker.update(done, f"note {done}")
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert 2 <= len(lines) <= 4
    assert lines[-1] == "work: 100/100  note 100  0:00 left"


def test_on_a_terminal_there_is_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=100, _environ={"TERM": "xterm"})
    monkeypatch.setattr(console, "err", terminal)
    with console.progress("work", 4) as ticker:
        ticker.update(1, "slow")
        ticker.update(5, "fast", total=5)
    assert "5/5" in screen.getvalue()
    assert "fast" in screen.getvalue()


def test_text_of_files_is_never_taken_for_markup(capsys: pytest.CaptureFixture[str]) -> None:
    odd = "a[bold]b[/bold] [/nothing] :smile: " + "x" * 300
    console.say(odd)
    console.warn(odd)
    console.result({}, odd)
    captured = capsys.readouterr()
    assert captured.out == odd + "\n"
    assert captured.err == f"{odd}\nwarning: {odd}\n"


def test_json_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    console.result({"path": Path("a"), "é": [1.5]}, "for people", as_json=True)
    assert json.loads(capsys.readouterr().out) == {"path": "a", "é": [1.5]}


def test_a_muted_process_leaves_the_talking_to_another(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.console.PLAIN_EVERY_SECONDS", 0.0)

    def talk() -> None:
        console.say("said")
        console.warn("warned")
        console.result({"a": 1}, as_json=True)
        with console.progress("work", 2) as ticker:
            ticker.update(1, "going")

    with console.muted():
        talk()
    assert capsys.readouterr() == ("", "")
    with console.muted(False):
        talk()
    assert [bool(text) for text in capsys.readouterr()] == [True, True]
