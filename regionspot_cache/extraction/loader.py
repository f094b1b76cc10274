"""Images of a partition: read and prepared for the networks by threads, a few batches ahead."""

import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regionspot_cache.ahead import batches_ahead
from regionspot_cache.backbones import Encoder
from regionspot_cache.datasets.augmentation import view_of
from regionspot_cache.datasets.images import (
    Decoder,
    ExifRule,
    FileStamp,
    ImageFailure,
    decode_image,
    find_image,
    read_file,
)
from regionspot_cache.errors import UsageError
from regionspot_cache.store import PartitionPlan

SHARED_STEPS = ("read", "decode", "prepare", "wait", "encode", "store", "device")


class Clock:
    """Seconds spent in each step; threads may report to it."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._lock = Lock()

    def of(self, part: str, parts: Sequence[str]) -> dict[str, float]:
        """Seconds of one part of a pass: its own network, and its equal share of the steps that serve all."""
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


def jpeg_decoder(decoder: Decoder) -> Callable[[bytes], NDArray[np.uint8] | None] | None:
    """What `decode_image` takes as `jpeg`. UsageError where torchvision has no decoder."""
    if decoder == "pillow":
        return None
    try:
        import torchvision.io  # noqa: F401 - registers the operation

        return partial(_by_torchvision, torch.ops.image.decode_jpeg.default)
    except (ImportError, AttributeError):
        raise UsageError(
            f"decoder: {decoder}, but this torchvision decodes no JPEG files.",
            "A torchvision that has torchvision.io.decode_jpeg, or Pillow.",
            "--set decoder=pillow",
        ) from None


def _by_torchvision(operation: Callable[..., Tensor], data: bytes) -> NDArray[np.uint8] | None:
    """uint8 RGB [H,W,3] of a JPEG file; None where it is broken, which Pillow then says in its own words.

    The public function warns at every image since torchvision 0.29 that decoding will move to TorchCodec.
    """
    rgb, turned = 3, False
    try:
        pixels = operation(torch.frombuffer(bytearray(data), dtype=torch.uint8), rgb, turned)
    except RuntimeError:
        return None
    return pixels.permute(1, 2, 0).contiguous().numpy()


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """One image: what the networks take, by part, or why there is nothing to take.

    `boxes` are float32 [n, 4] xyxy, `size` (height, width); a part that stores nothing of it has no input.
    """

    slot: int
    boxes: NDArray[np.float32]
    size: tuple[int, int]
    stamp: FileStamp = (0, 0, 0)
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    failure: ImageFailure | None = None


@dataclass(frozen=True, kw_only=True)
class ImageLoader:
    """Reads images of a partition from disk and prepares them for the encoders."""

    root: Path
    exif: ExifRule
    encoders: Mapping[str, Encoder]
    clock: Clock
    decoder: Decoder = "pillow"

    def batches(
        self, planned: PartitionPlan, slots: Sequence[int], *, size: int, threads: int
    ) -> Iterator[list[Loaded]]:
        """Batches in the order of `slots`; the inputs of two batches are read ahead, so memory stays bounded.

        The clock takes as "wait" the seconds in which whoever asks for a batch waited for its images.
        """
        found = batches_ahead(partial(self._load, planned), slots, size=size, threads=threads)
        while True:
            with self.clock("wait"):
                batch = next(found, None)
            if batch is None:
                return
            yield batch

    def _load(self, planned: PartitionPlan, slot: int) -> Loaded:
        width, height = (int(side) for side in planned.sizes[slot])
        boxes = planned.boxes[planned.offsets[slot] : planned.offsets[slot + 1]]
        frame = None if planned.views is None else planned.views.frames[slot]
        file_size = (width, height) if frame is None else (int(frame[0]), int(frame[1]))
        try:
            path = find_image(self.root, planned.file_names[slot])
            with self.clock("read"):
                data, stamp = read_file(path)
            with self.clock("decode"):
                jpeg = jpeg_decoder(self.decoder)
                image = decode_image(data, path, expected_size=file_size, exif=self.exif, jpeg=jpeg)
        except ImageFailure as failure:
            return Loaded(slot=slot, boxes=boxes, size=(height, width), failure=failure)
        with self.clock("prepare"):
            image = image if frame is None else view_of(image, frame)
            inputs = {
                name: encoder.preprocess(image)
                for name, encoder in self.encoders.items()
                if len(boxes) or not all(array.per_box for array in encoder.arrays.values())
            }
        return Loaded(slot=slot, boxes=boxes, size=(height, width), stamp=stamp, inputs=inputs)
