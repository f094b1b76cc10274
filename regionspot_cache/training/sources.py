"""What a run trains on: a cache, the text embeddings of its label space, and their identity."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from regionspot_cache.errors import InputError
from regionspot_cache.identity import require_same
from regionspot_cache.training.head_config import HeadConfig, HeadOptions
from regionspot_cache.training.order import ImageTable


class TrainingCache(ImageTable, Protocol):
    """The part of a cache reader that training uses (`regionspot_cache.store.open_cache`)."""

    @property
    def dataset(self) -> Any: ...
    @property
    def parts(self) -> Mapping[str, Any]: ...
    def labels(self, image: int, /) -> NDArray[Any]: ...
    def read_tokens(self, image: int, /, position: str = ...) -> NDArray[Any]: ...
    def raw_maps(self, images: Sequence[int], /) -> tuple[NDArray[Any], NDArray[Any] | None]: ...


@dataclass(frozen=True, kw_only=True)
class TrainingSource:
    """One cache with its own label space.

    Attributes:
        name: how stages and messages call it; unique in a run.
        cache: an opened cache with both parts.
        class_names: the K names of the label space, in the order of the embeddings.
        text_embeddings: float32 [K, E], unit length.
        class_map: int64 [C], label of the data set -> row of `text_embeddings`.
        grid: rows and columns of the map's patch tokens.
        text_identity: JSON-able description of the text tower, templates and cleaning.
        token_position: which SAM token is read.
        ignore: bool [K, K]; ignore[label, k] leaves class k out of the loss of a box with that label.
    """

    name: str
    cache: TrainingCache
    class_names: tuple[str, ...]
    text_embeddings: NDArray[np.float32]
    class_map: NDArray[np.int64]
    grid: tuple[int, int]
    text_identity: Mapping[str, Any] = field(default_factory=dict)
    token_position: str = "transformer"
    ignore: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        names, rows = len(self.class_names), len(self.text_embeddings)
        mapped, classes = len(self.class_map), len(self.cache.dataset.class_names)
        if names != rows or mapped != classes:
            raise InputError(
                f"{self.name}: {names} class names, {rows} text embeddings, a map of {mapped} labels",
                f"equal numbers of names and embeddings, and a map of the data set's {classes} labels",
            )
        if mapped and not (self.class_map.min() >= 0 and self.class_map.max() < rows):
            raise InputError(f"{self.name}: the class map leaves 0..{rows - 1}", "a text row for every label")

    def array_shape(self, part: str, name: str) -> tuple[int, ...]:
        """Shape of one item of a stored array."""
        for array in self.cache.parts[part].arrays:
            if array.name == name:
                return tuple(array.item_shape)
        raise InputError(
            f"the cache of {self.name} stores no array {part}/{name}",
            f"one of {', '.join(array.name for array in self.cache.parts[part].arrays)}",
            "extract that token position, or choose another",
        )

    @property
    def map_shape(self) -> tuple[int, ...]:
        """(tokens, width) of a CLIP map."""
        return self.array_shape("clip", "map")

    @property
    def map_dtype(self) -> np.dtype[Any]:
        """int8 or float16, as stored."""
        (kind,) = [array.dtype for array in self.cache.parts["clip"].arrays if array.name == "map"]
        return np.dtype(kind)

    @property
    def map_bytes(self) -> int:
        """Stored bytes of one map, without its scales."""
        return int(np.prod(self.map_shape)) * self.map_dtype.itemsize

    def head_sizes(self) -> dict[str, Any]:
        """The sizes that this source dictates to a head."""
        (token_dim,) = self.array_shape("sam", self.token_position)
        tokens, map_dim = self.map_shape
        prefix = tokens - self.grid[0] * self.grid[1]
        if prefix < 0:
            raise InputError(
                f"{self.name}: maps of {tokens} tokens",
                f"at least the grid of {self.grid[0]} x {self.grid[1]}",
            )
        return {
            "token_dim": token_dim,
            "map_dim": map_dim,
            "text_dim": self.text_embeddings.shape[1],
            "grid": self.grid,
            "prefix_tokens": prefix,
        }

    def fingerprint(self, part: str) -> dict[str, Any]:
        return dict(self.cache.parts[part].fingerprint)

    def identity(self) -> dict[str, Any]:
        """JSON-able identity of features, annotations and label space."""
        dataset = self.cache.dataset
        return {
            "sam": self.fingerprint("sam"),
            "clip": self.fingerprint("clip"),
            "token_position": self.token_position,
            "annotations": dataset.annotation_sha256,
            "augmentation": dataset.augmentation,
            "images": self.cache.num_images,
            "class_names_sha256": digest_names(self.class_names),
            "class_map_sha256": _digest(self.class_map),
            "text": dict(self.text_identity),
            "text_sha256": _digest(self.text_embeddings),
            "ignore_sha256": None if self.ignore is None else _digest(self.ignore),
        }


def build_head_config(sources: Sequence[TrainingSource], options: HeadOptions) -> HeadConfig:
    """The head that fits all sources.

    Raises:
        IdentityError: sources of different backbones, which no single head can serve.
    """
    first = sources[0]
    for other in sources[1:]:
        require_same(
            _features(other),
            _features(first),
            what=other.name,
            wanted_by=first.name,
            remedy="extract the caches with the same backbone: rs-cache extract",
        )
    return HeadConfig(**first.head_sizes(), **dataclasses.asdict(options))


def model_metadata(sources: Sequence[TrainingSource]) -> dict[str, Any]:
    """What a trained head must know about the features and texts that it was made for."""
    first = sources[0]
    labels = {
        source.name: {
            "class_names_sha256": digest_names(source.class_names),
            "classes": len(source.class_names),
            "images": source.cache.num_images,
        }
        for source in sources
    }
    return {
        "library_version": version("regionspot-cache"),
        "sam": first.fingerprint("sam"),
        "clip": first.fingerprint("clip"),
        "token_position": first.token_position,
        "text": dict(first.text_identity),
        "trained_on": labels,
    }


def _features(source: TrainingSource) -> dict[str, Any]:
    parts = {part: source.fingerprint(part) for part in ("sam", "clip")}
    return {**parts, "token_position": source.token_position, **source.head_sizes()}


def digest_names(names: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(names)).encode()).hexdigest()


def _digest(array: NDArray[Any]) -> str:
    values = np.ascontiguousarray(array)
    return hashlib.sha256(f"{values.dtype.str}{values.shape}".encode() + values.tobytes()).hexdigest()
