"""What a run trains on: a cache, the text embeddings of its label space, and their identity."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from regionspot_cache.backbones.presets import HeadInputs
from regionspot_cache.datasets.regions import BOX_QUERY, position_vectors
from regionspot_cache.errors import InputError
from regionspot_cache.identity import for_reading, require_same
from regionspot_cache.store import STORAGE, ArraySpec, LabelledCache, StorageName, Stored
from regionspot_cache.training.head_config import HeadConfig, HeadOptions


class Seen(NamedTuple):
    """What a step sees of an image."""

    boxes: slice | NDArray[np.int64]  # which of those that `FeatureSource.queries` gives
    labels: NDArray[np.int64]  # [n], rows of the text embeddings
    taught: Any = None  # what `FeatureSource.targets` makes the rest of


@dataclass(frozen=True, kw_only=True)
class FeatureSource:
    """One cache with its own label space, whatever says what its regions show."""

    name: str  # how stages and messages call it; unique in a run
    cache: Any  # its regions, with the interface of `LabelledCache`
    inputs: HeadInputs  # the arrays that a head relates
    class_names: tuple[str, ...]  # the K names of the label space, in the order of the embeddings
    text_embeddings: NDArray[np.float32]  # float32 [K, E], unit length
    # JSON-able description of the text tower, templates and cleaning
    text_identity: Mapping[str, Any] = field(default_factory=dict)
    scale: float = 1.0  # factor of its loss
    # float32 [P, E], unit length: of classes that an initial head knew and shall not forget
    known: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        names, rows = len(self.class_names), len(self.text_embeddings)
        if names != rows:
            raise InputError(f"{self.name}: {names} class names, {rows} text embeddings", "equal numbers")
        self._check_inputs()

    @property
    def parts(self) -> tuple[str, ...]:
        """Of the cache, those that an image must have features in."""
        return self.inputs.parts

    def see(self, image: int, key: int) -> Seen:
        """What the step of a key sees of an image: a function of both."""
        raise NotImplementedError

    def targets(self, seen: Sequence[Seen]) -> tuple[NDArray[Any], ...]:
        """What the loss of a batch of images needs beside their labels."""
        raise NotImplementedError

    def _check_inputs(self) -> None:
        arrays = self.memory_arrays
        shapes = [
            f"{path} {a.dtype} {list(a.item_shape)}"
            for path, a in zip(self.inputs.memory, arrays, strict=True)
        ]
        alike = len({(array.item_shape[-1], array.dtype) for array in arrays}) == 1
        if not alike or any(array.ragged or len(array.item_shape) != 2 for array in arrays):
            raise InputError(
                f"{self.name}: a memory of {', '.join(shapes)}",
                "maps [tokens, channels] with one record an image, of one width and one dtype",
                "--set head.memory=PART/ARRAY; rs-cache info CACHE lists the arrays",
            )
        if self.inputs.query != BOX_QUERY:
            query = self.cache.cache.array(self.inputs.query)
            if not query.ragged or len(query.item_shape) != 1:
                raise InputError(
                    f"{self.name}: a query {self.inputs.query} {list(query.item_shape)}",
                    "a vector with one record a box",
                    f"--set head.query=PART/ARRAY, or {BOX_QUERY}; rs-cache info CACHE lists the arrays",
                )

    @property
    def memory_arrays(self) -> list[ArraySpec]:
        """The maps that the head attends to."""
        return [self.cache.cache.array(path) for path in self.inputs.memory]

    @property
    def map_shape(self) -> tuple[int, int]:
        """(tokens, channels) of all maps of the memory, one after the other."""
        arrays = self.memory_arrays
        return sum(array.item_shape[0] for array in arrays), arrays[0].item_shape[1]

    @property
    def map_dtype(self) -> StorageName:
        """Storage type of the maps."""
        return self.memory_arrays[0].dtype

    @property
    def map_bytes(self) -> int:
        """Stored bytes of the maps of one image, without their scales."""
        dtype, shape = STORAGE[self.map_dtype].arrays("", self.map_shape)[""]
        return int(np.prod(shape)) * np.dtype(dtype).itemsize

    @property
    def query_bytes(self) -> int:
        """Bytes of the queries of all its regions."""
        return int(self.cache.offsets[-1]) * self.head_sizes()["token_dim"] * 4

    def raw_maps(self, images: Sequence[int]) -> Stored:
        """Maps [k, M, C] as stored and the scales [k, M] of scaled ones (`Stored`), the memory in turn."""
        found = [self.cache.cache.raw_images(path, images) for path in self.inputs.memory]
        if len(found) == 1:
            return found[0]
        scales = [scale for _, scale in found if scale is not None]
        maps = np.concatenate([values for values, _ in found], 1)
        return Stored(maps, np.concatenate(scales, 1) if scales else None)

    def queries(self, image: int) -> NDArray[np.float32]:
        """float32 [n, D] of the labelled boxes of an image."""
        return self.cache.queries(self.inputs.query, image)

    def head_sizes(self) -> dict[str, Any]:
        """The sizes that this source dictates to a head."""
        return head_sizes(self.inputs, self.cache.cache.array) | {"text_dim": self.text_embeddings.shape[1]}

    def networks(self) -> dict[str, Any]:
        """Fingerprints of the parts that the head reads, in whatever arithmetic these were made."""
        return {part: for_reading(self.cache.cache.parts[part].fingerprint) for part in self.inputs.parts}

    def identity(self) -> dict[str, Any]:
        """JSON-able identity of features and label space."""
        return {
            "networks": {part: dict(self.cache.cache.parts[part].fingerprint) for part in self.inputs.parts},
            "inputs": self.inputs.to_dict(),
            "augmentation": self.cache.cache.augmentation,
            "images": self.cache.num_images,
            "class_names_sha256": digest_names(self.class_names),
            "text": dict(self.text_identity),
            "text_sha256": _digest(self.text_embeddings),
            "scale": self.scale,
            "known_sha256": None if self.known is None else _digest(self.known),
        }


@dataclass(frozen=True, kw_only=True)
class TrainingSource(FeatureSource):
    """One cache with the labels of a dataset."""

    cache: LabelledCache
    class_map: NDArray[np.int64]  # int64 [C], label of the data set -> row of `text_embeddings`
    # bool [K, K]; ignore[label, k] leaves class k out of the loss of a box with that label
    ignore: NDArray[np.bool_] | None = None
    # JSON-able; how the images were chosen among those of the annotations, where these are not all
    chosen: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        mapped, classes = len(self.class_map), len(self.cache.dataset.class_names)
        if mapped != classes:
            raise InputError(
                f"{self.name}: a map of {mapped} labels", f"one of the data set's {classes} labels"
            )
        rows = len(self.text_embeddings)
        if mapped and not (self.class_map.min() >= 0 and self.class_map.max() < rows):
            raise InputError(f"{self.name}: the class map leaves 0..{rows - 1}", "a text row for every label")

    def see(self, image: int, key: int) -> Seen:
        """All labelled boxes."""
        return Seen(slice(None), self.class_map[self.cache.labels(image)])

    def targets(self, seen: Sequence[Seen]) -> tuple[NDArray[Any], ...]:
        """Nothing: labels say all."""
        return ()

    def identity(self) -> dict[str, Any]:
        """JSON-able identity of features, annotations and label space."""
        return super().identity() | {
            "annotations": self.cache.dataset.annotation_sha256,
            "chosen": dict(self.chosen),
            "class_map_sha256": _digest(self.class_map),
            "ignore_sha256": None if self.ignore is None else _digest(self.ignore),
        }


def head_sizes(inputs: HeadInputs, array: Callable[[str], Any]) -> dict[str, Any]:
    """Sizes of a head by the arrays that it relates; `array` gives the `ArraySpec` of PART/ARRAY."""
    memory = [array(path) for path in inputs.memory]
    query = position_vectors(np.zeros((1, 4), np.float32), (1, 1)).shape[1:]
    (token_dim,) = query if inputs.query == BOX_QUERY else array(inputs.query).item_shape
    maps = []
    for found in memory:
        rows, columns = found.grid or (1, found.item_shape[0])
        maps.append((found.item_shape[0] - rows * columns, rows, columns))
    return {"token_dim": token_dim, "map_dim": memory[0].item_shape[1], "maps": tuple(maps)}


def build_head_config(sources: Sequence[FeatureSource], options: HeadOptions) -> HeadConfig:
    """The head that fits all sources; IdentityError when they are of different backbones."""
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


def model_metadata(sources: Sequence[FeatureSource]) -> dict[str, Any]:
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
        "networks": first.networks(),
        "inputs": first.inputs.to_dict(),
        "text": dict(first.text_identity),
        "trained_on": labels,
    }


def _features(source: FeatureSource) -> dict[str, Any]:
    return {"networks": source.networks(), "inputs": source.inputs.to_dict(), **source.head_sizes()}


def digest_names(names: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(names)).encode()).hexdigest()


def _digest(array: NDArray[Any]) -> str:
    values = np.ascontiguousarray(array)
    return hashlib.sha256(f"{values.dtype.str}{values.shape}".encode() + values.tobytes()).hexdigest()
