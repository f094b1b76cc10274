"""Bringing a cache up to date with changed annotations or images: what is new, what was given up."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from regionspot_cache.datasets.images import has_changed
from regionspot_cache.store.identity import cache_identity, plan_digest
from regionspot_cache.store.labelled import Match, match
from regionspot_cache.store.objects import open_objects
from regionspot_cache.store.plan import CachePlan
from regionspot_cache.store.reader import Cache, open_as_it_is
from regionspot_cache.store.records import canonical, digest, to_record
from regionspot_cache.store.segments import (
    SEGMENTS_KEY,
    UPDATE_KEY,
    UPDATES,
    SegmentEntry,
    Segments,
    UpdateRecord,
    packed,
    within,
)

if TYPE_CHECKING:
    from regionspot_cache.datasets import DetectionDataset


@dataclass(frozen=True, kw_only=True, eq=False)
class Update:
    """What makes a sealed cache that of a dataset.

    `redone`, bool [M of the dataset], are images that are new or whose boxes or pixels changed; `removed`,
    bool [M of the cache], positions that are given up.
    """

    cache: Cache
    dataset: "DetectionDataset"
    redone: np.ndarray
    removed: np.ndarray

    @property
    def is_empty(self) -> bool:
        """Whether the cache is up to date."""
        return not self.redone.any() and not (self.removed & self.cache.live).any()

    @cached_property
    def added(self) -> "DetectionDataset | None":
        """The images that the new segment holds."""
        return self.dataset.select(np.flatnonzero(self.redone)) if self.redone.any() else None

    def name(self, seed: int) -> str:
        """Of the new segment: the same for the same work, so that a killed update goes on.

        And never that of an earlier segment, which has the same plan when one picture changes twice.
        """
        assert self.added is not None
        plan = CachePlan(self.added, partition_size=self.cache.partition_size, seed=seed)
        work = [plan_digest(cache_identity(plan), plan.shape), len(self.cache.segments)]
        return f"{UPDATES}/{digest(canonical(work))[:16]}"


def plan_update(path: str | Path, dataset: "DetectionDataset") -> Update:
    """Compares a sealed cache with a dataset, boxes and files; labels do not matter.

    IncompleteError when no part of the cache is complete.
    """
    cache = open_as_it_is(path, None)
    found = match(dataset, cache, cache.live)
    redone = ~found.fits(dataset.offsets)
    redone |= _files_changed(dataset, cache, found, ~redone)
    if dataset.views is not None:  # all views of an image lie in one segment
        origins = dataset.views.origins
        redone = np.isin(origins, origins[redone])
    kept = np.zeros(cache.num_images, bool)
    kept[found.images[~redone]] = True
    return Update(cache=cache, dataset=dataset, redone=redone, removed=~kept)


def _files_changed(
    dataset: "DetectionDataset", cache: Cache, found: Match, candidates: np.ndarray
) -> np.ndarray:
    """bool [M]: whose file is not the one that features were made from; a missing one has not changed."""
    changed = np.zeros(len(dataset.file_names), bool)
    stamps = cache.stamps(next(iter(cache.parts)))
    for i in np.flatnonzero(candidates):
        stamp = tuple(stamps[found.images[i]].tolist())
        changed[i] = has_changed(Path(dataset.image_root), dataset.file_names[i], stamp)
    return changed


def begin_update(path: str | Path, name: str) -> str:
    """Has readers refused until `finish_update`; gives the place of the new segment."""
    objects = open_objects(path)
    with objects.exclusive("update") as stage:
        stage.put(UPDATE_KEY, to_record(UpdateRecord(name=name)))
        stage.publish()
    return within(objects.url, name)


def finish_update(path: str | Path, update: Update, name: str | None) -> None:
    """Makes the new segment, complete and sealed, a part of the cache, and gives up what is removed.

    One object is replaced atomically: a reader sees the cache before the update or after it. IncompleteError
    when the new segment lacks a part; nothing is changed then.
    """
    objects, cache = open_objects(path), update.cache
    known = Segments.read(objects)
    names = [entry.name for entry in known.segments] if known else [""]
    masks = np.split(update.removed, cache.segment_starts[1:])
    entries = [
        SegmentEntry(name=n, plan_digest=s.plan_digest, removed=packed(mask[: s.num_images]))
        for n, s, mask in zip(names, cache.segments, masks, strict=True)
    ]
    if name is not None and name not in names:
        segment = open_as_it_is(within(objects.url, name), tuple(cache.parts)).segments[0]
        entries.append(SegmentEntry(name=name, plan_digest=segment.plan_digest))
    with objects.exclusive("update") as stage:
        stage.put(SEGMENTS_KEY, to_record(Segments(segments=tuple(entries), source=update.dataset.source)))
        stage.publish()
        stage.delete(UPDATE_KEY)
        kept = {entry.name for entry in entries}
        for key, _ in list(objects.list(UPDATES)):  # of an update to something else that was never finished
            if "/".join(key.split("/")[:2]) not in kept:
                stage.delete(key)


def abandon_update(path: str | Path) -> None:
    """Lets readers in again when nothing is left to do."""
    objects = open_objects(path)
    if UpdateRecord.read(objects) is not None:
        with objects.exclusive("update") as stage:
            stage.delete(UPDATE_KEY)
