"""Folders of pictures without boxes."""

import hashlib
from pathlib import Path

from regionspot_cache.datasets.box_formats.box_set import BoxCollector, BoxSet
from regionspot_cache.datasets.box_formats.yolo import is_picture


def read(path: Path, images: Path | None) -> BoxSet:
    """Every picture below a folder, by name; none has a box."""
    collector, digest = BoxCollector(path), hashlib.sha256()
    for file in sorted(path.rglob("*")):
        name = file.relative_to(path)
        if is_picture(file) and not any(part.startswith(".") for part in name.parts):
            collector.image(name.as_posix(), None)
            digest.update(f"{name.as_posix()}\0".encode())
    return collector.build("pictures", digest.hexdigest(), (images or path,))
