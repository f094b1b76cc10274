"""Places to run work: this process, local workers, a running scheduler, and workers that die."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import torch

from pipeline.executors import ask_every_worker, run_here, run_on_scheduler
from regionspot_cache.backbones import load_preset
from regionspot_cache.errors import IdentityError, InputError, RegionSpotError
from regionspot_cache.extraction.partition import ExtractJob, extract_partition, specs_of
from regionspot_cache.store import open_writer
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


@pytest.fixture(autouse=True)
def ready_workers() -> Iterator[None]:
    """Workers are forks of a process that has imported all they need; those of a command that is a process of
    its own start as they do for a user."""
    import dask
    from distributed.utils import get_mp_context

    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        get_mp_context().set_forkserver_preload(["distributed", "regionspot_cache.extraction.partition"])
        yield


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
    assert outcomes[2].found.startswith("ZeroDivisionError: two (line")
    assert outcomes[2].found.endswith(f"{__file__}, in unit)")
    assert "RS_DEBUG=1" in outcomes[2].remedy
    assert 'raise ZeroDivisionError("two")' in str(outcomes[2].__cause__)


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
        n_workers=2, threads_per_worker=2, processes=True, memory_limit=0, dashboard_address="127.0.0.1:0"
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


OWN_NETWORK = """\
import os
import re
from regionspot_cache.backbones import ClipSpec, load_clip

class Own:
    def __init__(self, spec, device):
        self._inner = load_clip(ClipSpec(model="packaged", weights="random:2"), device)
    def __getattr__(self, name):
        return getattr(self._inner, name)
    def fingerprint(self):
        return {**self._inner.fingerprint(), "arithmetic": os.environ.get("RS_TEST_ARITHMETIC", "bf16")}
    for _name in ("preprocess", "encode", "encode_image", "encode_text", "text_fingerprint"):
        exec(f"def {_name}(self, *a): return self._inner.{_name}(*a)")
    for _name in ("device", "arrays", "logit_scale", "mean"):
        exec(f"{_name} = property(lambda self: self._inner.{_name})")

class Unpicklable(Exception):
    def __init__(self, text):
        super().__init__(text)
        self.lock = lambda: None

def broken(item):
    raise Unpicklable("a bug of the user's")
"""


@pytest.fixture
def own_network(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """own.yaml: a CLIP side whose fingerprint and health depend on the environment of the process."""
    (workplace / "own_network.py").write_text(OWN_NETWORK)
    sam = '{network: sam, model: packaged, weights: "random:1"}'
    parts = f'parts: {{sam: {sam}, clip: {{network: "own_network:Own"}}}}'
    (workplace / "own.yaml").write_text(f"name: own\n{parts}\n")
    monkeypatch.syspath_prepend(str(workplace))
    monkeypatch.delitem(sys.modules, "own_network", raising=False)
    monkeypatch.setenv("PYTHONPATH", f"{workplace}:{os.environ.get('PYTHONPATH', '')}")
    return workplace


@contextmanager
def workers_of(*environments: dict[str, str]) -> Iterator[str]:
    """A scheduler with one worker for each environment; its address."""
    from distributed import Nanny, SpecCluster
    from distributed.scheduler import Scheduler

    workers = {
        number: {"cls": Nanny, "options": {"nthreads": 1, "env": env, "memory_limit": 0, "dashboard": False}}
        for number, env in enumerate(environments)
    }
    scheduler = {"cls": Scheduler, "options": {"dashboard": False, "host": "127.0.0.1"}}
    with SpecCluster(workers=workers, scheduler=scheduler) as cluster:
        yield cluster.scheduler_address


OWN = ("extract", "--backbone", "own.yaml", "--set", "partition_size=2", "--set", "batch_size=2")


def test_workers_that_differ_are_refused_and_their_tracebacks_are_kept(own_network: Path) -> None:
    from own_network import broken  # pyrefly: ignore[missing-import]

    with workers_of({}, {"RS_TEST_ARITHMETIC": "fp32"}) as address:
        ran = rs_cache(*OWN, "--scheduler", address)
        ((_, outcome),) = run_on_scheduler(broken, [1], address=address)
    assert ran.code == 4, ran.err
    assert "fingerprint.arithmetic = " in ran.error["error"]
    assert "fingerprint.arithmetic = " in ran.error["expected"]
    assert "'bf16'" in ran.error["error"] + ran.error["expected"]
    assert "'fp32'" in ran.error["error"] + ran.error["expected"]
    assert "1 of 2 workers: tcp://" in ran.error["expected"]
    assert socket.gethostname() in ran.error["expected"]
    assert "take it out" in ran.error["next"]
    assert not (own_network / "rs-cache-data/caches").exists()

    assert outcome.found.startswith("Unpicklable: a bug of the user's (line")
    assert outcome.found.endswith("own_network.py, in broken)")
    assert "RS_DEBUG=1" in outcome.remedy
    text = "".join(traceback.format_exception(outcome))
    assert 'raise Unpicklable("a bug of the user\'s")' in text
    assert "in _explained" in text


def test_a_worker_that_dies_while_it_is_asked_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from distributed import LocalCluster

    monkeypatch.setattr("pipeline.executors._LOOK_EVERY_SECONDS", 0.2)
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
    ) as cluster:
        threading.Timer(1, cluster.scale, args=[0]).start()
        (found,) = ask_every_worker(partial(time.sleep, 4), address=cluster.scheduler_address)
    assert isinstance(found.answer, RegionSpotError)
    assert "left, or died" in found.answer.found


def test_a_worker_that_joins_later_with_another_network_commits_nothing(
    own_network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rs_cache(*OWN, "--limit", 4).code == 0
    cache = own_network / "rs-cache-data/caches/shapes-train-own"
    open_writer(cache).discard("clip", 1)
    monkeypatch.setenv("RS_TEST_ARITHMETIC", "fp32")
    specs_of.cache_clear()
    job = ExtractJob(
        cache=str(cache),
        image_root=str(own_network / "rs-cache-data/datasets/shapes/images"),
        exif="ignore",
        spec=load_preset("own.yaml"),
        parts=("sam", "clip"),
        dtype="int8",
        batch_size=2,
        decode_threads=1,
        device="cpu",
    )
    ((_, outcome),) = run_here(partial(extract_partition, job), [1])
    specs_of.cache_clear()
    assert isinstance(outcome, IdentityError)
    assert "fingerprint.arithmetic = 'bf16'" in outcome.found
    assert "fingerprint.arithmetic = 'fp32'" in outcome.expected
    assert socket.gethostname() in outcome.expected
    assert open_writer(cache).pending("clip") == [1]


def test_ctrl_c_stops_local_workers_without_a_word_of_theirs(workplace: Path) -> None:
    code = "from pipeline.cli import main; main()"
    command = [sys.executable, "-c", code, *map(str, EXTRACT), "--workers", "2"]
    child = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    while not (workplace / CACHE / "markers/clip").exists():
        assert child.poll() is None
        time.sleep(0.01)
    os.killpg(child.pid, signal.SIGINT)
    _, err = child.communicate()
    assert child.returncode == 130, err
    said = [
        line
        for line in err.splitlines()
        if not re.search("extracting:|dropped at reading|to do|float32", line)
    ]
    assert said == ["Interrupted. What is committed is kept; the same command continues."]


@pytest.mark.parametrize("address", ["nonsense", pytest.param("tcp://127.0.0.1:9", marks=pytest.mark.slow)])
def test_no_scheduler_there(address: str, workplace: Path) -> None:
    ran = rs_cache(*EXTRACT, "--scheduler", address)
    assert ran.code == 1
    assert f"No Dask scheduler answers at {address}" in ran.error["error"]
    assert "dask scheduler" in ran.error["next"]
