"""Folders that are written whole: built beside their place, then moved there."""

import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from regionspot_cache.errors import InputError, RegionSpotError


@contextmanager
def replacing_folder(path: Path) -> Generator[Path]:
    """A folder to fill beside `path` that takes its place when the block ends, and only if it ends well."""
    staging = path.with_name(f".{path.name}.{os.getpid()}")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        yield staging
        if path.exists():
            shutil.rmtree(path)
        os.replace(staging, path)
    except RegionSpotError:
        raise
    except (OSError, ValueError) as error:  # also names of images that no file can have
        found = f"{path} cannot be written: {error}."
        raise InputError(found, "Names of images that files can have, and space.") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
