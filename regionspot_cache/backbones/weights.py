"""Weight files: where they are, fetching with a checksum, reading without unpickling, and their digests."""

import fcntl
import hashlib
import http.client
import os
import socket
import urllib.request
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from safetensors.torch import load_file
from torch import Tensor

from regionspot_cache.errors import DamageError, InputError, MissingFileError, UsageError
from regionspot_cache.files import file_sha256, open_file

Progress = Callable[[str, int, int | None], None]
"""Called with (file name, bytes so far, bytes in all or None) while a file is fetched."""

TIMEOUT_SECONDS = 30
BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class RemoteFile:
    """A published weight file and the SHA-256 of its bytes."""

    url: str
    sha256: str

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[-1]


def weights_home() -> Path:
    """Where fetched weights are kept: $RS_CACHE_HOME or ~/.cache/regionspot-cache."""
    return Path(os.environ.get("RS_CACHE_HOME") or Path.home() / ".cache" / "regionspot-cache").expanduser()


def fetch(remote: RemoteFile, *, progress: Progress | None = None) -> Path:
    """The local copy of a published file, fetched on first use and checked at every use.

    Processes that ask for one file at once wait for a single download, which appears only when it is right.
    MissingFileError says where to put a copy; DamageError that the bytes do not have the published SHA-256.
    """
    path = weights_home() / "weights" / remote.name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(path.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel releases it when the process dies
        if path.is_file():
            _check(path, remote, remedy=f"rm {path}   and run the same command again")
            return path
        partial = path.with_name(path.name + ".partial")
        try:
            _download(remote, partial, path, progress)
            _check(partial, remote, remedy="Try again; if it stays, the file behind the address has changed.")
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    return path


@cache
def missing_hub() -> str:
    """Why the hub cannot be asked, "" where it can: then its library is told to look at local copies alone.

    It would ask five times more for every file, for half a minute. Proxies find the address themselves.
    """
    from huggingface_hub import constants

    host = urlsplit(constants.ENDPOINT).hostname
    if constants.is_offline_mode() or urllib.request.getproxies():
        return ""
    try:
        socket.getaddrinfo(host, None)
    except OSError as error:
        constants.HF_HUB_OFFLINE = True
        return f"{host} has no address here: {error}"
    return ""


def why_not_fetched(error: Exception, limit: int = 160) -> str:
    """What the hub's library, or a user of it, could not do, on one line."""
    found = " ".join(str(error).split()) or type(error).__name__
    return "; ".join(filter(None, (found[:limit], missing_hub())))


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and float32 values in the order of names, whatever file they came from."""
    digest = hashlib.sha256()
    for name in sorted(state):
        values = state[name].detach().to("cpu", torch.float32).contiguous()
        digest.update(f"{name}{tuple(values.shape)}".encode())
        digest.update(values.numpy().tobytes())
    return digest.hexdigest()


def read_tensors(path: Path, expected: str, remedy: str = "", *, mapped: bool = False) -> Any:
    """What a `.safetensors` file or a PyTorch checkpoint holds: tensors in plain containers.

    Nothing else in it is ever unpickled. `mapped` reads tensors when they are used; the file must stay.

    Raises:
        MissingFileError: no such file.
        InputError: it cannot be read; `expected` and `remedy` say what would be right.
    """
    open_file(path, expected, f"ls {path.parent}").close()
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        mapped = mapped and zipfile.is_zipfile(path)  # the format before PyTorch 1.6 cannot be mapped
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # a broken file can make anything of the restricted unpickler
        detail = f"{type(error).__name__} {' '.join(str(error).split())}"[:160]
        raise InputError(f"{path} cannot be read as weights: {detail}", expected, remedy) from None


def read_state(path: Path) -> dict[str, Tensor]:
    """The named tensors of a file. Raises as `read_tensors`, InputError also for anything else in it."""
    state = read_tensors(path, "A .safetensors or .pth file that holds tensors only.")
    if isinstance(state, dict) and isinstance(state.get("model"), dict):
        state = state["model"]  # a checkpoint of a training: the rest is its optimiser and its step
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        raise InputError(f"{path} holds something else than named tensors.", "A state dict.")
    return state


def load_state(module: torch.nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Loads every tensor or none; InputError names the first name or shape that differs.

    The counters of BatchNorm, which only training reads, may be missing.
    """
    own = module.state_dict()
    state = {key: own[key] for key in own if key.endswith("num_batches_tracked")} | dict(state)
    differing = sorted(set(own) ^ set(state))
    differing += sorted(k for k in set(own) & set(state) if own[k].shape != state[k].shape)
    if differing:
        raise InputError(
            f"{source} does not fit the network: {len(differing)} tensors differ, first {differing[0]}.",
            f"{len(own)} tensors of the same names and shapes.",
            "Choose the model that these weights were trained for.",
        )
    module.load_state_dict(state)


def random_seed(weights: str) -> int | None:
    """The seed of "random:SEED"; None for any other text. Raises UsageError without a whole number."""
    kind, _, seed = weights.partition(":")
    if kind != "random":
        return None
    if not (seed.isdecimal() and len(seed) < 19):  # as many digits as torch takes
        raise UsageError(f"weights: {weights!r} has no seed.", "random:SEED, for example random:0.")
    return int(seed)


def _check(path: Path, remote: RemoteFile, remedy: str) -> None:
    found = file_sha256(path)
    if found != remote.sha256:
        raise DamageError(f"{path} has SHA-256 {found}.", f"SHA-256 {remote.sha256} ({remote.url}).", remedy)


def _download(remote: RemoteFile, partial: Path, path: Path, progress: Progress | None) -> None:
    try:
        with (
            urllib.request.urlopen(remote.url, timeout=TIMEOUT_SECONDS) as answer,
            partial.open("wb") as file,
        ):
            length = answer.headers.get("Content-Length")
            total = int(length) if length else None
            done = 0
            while block := answer.read(BLOCK_BYTES):
                file.write(block)
                done += len(block)
                if progress:
                    progress(remote.name, done, total)
    except (OSError, http.client.HTTPException) as error:
        raise MissingFileError(
            f"{remote.name} is not here and could not be fetched: {error}.",
            f"The file at {path}, SHA-256 {remote.sha256}.",
            f"Where there is a network: curl -L -O {remote.url}   then copy it to {path.parent}/",
        ) from None
