"""Places to run work: this process, local workers, a running scheduler, and workers that die."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pipeline.executors import run_here
from regionspot_cache.errors import InputError, RegionSpotError
from regionspot_cache.store import verify as problems_of
from tests.running import features, rs_cache

EXTRACT = (
    "extract",
    "--backbone",
    "small.yaml",
    *("--set", "partition_size=2"),
    *("--set", "batch_size=2"),
)
CACHE = Path("rs-cache-data/caches/shapes-train-small")


@pytest.fixture(scope="module")
def in_this_process(tmp_path_factory: pytest.TempPathFactory, world: Path) -> dict[str, str]:
    """Hashes of a cache made here, by one thread as in a worker."""
    from tests.conftest import fill_workplace

    place, threads = fill_workplace(tmp_path_factory.mktemp("here"), world), torch.get_num_threads()
    torch.set_num_threads(1)
    assert rs_cache(*EXTRACT, "--workers", 0, cwd=place).code == 0
    torch.set_num_threads(threads)
    return features(place / CACHE)


def test_in_this_process_an_error_is_an_outcome_and_the_rest_goes_on() -> None:
    def unit(item: int) -> int:
        if item == 1:
            raise InputError("one")
        if item == 2:
            raise ZeroDivisionError("two")
        return 10 * item

    outcomes = dict(run_here(unit, [0, 1, 2, 3]))
    assert (outcomes.pop(0), outcomes.pop(3)) == (0, 30)
    assert outcomes[1].found == "one"
    assert isinstance(outcomes[2], RegionSpotError)
    assert outcomes[2].found == "ZeroDivisionError: two"


def test_local_workers_store_the_same_bytes(workplace: Path, in_this_process: dict[str, str]) -> None:
    ran = rs_cache(*EXTRACT, "--workers", 2)
    assert ran.code == 0, ran.err
    assert "24/24" in ran.err
    assert features(CACHE) == in_this_process
    assert problems_of(CACHE, "full") == []


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """A running scheduler whose workers have another current folder than the command."""
    from distributed import LocalCluster

    here = Path.cwd()
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, memory_limit=0, dashboard_address=None
    ) as found:
        monkeypatch.chdir(here)
        yield found


def test_a_running_scheduler_and_a_worker_killed_in_the_middle(
    workplace: Path, cluster, in_this_process: dict[str, str]
) -> None:
    killed: list[int] = []

    def kill_one() -> None:
        while not (workplace / CACHE / "markers/clip").exists():
            time.sleep(0.002)
        killed.append(cluster.workers[0].pid)
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    ran = rs_cache(*EXTRACT, "--scheduler", cluster.scheduler_address)
    killer.join(10)
    assert ran.code == 0, ran.err
    assert killed
    assert not Path(f"/proc/{killed[0]}").exists()
    assert features(CACHE) == in_this_process
    assert problems_of(CACHE, "full") == []


@pytest.mark.parametrize("address", ["nonsense", pytest.param("tcp://127.0.0.1:9", marks=pytest.mark.slow)])
def test_no_scheduler_there(address: str, workplace: Path) -> None:
    ran = rs_cache(*EXTRACT, "--scheduler", address)
    assert ran.code == 1
    assert f"No Dask scheduler answers at {address}" in ran.error["error"]
    assert "dask scheduler" in ran.error["next"]
