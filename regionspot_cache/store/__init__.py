"""The feature cache: stock Zarr v3 arrays with a commit protocol, checksums and a fast reader.

Never imports torch.
"""

from regionspot_cache.store.checks import Problem
from regionspot_cache.store.create import create_cache, rebuild_part
from regionspot_cache.store.labelled import LabelledCache, Match, match
from regionspot_cache.store.layout import (
    STATUS_CODES,
    STATUS_OK,
    STATUS_REASONS,
    ArraySpec,
    PartSpec,
)
from regionspot_cache.store.plan import CachePlan, PartitionPlan
from regionspot_cache.store.plan_store import estimate, missing_bytes
from regionspot_cache.store.reader import Cache, open_cache
from regionspot_cache.store.storage import STORAGE, StorageName, Stored, dequantise, quantise
from regionspot_cache.store.verify import verify
from regionspot_cache.store.writer import CacheWriter, open_writer

__all__ = [
    "STATUS_CODES",
    "STATUS_OK",
    "STATUS_REASONS",
    "STORAGE",
    "ArraySpec",
    "Cache",
    "CachePlan",
    "CacheWriter",
    "LabelledCache",
    "Match",
    "PartSpec",
    "PartitionPlan",
    "Problem",
    "StorageName",
    "Stored",
    "create_cache",
    "dequantise",
    "estimate",
    "match",
    "missing_bytes",
    "open_cache",
    "open_writer",
    "quantise",
    "rebuild_part",
    "verify",
]
