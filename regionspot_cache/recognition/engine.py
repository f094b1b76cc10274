"""Recognition of many images: read ahead by threads, encoded in batches, by several methods at once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from regionspot_cache.ahead import batches_ahead
from regionspot_cache.backbones import RegionProposer
from regionspot_cache.datasets.images import ImageFailure
from regionspot_cache.recognition.inputs import (
    EMBEDDING,
    RegionInputs,
    embedding_part,
    encode_together,
    propose_together,
)
from regionspot_cache.recognition.methods import Recogniser


class RegionSource(Protocol):
    """Where images and their boxes come from, by index."""

    def open(self, index: int) -> RegionInputs:
        """An image with the boxes that are known beforehand; called by threads, reads no pixels."""

    def regions_of(self, index: int, inputs: RegionInputs) -> tuple[RegionInputs, NDArray[np.float32] | None]:
        """The image on the boxes to recognise, and their objectness [N] unless they are ground truth."""


@dataclass(frozen=True, kw_only=True)
class EmbeddedImage:
    """One image with its boxes and, in the order of the methods, their embeddings; or why there are none."""

    index: int
    inputs: RegionInputs
    objectness: NDArray[np.float32] | None = None
    embeddings: Sequence[Tensor] = ()
    failure: ImageFailure | None = None


@dataclass(frozen=True, kw_only=True)
class RecognitionEngine:
    """Methods over many images.

    Memory: pixels and network inputs of 3 batches (one at work, two read ahead), and the features of one;
    masks that are asked for as of `BoxMasks`. What a caller still holds comes on top.

    Args:
        methods: what embeds the boxes; they share the features.
        proposer: where boxes come from, unless they are known; runs on the embeddings of a batch.
        batch_size: images in one pass of a network.
        threads: that read, decode and prepare images.
    """

    methods: Sequence[Recogniser]
    proposer: RegionProposer | None = None
    batch_size: int = 8
    threads: int = 2

    def run(self, source: RegionSource, indices: Sequence[int]) -> Iterator[EmbeddedImage]:
        """Every image in order. A file that cannot be read is the failure of its image alone."""
        opened = batches_ahead(
            partial(self._open, source), indices, size=self.batch_size, threads=self.threads
        )
        for batch in opened:
            yield from self._recognise(source, batch)

    @property
    def _paths(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(path for method in self.methods for path in method.reads))

    def _open(self, source: RegionSource, index: int) -> EmbeddedImage:
        inputs = source.open(index)
        part = embedding_part(inputs.backbone, self.proposer)
        try:
            inputs.prepare(
                [*self._paths, *([f"{part}/{EMBEDDING}"] if part else ())],
                new_boxes=self.proposer is not None,
            )
            if self.proposer is not None or any(method.reads_pixels for method in self.methods):
                _ = inputs.image
        except ImageFailure as failure:
            return EmbeddedImage(index=index, inputs=inputs, failure=failure)
        return EmbeddedImage(index=index, inputs=inputs)

    def _recognise(self, source: RegionSource, batch: Sequence[EmbeddedImage]) -> list[EmbeddedImage]:
        readable = [image for image in batch if image.failure is None]
        try:
            done = self._embed(source, readable)
        except ImageFailure as failure:  # a file that nobody expected to need
            if len(readable) > 1:
                done = [found for image in readable for found in self._recognise(source, [image])]
            else:
                [image] = readable
                done = [EmbeddedImage(index=image.index, inputs=image.inputs, failure=failure)]
        by_index = {image.index: image for image in done}
        return [by_index.get(image.index, image) for image in batch]

    def _embed(self, source: RegionSource, batch: Sequence[EmbeddedImage]) -> list[EmbeddedImage]:
        if not batch:
            return []
        if self.proposer is not None:
            propose_together([image.inputs for image in batch], self.proposer)
        regions = [source.regions_of(image.index, image.inputs) for image in batch]
        inputs = [on_boxes for on_boxes, _ in regions]
        encode_together(inputs, self._paths)
        embeddings = zip(*(method.embed(inputs) for method in self.methods), strict=True)
        return [
            EmbeddedImage(index=image.index, inputs=on_boxes, objectness=objectness, embeddings=found)
            for image, (on_boxes, objectness), found in zip(batch, regions, embeddings, strict=True)
        ]
