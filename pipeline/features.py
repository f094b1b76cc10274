"""Features of the images of one partition: prepared by threads, encoded in batches, kept in plan order."""

import time
from collections import defaultdict, deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regionspot_cache.backbones import ClipEncoder, SamEncoder
from regionspot_cache.datasets.augmentation import view_of
from regionspot_cache.datasets.images import (
    ExifRule,
    ImageFailure,
    decode_image,
    find_image,
    read_file,
)
from regionspot_cache.errors import InputError
from regionspot_cache.store import (
    STATUS_CODES,
    STATUS_OK,
    PartitionPlan,
    Quantised,
    quantise,
    to_half_precision,
)

NON_FINITE = "non-finite features"
SHARED_STEPS = ("read", "decode", "prepare")


Rows = NDArray[np.float16] | Quantised


def empty_rows(shape: tuple[int, ...], dtype: str) -> Rows:
    """Room for rows of a stored dtype; what is never filled belongs to failed images and is not stored."""
    if dtype == "float16":
        return np.zeros(shape, np.float16)
    return Quantised(np.zeros(shape, np.int8), np.ones(shape[:-1], np.float16))


def put_rows(rows: Rows, where: int | slice, values: NDArray[np.float32]) -> None:
    """Stores float32 values at `where`."""
    if isinstance(rows, Quantised):
        rows.values[where], rows.scale[where] = quantise(values)
    else:
        rows[where] = to_half_precision(values)


class Clock:
    """Seconds spent in each step; threads may report to it."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._lock = Lock()

    def of(self, part: str, parts: Sequence[str]) -> dict[str, float]:
        """Seconds of one part of a pass: its own network, and its equal share of the steps that serve all.

        Added up over `parts`, these are the seconds of the pass without "write", which each part adds.
        """
        own = {part: self.seconds[part]} if part in self.seconds else {}
        shared = {step: self.seconds[step] / len(parts) for step in SHARED_STEPS if step in self.seconds}
        return {**shared, **own}

    @contextmanager
    def __call__(self, step: str) -> Generator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - start
            with self._lock:
                self.seconds[step] += seconds


@dataclass(frozen=True, kw_only=True)
class Encoders:
    """The frozen networks of the parts at hand."""

    sam: SamEncoder | None = None
    clip: ClipEncoder | None = None


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """One image: what the encoders take, or why there is nothing to take."""

    slot: int
    boxes: NDArray[np.float32]  # [n, 4] xyxy
    size: tuple[int, int]  # height, width
    sam: Tensor | None = None  # [3, S, S]
    clip: Tensor | None = None  # [3, R, R]
    failure: ImageFailure | None = None


@dataclass(frozen=True, kw_only=True)
class ImageLoader:
    """Reads images of a partition from disk and prepares them for the encoders."""

    root: Path
    exif: ExifRule
    encoders: Encoders
    clock: Clock

    def batches(
        self, planned: PartitionPlan, slots: Sequence[int], *, size: int, threads: int
    ) -> Iterator[list[Loaded]]:
        """Batches in the order of `slots`; two batches are read ahead, so memory stays bounded."""
        with ThreadPoolExecutor(threads) as pool:
            ahead: deque[Future[Loaded]] = deque()
            waiting = iter(slots)
            batch: list[Loaded] = []
            while True:
                for slot in waiting:
                    ahead.append(pool.submit(self._load, planned, slot))
                    if len(ahead) >= 2 * size:
                        break
                if not ahead:
                    break
                batch.append(ahead.popleft().result())
                if len(batch) == size:
                    yield batch
                    batch = []
            if batch:
                yield batch

    def _load(self, planned: PartitionPlan, slot: int) -> Loaded:
        width, height = (int(side) for side in planned.sizes[slot])
        boxes = planned.boxes[planned.offsets[slot] : planned.offsets[slot + 1]]
        frame = None if planned.views is None else planned.views.frames[slot]
        file_size = (width, height) if frame is None else (int(frame[0]), int(frame[1]))
        try:
            image = self._read(planned.file_names[slot], file_size)
        except ImageFailure as failure:
            return Loaded(slot=slot, boxes=boxes, size=(height, width), failure=failure)
        sam, clip = self.encoders.sam, self.encoders.clip
        with self.clock("prepare"):
            image = image if frame is None else view_of(image, frame)
            return Loaded(
                slot=slot,
                boxes=boxes,
                size=(height, width),
                sam=sam.preprocess(image) if sam and len(boxes) else None,
                clip=clip.preprocess(image) if clip else None,
            )

    def _read(self, file_name: str, size: tuple[int, int]) -> NDArray[np.uint8]:
        path = find_image(self.root, file_name)
        with self.clock("read"):
            data = read_file(path)
        with self.clock("decode"):
            return decode_image(data, path, expected_size=size, exif=self.exif)


class PartitionFeatures:
    """Features of some images of one partition, in the layout of the plan.

    Values are quantised batch by batch, so a partition never lies in memory as float32.

    Attributes:
        arrays: part -> array name -> rows; [b, D] by box for tokens, [s, N, C] by image for maps.
        status: part -> uint8 [s], one of the cache's status codes; 0 for images not worked on.
        failures: slot -> (reason, detail).
    """

    def __init__(self, planned: PartitionPlan, encoders: Encoders, clock: Clock, *, dtype: str) -> None:
        self.planned, self.encoders, self.clock, self.dtype = planned, encoders, clock, dtype
        self.arrays: dict[str, dict[str, Rows]] = {}
        self.status: dict[str, NDArray[np.uint8]] = {}
        self.failures: dict[int, tuple[str, str]] = {}
        if encoders.sam:
            dims = encoders.sam.token_dims
            self._allocate("sam", {name: (planned.num_boxes, width) for name, width in dims.items()})
        if encoders.clip:
            self._allocate("clip", {"map": (planned.num_images, *encoders.clip.map_shape)})

    def _allocate(self, part: str, shapes: dict[str, tuple[int, ...]]) -> None:
        self.arrays[part] = {name: empty_rows(shape, self.dtype) for name, shape in shapes.items()}
        self.status[part] = np.zeros(self.planned.num_images, np.uint8)

    def add(self, batch: list[Loaded]) -> None:
        """Encodes a batch and keeps the result."""
        for item in batch:
            if item.failure:
                self._fail(item.slot, item.failure.reason, item.failure.detail, tuple(self.status))
        whole = [item for item in batch if not item.failure]
        if self.encoders.sam and whole:
            with self.clock("sam"):
                self._add_tokens(self.encoders.sam, whole)
        if self.encoders.clip and whole:
            with self.clock("clip"):
                self._add_maps(self.encoders.clip, whole)

    def _add_tokens(self, sam: SamEncoder, batch: list[Loaded]) -> None:
        boxed = [item for item in batch if item.sam is not None]
        found: dict[str, list[Tensor]] = {name: [] for name in self.arrays["sam"]}
        if boxed:
            embeddings = sam.embed(torch.stack([item.sam for item in boxed if item.sam is not None]))
            found = sam.tokens(embeddings, [i.boxes for i in boxed], [i.size for i in boxed])
        for i, item in enumerate(boxed):
            rows = slice(*self.planned.offsets[item.slot : item.slot + 2])
            self._keep(item.slot, "sam", rows, {name: tokens[i] for name, tokens in found.items()})
        for item in batch:
            if item.sam is None:  # no boxes: nothing to store, nothing missing
                self.status["sam"][item.slot] = STATUS_OK

    def _add_maps(self, clip: ClipEncoder, batch: list[Loaded]) -> None:
        maps = clip.encode_map(torch.stack([item.clip for item in batch if item.clip is not None]))
        for i, item in enumerate(batch):
            self._keep(item.slot, "clip", item.slot, {"map": maps[i]})

    def _keep(self, slot: int, part: str, where: int | slice, values: dict[str, Tensor]) -> None:
        try:
            for name, value in values.items():
                put_rows(self.arrays[part][name], where, value.float().cpu().numpy())
            self.status[part][slot] = STATUS_OK
        except InputError as error:  # NaN, infinite or too large to be stored
            self._fail(slot, NON_FINITE, f"{part}: {error.found}", (part,))

    def _fail(self, slot: int, reason: str, detail: str, parts: tuple[str, ...]) -> None:
        self.failures[slot] = (reason, detail)
        for part in parts:
            self.status[part][slot] = STATUS_CODES[reason]
