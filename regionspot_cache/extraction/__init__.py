"""Phase 1: the frozen networks of a backbone run once over a dataset, into a cache."""

from typing import TYPE_CHECKING

from regionspot_cache.lazy import attributes_of

if TYPE_CHECKING:
    from regionspot_cache.extraction.api import *  # noqa: F403

__getattr__ = attributes_of("regionspot_cache.extraction.api")
