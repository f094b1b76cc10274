"""Features of the images of one partition: encoded in batches and for storage, kept in plan order."""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from regionspot_cache.backbones import Encoder
from regionspot_cache.datasets.images import Decoder
from regionspot_cache.errors import UsageError
from regionspot_cache.extraction.loader import Clock, Loaded
from regionspot_cache.extraction.quantise import stored_form
from regionspot_cache.identity import DECODER
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
AHEAD = 2  # batches that a GPU has to do while the next is prepared
_TORCH_TYPES = {  # by numpy's name; torch computes little with uint16
    "int8": torch.int8,
    "uint8": torch.uint8,
    "uint16": torch.int16,
    "float16": torch.float16,
}


def part_spec(
    name: str,
    encoder: Encoder,
    dtype: StorageName,
    decoder: Decoder = "pillow",
    *,
    with_fingerprint: bool = True,
) -> PartSpec:
    """What a cache stores of an encoder, as it declares it; the fingerprint needs weights, and says what
    decoded the images."""
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
    fingerprint = {**encoder.fingerprint(), DECODER: decoder} if with_fingerprint else {}
    return PartSpec(name=name, arrays=arrays, fingerprint=fingerprint)


@dataclass(frozen=True)
class _Rows:
    """Room for all rows of an array, as the cache and as torch sees it, and which of them can be stored."""

    stored: Stored
    values: Tensor
    scale: Tensor | None
    good: Tensor

    @classmethod
    def empty(cls, array: ArraySpec, count: int, *, pinned: bool) -> "_Rows":
        """What is never filled belongs to failed images and is not stored."""
        made = [
            (torch.empty(shape, dtype=_TORCH_TYPES[dtype], pin_memory=pinned), dtype)
            for dtype, shape in array.storage.arrays("", (count, *array.item_shape)).values()
        ]
        stored = Stored(*(tensor.numpy().view(dtype) for tensor, dtype in made))
        values, scale = made[0][0], made[1][0] if len(made) > 1 else None
        return cls(stored, values, scale, torch.ones(values.shape[:-1], dtype=torch.bool, pin_memory=pinned))


class PartitionFeatures:
    """Features of some images of one partition, in the layout of the plan.

    They are put into their stored form batch by batch on the device that computed them, and copied back while
    the next batch is computed, so a partition never lies in memory as float32 and no image waits for the
    device. `finish` waits, and sorts out what cannot be stored. `clock` takes the seconds of every step.

    Memory: the stored bytes of the partition, and inputs and float32 features of a batch, on a GPU of `AHEAD`
    more.

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
        each: Callable[..., Iterator[None]] = map,
    ) -> None:
        self.planned, self.specs, self.encoders, self.clock = planned, specs, encoders, clock
        self._each = each
        self._gpus = {encoder.device for encoder in encoders.values() if encoder.device.type == "cuda"}
        self._rows = {
            name: {array.name: self._empty(array, encoders[name]) for array in spec.arrays}
            for name, spec in specs.items()
        }
        self.arrays = {
            name: {array: found.stored for array, found in rows.items()} for name, rows in self._rows.items()
        }
        self.status = {name: np.zeros(planned.num_images, np.uint8) for name in specs}
        self.files = np.zeros((planned.num_images, 3), np.int64)
        self.failures: dict[int, tuple[str, str]] = {}
        self._launched: deque[list[Any]] = deque()

    def rows_of(self, array: ArraySpec, slot: int) -> slice:
        """Where the records of an image lie in an array."""
        if array.ragged:
            return slice(int(self.planned.offsets[slot]), int(self.planned.offsets[slot + 1]))
        return slice(slot, slot + 1)

    def add(self, batch: list[Loaded]) -> None:
        """Has a batch encoded and kept; on a GPU it may still be at work."""
        for item in batch:
            if item.failure:
                self._fail(item.slot, item.failure.reason, item.failure.detail, tuple(self.status))
            self.files[item.slot] = item.stamp
        whole = [item for item in batch if not item.failure]
        for _ in self._each(lambda name: self._add(name, whole), self.encoders):
            pass
        self._launched.append([torch.cuda.current_stream(gpu).record_event() for gpu in self._gpus])
        if len(self._launched) > AHEAD:
            self._wait_for(self._launched.popleft())

    def finish(self) -> None:
        """Waits for the last batch, and fails images whose features cannot be stored."""
        while self._launched:
            self._wait_for(self._launched.popleft())
        for name, spec in self.specs.items():
            for slot in np.flatnonzero(self.status[name] == STATUS_OK).tolist():
                for array in spec.arrays:
                    if not self._rows[name][array.name].good[self.rows_of(array, slot)].all():
                        detail = f"{name}: {array.name} with NaN, infinite or enormous values"
                        self._fail(slot, NON_FINITE, detail, (name,))

    def _wait_for(self, events: list[Any]) -> None:
        for event in events:
            with self.clock("device"):
                event.synchronize()

    def _add(self, name: str, batch: list[Loaded]) -> None:
        for item in batch:
            self.status[name][item.slot] = STATUS_OK  # no boxes: nothing to store, nothing missing
        chosen = [item for item in batch if name in item.inputs]
        for shape in dict.fromkeys(item.inputs[name].shape for item in chosen):  # some networks pad nothing
            self._encode(name, [item for item in chosen if item.inputs[name].shape == shape])

    def _encode(self, name: str, chosen: list[Loaded]) -> None:
        encoder = self.encoders[name]
        with self.clock(name):
            inputs = _stacked([item.inputs[name] for item in chosen], pinned=encoder.device in self._gpus)
            found = encoder.encode(inputs, [i.boxes for i in chosen], [i.size for i in chosen])
        with self.clock("store"):
            for array in self.specs[name].arrays:
                features = _checked(name, array, chosen, found.get(array.name, ()))
                self._put(self._rows[name][array.name], array, [item.slot for item in chosen], features)

    def _put(self, rows: _Rows, array: ArraySpec, slots: list[int], features: Tensor) -> None:
        """Keeps features [rows of all slots, *item_shape] in their stored form."""
        made, start = stored_form(features, array.dtype), 0
        for place in _joined([self.rows_of(array, slot) for slot in slots]):
            taken = slice(start, start + place.stop - place.start)
            rows.values[place].copy_(made.values[taken], non_blocking=True)
            rows.good[place].copy_(made.good[taken], non_blocking=True)
            if rows.scale is not None and made.scale is not None:
                rows.scale[place].copy_(made.scale[taken], non_blocking=True)
            start = taken.stop

    def _empty(self, array: ArraySpec, encoder: Encoder) -> _Rows:
        count = self.planned.num_boxes if array.ragged else self.planned.num_images
        return _Rows.empty(array, count, pinned=encoder.device in self._gpus)

    def _fail(self, slot: int, reason: str, detail: str, parts: tuple[str, ...]) -> None:
        self.failures[slot] = (reason, detail)
        for part in parts:
            self.status[part][slot] = STATUS_CODES[reason]


@contextmanager
def side_by_side(encoders: Mapping[str, Encoder]) -> Generator[Callable[..., Iterator[None]]]:
    """How `PartitionFeatures` runs its encoders on a batch: all at once where an operation of torch has one
    thread, on a CPU; else one after the other, because each already fills the device."""
    on_cpu = all(encoder.device.type == "cpu" for encoder in encoders.values())
    if len(encoders) < 2 or not on_cpu or torch.get_num_threads() > 1:
        yield map
        return
    with ThreadPoolExecutor(len(encoders)) as pool:
        yield pool.map


def _stacked(inputs: Sequence[Tensor], *, pinned: bool) -> Tensor:
    """Inputs of one shape as a batch; pinned memory is copied to a GPU without waiting for it."""
    shape = (len(inputs), *inputs[0].shape)
    return torch.stack(list(inputs), out=torch.empty(shape, dtype=inputs[0].dtype, pin_memory=pinned))


def _joined(places: Sequence[slice]) -> list[slice]:
    """Places that follow each other as one."""
    found: list[slice] = []
    for place in places:
        if found and found[-1].stop == place.start:
            found[-1] = slice(found[-1].start, place.stop)
        else:
            found.append(place)
    return found


def _checked(name: str, array: ArraySpec, chosen: list[Loaded], given: Sequence[Tensor] | Tensor) -> Tensor:
    """What a network gave of a batch, one image after the other; UsageError when it declared something else.

    Returns:
        floats [boxes of all images, *item_shape] of a ragged array, else [images, *item_shape].
    """
    for i, item in enumerate(chosen):
        declared = (len(item.boxes), *array.item_shape) if array.ragged else array.item_shape
        found = tuple(given[i].shape) if i < len(given) else None
        if found != declared:
            raise UsageError(
                f"The network of part {name} gave {array.name} "
                + ("not at all." if found is None else f"of shape {list(found)}."),
                f"{list(declared)} for each image, as its `arrays` say.",
                "Correct `arrays` or `encode` of the network, see docs/own-backbone.md.",
            )
    if array.ragged:
        return torch.cat([*given][: len(chosen)]).detach()
    whole = given if isinstance(given, Tensor) else torch.stack(list(given))
    return whole[: len(chosen)].detach()
