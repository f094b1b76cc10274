"""Features of the images of one partition: encoded in batches and for storage, kept in plan order."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regionspot_cache.backbones import Encoder
from regionspot_cache.errors import InputError, UsageError
from regionspot_cache.extraction.loader import Clock, Loaded
from regionspot_cache.store import (
    STATUS_CODES,
    STATUS_OK,
    ArraySpec,
    PartitionPlan,
    PartSpec,
    StorageName,
    Stored,
)
from regionspot_cache.store.storage import array_dtype

NON_FINITE = "non-finite features"


def part_spec(name: str, encoder: Encoder, dtype: StorageName, *, with_fingerprint: bool = True) -> PartSpec:
    """What a cache stores of an encoder, as it declares it; the fingerprint needs weights."""
    arrays = tuple(
        ArraySpec(
            name=array_name,
            dtype=array_dtype(dtype, tuple(array.shape), per_box=array.per_box),
            item_shape=tuple(array.shape),
            ragged=array.per_box,
            grid=array.grid,
        )
        for array_name, array in encoder.arrays.items()
    )
    return PartSpec(name=name, arrays=arrays, fingerprint=encoder.fingerprint() if with_fingerprint else {})


class PartitionFeatures:
    """Features of some images of one partition, in the layout of the plan.

    They are encoded for storage image by image, so a partition never lies in memory as float32. `clock` takes
    the seconds of every part.

    Attributes:
        arrays: part -> array name -> rows, one a box or an image of the partition.
        status: part -> uint8 [s], one of the cache's status codes; 0 for images not worked on.
        files: int64 [s, 3], the stamps of the files.
        failures: slot -> (reason, detail).
    """

    def __init__(
        self,
        planned: PartitionPlan,
        specs: Mapping[str, PartSpec],
        encoders: Mapping[str, Encoder],
        clock: Clock,
    ) -> None:
        self.planned, self.specs, self.encoders, self.clock = planned, specs, encoders, clock
        self.arrays = {
            name: {array.name: self._empty(array) for array in spec.arrays} for name, spec in specs.items()
        }
        self.status = {name: np.zeros(planned.num_images, np.uint8) for name in specs}
        self.files = np.zeros((planned.num_images, 3), np.int64)
        self.failures: dict[int, tuple[str, str]] = {}

    def rows_of(self, array: ArraySpec, slot: int) -> slice:
        """Where the records of an image lie in an array."""
        if array.ragged:
            return slice(int(self.planned.offsets[slot]), int(self.planned.offsets[slot + 1]))
        return slice(slot, slot + 1)

    def add(self, batch: list[Loaded]) -> None:
        """Encodes a batch and keeps the result."""
        for item in batch:
            if item.failure:
                self._fail(item.slot, item.failure.reason, item.failure.detail, tuple(self.status))
            self.files[item.slot] = item.stamp
        whole = [item for item in batch if not item.failure]
        for name in self.encoders:
            with self.clock(name):
                self._add(name, whole)

    def _add(self, name: str, batch: list[Loaded]) -> None:
        for item in batch:
            if name not in item.inputs:  # no boxes: nothing to store, nothing missing
                self.status[name][item.slot] = STATUS_OK
        chosen = [item for item in batch if name in item.inputs]
        for shape in dict.fromkeys(item.inputs[name].shape for item in chosen):  # some networks pad nothing
            self._encode(name, [item for item in chosen if item.inputs[name].shape == shape])

    def _encode(self, name: str, chosen: list[Loaded]) -> None:
        inputs = torch.stack([item.inputs[name] for item in chosen])
        found = self.encoders[name].encode(inputs, [i.boxes for i in chosen], [i.size for i in chosen])
        for i, item in enumerate(chosen):
            rows = {array: _checked(name, array, item, found, i) for array in self.specs[name].arrays}
            try:
                for array, values in rows.items():
                    self._put(name, array, item, values)
                self.status[name][item.slot] = STATUS_OK
            except InputError as error:  # NaN, infinite or too large to be stored
                self._fail(item.slot, NON_FINITE, f"{name}: {error.found}", (name,))

    def _put(self, name: str, array: ArraySpec, item: Loaded, values: NDArray[np.float32]) -> None:
        stored = array.storage.encode(values if array.ragged else values[None])
        self.arrays[name][array.name].put(self.rows_of(array, item.slot), stored)

    def _empty(self, array: ArraySpec) -> Stored:
        """Room for all rows; what is never filled belongs to failed images and is not stored."""
        count = self.planned.num_boxes if array.ragged else self.planned.num_images
        return array.storage.empty((count, *array.item_shape))

    def _fail(self, slot: int, reason: str, detail: str, parts: tuple[str, ...]) -> None:
        self.failures[slot] = (reason, detail)
        for part in parts:
            self.status[part][slot] = STATUS_CODES[reason]


def _checked(
    name: str, array: ArraySpec, item: Loaded, found: Mapping[str, Sequence[Tensor] | Tensor], i: int
) -> NDArray[np.float32]:
    """What a network gave of image `i` of a batch, float32; UsageError when it declared something else."""
    given = found.get(array.name, ())
    values = given[i].detach().float().cpu().numpy() if i < len(given) else None
    declared = (len(item.boxes), *array.item_shape) if array.ragged else array.item_shape
    if values is None or values.shape != declared:
        shown = "not at all" if values is None else f"of shape {list(values.shape)}"
        raise UsageError(
            f"The network of part {name} gave {array.name} {shown}.",
            f"{list(declared)} for each image, as its `arrays` say.",
            "Correct `arrays` or `encode` of the network, see docs/own-backbone.md.",
        )
    return values
