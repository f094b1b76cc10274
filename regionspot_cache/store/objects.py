"""What the cache asks of a place that keeps objects: a folder (local.py) or an object store (remote.py).

A key is a relative path with "/" between its parts. Readers take bytes; writers work inside an exclusive
`Stage`, where an object is complete, synced and compared before it can be seen under its key.
"""

import importlib.util
from collections.abc import Hashable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np

from regionspot_cache.errors import MissingFileError
from regionspot_cache.store.local import LocalObjects


class Handle(Protocol):
    """One opened object, for positioned reads."""

    @property
    def size(self) -> int:
        """Bytes of the object."""

    @property
    def version(self) -> Hashable:
        """Changes when the object under the key is replaced."""

    def read_into(self, offset: int, buffers: Sequence[np.ndarray], length: int) -> None:
        """Fill contiguous uint8 buffers, `length` bytes in all, one after the other, from `offset` on.

        Raises:
            EOFError: the object ends before the buffers are full.
        """


class Stage(Protocol):
    """Exclusive right to change the objects of one name (a partition, the plan, the manifest)."""

    def put(self, key: str, data: bytes | memoryview) -> None:
        """Stage an object; nobody sees it before `publish`."""

    def publish(self) -> None:
        """Make every staged object visible under its key, durably."""

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Create one object durably; False when the key already exists."""

    def delete(self, key: str) -> None:
        """Remove an object; a missing one is fine."""


class Objects(Protocol):
    """A folder of objects. Instances are picklable and may be used from several threads."""

    @property
    def url(self) -> str:
        """Where the objects are, for messages and for opening the same place again."""

    def read(self, key: str) -> bytes:
        """The whole object. Raises FileNotFoundError."""

    def size(self, key: str) -> int | None:
        """Bytes of the object, None when it does not exist."""

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Key and bytes of every object below the folder `prefix`, sorted."""

    def open(self, key: str) -> Handle:
        """A handle for positioned reads. Raises FileNotFoundError."""

    def exclusive(self, name: str, *, wait: bool = True, long: bool = False) -> AbstractContextManager[Stage]:
        """Hold the exclusive right to write under `name`; waits for it, or raises BlockingIOError at once.

        `long`: it is held for minutes, so what says that its holder lives is renewed meanwhile.
        """

    def sweep(self) -> int:
        """Remove what killed writers left staged; returns the number of removed files."""


class BytesHandle:
    """A handle on bytes in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = np.frombuffer(data, np.uint8)
        self.size = len(data)
        self.version: Hashable = id(data)

    def read_into(self, offset: int, buffers: Sequence[np.ndarray], length: int) -> None:
        if offset + length > self.size:
            raise EOFError
        scatter(self._data[offset : offset + length], buffers)


def scatter(data: np.ndarray, buffers: Sequence[np.ndarray]) -> None:
    """Copy uint8 data into contiguous uint8 buffers, one after the other."""
    start = 0
    for buffer in buffers:
        buffer[:] = data[start : start + len(buffer)]
        start += len(buffer)


class WholeObjects:
    """Opens objects by reading them whole, one kept at a time: few large requests for sequential loading."""

    def __init__(self, objects: Objects) -> None:
        self.open = lru_cache(maxsize=1)(lambda key: BytesHandle(objects.read(key)))


def open_objects(location: str | Path) -> Objects:
    """Objects of a folder, or of a URL that obstore knows (s3://, gs://, az://, memory://, file://).

    Raises:
        MissingFileError: a URL is given and obstore is not installed.
    """
    if "://" not in str(location):
        return LocalObjects(Path(location).absolute())
    if importlib.util.find_spec("obstore") is None:
        raise MissingFileError(
            f"{location} needs the package obstore, which is not installed",
            "a local folder, or obstore beside regionspot-cache",
            "pip install 'regionspot-cache[remote]'",
        )
    from regionspot_cache.store.remote import RemoteObjects

    return RemoteObjects.from_url(str(location))
