"""How many bytes a cache will take, exactly, before anything is computed."""

from collections.abc import Mapping, Sequence

import numpy as np

from regionspot_cache.store.layout import PartSpec, part_arrays, plan_arrays
from regionspot_cache.store.plan import CachePlan
from regionspot_cache.store.plan_store import StoredPlan


def estimate(plan: CachePlan, parts: Sequence[PartSpec]) -> dict[str, int]:
    """Bytes of the stored objects of every array, by path ("clip/map"), and their "total".

    Exact when no image fails. The small JSON objects (about 5 KB a partition and part) are not counted.
    """
    rows = {
        "boxes": plan.box_counts,
        "offsets": plan.image_counts + 1,
        "sizes": plan.image_counts,
        "text": plan.text_counts,
        "text_offsets": 2 * plan.image_counts + 1,
        "views": plan.image_counts,
        "origins": plan.image_counts,
        "frames": plan.image_counts,
    }
    sizes = {array.path: array.stored_bytes(rows[name]) for name, array in plan_arrays(plan.shape).items()}
    for spec in parts:
        sizes |= _part_bytes(plan, spec, np.ones(plan.num_partitions, bool))
    return {**sizes, "total": sum(sizes.values())}


def missing_bytes(
    plan: CachePlan | StoredPlan, parts: Sequence[PartSpec], pending: Mapping[str, Sequence[int]]
) -> int:
    """Bytes of the partitions that each part still lacks, exact like `estimate`.

    `pending` are partitions that are not committed, by part; all of a part that is not named.
    """
    total = 0
    for spec in parts:
        lacking = np.ones(plan.num_partitions, bool)
        if spec.name in pending:
            lacking[:] = False
            lacking[list(pending[spec.name])] = True
        total += sum(_part_bytes(plan, spec, lacking).values())
    return total


def _part_bytes(plan: CachePlan | StoredPlan, spec: PartSpec, chosen: np.ndarray) -> dict[str, int]:
    """Bytes of every array of a part in the chosen partitions, bool [P], by path."""
    return {
        array.path: array.stored_bytes((plan.box_counts if array.ragged else plan.image_counts) * chosen)
        for array in part_arrays(spec, plan.shape).values()
    }
