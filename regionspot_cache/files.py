"""Files that appear whole or not at all, and their checksums."""

import fcntl
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write beside `path` that takes its place when the block ends, and only if it ends well."""
    staging = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield staging
        os.replace(staging, path)
    finally:
        staging.unlink(missing_ok=True)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def numbered_folder(parent: Path, name: str) -> Iterator[Path]:
    """A new folder NUMBER-NAME in `parent`, whose number is above all others there, also of other processes.

    It goes again when the block ends badly with nothing in it.
    """
    parent.mkdir(parents=True, exist_ok=True)
    safe = re.sub(r"[^\w.+-]+", "-", name)[:100]
    lock = os.open(parent, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # numbers are given one at a time
        taken = (re.match(r"\d+", entry) for entry in os.listdir(parent))
        number = max((int(found[0]) for found in taken if found), default=0) + 1
        folder = parent / f"{number:04}-{safe}"
        folder.mkdir()
    finally:
        os.close(lock)
    try:
        yield folder
    except BaseException:
        with suppress(OSError):
            folder.rmdir()  # only if it is empty
        raise
