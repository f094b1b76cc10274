"""GPUs shared out among the processes of a machine, on a list of made-up devices."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from regionspot_cache.errors import UsageError
from regionspot_cache.extraction.devices import resolve_device

CODE = """
import sys
from pathlib import Path
from regionspot_cache.extraction.devices import claim
names = sys.argv[2:]
print(names[claim(names, Path(sys.argv[1]))], flush=True)
sys.stdin.read()
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator:
    """Starts a process that claims one of the devices it sees; returns it and the device."""
    children: list[subprocess.Popen] = []

    def started(*names: str) -> tuple[subprocess.Popen, str]:
        command = [sys.executable, "-c", CODE, str(tmp_path / "locks"), *names]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        children.append(child)
        return child, child.stdout.readline().strip()

    yield started
    for child in children:
        child.kill()
        child.wait()
        child.stdin.close()
        child.stdout.close()


def test_each_process_takes_the_least_used_device(start) -> None:
    taken = [start("a", "b")[1] for _ in range(5)]
    assert taken == ["a", "b", "a", "b", "a"]


def test_devices_are_known_by_their_names_in_whatever_order_they_are_listed(start) -> None:
    assert [start(*names)[1] for names in ("abc", "bca", "cab", "abc")] == ["a", "b", "c", "a"]
    assert start("b", "c")[1] == "b"  # one that sees some only


def test_a_process_that_was_killed_gives_its_device_back(start) -> None:
    start("a", "b")
    second, _ = start("a", "b")
    second.kill()
    second.wait()
    assert start("a", "b")[1] == "b"


@pytest.mark.parametrize("wanted", ["cud", "cuda:99", "", "cpu cpu", "xpu"])
def test_a_device_that_is_not_there(wanted: str) -> None:
    with pytest.raises(UsageError, match="There is no device") as caught:
        resolve_device(wanted)
    assert "CUDA devices" in caught.value.expected


def test_a_device_that_is_there() -> None:
    assert resolve_device("cpu") == "cpu"
