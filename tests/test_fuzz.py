"""A few mutants of every reader in each run of the suite; `make fuzz` does tens of thousands."""

from pathlib import Path
from random import Random

import pytest

from regionspot_cache.errors import InputError
from tests.fuzzing import FAST, Target, attack, discover
from tests.mutants import mutate

TARGETS = discover()


@pytest.mark.parametrize("name", TARGETS)
def test_only_our_errors_come_out_of_a_reader(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.fuzzing.LONGEST", 60)  # other programs may have the processor
    target = TARGETS[name]
    outcome = attack(target, round(FAST * target.share), seed=0, folder=tmp_path)
    assert not outcome.failures, "\n".join(map(str, outcome.failures))
    assert outcome.refused, "not one mutant was refused: the target does not read what is mutated"


def _parsed(path: Path) -> int:
    return int(path.read_bytes())


def test_a_reader_with_a_hole_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fuzzing.LONGEST", 0.2)
    outcome = attack(Target(name="hole", sample=b"12345", read=_parsed), 200, seed=1, folder=tmp_path)
    assert outcome.mutants == 200
    problems = {failure.problem.partition(":")[0] for failure in outcome.failures}
    assert {"ValueError", "IsADirectoryError", "FileNotFoundError"} <= problems


def test_a_reader_that_waits_on_a_pipe_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fuzzing.LONGEST", 0.2)
    monkeypatch.setattr("tests.fuzzing._PLACES", 1.0)

    def read(path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            raise InputError(error.strerror) from None

    outcome = attack(Target(name="pipe", sample=b"1", read=read), 30, seed=0, folder=tmp_path)
    assert outcome.failures
    assert {failure.mutant for failure in outcome.failures} == {"sample named pipe"}


def test_a_message_that_cannot_be_printed_is_found(tmp_path: Path) -> None:
    def read(path: Path) -> None:
        text = path.read_bytes() if path.is_file() else b""
        if text != b"12345":
            error = InputError("")
            error.args = ("\x1b[31m",)
            raise error

    outcome = attack(Target(name="colour", sample=b"12345", read=read), 20, seed=0, folder=tmp_path)
    assert len(outcome.failures) == 20 - outcome.read > 15


def test_a_reader_that_takes_gigabytes_is_found(tmp_path: Path) -> None:
    def read(path: Path) -> None:
        if not path.is_file() or path.read_bytes() != b"12345":
            bytearray(5 << 30)

    outcome = attack(Target(name="greedy", sample=b"12345", read=read), 3, seed=0, folder=tmp_path)
    assert [failure.problem.partition(":")[0] for failure in outcome.failures] == ["MemoryError"] * 3


def test_a_reader_that_cannot_read_its_own_sample_is_no_target(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="reads its own sample"):
        attack(Target(name="nonsense", sample=b"abc", read=_parsed), 1, seed=0, folder=tmp_path)


def test_a_mutant_depends_on_its_number_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fuzzing.LONGEST", 0.2)
    target = Target(name="hole", sample=b"12345", read=_parsed)
    whole = attack(target, 40, seed=3, folder=tmp_path)
    end = attack(target, 20, seed=3, folder=tmp_path, start=20)
    assert [failure for failure in whole.failures if failure.number >= 20] == end.failures


@pytest.mark.parametrize(
    ("suffix", "data"),
    [
        (".json", b'{"a": [1, 2, {"b": "c"}], "d": null}'),
        (".yaml", b"a: [1, 2]\nb: {c: d}\n"),
        (".csv", b"A,B\n1,2\n3,4\n"),
        (".safetensors", (2).to_bytes(8, "little") + b"{}1234"),
        ("", b"plain bytes"),
    ],
)
def test_mutants_differ_from_their_file(suffix: str, data: bytes) -> None:
    mutants = {mutate(data, suffix, Random(number)) for number in range(300)}
    assert len(mutants) > 60
