"""Objects in an object store (s3://, gs://, az://, memory://), through obstore; extra `remote`."""

import os
import re
import socket
import time
from collections.abc import Generator, Hashable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from threading import Event, Thread
from typing import Any
from uuid import uuid4

import numpy as np
import obstore
import yaml
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, from_url

from regionspot_cache.errors import DamageError, IncompleteError, RegionSpotError
from regionspot_cache.store.objects import scatter

_CLAIMS = "staging"
LEASE_SECONDS = 900.0
_POLL_SECONDS = 1.0
_CAUSES = Path(__file__).with_name("object_store_errors.yaml")


class RemoteHandle:
    """Positioned reads of one remote object."""

    def __init__(self, store: Any, key: str) -> None:
        self._store, self._key = store, key
        head = obstore.head(store, key)
        self.size: int = head["size"]
        self.version: Hashable = (head["e_tag"], head["size"], head["last_modified"])

    def read_into(self, offset: int, buffers: Sequence[np.ndarray], length: int) -> None:
        if offset + length > self.size:
            raise EOFError
        with _explained("read", self._key):
            data = obstore.get_range(self._store, self._key, start=offset, length=length)
        flat = np.frombuffer(memoryview(data), np.uint8)
        if len(flat) != length:
            raise EOFError
        scatter(flat, buffers)


class RemoteObjects:
    """The objects below one URL. See `objects.Objects`.

    Weaker than a local folder in one point. There is no kernel lock: the right to write a partition is a
    claim object, put only if absent and held for the seconds of a commit; the work on a partition is claimed
    for minutes, and renewed. The claim of a killed writer lasts until its lease is over, and a writer that
    stalls for longer in the middle of a commit can mix its objects with its successor's; `verify` finds that.
    A reader that has an object open when it is replaced (a retry of failed images) must open the cache again.
    obstore does not survive a fork: start worker processes with "spawn".
    """

    def __init__(self, store: Any, url: str, *, lease: float = LEASE_SECONDS) -> None:
        self._store, self.url, self._lease = store, url, lease
        self._handles = lru_cache(maxsize=4096)(lambda key: RemoteHandle(store, key))

    @classmethod
    def from_url(cls, url: str) -> "RemoteObjects":
        """Open a URL with the credentials of the environment.

        RegionSpotError within seconds for what is permanently wrong, such as a missing bucket.
        """
        if not url.startswith(("file://", "memory://")):
            _require_contact(url)
        # A store of files wants its folder to be there; that of a segment is made with the segment.
        with _explained("open", url):
            if url.startswith("file://") and "/updates/" in url:
                return cls(LocalStore.from_url(url, mkdir=True), url)
            return cls(from_url(url), url)

    def __reduce__(self) -> tuple:
        return RemoteObjects.from_url, (self.url,)

    def read(self, key: str) -> bytes:
        with _explained("read", key):
            return bytes(obstore.get(self._store, key).bytes())

    def size(self, key: str) -> int | None:
        with _explained("read", key), suppress(FileNotFoundError):
            return obstore.head(self._store, key)["size"]
        return None

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        with _explained("list", prefix):
            found = [
                (item["path"], item["size"]) for page in obstore.list(self._store, prefix) for item in page
            ]
        yield from sorted(found)

    def open(self, key: str) -> RemoteHandle:
        """A handle; the object's size and version are asked for once."""
        with _explained("read", key):
            return self._handles(key)

    @contextmanager
    def exclusive(self, name: str, *, wait: bool = True, long: bool = False) -> Generator["RemoteStage"]:
        """Hold the claim object of `name`; with `long` it is put again every quarter of its lease."""
        key, owner = f"{_CLAIMS}/{name}.claim", f"{socket.gethostname()} {os.getpid()} {uuid4()}".encode()
        while not self._claim(key, owner):
            if not wait:
                raise BlockingIOError(key)
            time.sleep(_POLL_SECONDS)
        released = Event()
        renewal = Thread(target=self._renew, args=(key, owner, released), daemon=True)
        if long:
            renewal.start()
        try:
            yield RemoteStage(self, self._store, key, owner)
        finally:
            released.set()
            if long:
                renewal.join()  # or a renewal under way would put the claim back after it was deleted
            with suppress(FileNotFoundError, RegionSpotError):
                if self.read(key) == owner:
                    obstore.delete(self._store, key)

    def _renew(self, key: str, owner: bytes, released: Event) -> None:
        while not released.wait(self._lease / 4):
            with suppress(FileNotFoundError, RegionSpotError, BaseError):
                if self.read(key) != owner:
                    return
                obstore.put(self._store, key, owner)

    def sweep(self) -> int:
        """Remove claims whose lease is over."""
        stale = [key for key, _ in self.list(_CLAIMS) if self._is_stale(key)]
        for key in stale:
            obstore.delete(self._store, key)
        return len(stale)

    def _claim(self, key: str, owner: bytes) -> bool:
        with _explained("write", key):
            try:
                obstore.put(self._store, key, owner, mode="create")
            except AlreadyExistsError:
                if not self._is_stale(key):
                    return False
                with suppress(FileNotFoundError):
                    obstore.delete(self._store, key)
                return self._claim(key, owner)
        return True

    def _is_stale(self, key: str) -> bool:
        try:
            put_at = obstore.head(self._store, key)["last_modified"]
        except FileNotFoundError:
            return True
        return (datetime.now(UTC) - put_at).total_seconds() > self._lease


class RemoteStage:
    """What one claim holder wants to change; kept in memory until `publish`. See `objects.Stage`."""

    def __init__(self, objects: RemoteObjects, store: Any, claim: str, owner: bytes) -> None:
        self._objects, self._store, self._claim, self._owner = objects, store, claim, owner
        self._staged: list[tuple[str, bytes | memoryview]] = []

    def put(self, key: str, data: bytes | memoryview) -> None:
        self._staged.append((key, data))

    def publish(self) -> None:
        """Upload every object, read it back and compare."""
        for key, data in self._staged:
            self._require_claim()
            with _explained("write", key):
                obstore.put(self._store, key, data)
            self._compare(key, data)
        self._staged.clear()

    def put_if_absent(self, key: str, data: bytes) -> bool:
        self._require_claim()
        with _explained("write", key):
            try:
                obstore.put(self._store, key, data, mode="create")
            except AlreadyExistsError:
                return False
        self._compare(key, data)
        return True

    def delete(self, key: str) -> None:
        with _explained("delete", key), suppress(FileNotFoundError):
            obstore.delete(self._store, key)

    def _compare(self, key: str, data: bytes | memoryview) -> None:
        if self._objects.read(key) != data:
            raise DamageError(
                f"{self._objects.url}/{key} reads back differently from what was written",
                "a store that returns what it was given, and one writer at a time",
                "run the same command again; the partition was not committed",
            )

    def _require_claim(self) -> None:
        try:
            held = self._objects.read(self._claim) == self._owner
        except FileNotFoundError:
            held = False
        if not held:
            raise IncompleteError(
                f"the claim {self._claim} ran out while this process held it",
                "a commit within the lease",
                "run the same command again; the partition was not committed",
            )


@contextmanager
def _explained(action: str, key: str) -> Generator[None]:
    try:
        yield
    except AlreadyExistsError:
        raise
    except BaseError as error:
        raise _in_words(error, f"cannot {action} {key}") from error


def _require_contact(url: str) -> None:
    """Asks a store for one listing, with little patience. RegionSpotError says what is wrong."""
    # Client options given here would replace those of the environment; a connection has 5 seconds anyway.
    retries: Any = {"max_retries": 1, "retry_timeout": timedelta(seconds=5)}
    try:
        with_little_patience = from_url(url, retry_config=retries)
        next(iter(obstore.list(with_little_patience, "staging", chunk_size=1)), None)
    except BaseError as error:
        raise _in_words(error, f"cannot open {url}") from error


def _in_words(error: BaseError, what: str) -> RegionSpotError:
    """An error of obstore in words; its own first line where the cause is none of the usual ones."""
    text = str(error)
    for cause in yaml.safe_load(_CAUSES.read_text(encoding="utf-8")):
        if re.search(cause["text"], text):
            return RegionSpotError(f"{what}: {cause['found']}", cause["expected"], cause["remedy"])
    return RegionSpotError(
        f"{what}: {text.splitlines()[0][:300]}",
        "an object store that can be reached, with rights to read and write",
        "check the URL, the credentials and the quota, then run the same command again",
    )
