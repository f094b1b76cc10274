"""How many bytes a cache will take, exactly, before anything is computed."""

from collections.abc import Sequence

from regionspot_cache.store.layout import HalfSpec, half_arrays, plan_arrays
from regionspot_cache.store.plan import CachePlan


def estimate(plan: CachePlan, halves: Sequence[HalfSpec]) -> dict[str, int]:
    """Bytes of the stored objects of every array, by path ("clip/map"), and their "total".

    Exact when no image fails. The small JSON objects (about 1 KB a partition and half) are not counted.
    """
    rows = {
        "boxes": plan.box_counts,
        "labels": plan.box_counts,
        "annotation_ids": plan.box_counts,
        "offsets": plan.image_counts + 1,
        "sizes": plan.image_counts,
        "text": plan.text_counts,
        "text_offsets": 2 * plan.image_counts + 1,
        "views": plan.image_counts,
        "origins": plan.image_counts,
        "frames": plan.image_counts,
    }
    sizes = {array.path: array.stored_bytes(rows[name]) for name, array in plan_arrays(plan.shape).items()}
    for spec in halves:
        for array in half_arrays(spec, plan.shape).values():
            sizes[array.path] = array.stored_bytes(plan.box_counts if array.ragged else plan.image_counts)
    return {**sizes, "total": sum(sizes.values())}
