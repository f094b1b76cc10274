"""Detections of a dataset, collected image by image from the class probabilities of its boxes."""

import numpy as np

from regionspot_cache.evaluation.detections import PER_CATEGORY, Detections, MaskSource
from regionspot_cache.evaluation.protocols import DetectionProtocol, select_detections
from regionspot_cache.evaluation.selection import ScoreRule, Selection, pair_scores


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
            boxes: f32 [N,4] xyxy, pixels of the original image.
            probabilities: [N,C].
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
