"""Batches read ahead by threads, in the order of their steps.

Threads, not processes: a read is one positioned read of stored bytes and a copy, both outside the interpreter
lock. Maps travel to the device as stored, say int8 with a float16 scale per token, and become floats there.
Those of a source that fits lie on the device from the start, and a batch says which of them it is of.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regionspot_cache.errors import InputError, RegionSpotError
from regionspot_cache.store import STORAGE
from regionspot_cache.store.storage import INT4_PAIRS
from regionspot_cache.training.losses import box_weights
from regionspot_cache.training.sources import FeatureSource

# Images per read while a cache is loaded.
_LOAD_CHUNK = 256


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One process's share of a step. B images, N boxes in the largest, T real boxes in all, maps [M, C]."""

    step: int  # step of the stage
    source: int  # index of the stage's source
    tokens: Tensor  # float32 [B, N, D], zero where padded
    real: Tensor  # bool [B, N]
    maps: Tensor  # [B, M, C] of their storage type; uint8 [B, M, C / 2] of int4
    scales: Tensor | None  # float16 [B, M], of int4 [B, M, G], of a scaled type; else None
    places: Tensor  # int64 [T], where the real boxes lie in the flattened [B * N]
    labels: Tensor  # int64 [T], rows of the source's text embeddings
    weights: Tensor  # float32 [T], see `losses.box_weights`
    targets: tuple[Tensor, ...] = ()  # of `FeatureSource.targets`
    # int64 [B], where `maps` and `scales` are of all images of the source and lie on the device already
    rows: Tensor | None = None

    def feature_map(self) -> Tensor:
        """float32 [B, M, C]."""
        maps, scales = self.maps, self.scales
        if self.rows is not None:
            maps = maps.index_select(0, self.rows)
            scales = None if scales is None else scales.index_select(0, self.rows)
        if scales is None:
            return maps.float()
        if maps.dtype == torch.uint8:
            return _from_int4(maps, scales)
        return maps.float() * scales.float().unsqueeze(-1)

    def to(self, device: torch.device) -> Self:
        return self.each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin(self) -> Self:
        """Page-locked copy, so that the transfer overlaps with the work of the device."""
        return self.each(Tensor.pin_memory)

    @property
    def own(self) -> dict[str, Tensor]:
        """Its tensors by name, without `targets`; maps of all images are not its own."""
        held = () if self.rows is None else ("maps", "scales")
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in held}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def each(self, change: Callable[[Tensor], Tensor]) -> Self:
        """With other tensors in the place of its own."""
        tensors = {name: change(value) for name, value in self.own.items()}
        return replace(self, **tensors, targets=tuple(map(change, self.targets)))


@cache
def _int4_pairs(device: torch.device) -> Tensor:
    """int64 [256]: the bits of the two float32 values of a byte, for one look-up instead of two."""
    return torch.from_numpy(INT4_PAIRS).view(torch.int64).flatten().to(device)


def _from_int4(maps: Tensor, scales: Tensor) -> Tensor:
    """float32 [B, M, C], as `storage` decodes them."""
    pairs = _int4_pairs(maps.device).index_select(0, maps.flatten().int()).view(torch.float32)
    return pairs.view(*scales.shape, -1).mul_(scales.float().unsqueeze(-1)).flatten(2)


class SourceReader:
    """Reads images of one source, from its cache or, once `load` was called, from the memory of a device."""

    def __init__(self, source: FeatureSource, images: NDArray[np.int64]) -> None:
        self.source = source
        self._images = images
        self._dtype: torch.dtype = getattr(torch, STORAGE[source.map_dtype].torch_dtype)
        self._held: tuple[Tensor, Tensor | None] | None = None  # maps and scales of all images
        self._tokens: list[NDArray[np.float32]] = []

    def load(self, device: torch.device) -> None:
        """Read all images of the source, their maps onto the device of the training, in chunks."""
        chunks = [self._images[i : i + _LOAD_CHUNK] for i in range(0, len(self._images), _LOAD_CHUNK)]
        whole: list[Tensor | None] = []
        for number, chunk in enumerate(chunks):
            parts = self._maps(chunk)
            if not whole:
                whole = [part if part is None else self._room(part, device) for part in parts]
            for held, part in zip(whole, parts, strict=True):
                if held is not None and part is not None:
                    held[number * _LOAD_CHUNK :][: len(part)] = part
            self._tokens += [self.source.queries(image) for image in chunk.tolist()]
        maps, scales = whole
        assert maps is not None
        self._held = maps, scales

    @property
    def held(self) -> bool:
        """Whether `load` was called."""
        return self._held is not None

    def read(self, images: NDArray[np.int64], key: int = 0) -> "Read":
        """What the step of a key sees of some images."""
        seen = [self.source.see(int(image), key) for image in images]
        if self._held is not None:
            rows = np.searchsorted(self._images, images)
            tokens, (maps, scales) = [self._tokens[row] for row in rows], self._held
        else:
            rows, (maps, scales) = None, self._maps(images)
            tokens = [self.source.queries(int(image)) for image in images]
        return Read(
            tokens=[all_of[one.boxes] for all_of, one in zip(tokens, seen, strict=True)],
            maps=maps,
            scales=scales,
            labels=[one.labels for one in seen],
            targets=tuple(map(torch.from_numpy, self.source.targets(seen))),
            rows=None if rows is None else torch.from_numpy(rows),
        )

    def _maps(self, images: NDArray[np.int64]) -> tuple[Tensor, Tensor | None]:
        """From the cache, as of `Batch`."""
        values, scale = self.source.raw_maps(images.tolist())
        return torch.from_numpy(values).view(self._dtype), None if scale is None else torch.from_numpy(scale)

    def _room(self, part: Tensor, device: torch.device) -> Tensor:
        return torch.empty((len(self._images), *part.shape[1:]), dtype=part.dtype, device=device)


class Read(NamedTuple):
    """What was read of B images."""

    tokens: list[NDArray[np.float32]]  # [n, D] per image
    maps: Tensor  # as of `Batch`
    scales: Tensor | None
    labels: list[NDArray[np.int64]]  # [n] per image
    targets: tuple[Tensor, ...]  # as of `Batch`
    rows: Tensor | None = None


def room_for(boxes: int) -> int:
    """The least of 4, 6, 8, 12, 16, 24, 32, ... that is not below: a dozen widths up to 256 boxes."""
    power = 1 << max(2, (boxes - 1).bit_length())
    between = power * 3 // 4
    return between if boxes <= between and power > 4 else power


def collate(step: int, source: int, read: Read, global_images: int, *, fixed: bool = False) -> Batch:
    """Pad the boxes of the images to one width; `global_images` counts the images of all processes.

    With `fixed` all shapes follow from B and that width, which is one of few (`room_for`): `places` has all
    of [B * N], the real ones first, and the others have label 0 and weight 0.

    No torch operation computes here: each thread that starts one gets OpenMP threads of its own, which spin
    beside those of the training step and cost it a third of its speed on two cores.
    """
    tokens = read.tokens
    counts = np.array([len(item) for item in tokens])
    width = int(counts.max())
    real = np.arange(room_for(width) if fixed else width) < counts[:, None]  # [B, N]
    padded = np.zeros((*real.shape, tokens[0].shape[1]), np.float32)
    padded[real] = np.concatenate(tokens)
    places, labels = np.flatnonzero(real), np.concatenate(read.labels).astype(np.int64)
    weights = box_weights(counts, global_images)
    if fixed:
        rest = np.flatnonzero(~real)
        places = np.concatenate([places, rest])
        labels, weights = (np.pad(values, (0, len(rest))) for values in (labels, weights))
    return Batch(
        step=step,
        source=source,
        tokens=torch.from_numpy(padded),
        real=torch.from_numpy(real),
        maps=read.maps,
        scales=read.scales,
        places=torch.from_numpy(places),
        labels=torch.from_numpy(labels),
        weights=torch.from_numpy(weights),
        targets=read.targets,
        rows=read.rows,
    )


@contextmanager
def read_ahead(
    make: Callable[[int], Batch], steps: Sequence[int], *, threads: int, ahead: int
) -> Generator[Iterator[Batch]]:
    """`make(step)` for `steps`, made by `threads` at most `ahead` steps in advance, in order.

    The end of the block waits for the threads, also after an error.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="batch-reader")

    def batches() -> Iterator[Batch]:
        waiting: deque[Future[Batch]] = deque()
        for step in steps:
            waiting.append(pool.submit(make, step))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    try:
        yield batches()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def make_batch(
    step: int,
    source: int,
    reader: SourceReader,
    images: NDArray[np.int64],
    global_images: int,
    *,
    pin: bool,
    key: int = 0,
    fixed: bool = False,
) -> Batch:
    """Read and collate one share of a step; what cannot be read is an error that names it.

    `key` is that of the step, which decides what it sees of its images; see `FeatureSource.see`. `fixed` as
    of `collate`.
    """
    try:
        batch = collate(step, source, reader.read(images, key), global_images, fixed=fixed)
    except RegionSpotError:
        raise
    except OSError as error:
        raise InputError(
            f"{reader.source.name}: cannot read the batch of step {step} (images {images.tolist()}): {error}",
            "a readable cache",
            "rs-cache verify CACHE",
        ) from error
    return batch.pin() if pin else batch
