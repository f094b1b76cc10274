"""Identity of a cache and of its halves: what must match before anything is added or read."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from regionspot_cache.errors import DamageError, IdentityError, MissingFileError
from regionspot_cache.identity import require_same
from regionspot_cache.store.layout import FORMAT, HalfSpec, PlanShape
from regionspot_cache.store.objects import Objects
from regionspot_cache.store.plan import CachePlan, id_kind
from regionspot_cache.store.records import digest, from_record, to_record

CACHE_KEY = "cache.json"


def half_key(half: str) -> str:
    """Key of the record that fixes a half."""
    return f"halves/{half}.json"


@dataclass(frozen=True, kw_only=True)
class CacheRecord:
    """cache.json: written once, when the cache is planned.

    Attributes:
        identity: dataset, box policy, partitioning; compared key by key.
        image_root: as given when the cache was planned; not part of the identity.
        dropped: how many boxes and images were left out, by reason.
        id_kind: "int" or "str", the type of image ids.
        shape: sizes of all arrays.
        objects: bytes and SHA-256 of every object of plan/.
    """

    identity: Mapping[str, Any]
    image_root: str
    dropped: Mapping[str, int]
    id_kind: str
    shape: PlanShape
    objects: Mapping[str, Mapping[str, Any]]

    def to_bytes(self) -> bytes:
        """The stored bytes."""
        return to_record({"format": FORMAT, **asdict(self), "shape": self.shape.to_dict()})

    @property
    def digest(self) -> str:
        """SHA-256 of the stored bytes."""
        return digest(self.to_bytes())

    @classmethod
    def read(cls, objects: Objects) -> "CacheRecord":
        """Read cache.json. Raises MissingFileError, IdentityError (other format) or DamageError."""
        try:
            value = from_record(objects.read(CACHE_KEY), CACHE_KEY)
        except (FileNotFoundError, NotADirectoryError):
            raise MissingFileError(
                f"no cache at {objects.url}: it has no {CACHE_KEY}",
                "a folder or URL made by rs-cache extract",
                f"rs-cache extract --dataset NAME --cache {objects.url}",
            ) from None
        if value["format"] != FORMAT:
            raise IdentityError(
                f"the cache at {objects.url} has another format version",
                f"format {FORMAT}",
                "read it with the version of regionspot-cache that wrote it, or extract again elsewhere",
            )
        return cls(
            identity=value["identity"],
            image_root=value["image_root"],
            dropped=value["dropped"],
            id_kind=value["id_kind"],
            shape=PlanShape(**value["shape"]),
            objects=value["objects"],
        )


@dataclass(frozen=True, kw_only=True)
class HalfRecord:
    """halves/NAME.json: the spec of a half and the checksums of its zarr metadata."""

    spec: HalfSpec
    objects: Mapping[str, Mapping[str, Any]]

    def to_bytes(self) -> bytes:
        """The stored bytes."""
        return to_record({"spec": self.spec.to_dict(), "objects": dict(self.objects)})

    @classmethod
    def read(cls, objects: Objects, half: str) -> "HalfRecord | None":
        """Read it, None when the cache has no such half. Raises DamageError."""
        key = half_key(half)
        try:
            value = from_record(objects.read(key), key)
        except FileNotFoundError:
            return None
        spec = HalfSpec.from_dict(value["spec"])
        if spec.name != half:
            raise DamageError(f"{key} describes the {spec.name} half", half, "rs-cache verify CACHE --full")
        return cls(spec=spec, objects=value["objects"])


def cache_identity(plan: CachePlan) -> dict[str, Any]:
    """The identity of a planned cache, JSON values only."""
    data = plan.dataset
    views = {"augmentation": data.augmentation.to_dict()} if data.augmentation else {}
    return {
        "dataset": data.name,
        "split": data.split,
        **views,
        "annotation_sha256": data.annotation_sha256,
        "exif": data.exif,
        "box_policy": dict(data.policy.to_dict()),
        "partition_size": plan.partition_size,
        "seed": plan.seed,
        "num_images": plan.shape.num_images,
        "num_boxes": plan.shape.num_boxes,
        "class_names": list(data.class_names),
        "category_ids": [int(category) for category in data.category_ids],
        "class_frequency": list(data.class_frequency),
        "content_sha256": plan.content_digest(),
    }


def cache_record(plan: CachePlan, objects: Mapping[str, Mapping[str, Any]]) -> CacheRecord:
    """cache.json of a plan whose stored objects are `objects`."""
    return CacheRecord(
        identity=cache_identity(plan),
        image_root=str(plan.dataset.image_root),
        dropped={str(reason): int(count) for reason, count in plan.dataset.dropped.items()},
        id_kind=id_kind(plan.dataset.image_ids),
        shape=plan.shape,
        objects=objects,
    )


def object_entry(data: bytes | memoryview) -> dict[str, Any]:
    """Bytes and SHA-256 of a stored object, as records list them."""
    return {"bytes": len(data), "sha256": digest(data)}


def require_same_cache(found: Mapping[str, Any], wanted: Mapping[str, Any], url: str) -> None:
    """Refuse to continue a cache that was planned from something else. Raises IdentityError."""
    remedy = f"choose another --cache for this dataset, or delete {url} and run the same command again"
    # First, because other views change nearly every other key too.
    views = ({"augmentation": each.get("augmentation", "none")} for each in (found, wanted))
    for theirs, ours in (views, (found, wanted)):
        require_same(
            theirs,
            ours,
            what=f"the cache at {url}",
            wanted_by="this dataset and these settings",
            remedy=remedy,
        )


def require_same_half(found: HalfSpec, wanted: HalfSpec, url: str) -> None:
    """Refuse to mix features of two backbones in one half. Raises IdentityError."""
    _require_same_half(found.to_dict(), wanted.to_dict(), found.name, url)


def require_fingerprint(found: HalfSpec, wanted: Mapping[str, Any], url: str) -> None:
    """Refuse features that were not made by the backbone in use. Raises IdentityError."""
    _require_same_half({"fingerprint": found.fingerprint}, {"fingerprint": wanted}, found.name, url)


def _require_same_half(found: Mapping[str, Any], wanted: Mapping[str, Any], half: str, url: str) -> None:
    require_same(
        found,
        wanted,
        what=f"the {half} half of {url}",
        wanted_by="these networks and settings",
        remedy=f"rs-cache extract --cache {url} --half {half} --rebuild with its --dataset and --backbone",
    )
