"""Where the image files of an annotation file lie: data sets are unpacked in many ways."""

import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from regionspot_cache.datasets.images import resolve_image
from regionspot_cache.errors import InputError, MissingFileError

Pattern = Callable[[str], str]  # file name in the annotations -> file name below the root

_PROBES = 200
_ALL = 0  # parts of a file name


def coco_patterns(split: str) -> list[Pattern]:
    """The layouts of COCO, LVIS, Objects365, V3Det and of files that simply lie together.

    Objects365 v2 names its images `images/v1/patch8/x.jpg`, while its archives unpack to `patch8/x.jpg`.
    """
    folders = dict.fromkeys(["", *([split, f"{split}2017", f"images/{split}"] if split else []), "images"])
    return [_below(folder, parts) for parts in (_ALL, 2, 1) for folder in folders]


def openimages_patterns(split: str) -> list[Pattern]:
    """`train/x.jpg`, `train/0/x.jpg` (first digit), `train_0/x.jpg` (the official archives), or flat."""
    return [
        lambda name: f"{split}/{name}",
        lambda name: f"{split}/{name[0]}/{name}",
        lambda name: f"{split}_{name[0]}/{name}",
        lambda name: f"{split}/{split}_{name[0]}/{name}",
        lambda name: f"{split}/data/{name}",
        lambda name: name,
        lambda name: f"{name[0]}/{name}",
    ]


def choose_layout(
    names: Sequence[str],
    roots: Sequence[Path],
    patterns: Sequence[Pattern],
    *,
    required: bool,
    known_names: Collection[str] | None = None,
) -> tuple[Path, Pattern]:
    """The root and pattern under which most of up to 200 evenly spread images are found, else the first ones.

    Args:
        names: in the annotations.
        required: whether something must be found.
        known_names: names of images elsewhere, as in a cache; a pattern that gives some of them is chosen
            whatever lies on the disk.

    Raises:
        MissingFileError: none is found and `required`.
        InputError: images are found, but only through links that lead out of the root.
    """
    if known_names and (known := _known_pattern(names, patterns, known_names)):
        return roots[0], known
    probes = _spread(names)
    candidates = [(root, pattern) for root in roots for pattern in patterns]
    best, best_hits, escape = candidates[0], 0, None
    for root, pattern in candidates:
        hits = 0
        for name in probes:
            try:
                hits += os.path.isfile(resolve_image(root, pattern(name)))
            except InputError as error:
                escape = escape or error
        if hits > best_hits:
            best, best_hits = (root, pattern), hits
        if hits == len(probes):
            break
    if probes and not best_hits and required:
        root, pattern = best
        raise escape or MissingFileError(
            f"None of the images is there, for example {root / pattern(probes[0])}.",
            f"{probes[0]} somewhere below {' or '.join(map(str, roots))}.",
            "Give the folder with --images DIR.",
        )
    return best


def _known_pattern(
    names: Sequence[str], patterns: Sequence[Pattern], known_names: Collection[str]
) -> Pattern | None:
    known = set(known_names)
    last = {name.rpartition("/")[2] for name in known}
    probes = _spread([name for name in names if name.rpartition("/")[2] in last])
    hits = [sum(pattern(name) in known for name in probes) for pattern in patterns]
    return patterns[hits.index(max(hits))] if any(hits) else None


def _spread(names: Sequence[str]) -> Sequence[str]:
    return names[:: -(-len(names) // _PROBES)] if names else []


def _below(folder: str, parts: int) -> Pattern:
    """In a folder, by the last parts of the name."""
    start = f"{folder}/" if folder else ""
    return lambda name: start + "/".join(name.split("/")[-parts:])
