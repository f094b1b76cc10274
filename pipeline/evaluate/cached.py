"""What caches have of the images and boxes of an evaluation."""

from collections import ChainMap
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import console
from pipeline.usual_caches import are_nested, cache_path, caches_beside
from regionspot_cache.backbones import Backbone
from regionspot_cache.datasets import DetectionDataset
from regionspot_cache.datasets.images import has_changed
from regionspot_cache.errors import IdentityError, IncompleteError, MissingFileError
from regionspot_cache.store import Cache, match, open_cache
from regionspot_cache.store.identity import require_fingerprint


class CachedFeatures:
    """`parts` of a cache beside a dataset: images by file name and size, boxes by their exact coordinates.

    A picture that is not the one that features were made from has none.
    """

    def __init__(self, cache: Cache, dataset: DetectionDataset, parts: Collection[str]) -> None:
        self.cache, self._dataset = cache, dataset
        live = cache.live if cache.views is None else cache.live & (cache.views == 0)
        self._images = match(_named_from(dataset, Path(cache.image_root)), cache, live).images
        self._arrays = {
            f"{name}/{array.name}": array.ragged
            for name, part in cache.parts.items()
            if name in parts
            for array in part.arrays
        }

    def __len__(self) -> int:
        """Images of the dataset that are there."""
        return int((self._images >= 0).sum())

    def of(self, index: int, boxes: NDArray[np.float32]) -> "CachedImage | None":
        """Features of image `index` of the dataset and of boxes [N, 4], if any."""
        i = int(self._images[index])
        if i < 0:
            return None
        rows = rows_of_boxes(self.cache.boxes(i), boxes)
        usable = self._usable(i, index)
        paths = [
            path
            for path, by_box in self._arrays.items()
            if path.partition("/")[0] in usable and (rows is not None or not by_box)
        ]
        return CachedImage(self.cache, i, {path: rows if self._arrays[path] else None for path in paths})

    def _usable(self, i: int, index: int) -> set[str]:
        """Parts that have the picture as its file is now; those that saw one file share the look at it."""
        stamps = {
            part: tuple(rows[i].tolist()) for part, rows in self._stamps.items() if self.cache.ok(i, part)
        }
        root, name = Path(self._dataset.image_root), self._dataset.file_names[index]
        changed = {stamp: has_changed(root, name, stamp) for stamp in set(stamps.values())}
        return {part for part, stamp in stamps.items() if not changed[stamp]}

    @cached_property
    def _stamps(self) -> dict[str, NDArray[np.int64]]:
        parts = dict.fromkeys(path.partition("/")[0] for path in self._arrays)
        return {part: self.cache.stamps(part) for part in parts}


class FoundFeatures:
    """Several caches beside a dataset; of what more than one has, the first counts."""

    def __init__(self, found: Sequence[CachedFeatures]) -> None:
        self.found = tuple(found)

    @property
    def urls(self) -> list[str]:
        """Of the caches."""
        return [each.cache.url for each in self.found]

    def of(self, index: int, boxes: NDArray[np.float32]) -> Mapping[str, NDArray[np.float32]] | None:
        """Features of image `index` of the dataset and of boxes [N, 4] by PART/ARRAY, if any."""
        there: list[Any] = [image for each in self.found if (image := each.of(index, boxes)) is not None]
        return ChainMap(*there) if there else None


class CachedImage(Mapping[str, NDArray[np.float32]]):
    """By PART/ARRAY the features of image `i`, or of its boxes where `rows` say which."""

    def __init__(self, cache: Cache, i: int, rows: Mapping[str, NDArray[np.intp] | None]) -> None:
        self._cache, self._i, self._rows = cache, i, rows

    def __getitem__(self, path: str) -> NDArray[np.float32]:
        rows = self._rows[path]
        values = self._cache.read(path, self._i)
        return values if rows is None else values[rows]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __contains__(self, path: object) -> bool:
        return path in self._rows  # of the mixin it would read the features

    def __len__(self) -> int:
        return len(self._rows)


def rows_of_boxes(there: NDArray[np.float32], boxes: NDArray[np.float32]) -> NDArray[np.intp] | None:
    """Which of the cached boxes these are; None when one of them is not there."""
    known = {row.tobytes(): i for i, row in enumerate(there + np.float32(0))}  # -0.0 becomes 0.0
    found = [known.get(row.tobytes(), -1) for row in boxes.astype(np.float32) + np.float32(0)]
    return None if -1 in found else np.array(found, np.intp)


def cached_features(
    given: str | None, dataset: DetectionDataset, backbone: Backbone, needed: Collection[str]
) -> FoundFeatures:
    """The given cache, or those of the usual folder that have images of the dataset, whatever annotations
    they were extracted for; says which they are, and which features are computed all the same, and why.

    Raises:
        MissingFileError, IdentityError, IncompleteError: the given one is not there, not ours, or not whole.
    """
    usual = cache_path(given, dataset, backbone.spec)
    places = [usual] if given else [usual, *(p for p in caches_beside(dataset) if p != usual)]
    found = []
    for path in places:
        try:
            cache = open_cache(path)
        except (MissingFileError, IdentityError, IncompleteError) as error:
            if given:
                raise
            if not isinstance(error, MissingFileError):
                console.warn(f"{path} is not used: {error.found}")
            continue
        parts = _agreeing(cache, path, backbone, needed, tell=path == usual)
        if path != usual and not set(parts) & set(needed):
            continue
        features = CachedFeatures(cache, dataset, parts)
        if len(features):
            found.append(features)
            console.say(f"{path} has {len(features)} of {len(dataset)} images of {dataset.name}.")
        elif path == usual:
            console.warn(f"{path} has no image of {dataset.name}: all features are computed on the fly")
    return FoundFeatures(found)


def _named_from(dataset: DetectionDataset, root: Path) -> DetectionDataset:
    """The dataset with file names as they are from another folder, where one of the two is in the other."""
    own, other = Path(dataset.image_root).resolve(), root.resolve()
    if own == other or not are_nested(own, other):
        return dataset
    return replace(
        dataset, file_names=[f"{own}/{name}".removeprefix(f"{other}/") for name in dataset.file_names]
    )


def _agreeing(
    cache: Cache, path: str, backbone: Backbone, needed: Collection[str], *, tell: bool
) -> list[str]:
    """Parts of the cache that the networks in use have made; `tell` of the others that they are of no use."""
    agreeing, complaints = [], []
    for name, encoder in backbone.parts.items():
        if name not in cache.parts:
            if name in needed:
                complaints.append(f"{path} has no complete part {name}: its features are computed on the fly")
            continue
        try:
            require_fingerprint(cache.parts[name], encoder.fingerprint(), cache.url)
        except IdentityError as error:
            complaints.append(f"{name} is computed on the fly: {error.found}; expected {error.expected}")
        else:
            agreeing.append(name)
    for complaint in complaints if tell else ():
        console.warn(complaint)
    return agreeing
