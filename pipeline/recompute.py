"""Images of a cache encoded again as extraction does it, for `rs-cache verify --recompute`."""

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from regionspot_cache.datasets.augmentation import ViewTable
from regionspot_cache.datasets.tables import offsets_of
from regionspot_cache.errors import IdentityError, InputError
from regionspot_cache.identity import for_reading, require_same
from regionspot_cache.store import Cache, PartitionPlan

if TYPE_CHECKING:
    from regionspot_cache.backbones import Encoder

BATCH_SIZE, THREADS = 8, 2
AT_ONCE = 64  # images whose features are in memory together


def recomputed(cache: Cache, count: int, backbone: str, images: Path | None) -> dict[str, Any]:
    """Runs the encoders again on `count` random images; the largest cosine distance of every array."""
    encoders = _encoders_of(cache, backbone)
    good = np.flatnonzero(np.logical_and.reduce([cache.ok_mask(part) for part in cache.parts]))
    chosen = np.sort(np.random.default_rng().choice(good, size=min(count, len(good)), replace=False))
    worst: defaultdict[str, float] = defaultdict(float)
    for start in range(0, len(chosen), AT_ONCE):
        _recompute(cache, chosen[start : start + AT_ONCE], encoders, images, worst)
    coarse = any(array.dtype == "int4" for spec in cache.parts.values() for array in spec.arrays)
    return {"images": len(chosen), "cosine_distance": dict(worst), "int4": coarse}


def _recompute(
    cache: Cache,
    chosen: NDArray[np.intp],
    encoders: dict[str, "Encoder"],
    images: Path | None,
    worst: defaultdict[str, float],
) -> None:
    """Computes some images as extraction does and notes how far they are from what is stored."""
    from regionspot_cache.extraction.features import PartitionFeatures
    from regionspot_cache.extraction.loader import Clock, ImageLoader

    planned = _planned(cache, chosen)
    loader = ImageLoader(
        root=images or Path(cache.image_root), exif=cache.exif, encoders=encoders, clock=Clock()
    )
    features = PartitionFeatures(planned, cache.parts, encoders, loader.clock)
    for batch in loader.batches(planned, range(len(chosen)), size=BATCH_SIZE, threads=THREADS):
        features.add(batch)
    features.finish()
    for slot, (_, detail) in sorted(features.failures.items()):
        raise InputError(f"{planned.file_names[slot]}: {detail}", "The image of the extraction.")
    for part, spec in cache.parts.items():
        for array in spec.arrays:
            path = f"{part}/{array.name}"
            for slot, i in enumerate(chosen.tolist()):
                found = features.arrays[part][array.name].take(features.rows_of(array, slot))
                again = array.storage.decode(*found)
                _note(worst, path, cache.read(path, i), again if array.ragged else again[0])


def _planned(cache: Cache, images: NDArray[np.intp]) -> PartitionPlan:
    """Some images, of any partitions, as if they were one."""
    partitions, slots = np.divmod(images, cache.partition_size)
    found = [(cache.partition(p), slots[partitions == p].tolist()) for p in np.unique(partitions).tolist()]
    boxes = [plan.boxes[plan.offsets[i] : plan.offsets[i + 1]] for plan, own in found for i in own]
    views = [plan.views.take(own) for plan, own in found if plan.views is not None]
    return PartitionPlan(
        index=0,
        image_ids=[plan.image_ids[i] for plan, own in found for i in own],
        file_names=[plan.file_names[i] for plan, own in found for i in own],
        sizes=np.concatenate([plan.sizes[own] for plan, own in found]),
        boxes=np.concatenate(boxes),
        offsets=offsets_of([len(own) for own in boxes]).astype(np.int32),
        views=ViewTable.concatenate(views) if views else None,
    )


def _note(worst: dict[str, float], name: str, stored: Any, again: Any) -> None:
    a, b = stored.astype(np.float64), again.astype(np.float64)
    norms = np.maximum(np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1), 1e-12)
    distance = 1 - (a * b).sum(-1) / norms
    worst[name] = max(worst[name], float(distance.max(initial=0.0)))


def _encoders_of(cache: Cache, backbone: str) -> dict[str, "Encoder"]:
    from regionspot_cache.backbones import load_backbone, load_preset

    spec = load_preset(backbone)
    if unknown := [part for part in cache.parts if part not in spec.parts]:
        raise IdentityError(
            f"The cache has part {', '.join(unknown)}; backbone {spec.name} has {', '.join(spec.parts)}.",
            "The backbone that it was made with.",
            "rs-cache verify CACHE --recompute K --backbone NAME",
        )
    encoders = dict(load_backbone(spec, parts=tuple(cache.parts)).parts)
    for part, encoder in encoders.items():
        require_same(
            {part: for_reading(cache.parts[part].fingerprint)},
            {part: for_reading(encoder.fingerprint())},
            what="the cache",
            wanted_by="these networks",
            remedy="Name them: rs-cache verify CACHE --recompute K --backbone NAME",
        )
    return encoders
