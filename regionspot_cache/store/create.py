"""Planning a cache, adding a part to it, and replacing one part."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from regionspot_cache.store.encode import METADATA, array_metadata, group_metadata
from regionspot_cache.store.identity import (
    CACHE_KEY,
    CacheRecord,
    PartRecord,
    cache_identity,
    part_key,
    part_names,
    plan_digest,
    read_part,
    require_same_cache,
    require_same_part,
    require_same_plan,
)
from regionspot_cache.store.layout import PartSpec, part_arrays
from regionspot_cache.store.manifest import marker_key
from regionspot_cache.store.objects import Objects, Stage, open_objects
from regionspot_cache.store.plan import CachePlan
from regionspot_cache.store.plan_store import plan_objects
from regionspot_cache.store.publish import unseal
from regionspot_cache.store.records import to_record
from regionspot_cache.store.shards import object_entry
from regionspot_cache.store.writer import CacheWriter

if TYPE_CHECKING:
    from regionspot_cache.datasets import DetectionDataset


def create_cache(
    path: str | Path,
    dataset: "DetectionDataset",
    *,
    parts: Sequence[PartSpec],
    partition_size: int = 512,
    seed: int = 0,
    rebuild: bool = False,
) -> CacheWriter:
    """Plan a cache, or open the one that is there when its identity is the same; new parts are added.

    Args:
        path: folder or URL.
        dataset: images and boxes (`datasets.DetectionDataset`).
        parts: what is stored.
        partition_size: S, images a partition.
        seed: of the order of the images.
        rebuild: replace a part that was made by other networks, as `rebuild_part` does.

    Raises:
        IdentityError: the cache or a part was made from something else; names the key and both values. Also
            when cache.json is gone and features of another plan are there; nothing is changed then.
        InputError: an empty dataset.
        RegionSpotError: the folder cannot be written or the disk is full.
    """
    objects = open_objects(path)
    _plan_cache(objects, CachePlan(dataset, partition_size=partition_size, seed=seed))
    return add_parts(path, parts, rebuild=rebuild)


def add_parts(path: str | Path, parts: Sequence[PartSpec], *, rebuild: bool = False) -> CacheWriter:
    """Adds the parts that a planned cache does not have yet; errors as of `create_cache`."""
    objects = open_objects(path)
    record = CacheRecord.read(objects)
    for spec in parts:
        with objects.exclusive(f"part-{spec.name}") as stage:
            existing = read_part(objects, record, spec.name)
            if existing is not None and rebuild and existing.spec.digest != spec.digest:
                _replace(objects, stage, record, spec)
            elif existing is not None:
                require_same_part(existing.spec, spec, objects.url)
            else:
                _clear(objects, record, spec.name)
                _install(stage, record, spec)
    return CacheWriter(objects)


def rebuild_part(path: str | Path, spec: PartSpec) -> CacheWriter:
    """Put an empty part of another identity in the place of one; MissingFileError without a cache.

    Nothing of other parts is touched. Readers are refused this part until it is complete and sealed again.
    """
    objects = open_objects(path)
    record = CacheRecord.read(objects)
    with objects.exclusive(f"part-{spec.name}") as stage:
        _replace(objects, stage, record, spec)
    return CacheWriter(objects)


def _replace(objects: Objects, stage: Stage, record: CacheRecord, spec: PartSpec) -> None:
    with objects.exclusive("manifest") as manifest_stage:
        unseal(objects, manifest_stage, record, spec.name)
    # From here on no running extraction can commit to the old part.
    stage.delete(part_key(spec.name))
    _clear(objects, record, spec.name)
    _install(stage, record, spec)


def _plan_cache(objects: Objects, plan: CachePlan) -> None:
    """Write the plan and, last, cache.json; or check what is there."""
    identity = cache_identity(plan)
    with objects.exclusive("plan") as stage:
        if objects.size(CACHE_KEY) is not None:
            require_same_cache(CacheRecord.read(objects).identity, identity, objects.url)
            return
        ours = plan_digest(identity, plan.shape)
        # cache.json was removed: features of another plan are neither adopted nor lost
        for part in part_names(objects):
            existing = PartRecord.read(objects, part)
            if existing is not None:
                require_same_plan(existing, ours, objects.url)
        entries = {}
        for key, content, entry in plan_objects(plan):
            stage.put(key, content)
            stage.publish()
            entries[key] = entry
        for key, _ in list(objects.list("plan")):
            if key not in entries:  # of an attempt that was killed and planned something else
                stage.delete(key)
        data = plan.dataset
        record = CacheRecord(
            identity=identity,
            source=getattr(data, "source", None),
            image_root=str(data.image_root),
            dropped=dict(data.dropped),
            id_kind="str" if any(isinstance(image_id, str) for image_id in data.image_ids) else "int",
            shape=plan.shape,
            objects=entries,
        )
        stage.put_if_absent(CACHE_KEY, record.to_bytes())


def _clear(objects: Objects, record: CacheRecord, part: str) -> None:
    """Remove every marker and object of a part that has no record any more.

    Taking every partition's lock once makes sure that no commit to the old part is still under way.
    """
    for partition in range(record.shape.num_partitions):
        with objects.exclusive(f"{part}-{partition:06d}") as stage:
            stage.delete(marker_key(part, partition))
    with objects.exclusive(f"{part}-objects") as stage:
        for key, _ in [*objects.list(f"markers/{part}"), *objects.list(part)]:
            stage.delete(key)


def _install(stage: Stage, record: CacheRecord, spec: PartSpec) -> None:
    metadata = {f"{spec.name}/{METADATA}": group_metadata()}
    for array in part_arrays(spec, record.shape).values():
        metadata[f"{array.path}/{METADATA}"] = array_metadata(array)
    for key, data in metadata.items():
        stage.put(key, data)
    stage.publish()
    entries = {key: object_entry(data) for key, data in metadata.items()}
    part = PartRecord(plan_digest=record.plan_digest, spec=spec, objects=entries)
    stage.put_if_absent(part_key(spec.name), to_record(part))
