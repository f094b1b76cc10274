"""The output folder of a run belongs to one run at a time."""

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from regionspot_cache.errors import InputError
from regionspot_cache.training.distributed import ProcessGroup


@contextmanager
def claim_folder(folder: Path, group: ProcessGroup) -> Generator[None, None, None]:
    """Create `folder` and hold its lock, which the kernel releases with the process, or raise InputError."""
    if not group.is_main:
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise InputError(
            f"cannot write to {folder}: {error.strerror}",
            "a writable folder",
            "choose another with --out DIR",
        ) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"another run is writing into {folder}", "one run per folder", "wait for it, or use --out DIR"
            ) from None
        yield
    finally:
        os.close(lock)
