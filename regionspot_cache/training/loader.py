"""Batches read ahead by threads, in the order of their steps.

Threads, not processes: a read is one positioned read of stored bytes and a copy, both outside the interpreter
lock. Maps travel to the device as stored, say int8 with a float16 scale per token, and become floats there.
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
from regionspot_cache.store import STORAGE, Stored
from regionspot_cache.store.storage import INT4_PAIRS
from regionspot_cache.training.losses import box_weights
from regionspot_cache.training.sources import FeatureSource

# Images per read while a cache is loaded into memory.
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

    def feature_map(self) -> Tensor:
        """float32 [B, M, C]."""
        if self.maps.dtype == torch.uint8 and self.scales is not None:
            return _from_int4(self.maps, self.scales)
        maps = self.maps.float()
        return maps if self.scales is None else maps * self.scales.float().unsqueeze(-1)

    def to(self, device: torch.device) -> Self:
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin(self) -> Self:
        """Page-locked copy, so that the transfer overlaps with the work of the device."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        tensors = {name: change(v) for name, v in values.items() if isinstance(v, Tensor)}
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
    """Reads images of one source, from its cache or, once `load` was called, from memory."""

    def __init__(self, source: FeatureSource, images: NDArray[np.int64]) -> None:
        self.source = source
        self._images = images
        self._dtype: torch.dtype = getattr(torch, STORAGE[source.map_dtype].torch_dtype)
        self._maps: Stored | None = None
        self._tokens: list[NDArray[np.float32]] = []

    def load(self) -> None:
        """Read all images of the source into memory."""
        count = len(self._images)
        maps = STORAGE[self.source.map_dtype].empty((count, *self.source.map_shape))
        for start in range(0, count, _LOAD_CHUNK):
            rows = slice(start, start + _LOAD_CHUNK)
            chunk = self._images[rows].tolist()
            maps.put(rows, self.source.raw_maps(chunk))
            self._tokens += [self.source.queries(image) for image in chunk]
        self._maps = maps

    def read(self, images: NDArray[np.int64], key: int = 0) -> "Read":
        """What the step of a key sees of some images."""
        seen = [self.source.see(int(image), key) for image in images]
        if self._maps is not None:
            rows = np.searchsorted(self._images, images)
            tokens, stored = [self._tokens[row] for row in rows], self._maps.take(rows)
        else:
            stored = self.source.raw_maps(images.tolist())
            tokens = [self.source.queries(int(image)) for image in images]
        scales = None if stored.scale is None else torch.from_numpy(stored.scale)
        return Read(
            tokens=[all_of[one.boxes] for all_of, one in zip(tokens, seen, strict=True)],
            maps=torch.from_numpy(stored.values).view(self._dtype),
            scales=scales,
            labels=[one.labels for one in seen],
            targets=tuple(map(torch.from_numpy, self.source.targets(seen))),
        )


class Read(NamedTuple):
    """What was read of B images."""

    tokens: list[NDArray[np.float32]]  # [n, D] per image
    maps: Tensor  # as of `Batch`
    scales: Tensor | None
    labels: list[NDArray[np.int64]]  # [n] per image
    targets: tuple[Tensor, ...]  # as of `Batch`


def collate(step: int, source: int, read: Read, global_images: int) -> Batch:
    """Pad the boxes of the images to one width; `global_images` counts the images of all processes.

    No torch operation computes here: each thread that starts one gets OpenMP threads of its own, which spin
    beside those of the training step and cost it a third of its speed on two cores.
    """
    tokens = read.tokens
    counts = np.array([len(item) for item in tokens])
    real = np.arange(counts.max()) < counts[:, None]  # [B, N]
    padded = np.zeros((*real.shape, tokens[0].shape[1]), np.float32)
    padded[real] = np.concatenate(tokens)
    return Batch(
        step=step,
        source=source,
        tokens=torch.from_numpy(padded),
        real=torch.from_numpy(real),
        maps=read.maps,
        scales=read.scales,
        places=torch.from_numpy(np.flatnonzero(real)),
        labels=torch.from_numpy(np.concatenate(read.labels).astype(np.int64)),
        weights=torch.from_numpy(box_weights(counts, global_images)),
        targets=read.targets,
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
) -> Batch:
    """Read and collate one share of a step; what cannot be read is an error that names it.

    `key` is that of the step, which decides what it sees of its images; see `FeatureSource.see`.
    """
    try:
        batch = collate(step, source, reader.read(images, key), global_images)
    except RegionSpotError:
        raise
    except OSError as error:
        raise InputError(
            f"{reader.source.name}: cannot read the batch of step {step} (images {images.tolist()}): {error}",
            "a readable cache",
            "rs-cache verify CACHE",
        ) from error
    return batch.pin() if pin else batch
