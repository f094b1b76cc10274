"""Recognition over a dataset: for every image its regions, for every method its detections."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline import console
from pipeline.evaluate.cached import CachedFeatures
from regionspot_cache.backbones import Backbone, RegionProposer
from regionspot_cache.datasets import DetectionDataset, ImageRecord
from regionspot_cache.datasets.images import ImageFailure, find_image, read_image
from regionspot_cache.evaluation import (
    AccuracyMeter,
    ApType,
    BestOfCategories,
    BestOfImages,
    Collector,
    ScoreRule,
    encode_mask,
)
from regionspot_cache.evaluation.confusion import ConfusionMeter
from regionspot_cache.recognition import Recogniser, RegionInputs
from regionspot_cache.recognition.proposals import Proposals


@dataclass(frozen=True, kw_only=True)
class Regions:
    """Where boxes come from: ground truth or a file, or a proposer that runs on every image."""

    known: Proposals | None = None
    proposer: RegionProposer | None = None
    top_n: int = 300

    def of(
        self, record: ImageRecord, inputs: RegionInputs
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Boxes [n, 4] and, except for ground truth, objectness [n] of one image, best first."""
        if self.known is not None:
            boxes, scores = self.known[record.image_id]
        else:
            assert self.proposer is not None
            boxes, scores = inputs.proposals(self.proposer)
        if scores is None:
            return boxes, None
        return boxes[: self.top_n], scores[: self.top_n]


@dataclass
class Tally:
    """What one method has found so far; accuracy and confusion only for ground-truth boxes."""

    collector: Collector
    accuracy: AccuracyMeter
    confusion: ConfusionMeter


@dataclass(kw_only=True)
class Recognised:
    """What a pass over the dataset leaves; tallies by method name."""

    tallies: dict[str, Tally]
    regions: list[tuple[int | str, NDArray[np.float32], NDArray[np.float32]]] = field(default_factory=list)
    """(image id, boxes, scores) as recognised, when a proposer made them."""
    failures: Counter[str] = field(default_factory=Counter)
    """Images that could not be read, by reason."""
    from_cache: Counter[str] = field(default_factory=Counter)
    """How many images took each array, PART/ARRAY, from the cache."""


@dataclass(frozen=True, kw_only=True)
class Recognition:
    """The settings of a pass.

    Attributes:
        text: float32 [K, E], one row a class of the dataset.
        cached: features of images and boxes of the dataset; None runs the networks on every image.
        masks: keep SAM's mask of every detected box.
        score_rule: of methods that do not bring their own.
        ap: what is kept: the best detections of each image, or of each class (fixed AP).
        cap: standard AP: detections kept for an image.
    """

    dataset: DetectionDataset
    backbone: Backbone
    text: torch.Tensor
    regions: Regions
    cached: CachedFeatures | None
    masks: bool
    score_rule: ScoreRule
    cap: int
    ap: ApType = "standard"

    def run(self, methods: Sequence[Recogniser]) -> Recognised:
        """Every method on every image."""
        classes = len(self.dataset.class_names)
        found = Recognised(
            tallies={
                m.name: Tally(self._collector(), AccuracyMeter(classes), ConfusionMeter(classes))
                for m in methods
            }
        )
        boxes_done = 0
        with console.progress("recognising", len(self.dataset)) as ticker:
            for i in range(len(self.dataset)):
                try:
                    boxes_done += self._image(i, methods, found)
                except ImageFailure as failure:
                    found.failures[failure.reason] += 1
                elapsed = max(ticker.elapsed, 1e-9)
                images = console.rate((i + 1) / elapsed, "image")
                ticker.update(i + 1, f"{images}  {console.rate(boxes_done / elapsed, 'box', 'boxes')}")
        return found

    def inputs(self, index: int, boxes: NDArray[np.float32], used: set[str]) -> RegionInputs:
        """An image with boxes [N, 4] and its cached features; `used` takes those that are read."""
        record = self.dataset[index]
        return RegionInputs(
            self.backbone,
            partial(self._read, record),
            boxes,
            size=(record.height, record.width),
            cached=self._cached(index, boxes, used),
        )

    def _image(self, index: int, methods: Sequence[Recogniser], found: Recognised) -> int:
        """Adds one image to every tally, or, when it cannot be read, to none; the number of its boxes."""
        record, used = self.dataset[index], set[str]()
        without = self.inputs(index, np.zeros((0, 4), np.float32), used)
        boxes, scores = self.regions.of(record, without)
        inputs = without.on(boxes, self._cached(index, boxes, used))
        masks = MaskCodes(inputs) if self.masks else None
        outcomes = []
        for method in methods:
            probabilities = method.logits(inputs, self.text).softmax(-1).float().cpu().numpy()  # [N, K]
            rule = method.score_rule or self.score_rule
            tally = found.tallies[method.name]
            chosen = tally.collector.select(record.image_id, inputs.boxes, probabilities, scores, rule, masks)
            outcomes.append((tally, chosen, probabilities))
        # Nothing is read from here on: an image is added for all methods alike.
        for tally, chosen, probabilities in outcomes:
            tally.collector.add(chosen)
            if scores is None:
                tally.accuracy.update(probabilities, record.labels)
                tally.confusion.update(probabilities, record.labels)
        if self.regions.proposer is not None and scores is not None:
            found.regions.append((record.image_id, inputs.boxes, scores))
        found.from_cache.update(used)
        return len(inputs.boxes)

    def _collector(self) -> Collector:
        categories = self.dataset.category_ids
        return BestOfCategories(categories) if self.ap == "fixed" else BestOfImages(categories, self.cap)

    def _read(self, record: ImageRecord) -> NDArray[np.uint8]:
        path = find_image(self.dataset.image_root, record.file_name)
        return read_image(path, expected_size=(record.width, record.height), exif=self.dataset.exif)

    def _cached(
        self, index: int, boxes: NDArray[np.float32], used: set[str]
    ) -> Mapping[str, NDArray[np.float32]] | None:
        return None if self.cached is None else self.cached.of(index, boxes, used)


class MaskCodes:
    """Run lengths of SAM's masks, coded when asked for: the mask belongs to the box, whatever its class."""

    def __init__(self, inputs: RegionInputs) -> None:
        self._inputs = inputs
        self._codes: dict[int, dict[str, Any]] = {}

    def __getitem__(self, box: int) -> dict[str, Any]:
        if box not in self._codes:
            self._codes[box] = encode_mask(self._inputs.masks[0][box])
        return self._codes[box]
