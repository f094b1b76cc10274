"""What a cache has of the images and boxes of an evaluation."""

from collections.abc import Collection, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from pipeline import console
from pipeline.plan import cache_path
from regionspot_cache.backbones import Backbone
from regionspot_cache.datasets import DetectionDataset
from regionspot_cache.errors import IdentityError, IncompleteError, MissingFileError
from regionspot_cache.store import Cache, match, open_cache
from regionspot_cache.store.identity import require_fingerprint


class CachedFeatures:
    """`parts` of a cache beside a dataset: images by file name and size, boxes by their exact coordinates."""

    def __init__(self, cache: Cache, dataset: DetectionDataset, parts: Collection[str]) -> None:
        self.cache = cache
        live = cache.live if cache.views is None else cache.live & (cache.views == 0)
        self._images = match(dataset, cache, live).images
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
        paths = [
            path
            for path, by_box in self._arrays.items()
            if self.cache.ok(i, path.partition("/")[0]) and (rows is not None or not by_box)
        ]
        return CachedImage(self.cache, i, {path: rows if self._arrays[path] else None for path in paths})


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
) -> CachedFeatures | None:
    """The given cache, or the one in the usual place; says which features are computed all the same, and why.

    Raises:
        MissingFileError, IdentityError, IncompleteError: the given one is not there, not ours, or not whole.
    """
    path = cache_path(given, dataset, backbone.spec)
    try:
        cache = open_cache(path)
    except MissingFileError:
        if given:
            raise
        return None
    except (IdentityError, IncompleteError) as error:
        if given:
            raise
        console.warn(f"{path} is not used, all features are computed on the fly: {error.found}")
        return None
    found = CachedFeatures(cache, dataset, _agreeing(cache, path, backbone, needed))
    if not len(found):
        console.warn(f"{path} has no image of {dataset.name}: all features are computed on the fly")
    return found


def _agreeing(cache: Cache, path: str, backbone: Backbone, needed: Collection[str]) -> list[str]:
    """Parts of the cache that the networks in use have made; says of the others that they are of no use."""
    agreeing = []
    for name, encoder in backbone.parts.items():
        if name not in cache.parts:
            if name in needed:
                console.warn(f"{path} has no complete part {name}: its features are computed on the fly")
            continue
        try:
            require_fingerprint(cache.parts[name], encoder.fingerprint(), cache.url)
        except IdentityError as error:
            console.warn(f"{name} is computed on the fly: {error.found}; expected {error.expected}")
        else:
            agreeing.append(name)
    return agreeing
