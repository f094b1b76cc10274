"""What a cache holds now, finished or not: images, boxes and failures, over all segments."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np

from pipeline.console import counts
from regionspot_cache.store import CacheWriter, PartSpec, open_writer
from regionspot_cache.store.manifest import Marker
from regionspot_cache.store.objects import open_objects
from regionspot_cache.store.reader import open_as_it_is
from regionspot_cache.store.segments import UpdateRecord, segment_places


def waited(seconds: Mapping[str, float]) -> str:
    """How much of its time the encoding of images waited for them, in words; `PartitionReport.seconds`."""
    total = seconds.get("wait", 0.0) + seconds.get("encode", 0.0)
    return f"encoding waited for images {seconds.get('wait', 0.0) / total:.0%} of its time" if total else ""


class Contents:
    """A cache that may be unfinished, with a writer for each segment; reads every marker once."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.cache = open_as_it_is(path, ())
        self.writers: list[CacheWriter] = [open_writer(place) for place in segment_places(path)]
        self.updating = UpdateRecord.read(open_objects(path)) is not None

    @property
    def images(self) -> int:
        """Images that were not removed; each view counts."""
        return int(self.cache.live.sum())

    @property
    def boxes(self) -> int:
        """Boxes of these images."""
        return int(np.diff(self.cache.offsets)[self.cache.live].sum())

    @property
    def partitions(self) -> int:
        """Of all segments."""
        return self.cache.num_partitions

    @property
    def parts(self) -> list[str]:
        """The parts of any segment."""
        return list(dict.fromkeys(part for writer in self.writers for part in writer.parts))

    @cached_property
    def markers(self) -> dict[str, dict[int, Marker]]:
        """Of all committed partitions, numbered over the segments, by part."""
        found: dict[str, dict[int, Marker]] = {part: {} for part in self.parts}
        first = 0
        for writer in self.writers:
            for part in writer.parts:
                found[part] |= {first + p: marker for p, marker in writer.markers(part).items()}
            first += writer.num_partitions
        return found

    @cached_property
    def failures(self) -> list[Mapping[str, Any]]:
        """Images without features of some part, once each, and why."""
        found: dict[int, Mapping[str, Any]] = {}
        for markers in self.markers.values():
            for partition, marker in sorted(markers.items()):
                for (slot, _), failure in zip(marker.failed, marker.failures, strict=True):
                    found.setdefault(partition * self.cache.partition_size + slot, failure)
        return [failure for i, failure in sorted(found.items()) if self.cache.live[i]]

    @property
    def failures_by_reason(self) -> dict[str, int]:
        """How many images failed for each reason."""
        return dict(Counter(str(failure["reason"]) for failure in self.failures))

    @property
    def told(self) -> str:
        """ "7 of 31 images; 24 failed: 24 missing", or "31 images"."""
        if not self.failures:
            return f"{self.images} images"
        good = self.images - len(self.failures)
        return (
            f"{good} of {self.images} images; {len(self.failures)} failed: {counts(self.failures_by_reason)}"
        )

    def spec(self, part: str) -> PartSpec:
        """What a part stores."""
        return next(writer.parts[part] for writer in self.writers if part in writer.parts)

    def bytes(self, part: str) -> int:
        """Of the committed features of a part."""
        return sum(marker.stored_bytes for marker in self.markers[part].values())

    def bytes_by_array(self, part: str) -> dict[str, int]:
        """By PART/ARRAY."""
        sizes: Counter[str] = Counter()
        for marker in self.markers[part].values():
            for key, entry in marker.objects.items():
                sizes[key.rsplit("/", 1)[0]] += entry.bytes
        return dict(sizes)

    def seconds(self, part: str) -> dict[str, float]:
        """Of the work on a part, by step."""
        found: defaultdict[str, float] = defaultdict(float)
        for marker in self.markers[part].values():
            for step, value in marker.timings.items():
                found[step] += value
        return dict(found)
