"""Images without features: counted once an image, told by reason, the same way by every verb."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.console import counts
from regionspot_cache.store.manifest import Marker

Failures = dict[tuple[int, int], Mapping[str, Any]]
"""By partition and slot."""


def failures_of(parts: Iterable[Mapping[int, Marker]]) -> Failures:
    """Images that failed in any part, from the markers of each."""
    found: Failures = {}
    for markers in parts:
        for partition, marker in sorted(markers.items()):
            for (slot, _), failure in zip(marker.failed, marker.failures, strict=True):
                found.setdefault((partition, slot), failure)
    return found


def by_reason(failures: Failures) -> dict[str, int]:
    """How many images failed for each reason."""
    return dict(Counter(str(failure["reason"]) for failure in failures.values()))


def failures_text(images: int, failures: Failures) -> str:
    """ "7 of 31 images; 24 failed: 24 missing", or "31 images"."""
    if not failures:
        return f"{images} images"
    told = counts(by_reason(failures))
    return f"{images - len(failures)} of {images} images; {len(failures)} failed: {told}"
