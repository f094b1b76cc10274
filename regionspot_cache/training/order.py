"""Which images make up which training step: a pure function of (seed, step), on any number of processes.

A source is an endless row of epochs. An epoch is a windowed block shuffle: the partitions are permuted,
every `window` consecutive ones form a window, and the images of a window are permuted. Images lie in
partitions in a recorded random order already, so a window is a random sample of its data set. Of an image
with several views every epoch takes one, and all of them once before any a second time. With several
sources, each block of as many steps as there are sources visits every source once, in a permuted order; a
batch holds one source.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from regionspot_cache.errors import InputError
from regionspot_cache.hashing import random64
from regionspot_cache.store import LabelledCache

# Tags keep the random streams of the four kinds of choice apart.
_PARTITIONS, _WINDOW, _MIXTURE, _VIEWS = 0, 1, 2, 3


@dataclass(frozen=True, kw_only=True)
class ViewChoice:
    """Which of its usable views each image shows in an epoch; the U records are views."""

    origins: NDArray[np.int32]  # int32 [U], number of the image that this is a view of
    ranks: NDArray[np.uint8]  # uint8 [U], place among the usable views of that image
    counts: NDArray[np.uint8]  # uint8 [U], how many there are

    @classmethod
    def among(cls, origins: NDArray[np.int32]) -> Self:
        """Of records whose images have these numbers, int32 [U]."""
        order = np.argsort(origins, kind="stable")
        _, starts, counts = np.unique(origins[order], return_index=True, return_counts=True)
        ranks, per_record = np.empty((2, len(origins)), np.uint8)
        ranks[order] = np.arange(len(origins)) - np.repeat(starts, counts)
        per_record[order] = np.repeat(counts, counts)
        return cls(origins=origins, ranks=ranks, counts=per_record)

    @property
    def num_images(self) -> int:
        """Images, each with all its views."""
        return int((self.ranks == 0).sum())

    def mask(self, key: int, epoch: int) -> NDArray[np.bool_]:
        """bool [U], True for exactly one view of every image; a function of the arguments alone.

        An image with n views shows each of them once in n epochs, from a random one on.
        """
        turn, place = np.divmod(epoch, self.counts.astype(np.int64))
        first = random64(key, self.origins, turn) % self.counts
        return (first.astype(np.int64) + place) % self.counts == self.ranks


@dataclass(frozen=True, kw_only=True)
class UsableImages:
    """Images of a cache that can be trained on."""

    images: NDArray[np.int64]  # int64 [U], rising positions in the cache
    offsets: NDArray[np.int64]  # int64 [P + 1]; partition p holds images[offsets[p]:offsets[p + 1]]
    # number of other images by reason; an image counts for its first reason
    left_out: Counter[str] = field(default_factory=Counter)
    # how an epoch chooses among views of one image; None when every image has one
    views: ViewChoice | None = None

    @property
    def per_epoch(self) -> int:
        """Images of one epoch."""
        return len(self.images) if self.views is None else self.views.num_images

    def of_epoch(self, key: int, epoch: int) -> "UsableImages":
        """What an epoch visits: one view of every image."""
        if self.views is None:
            return self
        kept = np.flatnonzero(self.views.mask(key, epoch))
        return UsableImages(images=self.images[kept], offsets=np.searchsorted(kept, self.offsets))


def usable_images(
    cache: LabelledCache,
    name: str = "cache",
    *,
    parts: Sequence[str],
    views: Literal["sample", "original"] = "sample",
) -> UsableImages:
    """Images with labelled boxes that have features in all the parts that a head reads.

    `name` is that of the cache, for messages. `views`: "sample" takes extra views of images too, "original"
    leaves them out. Raises InputError when not a single image is left.
    """
    extra = {} if cache.views is None or views == "sample" else {"extra views": cache.views == 0}
    conditions = {
        **extra,
        "without boxes": np.diff(cache.offsets) > 0,
        **{f"without {part}": cache.ok_mask(part) for part in parts},
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
            f"images with labelled boxes and features in {', '.join(parts)}",
            "rs-cache status CACHE",
        )
    images = np.flatnonzero(usable)
    starts = np.arange(0, cache.num_images + cache.partition_size, cache.partition_size)
    return UsableImages(
        images=images,
        offsets=np.searchsorted(images, starts),
        left_out=left_out,
        views=None if extra or cache.origins is None else ViewChoice.among(cache.origins[images]),
    )


class SampleOrder:
    """The batches of one stage.

    Args:
        windows: partitions per window, for every source.
        batch_size: images of the global batch.
        seed: non-negative numbers that name the stream, for example (run seed, stage).
    """

    def __init__(
        self, sources: Sequence[UsableImages], windows: Sequence[int], batch_size: int, seed: Sequence[int]
    ) -> None:
        self._sources, self._windows = tuple(sources), tuple(windows)
        self._per_epoch = [source.per_epoch for source in self._sources]
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
        return float(np.mean([share / count for count in self._per_epoch]))

    def _take(self, source: int, start: int) -> NDArray[np.int64]:
        parts, missing = [], self._batch_size
        while missing:
            epoch, offset = divmod(start, self._per_epoch[source])
            part = self._from_window(source, epoch, offset)[:missing]
            parts.append(part)
            start, missing = start + len(part), missing - len(part)
        return np.concatenate(parts)

    def _from_window(self, source: int, epoch: int, offset: int) -> NDArray[np.int64]:
        """The images from `offset` of an epoch to the end of the window there."""
        _, _, bounds = self._epoch_cached(source, epoch)
        window = int(np.searchsorted(bounds, offset, side="right")) - 1
        return self._window_cached(source, epoch, window)[offset - int(bounds[window]) :]

    def _epoch(self, source: int, epoch: int) -> tuple[UsableImages, NDArray[np.int64], NDArray[np.int64]]:
        """Its images, permuted partitions [P], and first offsets of the windows, then its length [W + 1]."""
        key = np.random.SeedSequence((*self._seed, _VIEWS, source)).generate_state(1, np.uint64)
        table = self._sources[source].of_epoch(int(key[0]), epoch)
        partitions = self._random(_PARTITIONS, source, epoch).permutation(len(table.offsets) - 1)
        ends = np.cumsum(np.diff(table.offsets)[partitions])
        last_of_window = np.arange(
            self._windows[source], len(ends) + self._windows[source], self._windows[source]
        )
        return table, partitions, np.concatenate([[0], ends[np.minimum(last_of_window, len(ends)) - 1]])

    def _window(self, source: int, epoch: int, window: int) -> NDArray[np.int64]:
        size = self._windows[source]
        table, partitions, _ = self._epoch_cached(source, epoch)
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
