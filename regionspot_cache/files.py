"""Files that are read with every way of being no such file told apart, that appear whole or not at all, and
their checksums."""

import fcntl
import hashlib
import json
import os
import re
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from regionspot_cache.errors import InputError, MissingFileError, near_path


def open_file(path: Path, expected: str, remedy: str = "Check the path.") -> BinaryIO:
    """A file opened to be read; a folder, a named pipe, a device or a loop of links is none.

    Raises MissingFileError, or InputError where it may not be read; `expected` says what should be there.
    """
    if not os.path.isfile(path):  # Path.is_file raises for names that are too long
        folder = os.path.isdir(path)
        found = f"{path} is a folder, not a file." if folder else f"There is no file {path}."
        raise MissingFileError(found, f"{'' if folder else near_path(path)}{expected}", remedy)
    try:
        return path.open("rb")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.", expected, remedy) from None


def read_text(path: Path, expected: str, remedy: str = "Check the path.") -> str:
    """The UTF-8 text of a file. Raises as `open_file`; InputError also for other bytes."""
    with open_file(path, expected, remedy) as file:
        data = file.read()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        found = f"{path} is not UTF-8 text: byte {error.start} is {data[error.start]:#04x}."
        raise InputError(found, expected, remedy) from None


def read_json(path: Path, expected: str, remedy: str = "Check the path.") -> Any:
    """The value in a JSON file of ordinary size. Raises as `read_text`; InputError also for other text."""
    try:
        return json.loads(read_text(path, expected, remedy))
    except InputError:
        raise
    except (ValueError, RecursionError) as error:  # also numbers of 5,000 digits, and deep nesting
        raise InputError(f"{path} is not JSON: {error}.", expected, remedy) from None


@contextmanager
def replacing(path: Path) -> Generator[Path]:
    """A file to write beside `path` that takes its place when the block ends, and only if it ends well."""
    staging = path.with_name(f".{path.stem}.{threading.get_native_id()}{path.suffix}")
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
def locked_folder(folder: Path) -> Generator[None]:
    """One process at a time; the lock is the kernel's, and gone with its process."""
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


@contextmanager
def numbered_folder(parent: Path, name: str) -> Generator[Path]:
    """A new folder NUMBER-NAME in `parent`, whose number is above all others there, also of other processes.

    It goes again when the block ends badly with nothing in it.
    """
    parent.mkdir(parents=True, exist_ok=True)
    safe = re.sub(r"[^\w.+-]+", "-", name)[:100]
    with locked_folder(parent):  # numbers are given one at a time
        taken = (re.match(r"\d+", entry) for entry in os.listdir(parent))
        number = max((int(found[0]) for found in taken if found), default=0) + 1
        folder = parent / f"{number:04}-{safe}"
        folder.mkdir()
    try:
        yield folder
    except BaseException:
        with suppress(OSError):
            folder.rmdir()  # only if it is empty
        raise
