"""Which pairs of box and class become detections: by one protocol for all methods, or RegionCLIP's own; and
what of all images is kept."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from regionspot_cache.datasets.regions import box_iou
from regionspot_cache.evaluation.detections import MAX_DETECTIONS, PER_CATEGORY, Detections, MaskSource
from regionspot_cache.evaluation.selection import ScoreRule, Selection, pair_scores, select_top_k


@dataclass(frozen=True, kw_only=True)
class DetectionProtocol:
    """What counts as a detection; by default every box with every class, the best of an image.

    Attributes:
        name: shown beside every number, with the rest.
        threshold: a pair must score more; None takes all.
        nms: IoU above which, of two boxes of one class, the lower-scored is dropped; None keeps both.
        top_k: the best of an image, over all classes.
    """

    name: str = "shared"
    threshold: float | None = None
    nms: float | None = None
    top_k: int = MAX_DETECTIONS

    def __str__(self) -> str:
        if self.threshold is None and self.nms is None:
            return f"{self.name} (every box with every class)"
        threshold = "" if self.threshold is None else f"score > {self.threshold:g}, "
        nms = "" if self.nms is None else f"NMS {self.nms:g} in each class, "
        return f"{self.name} ({threshold}{nms}best {self.top_k})"


def regionclip_protocol(metric: Literal["LVIS", "COCO"], *, given: bool) -> DetectionProtocol:
    """That of RegionCLIP's zero-shot inference (test_zeroshot_inference.sh of microsoft/RegionCLIP).

    Args:
        given: the boxes are annotated ones; else proposals, whose score holds the objectness.
    """
    if metric == "COCO":
        return DetectionProtocol(name="regionclip", threshold=1e-3, nms=0.5, top_k=100)
    return DetectionProtocol(name="regionclip", threshold=1e-4 if given else 0.02, nms=0.5, top_k=300)


def select_detections(
    boxes: np.ndarray,
    probabilities: np.ndarray,
    box_scores: np.ndarray | None,
    rule: ScoreRule,
    protocol: DetectionProtocol,
) -> Selection:
    """The detections of an image, best first.

    Equal scores are taken in the order of (box, class). Where a protocol has a threshold or a suppression,
    "official" makes no first choice.

    Args:
        boxes: [N,4] xyxy.
        probabilities, box_scores, rule: as of `select_top_k`, as are errors.
    """
    if protocol.threshold is None and protocol.nms is None:
        return select_top_k(probabilities, box_scores, rule, k=protocol.top_k)
    scores = pair_scores(probabilities, box_scores, rule)
    lowest = -np.inf if protocol.threshold is None else protocol.threshold
    box, label = np.nonzero(scores > lowest)
    order = np.argsort(-scores[box, label], kind="stable")
    box, label = box[order], label[order]
    if protocol.nms is not None:
        kept = _not_suppressed(boxes, box, label, protocol.nms, protocol.top_k, scores.shape)
        box, label = box[kept], label[kept]
    box, label = box[: protocol.top_k], label[: protocol.top_k]
    return Selection(box.astype(np.int32), label.astype(np.int32), scores[box, label])


def _not_suppressed(
    boxes: np.ndarray, box: np.ndarray, label: np.ndarray, nms: float, k: int, shape: tuple[int, ...]
) -> list[int]:
    """The first k of pairs, best first, that no better pair of their class suppresses.

    Going through all classes at once ends after k pairs are kept, however many there are.
    """
    alive = np.ones(shape, bool)  # [N,C]
    kept: list[int] = []
    for i, (n, c) in enumerate(zip(box.tolist(), label.tolist(), strict=True)):
        if not alive[n, c]:
            continue
        kept.append(i)
        if len(kept) == k:
            break
        alive[box_iou(boxes[n], boxes)[0] > nms, c] = False
    return kept


class Collector:
    """Takes one image after the other; subclasses say what of an image is kept."""

    def __init__(self, category_ids: np.ndarray) -> None:
        """`category_ids` i64 [C], rising."""
        self.category_ids = category_ids
        self._parts: list[Detections] = []

    def select(
        self,
        image_id: int | str,
        boxes: np.ndarray,
        probabilities: np.ndarray,
        box_scores: np.ndarray | None,
        rule: ScoreRule,
        masks: MaskSource | None = None,
    ) -> Detections:
        """What of one image is worth keeping; changes nothing, whatever goes wrong.

        Args:
            boxes: f32 [N,4] xyxy, pixels of the original image, with probabilities [N,C].
            box_scores: [N] objectness, or None for ground-truth boxes.
            masks: run lengths by box; only those of boxes that are kept are asked for.
        """
        chosen = self._choose(boxes, probabilities, box_scores, rule)
        return Detections.of(
            image_id,
            boxes=boxes,
            box_index=chosen.box_index,
            category_ids=self.category_ids[chosen.class_index],
            scores=chosen.scores,
            masks=masks,
        )

    def add(self, image: Detections) -> None:
        """Adds what `select` chose of an image."""
        self._parts.append(image)

    def build(self) -> Detections:
        """All images in the order they came."""
        return Detections.concatenate(self._parts)

    def _choose(
        self, boxes: np.ndarray, probabilities: np.ndarray, box_scores: np.ndarray | None, rule: ScoreRule
    ) -> Selection:
        raise NotImplementedError


class BestOfImages(Collector):
    """For standard AP: the pairs of box and class that a protocol takes of each image."""

    def __init__(self, category_ids: np.ndarray, protocol: DetectionProtocol) -> None:
        super().__init__(category_ids)
        self.protocol = protocol

    def _choose(
        self, boxes: np.ndarray, probabilities: np.ndarray, box_scores: np.ndarray | None, rule: ScoreRule
    ) -> Selection:
        return select_detections(boxes, probabilities, box_scores, rule, self.protocol)


class BestOfCategories(Collector):
    """For fixed AP: the best detections of each category over all images.

    Every pair of box and class is looked at; memory is that of 1.5 times `per_category` detections a class
    (and at least a million), with their boxes and masks. Of equal scores earlier images and boxes stay.
    """

    def __init__(self, category_ids: np.ndarray, per_category: int = PER_CATEGORY) -> None:
        super().__init__(category_ids)
        self.per_category = per_category
        self._lowest = np.full(len(category_ids), -np.inf, np.float32)  # a score must exceed it
        self._room = max(len(category_ids) * per_category * 3 // 2, 1_000_000)
        self._held = 0

    def _choose(
        self, boxes: np.ndarray, probabilities: np.ndarray, box_scores: np.ndarray | None, rule: ScoreRule
    ) -> Selection:
        scores = pair_scores(probabilities, box_scores, rule)
        box, label = np.nonzero(scores > self._lowest)
        return Selection(box, label, scores[box, label])

    def add(self, image: Detections) -> None:
        super().add(image)
        self._held += len(image)
        if self._held > self._room:
            self.build()

    def build(self) -> Detections:
        """All images in the order they came; what does not count is forgotten."""
        best = super().build().best_of_categories(self.per_category).compacted()
        label = np.searchsorted(self.category_ids, best.category_ids)
        full = np.bincount(label, minlength=len(self.category_ids)) == self.per_category
        worst = np.full_like(self._lowest, np.inf)
        np.minimum.at(worst, label, best.scores)
        self._lowest[full] = worst[full]
        self._parts, self._held = [best], len(best)
        return best
