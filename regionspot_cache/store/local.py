"""Objects in a local (or network-mounted) folder.

An object is written under staging/, synced, dropped from the page cache, read back and compared; only then is
it renamed to its key and the folder synced. The writer holds a kernel file lock (flock), which the kernel
releases even on SIGKILL, so no lease and no clock is involved.
"""

import errno
import fcntl
import os
import resource
import shutil
import stat
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np

from regionspot_cache.errors import DamageError, RegionSpotError

STAGING = "staging"
_IOV_MAX = 1024
_COMPARE_BYTES = 8 << 20
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_FILE = {errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.ENAMETOOLONG}


class LocalHandle:
    """An open file; closed when the last user lets go of it."""

    def __init__(self, path: Path) -> None:
        self._fd = _open_file(path)
        status = os.fstat(self._fd)
        self.size = status.st_size
        self.version = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)

    def __del__(self, close=os.close) -> None:
        if hasattr(self, "_fd"):
            close(self._fd)

    def read_into(self, offset: int, buffers: Sequence[np.ndarray], length: int) -> None:
        """One positioned, scattered read (per 1,024 buffers)."""
        done = 0
        for start in range(0, len(buffers), _IOV_MAX):
            part = buffers if len(buffers) <= _IOV_MAX else buffers[start : start + _IOV_MAX]
            done += os.preadv(self._fd, cast(Any, part), offset + done)
        if done != length:
            raise EOFError


class LocalObjects:
    """The objects below one folder. See `objects.Objects`."""

    def __init__(self, root: Path) -> None:
        self.root, self.url = root, str(root)
        # A handle evicted here stays open for the threads that are reading from it.
        soft_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._handles = lru_cache(maxsize=max(16, min(4096, soft_limit // 4)))(
            lambda key: LocalHandle(root / key)
        )

    def __reduce__(self) -> tuple:
        return LocalObjects, (self.root,)

    def open(self, key: str) -> LocalHandle:
        """A handle on the file that has the name now, or had it when it was last opened here."""
        return self._handles(key)

    def read(self, key: str) -> bytes:
        with open(_open_file(self.root / key), "rb", buffering=0) as file, _readable(self.root / key):
            return file.readall()

    def size(self, key: str) -> int | None:
        try:
            with _readable(self.root / key):
                return _require_file(self.root / key, (self.root / key).stat()).st_size
        except FileNotFoundError:
            return None

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Every file below `prefix`, sorted by name within its folder."""
        with suppress(FileNotFoundError), _readable(self.root / prefix):
            for entry in sorted(os.scandir(self.root / prefix), key=lambda entry: entry.name):
                key = f"{prefix}/{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    yield from self.list(key)
                else:
                    yield key, entry.stat(follow_symlinks=False).st_size

    @contextmanager
    def exclusive(self, name: str, *, wait: bool = True, long: bool = False) -> Generator["LocalStage"]:
        """Hold flock on staging/NAME.lock; the kernel knows whether the holder lives, however long."""
        lock_path = self.root / STAGING / f"{name}.lock"
        with _explained(lock_path, 0):
            _make_folders(lock_path.parent)
            lock = _acquire(lock_path, wait)
        try:
            stage = LocalStage(self.root, lock_path.with_suffix(""))
            stage.wipe()  # whatever is there was left by a killed holder
            try:
                yield stage
            finally:
                stage.wipe()
        finally:
            with suppress(OSError):
                lock_path.unlink()  # while it is still locked; `_acquire` copes with that
            os.close(lock)

    def sweep(self) -> int:
        """Remove staged files and locks whose holder is gone; those in use are left alone."""
        names = {Path(key).parts[1].removesuffix(".lock") for key, _ in self.list(STAGING)}
        before = sum(1 for _ in self.list(STAGING))
        for name in sorted(names):
            with suppress(BlockingIOError), self.exclusive(name, wait=False):
                pass
        return max(0, before - sum(1 for _ in self.list(STAGING)))


class LocalStage:
    """Staged files of one lock holder. See `objects.Stage`."""

    def __init__(self, root: Path, folder: Path) -> None:
        self._root, self._folder = root, folder
        self._staged: list[tuple[Path, Path]] = []
        self._count = 0

    def put(self, key: str, data: bytes | memoryview) -> None:
        self._staged.append((self._write(data, key), self._root / key))

    def publish(self) -> None:
        for source, target in self._staged:
            with _explained(target, 0):
                _make_folders(target.parent)
                source.replace(target)
        for folder in {target.parent for _, target in self._staged}:
            _sync_folder(folder)
        self._staged.clear()

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Write as `put` does, then link the file to its key: fails when the key exists, lock or no lock."""
        source, target = self._write(data, key), self._root / key
        with _explained(target, 0):
            _make_folders(target.parent)
            try:
                os.link(source, target)
            except FileExistsError:
                return False
            finally:
                source.unlink()
            _sync_folder(target.parent)
        return True

    def delete(self, key: str) -> None:
        path = self._root / key
        with _explained(path, 0), suppress(FileNotFoundError):
            path.unlink()
            _sync_folder(path.parent)

    def wipe(self) -> None:
        self._staged.clear()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _write(self, data: bytes | memoryview, key: str) -> Path:
        path = self._folder / f"{self._count:06d}"
        self._count += 1
        with _explained(self._root / key, len(data)):
            self._folder.mkdir(parents=True, exist_ok=True)
            with open(path, "xb", buffering=0) as file:
                _write_all(file.fileno(), memoryview(data))
                os.fsync(file.fileno())
            _compare(path, memoryview(data))
        return path


def _open_file(path: Path) -> int:
    with _readable(path):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # or a pipe would wait for a writer
        try:
            _require_file(path, os.fstat(fd))
        except BaseException:
            os.close(fd)
            raise
    return fd


def _require_file(path: Path, status: os.stat_result) -> os.stat_result:
    if not stat.S_ISREG(status.st_mode):
        raise DamageError(
            f"{path} is no file",
            "a file that rs-cache extract wrote",
            f"ls -l {path.parent}",
        )
    return status


@contextmanager
def _readable(path: Path) -> Generator[None]:
    """Turn an operating-system error while reading into one of ours; FileNotFoundError stays."""
    try:
        yield
    except FileNotFoundError:
        raise
    except NotADirectoryError as error:
        raise FileNotFoundError(error.errno, error.strerror, str(path)) from None
    except OSError as error:
        kind = DamageError if error.errno in _NO_FILE else RegionSpotError
        raise kind(
            f"cannot read {path}: {error.strerror}",
            "a cache whose files this user may read",
            f"ls -l {path.parent}; then run the same command again",
        ) from error


def _write_all(fd: int, view: memoryview) -> None:
    while view:
        view = view[os.write(fd, view) :]


def _compare(path: Path, view: memoryview) -> None:
    """Read the file back from the device, not from the page cache, and compare it with what was written."""
    with open(path, "rb", buffering=0) as file:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        written, buffer = np.frombuffer(view, np.uint8), np.empty(_COMPARE_BYTES, np.uint8)
        for start in range(0, len(written) + 1, _COMPARE_BYTES):
            part = written[start : start + _COMPARE_BYTES]
            count = os.preadv(file.fileno(), [cast(Any, buffer)], start)
            if not np.array_equal(buffer[:count], part):
                raise DamageError(
                    f"{path} reads back differently from what was written, near byte {start}",
                    "a disk that returns what it was given",
                    "check the disk, then run the same command again; nothing was committed",
                )


def _acquire(path: Path, wait: bool) -> int:
    """A locked descriptor of the file that `path` names now; a holder removes the file first."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(fd), path.stat()):
                    return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _make_folders(path: Path) -> None:
    if path.is_dir():
        return
    _make_folders(path.parent)
    path.mkdir(exist_ok=True)
    _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def _explained(path: Path, size: int) -> Generator[None]:
    """Turn an operating-system error while writing into one that says what to do."""
    try:
        yield
    except BlockingIOError:
        raise
    except OSError as error:
        full = error.errno in _FULL
        raise RegionSpotError(
            f"cannot write {path}: {error.strerror}",
            f"room for {size:,} more bytes" if full else "a cache folder that this user may write",
            f"{'free some space' if full else 'change its permissions'} or choose another --cache, then run "
            "the same command again; finished partitions are kept",
        ) from error
