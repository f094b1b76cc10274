"""Fetching, checking and reading weight files."""

import http.server
import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from regionspot_cache.backbones import weights
from regionspot_cache.backbones.weights import (
    RemoteFile,
    fetch,
    load_state,
    random_seed,
    read_state,
    state_sha256,
)
from regionspot_cache.errors import DamageError, InputError, MissingFileError, UsageError

CONTENT = bytes(range(256)) * 9000  # more than two blocks


class Server(http.server.ThreadingHTTPServer):
    requests = 0


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.requests += 1
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[: len(CONTENT) // 2] if "short" in self.path else CONTENT)

    def log_message(self, *args: object) -> None:
        """Silent."""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("RS_CACHE_HOME", str(tmp_path / "home"))
    with Server(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def remote(server: Server, name: str = "net.pth", digest: str = sha256(CONTENT).hexdigest()) -> RemoteFile:
    return RemoteFile(f"http://127.0.0.1:{server.server_port}/{name}", digest)


def test_a_file_is_fetched_once_with_progress(server: Server, tmp_path: Path) -> None:
    seen = []
    path = fetch(remote(server), progress=lambda *step: seen.append(step))
    assert path == tmp_path / "home" / "weights" / "net.pth"
    assert path.read_bytes() == CONTENT
    assert seen[-1] == ("net.pth", len(CONTENT), len(CONTENT))
    assert [done for _, done, _ in seen] == sorted({done for _, done, _ in seen})
    assert fetch(remote(server)) == path
    assert server.requests == 1


def test_wrong_bytes_are_refused_and_not_kept(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DamageError, match="SHA-256"):
        fetch(remote(server, digest="0" * 64))
    assert [path.name for path in (tmp_path / "home" / "weights").iterdir()] == ["net.pth.lock"]


def test_a_broken_connection_leaves_nothing(server: Server, tmp_path: Path) -> None:
    with pytest.raises((MissingFileError, DamageError)):
        fetch(remote(server, "short.pth"))
    assert [path.name for path in (tmp_path / "home" / "weights").iterdir()] == ["short.pth.lock"]


def test_a_kept_file_that_was_damaged_is_found(server: Server) -> None:
    path = fetch(remote(server))
    path.write_bytes(b"x" + CONTENT[1:])
    with pytest.raises(DamageError, match=f"rm {path}"):
        fetch(remote(server))


def test_processes_that_ask_at_once_share_one_download(server: Server) -> None:
    with ThreadPoolExecutor(4) as pool:
        paths = set(pool.map(lambda _: fetch(remote(server)), range(4)))
    assert len(paths) == server.requests == 1


def test_offline_names_the_address_and_the_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RS_CACHE_HOME", str(tmp_path))
    file = RemoteFile("http://127.0.0.1:9/net.pth", "0" * 64)
    with pytest.raises(MissingFileError) as caught:
        fetch(file)
    assert str(tmp_path / "weights" / "net.pth") in caught.value.expected
    assert file.url in caught.value.remedy


def test_a_pickle_is_never_executed(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "executed",)

    path = tmp_path / "evil.pth"
    torch.save({"weight": torch.ones(1), "evil": Evil()}, path)
    with pytest.raises(InputError, match="cannot be read"):
        read_state(path)
    path.write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(InputError, match="cannot be read"):
        read_state(path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
def test_files_that_are_no_weights_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(MissingFileError, match=name):
        read_state(path)
    for content in (b"", b"not weights at all"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=name):
            read_state(path)


def test_a_checkpoint_with_more_than_tensors_is_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(1), "epoch": 3}, tmp_path / "net.pth")
    with pytest.raises(InputError, match="something else than named tensors"):
        read_state(tmp_path / "net.pth")


def test_the_digest_is_of_values_not_of_files(tmp_path: Path) -> None:
    state = {"b": torch.randn(3, 2).half(), "a": torch.randn(2).half(), "empty": torch.zeros(0)}
    save_file(state, tmp_path / "net.safetensors")
    torch.save({k: v.float() for k, v in reversed(state.items())}, tmp_path / "net.pth")
    digests = {state_sha256(read_state(tmp_path / name)) for name in ("net.safetensors", "net.pth")}
    assert digests == {state_sha256(state)}


def test_the_digest_sees_every_value_name_and_shape() -> None:
    state = {"a": torch.arange(4.0), "b": torch.tensor(2.0)}
    others = [
        {"a": torch.arange(4.0) + torch.tensor([0, 0, 0, 1e-6]), "b": torch.tensor(2.0)},
        {"c": torch.arange(4.0), "b": torch.tensor(2.0)},
        {"a": torch.arange(4.0).view(2, 2), "b": torch.tensor(2.0)},
    ]
    assert len({state_sha256(s) for s in (state, *others)}) == 4


def test_weights_of_another_network_are_refused_whole() -> None:
    network = torch.nn.Linear(3, 2)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    with pytest.raises(InputError, match="2 tensors differ, first other"):
        load_state(
            network, {"weight": torch.ones(2, 4), "other": torch.ones(2), "bias": before["bias"]}, "file"
        )
    with pytest.raises(InputError, match="1 tensors differ, first bias"):
        load_state(network, {"weight": torch.ones(2, 3)}, "file")
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_random_seed_is_read() -> None:
    assert random_seed("random:12") == 12
    assert random_seed("official") is None
    for wrong in ("random", "random:", "random:-1"):
        with pytest.raises(UsageError, match="random:SEED"):
            random_seed(wrong)


def test_without_an_address_the_hub_is_not_asked_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(host: str, _: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "https://hub.example")
    monkeypatch.setattr(weights.socket, "getaddrinfo", no_network)
    monkeypatch.setattr(weights.urllib.request, "getproxies", lambda: {"https": "http://proxy.example"})
    ask = weights.missing_hub.__wrapped__
    assert ask() == ""
    assert not constants.is_offline_mode()
    monkeypatch.setattr(weights.urllib.request, "getproxies", dict)
    assert ask() == "hub.example has no address here: no network"
    assert constants.is_offline_mode()
    assert ask() == ""  # as where a user says so: the library's own words
