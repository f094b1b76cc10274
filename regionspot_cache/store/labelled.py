"""Labels for cached features: which images and boxes of a dataset a cache has, by file name and box alone."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import compress
from typing import TYPE_CHECKING

import numpy as np

from regionspot_cache.datasets.regions import BOX_QUERY, position_vectors
from regionspot_cache.hashing import random64

if TYPE_CHECKING:
    from regionspot_cache.datasets import DetectionDataset
    from regionspot_cache.store.reader import Cache

IMAGE_NOT_CACHED, BOX_NOT_CACHED = "image not in the cache", "box not in the cache"


@dataclass(frozen=True, kw_only=True, eq=False)
class Match:
    """Where the images and boxes of a dataset are in a cache.

    `images` int64 [M]: position of every image, -1 where the cache has none of this name, size and view.
    `boxes` int64 [T]: row of every box in the cache's order, -1 where its image has no such box.
    """

    images: np.ndarray
    boxes: np.ndarray

    def fits(self, offsets: np.ndarray) -> np.ndarray:
        """bool [M]: which images are there with all their boxes; `offsets` are those of the dataset."""
        lacking = np.concatenate([[0], np.cumsum(self.boxes < 0)])
        return (self.images >= 0) & (np.diff(lacking[offsets]) == 0)


def match(dataset: "DetectionDataset", cache: "Cache", live: np.ndarray | None = None) -> Match:
    """Finds the images and boxes of a dataset in a cache; labels, ids and order do not matter.

    Views are matched with views; a dataset without extra ones with the pictures as they are. `live`, bool [M
    of the cache], are images that count; all when left out.
    """
    images = _match_images(dataset, cache, live)
    counts = np.diff(dataset.offsets)
    owner = np.repeat(images, counts)
    rows = cache.offsets[owner] + np.arange(len(owner)) - np.repeat(dataset.offsets[:-1], counts)
    # Most often the boxes of an image are the same in the same order; only others are looked for.
    there = (owner >= 0) & (rows < cache.offsets[owner + 1])
    there[there] = (cache.all_boxes[rows[there]] == dataset.boxes[there]).all(axis=1)
    rows[~there] = -1
    others = np.flatnonzero((owner >= 0) & ~there)
    rows[others] = _search(owner[others], dataset.boxes[others], cache)
    return Match(images=images, boxes=rows)


def _search(owner: np.ndarray, boxes: np.ndarray, cache: "Cache") -> np.ndarray:
    """int64 [k], rows of boxes of these images of the cache; -1 where an image has no such box."""
    asked = np.zeros(cache.num_images, bool)
    asked[owner] = True
    cached_owner = np.repeat(np.arange(cache.num_images), np.diff(cache.offsets))
    known = np.flatnonzero(asked[cached_owner])
    if not len(known):
        return np.full(len(owner), -1)
    keys = _keys(cached_owner[known], cache.all_boxes[known])
    order = np.argsort(keys, kind="stable")
    place = np.minimum(np.searchsorted(keys[order], _keys(owner, boxes)), len(known) - 1)
    rows = known[order[place]]
    same = (cached_owner[rows] == owner) & (cache.all_boxes[rows] == boxes).all(axis=1)
    return np.where(same, rows, -1)


def _match_images(dataset: "DetectionDataset", cache: "Cache", live: np.ndarray | None) -> np.ndarray:
    shown = np.stack([dataset.widths, dataset.heights], axis=1).astype(np.int64)
    wanted = dataset.views.frames if dataset.views is not None else shown
    there = cache.frames if dataset.views is not None and cache.frames is not None else cache.all_sizes
    if wanted.shape[1] != there.shape[1]:
        return np.full(len(dataset.file_names), -1)
    counted = np.ones(cache.num_images, bool) if live is None else live
    if dataset.views is None and cache.views is not None:  # of the pictures as they are, not of mirrored ones
        counted = counted & (cache.views == 0)
    known: dict[tuple[str, bytes], int] = {}
    several: dict[tuple[str, bytes], list[int]] = {}  # files that are listed under several image ids
    keys_there = _image_keys(cache.file_names, there, counted)
    for i, key in zip(np.flatnonzero(counted).tolist(), keys_there, strict=True):
        if (first := known.setdefault(key, i)) != i:
            several.setdefault(key, [first]).append(i)
    keys = list(_image_keys(dataset.file_names, wanted))
    found = np.array([known.get(key, -1) for key in keys], np.int64)
    taken: set[int] = set()
    for number, key in enumerate(keys) if several else ():
        if same := several.get(key):
            boxes = dataset.boxes[dataset.offsets[number] : dataset.offsets[number + 1]]
            found[number] = _most_alike(boxes, same, cache, taken)
            taken.add(int(found[number]))
    return found


def _image_keys(
    names: Sequence[str], shape: np.ndarray, chosen: np.ndarray | None = None
) -> Iterator[tuple[str, bytes]]:
    """Name and size, or frame, of each image."""
    rows = np.ascontiguousarray(shape, "<i4")
    packed = rows.view(f"V{rows.shape[1] * 4}").ravel().tolist()
    pairs = zip(names, packed, strict=True)
    return pairs if chosen is None else compress(pairs, chosen.tolist())


def _most_alike(boxes: np.ndarray, same: list[int], cache: "Cache", taken: set[int]) -> int:
    """Of images that are one file listed several times, the one with these boxes; each once if possible."""

    def unlike(i: int) -> tuple[int, bool, int]:
        held = _box_set(cache.all_boxes[cache.offsets[i] : cache.offsets[i + 1]])
        return len(wanted - held), i in taken, len(held - wanted)

    wanted = _box_set(boxes)
    return min(same, key=unlike)


def _box_set(boxes: np.ndarray) -> set[bytes]:
    return {box.tobytes() for box in boxes + np.float32(0)}  # -0.0 becomes 0.0


def _keys(owner: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """uint64 [T], a hash of image and box; equal ones are compared in full."""
    halves = np.ascontiguousarray(boxes + np.float32(0)).view("<u8").reshape(-1, 2)  # -0.0 becomes 0.0
    return random64(0, owner.astype(np.uint64), halves[:, 0], halves[:, 1])


class LabelledCache:
    """The regions of a dataset, with the same extra views as the cache or with none, that it has features of.

    Attributes:
        match: where the dataset is in the cache.
        left_out: images and boxes of the dataset that the cache does not have, by reason.
    """

    def __init__(self, cache: "Cache", dataset: "DetectionDataset") -> None:
        self.cache, self.dataset, self.class_names = cache, dataset, dataset.class_names
        self.num_images, self.partition_size, self.views = cache.num_images, cache.partition_size, cache.views
        self.match = match(dataset, cache, cache.live)
        lacking = int((self.match.images < 0).sum())
        boxes = int(((self.match.boxes < 0) & (self._owner >= 0)).sum())
        self.left_out = Counter({IMAGE_NOT_CACHED: lacking, BOX_NOT_CACHED: boxes})
        self.left_out += Counter()  # without zeros
        kept = np.flatnonzero(self.match.boxes >= 0)
        order = kept[np.argsort(self._owner[kept], kind="stable")]
        owner = self._owner[order]
        self._labels = dataset.labels[order]
        self._rows = self.match.boxes[order] - cache.offsets[owner]
        self.offsets = np.searchsorted(owner, np.arange(cache.num_images + 1))

    @cached_property
    def _owner(self) -> np.ndarray:
        return np.repeat(self.match.images, np.diff(self.dataset.offsets))

    @property
    def origins(self) -> np.ndarray | None:
        """int32 [M], number of the image that each one is a view of."""
        return self.cache.origins

    def ok_mask(self, part: str) -> np.ndarray:
        """bool [M]: which images have features in a part."""
        return self.cache.ok_mask(part)

    def queries(self, path: str, i: int) -> np.ndarray:
        """float32 [n, D] of the labelled boxes of image i, of PART/ARRAY by box or `regions.BOX_QUERY`."""
        if path == BOX_QUERY:
            vectors = position_vectors(self.cache.boxes(i), self.cache.size(i))
        else:
            vectors = self.cache.read(path, i)
        return vectors[self.rows(i)]

    @property
    def boxed_classes(self) -> np.ndarray:
        """int [k], the labels that occur, rising."""
        return np.unique(self._labels)

    def labels(self, i: int) -> np.ndarray:
        """int32 [n], index into class_names of every labelled box of image i of the cache."""
        return self._labels[self.offsets[i] : self.offsets[i + 1]]

    def rows(self, i: int) -> np.ndarray:
        """int64 [n], which boxes of image i of the cache these are; one may occur with several labels."""
        return self._rows[self.offsets[i] : self.offsets[i + 1]]
