"""Which images make up which training step: a pure function of (seed, step), on any number of processes.

A source is an endless row of epochs. An epoch is a windowed block shuffle: the partitions are permuted,
every `window` consecutive ones form a window, and the images of a window are permuted. Images lie in
partitions in a recorded random order already, so a window is a random sample of its data set. With several
sources, each block of as many steps as there are sources visits every source once, in a permuted order; a
batch holds one source.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from regionspot_cache.errors import InputError

# Tags keep the random streams of the three kinds of permutation apart.
_PARTITIONS, _WINDOW, _MIXTURE = 0, 1, 2


class ImageTable(Protocol):
    """What the order needs to know of a cache."""

    @property
    def num_images(self) -> int: ...
    @property
    def partition_size(self) -> int: ...
    @property
    def offsets(self) -> NDArray[np.int64]: ...
    def ok_mask(self, half: str) -> NDArray[np.bool_]: ...


@dataclass(frozen=True, kw_only=True)
class UsableImages:
    """Images of a cache that can be trained on.

    Attributes:
        images: int64 [U], rising positions in the cache.
        offsets: int64 [P + 1]; partition p holds images[offsets[p]:offsets[p + 1]].
        left_out: number of other images by reason; an image counts for its first reason.
    """

    images: NDArray[np.int64]
    offsets: NDArray[np.int64]
    left_out: Counter[str] = field(default_factory=Counter)


def usable_images(cache: ImageTable, name: str = "cache") -> UsableImages:
    """Images with boxes whose two halves were extracted.

    Raises:
        InputError: not a single image is left.
    """
    conditions = {
        "without boxes": np.diff(cache.offsets) > 0,
        "without SAM tokens": cache.ok_mask("sam"),
        "without CLIP map": cache.ok_mask("clip"),
    }
    left_out: Counter[str] = Counter()
    usable = np.ones(cache.num_images, bool)
    for reason, holds in conditions.items():
        if lost := int((usable & ~holds).sum()):
            left_out[reason] = lost
        usable &= holds
    if not usable.any():
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise InputError(
            f"{name} has no image to train on ({reasons or 'empty'})",
            "images with boxes in both halves",
            "rs-cache status CACHE",
        )
    images = np.flatnonzero(usable)
    starts = np.arange(0, cache.num_images + cache.partition_size, cache.partition_size)
    return UsableImages(images=images, offsets=np.searchsorted(images, starts), left_out=left_out)


class SampleOrder:
    """The batches of one stage.

    Args:
        sources: the usable images of every source.
        windows: partitions per window, for every source.
        batch_size: images of the global batch.
        seed: non-negative numbers that name the stream, for example (run seed, stage).
    """

    def __init__(
        self, sources: Sequence[UsableImages], windows: Sequence[int], batch_size: int, seed: Sequence[int]
    ) -> None:
        self._sources, self._windows = tuple(sources), tuple(windows)
        self._batch_size, self._seed = batch_size, tuple(seed)
        # Neighbouring steps share their windows; several threads ask at once, which lru_cache allows.
        self._epoch_cached = lru_cache(maxsize=2 * len(self._sources))(self._epoch)
        self._window_cached = lru_cache(maxsize=3 * len(self._sources))(self._window)

    def batch(self, step: int) -> tuple[int, NDArray[np.int64]]:
        """Source index and int64 [batch_size] cache positions of step `step`; every step costs the same."""
        count = len(self._sources)
        block, place = divmod(step, count)
        source = int(self._random(_MIXTURE, block).permutation(count)[place]) if count > 1 else 0
        return source, self._take(source, block * self._batch_size)

    def epoch_of(self, step: int) -> float:
        """Passes over its data that the source of step `step` has made, on average over the sources."""
        share = step / len(self._sources) * self._batch_size
        return float(np.mean([share / len(source.images) for source in self._sources]))

    def _take(self, source: int, start: int) -> NDArray[np.int64]:
        parts, missing = [], self._batch_size
        while missing:
            epoch, offset = divmod(start, len(self._sources[source].images))
            part = self._from_window(source, epoch, offset)[:missing]
            parts.append(part)
            start, missing = start + len(part), missing - len(part)
        return np.concatenate(parts)

    def _from_window(self, source: int, epoch: int, offset: int) -> NDArray[np.int64]:
        """The images from `offset` of an epoch to the end of the window there."""
        _, bounds = self._epoch_cached(source, epoch)
        window = int(np.searchsorted(bounds, offset, side="right")) - 1
        return self._window_cached(source, epoch, window)[offset - int(bounds[window]) :]

    def _epoch(self, source: int, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Permuted partitions [P] and the first offset of every window, then the epoch's length [W + 1]."""
        table = self._sources[source]
        partitions = self._random(_PARTITIONS, source, epoch).permutation(len(table.offsets) - 1)
        ends = np.cumsum(np.diff(table.offsets)[partitions])
        last_of_window = np.arange(
            self._windows[source], len(ends) + self._windows[source], self._windows[source]
        )
        return partitions, np.concatenate([[0], ends[np.minimum(last_of_window, len(ends)) - 1]])

    def _window(self, source: int, epoch: int, window: int) -> NDArray[np.int64]:
        table, size = self._sources[source], self._windows[source]
        partitions, _ = self._epoch_cached(source, epoch)
        chosen = partitions[window * size : (window + 1) * size]
        images = np.concatenate([table.images[table.offsets[p] : table.offsets[p + 1]] for p in chosen])
        return self._random(_WINDOW, source, epoch, window).permutation(images)

    def _random(self, *stream: int) -> np.random.Generator:
        return np.random.default_rng((*self._seed, *stream))


def slice_of_rank(images: NDArray[np.int64], rank: int, world: int) -> NDArray[np.int64]:
    """The part of a global batch that process `rank` of `world` works on."""
    return images[rank * len(images) // world : (rank + 1) * len(images) // world]


def window_partitions(window_bytes: int, bytes_per_image: int, partition_size: int) -> int:
    """Whole partitions of maps that fit in `window_bytes`, at least one."""
    return max(1, window_bytes // (bytes_per_image * partition_size))
