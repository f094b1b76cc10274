"""Recognition over a dataset: of every image its regions and what methods detect."""

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline import console
from pipeline.evaluate.cached import CachedFeatures, FoundFeatures, rows_of_boxes
from regionspot_cache.backbones import Backbone, RegionProposer
from regionspot_cache.datasets import DetectionDataset, ImageRecord
from regionspot_cache.datasets.images import ImageFailure, find_image, read_image
from regionspot_cache.evaluation import (
    AccuracyMeter,
    ApType,
    BestOfCategories,
    BestOfImages,
    Collector,
    DetectionProtocol,
    Detections,
    ScoreRule,
)
from regionspot_cache.evaluation.answers import BoxAnswers, ObjectAnswers, answers_of
from regionspot_cache.evaluation.box_table import BoxTable
from regionspot_cache.evaluation.confusion import ConfusionMeter
from regionspot_cache.recognition import EmbeddedImage, Recogniser, RecognitionEngine, RegionInputs
from regionspot_cache.recognition.proposals import Proposals

TOP_NAMES = 5  # of a box in the table


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
        if self.proposer is None:
            assert self.known is not None
            return self.known[record.image_id]
        boxes, scores = inputs.proposals(self.proposer)
        return boxes[: self.top_n], scores[: self.top_n]


@dataclass
class Tally:
    """What one method has found so far; accuracy and confusion only for ground-truth boxes."""

    collector: Collector
    accuracy: AccuracyMeter
    confusion: ConfusionMeter
    objects: ObjectAnswers


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
    """The settings of a pass."""

    dataset: DetectionDataset
    backbone: Backbone
    texts: Mapping[str | None, torch.Tensor]
    """float32 [K, E], one row a class of the dataset, by the part whose text encoder made them."""
    regions: Regions
    cached: CachedFeatures | FoundFeatures | None
    """None runs the networks on every image."""
    masks: bool
    """Keep SAM's mask of every detected box."""
    score_rule: ScoreRule
    """Of methods that do not bring their own."""
    protocol: DetectionProtocol = field(default_factory=DetectionProtocol)
    """Standard AP: which detections are kept for an image."""
    ap: ApType = "standard"
    batch_size: int = 8
    """Images in one pass of a network."""
    threads: int = 2
    """Read and prepare images ahead."""
    table: BoxTable | None = None
    """Where every box is written, if anywhere."""

    def run(self, methods: Sequence[Recogniser]) -> Recognised:
        """Every method on every image."""
        found = Recognised(tallies={method.name: self._tally() for method in methods})
        engine = RecognitionEngine(
            methods=methods,
            proposer=self.regions.proposer,
            batch_size=self.batch_size,
            threads=self.threads,
        )
        boxes_done, scored = 0, deque[Future[int]]()
        with console.progress("recognising", len(self.dataset)) as ticker, ThreadPoolExecutor(1) as scoring:
            for i, image in enumerate(engine.run(self, range(len(self.dataset)))):
                scored.append(scoring.submit(self._score, image, methods, found))
                if len(scored) > self.batch_size:  # so that what waits stays bounded
                    boxes_done += scored.popleft().result()
                elapsed = max(ticker.elapsed, 1e-9)
                images = console.rate((i + 1) / elapsed, "image")
                ticker.update(i + 1, f"{images}  {console.rate(boxes_done / elapsed, 'box', 'boxes')}")
            for last in scored:
                last.result()
        return found

    def text_of(self, method: Recogniser) -> torch.Tensor:
        """Embeddings of the class names [K, E] that a method compares with."""
        return self.texts[method.text_part]

    def inputs(self, index: int, boxes: NDArray[np.float32]) -> RegionInputs:
        """An image with boxes [N, 4] and its cached features."""
        record = self.dataset[index]
        return RegionInputs(
            self.backbone,
            partial(self._read, record),
            boxes,
            size=(record.height, record.width),
            cached=self._cached(index, boxes),
        )

    def open(self, index: int) -> RegionInputs:
        """As of `RegionSource`."""
        known = self.regions.known
        boxes = np.zeros((0, 4), np.float32) if known is None else known[self.dataset[index].image_id][0]
        return self.inputs(index, boxes)

    def regions_of(self, index: int, inputs: RegionInputs) -> tuple[RegionInputs, NDArray[np.float32] | None]:
        """As of `RegionSource`."""
        boxes, scores = self.regions.of(self.dataset[index], inputs)
        known = self.regions.known is not None
        return inputs if known else inputs.on(boxes, self._cached(index, boxes)), scores

    def _score(self, image: EmbeddedImage, methods: Sequence[Recogniser], found: Recognised) -> int:
        """Adds one image to every tally, or, when it cannot be read, to none; the number of its boxes."""
        try:
            if image.failure is not None:
                raise image.failure
            outcomes = list(self._outcomes(image, methods, found))
        except ImageFailure as failure:
            found.failures[failure.reason] += 1
            return 0
        # Nothing is read from here on: an image is added for all methods alike.
        record, inputs = self.dataset[image.index], image.inputs
        first = int(self.dataset.offsets[image.index])
        for method, (tally, chosen, probabilities) in zip(methods, outcomes, strict=True):
            tally.collector.add(chosen)
            answers = _answers(record, image, chosen, probabilities)
            tally.objects.add(first, answers)
            if self.table is not None:
                self.table.add(method.name, image.index, answers)
            if image.objectness is None:
                tally.accuracy.update(probabilities, record.labels)
                tally.confusion.update(probabilities, record.labels)
        if self.regions.proposer is not None and image.objectness is not None:
            found.regions.append((record.image_id, inputs.boxes, image.objectness))
        found.from_cache.update(inputs.from_cache)
        return len(inputs.boxes)

    def _outcomes(
        self, image: EmbeddedImage, methods: Sequence[Recogniser], found: Recognised
    ) -> Iterator[tuple[Tally, Detections, NDArray[np.float32]]]:
        inputs, image_id = image.inputs, self.dataset[image.index].image_id
        masks = inputs.masks if self.masks else None
        for method, embeddings in zip(methods, image.embeddings, strict=True):
            probabilities = method.scores(embeddings, self.text_of(method)).cpu().numpy()  # [N, K]
            tally, rule = found.tallies[method.name], method.score_rule or self.score_rule
            chosen = tally.collector.select(
                image_id, inputs.boxes, probabilities, image.objectness, rule, masks
            )
            yield tally, chosen, probabilities

    def _tally(self) -> Tally:
        classes, objects = len(self.dataset.class_names), len(self.dataset.labels)
        return Tally(
            self._collector(), AccuracyMeter(classes), ConfusionMeter(classes), ObjectAnswers(objects)
        )

    def _collector(self) -> Collector:
        categories = self.dataset.category_ids
        return BestOfCategories(categories) if self.ap == "fixed" else BestOfImages(categories, self.protocol)

    def _read(self, record: ImageRecord) -> NDArray[np.uint8]:
        path = find_image(self.dataset.image_root, record.file_name)
        return read_image(path, expected_size=(record.width, record.height), exif=self.dataset.exif)

    def _cached(self, index: int, boxes: NDArray[np.float32]) -> Mapping[str, NDArray[np.float32]] | None:
        return None if self.cached is None else self.cached.of(index, boxes)


def _answers(
    record: ImageRecord, image: EmbeddedImage, chosen: Detections, probabilities: NDArray[np.float32]
) -> BoxAnswers:
    """Of annotated boxes all; of proposals those that have a detection."""
    if image.objectness is None:
        return answers_of(record, image.inputs.boxes, probabilities, top=TOP_NAMES)
    places = rows_of_boxes(image.inputs.boxes, chosen.boxes)
    assert places is not None
    best = np.full(len(places), -np.inf, np.float32)
    np.maximum.at(best, chosen.box_index, chosen.scores)
    return answers_of(
        record,
        chosen.boxes,
        probabilities[places],
        places=places,
        objectness=image.objectness[places],
        ranks_by=best,
        top=TOP_NAMES,
    )
