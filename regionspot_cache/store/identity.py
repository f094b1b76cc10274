"""Identity of a cache and of its parts: what must match before anything is added or read."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, TypeAdapter

from regionspot_cache.datasets.augmentation import Augmentation
from regionspot_cache.datasets.images import ExifRule
from regionspot_cache.datasets.source import DatasetSource
from regionspot_cache.errors import IdentityError, MissingFileError, near_path
from regionspot_cache.identity import for_reading, require_same
from regionspot_cache.store.layout import (
    CRC_BYTES,
    FORMAT,
    NAME,
    PartSpec,
    PlanShape,
    Positive,
    plan_arrays,
)
from regionspot_cache.store.objects import Objects
from regionspot_cache.store.plan import CachePlan
from regionspot_cache.store.records import (
    Count,
    Sha256,
    canonical,
    damage,
    digest,
    from_record,
    parse,
    read_record,
    to_record,
)
from regionspot_cache.store.shards import ObjectEntry

CACHE_KEY = "cache.json"


def part_names(objects: Objects) -> list[str]:
    """The parts that a cache has, by the names of their records."""
    keys = [PurePosixPath(key) for key, _ in objects.list("parts")]
    return [key.stem for key in keys if re.fullmatch(NAME, key.stem) and str(key) == part_key(key.stem)]


def part_key(part: str) -> str:
    """Key of the record that fixes a part."""
    return f"parts/{part}.json"


@dataclass(frozen=True, kw_only=True)
class _Identity:
    """The keys of `CacheRecord.identity`, which stays a mapping because it is compared key by key."""

    exif: ExifRule
    partition_size: Positive
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)]
    num_images: Positive
    num_boxes: Count
    content_sha256: Sha256
    augmentation: Augmentation | None


_IDENTITY = TypeAdapter(_Identity)


def _checked_identity(value: dict[str, Any]) -> dict[str, Any]:
    found = _IDENTITY.validate_python(value)
    if canonical(asdict(found)) != canonical(value):
        raise ValueError("holds a key or type that this version does not write")
    return value


def plan_digest(identity: Mapping[str, Any], shape: PlanShape) -> str:
    """SHA-256 of all that decides which image and box is which record; parts carry it, markers through them.

    Where the images lie, their ids, and what was dropped on the way to the plan change no feature.
    """
    sizes = {key: value for key, value in asdict(shape).items() if key != "max_text"}
    return digest(canonical({"identity": dict(identity), "shape": sizes}))


@dataclass(frozen=True, kw_only=True)
class CacheRecord:
    """cache.json: written once, when the cache is planned.

    Attributes:
        identity: of images, boxes and partitioning; compared key by key.
        source, image_root: annotations and place of the images when planned; not of the identity.
        dropped: how many boxes and images were left out, by reason.
        id_kind: the type of image ids.
        objects: every object of plan/ by key.
    """

    identity: Annotated[Mapping[str, Any], AfterValidator(_checked_identity)]
    source: DatasetSource | None
    image_root: str
    dropped: Mapping[str, Count]
    id_kind: Literal["int", "str"]
    shape: PlanShape
    objects: Mapping[str, ObjectEntry]

    def to_bytes(self) -> bytes:
        return to_record({"format": FORMAT, **asdict(self)})

    @cached_property
    def plan_digest(self) -> str:
        """See `plan_digest`."""
        return plan_digest(self.identity, self.shape)

    @classmethod
    def read(cls, objects: Objects) -> "CacheRecord":
        """Read cache.json. Raises MissingFileError, IdentityError (other format) or DamageError."""
        try:
            value = from_record(objects.read(CACHE_KEY), CACHE_KEY)
        except FileNotFoundError:
            raise MissingFileError(
                f"no cache at {objects.url}: it has no {CACHE_KEY}",
                f"{near_path(objects.url)}A folder or URL made by rs-cache extract.",
                f"rs-cache extract --dataset NAME --cache {objects.url}",
            ) from None
        if value.pop("format", None) != FORMAT:
            raise IdentityError(
                f"the cache at {objects.url} has another format version",
                f"format {FORMAT}",
                "read it with the version of regionspot-cache that wrote it, or extract again elsewhere",
            )
        record = parse(cls, value, CACHE_KEY)
        _require_consistent(record)
        return record


def require_offsets(record: CacheRecord, objects: Objects) -> None:
    """Refuse sizes that the files do not bear out, before memory is taken for them. Raises DamageError."""
    for key in offset_keys(record):
        if (size := objects.size(key)) != record.objects[key].bytes:
            found = f"{key} of {objects.url} has {size or 0} bytes"
            raise damage(found, f"{record.objects[key].bytes}, as recorded")


def offset_keys(record: CacheRecord) -> list[str]:
    """The objects of plan/offsets: every partition has some, so they grow with the number of images."""
    return [key for key in record.objects if key.startswith("plan/offsets/c.")]


def _require_consistent(record: CacheRecord) -> None:
    """Refuse sizes that do not fit together. Raises DamageError."""
    shape, offsets = record.shape, plan_arrays(record.shape)["offsets"]
    for name in ("num_images", "num_boxes", "partition_size"):
        if getattr(shape, name) != record.identity[name]:
            found = f"{CACHE_KEY}: shape.{name} = {getattr(shape, name)}"
            raise damage(found, f"{record.identity[name]}, as in identity")
    if shape.views != (record.identity["augmentation"] is not None) or shape.max_boxes > shape.num_boxes:
        found = f"{CACHE_KEY}: shape.views = {shape.views}, shape.max_boxes = {shape.max_boxes}"
        raise damage(found, "those of identity")
    last = shape.partition_images(shape.num_partitions - 1)
    chunks = [offsets.needed_chunks(images + 1) for images in (shape.partition_size, last)]
    needed = ((shape.num_partitions - 1) * chunks[0] + chunks[1]) * (offsets.chunk_bytes + CRC_BYTES)
    needed += offsets.shards * offsets.index_bytes
    listed = sum(record.objects[key].bytes for key in offset_keys(record))
    if listed != needed:
        found = f"{CACHE_KEY}: {listed} bytes of plan/offsets are listed"
        raise damage(found, f"{needed}, for its shape")


@dataclass(frozen=True, kw_only=True)
class PartRecord:
    """parts/NAME.json: which plan a part is for, what its features are, and its zarr metadata by key."""

    plan_digest: Sha256
    spec: PartSpec
    objects: Mapping[str, ObjectEntry]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the stored bytes: markers and the manifest name plan and part by it."""
        return digest(to_record(self))

    @classmethod
    def read(cls, objects: Objects, part: str) -> "PartRecord | None":
        """Read it, None when there is no such part. Raises DamageError."""
        key = part_key(part)
        record = read_record(cls, objects, key)
        if record is not None and record.spec.name != part:
            raise damage(f"{key} describes part {record.spec.name}", part)
        return record


def read_part(objects: Objects, cache: CacheRecord, part: str) -> PartRecord | None:
    """The record of a part of this very plan, None when the cache has no such part.

    Raises IdentityError (made for another plan) or DamageError.
    """
    record = PartRecord.read(objects, part)
    if record is not None:
        require_same_plan(record, cache.plan_digest, objects.url)
    return record


def require_same_plan(part: PartRecord, plan: str, url: str) -> None:
    """Refuse features whose records are other images. Raises IdentityError."""
    if part.plan_digest != plan:
        raise IdentityError(
            f"part {part.spec.name} of {url} was extracted for another plan ({part.plan_digest[:12]})",
            f"the plan of this dataset and these settings ({plan[:12]}): images, boxes, partition_size, seed",
            f"extract with the settings it was made with, or delete {url} and run the same command again",
        )


def cache_identity(plan: CachePlan) -> dict[str, Any]:
    """The identity of a planned cache, JSON values only."""
    data = plan.dataset
    return {
        "augmentation": data.augmentation.to_dict() if data.augmentation else None,
        "exif": data.exif,
        "partition_size": plan.partition_size,
        "seed": plan.seed,
        "num_images": plan.shape.num_images,
        "num_boxes": plan.shape.num_boxes,
        "content_sha256": plan.content_digest(),
    }


def require_same_cache(found: Mapping[str, Any], wanted: Mapping[str, Any], url: str) -> None:
    """Refuse to continue a cache that was planned from something else. Raises IdentityError."""
    remedy = f"choose another --cache for this dataset, or delete {url} and run the same command again"
    # First, because other views change nearly every other key too.
    views = ({"augmentation": each["augmentation"] or "none"} for each in (found, wanted))
    for theirs, ours in (views, (found, wanted)):
        require_same(
            theirs,
            ours,
            what=f"the cache at {url}",
            wanted_by="this dataset and these settings",
            remedy=remedy,
        )


def require_same_part(found: PartSpec, wanted: PartSpec, url: str) -> None:
    """Refuse to mix features of two backbones in one part. Raises IdentityError."""
    _require_same_part(asdict(found), asdict(wanted), found.name, url)


def require_fingerprint(found: PartSpec, wanted: Mapping[str, Any], url: str) -> None:
    """Refuse features that another backbone made, in whatever arithmetic. Raises IdentityError."""
    theirs, ours = ({"fingerprint": for_reading(each)} for each in (found.fingerprint, wanted))
    _require_same_part(theirs, ours, found.name, url)


def _require_same_part(found: Mapping[str, Any], wanted: Mapping[str, Any], part: str, url: str) -> None:
    require_same(
        found,
        wanted,
        what=f"part {part} of {url}",
        wanted_by="these networks and settings",
        remedy=f"rs-cache extract --cache {url} --part {part} --rebuild with its --dataset and --backbone",
    )
