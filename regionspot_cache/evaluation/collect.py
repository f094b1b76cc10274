"""Detections of a dataset, collected image by image from the class probabilities of its boxes."""

import numpy as np

from regionspot_cache.evaluation.detections import (
    PER_CATEGORY,
    Detections,
    DetectionsBuilder,
    ImageDetections,
    MaskSource,
    MaskTable,
    best_of_groups,
)
from regionspot_cache.evaluation.selection import ScoreRule, pair_scores, select_top_k


class BestOfImages:
    """For standard AP: the best pairs of box and class of each image."""

    def __init__(self, category_ids: np.ndarray, cap: int) -> None:
        self.category_ids, self.cap = category_ids, cap
        self._builder = DetectionsBuilder()

    def select(
        self,
        image_id: int | str,
        boxes: np.ndarray,
        probabilities: np.ndarray,
        box_scores: np.ndarray | None,
        rule: ScoreRule,
        masks: MaskSource | None = None,
    ) -> ImageDetections:
        """What of one image is worth keeping; changes nothing, whatever goes wrong.

        Args:
            boxes: f32 [N,4] xyxy, pixels of the original image.
            probabilities: [N,C].
            box_scores: [N] objectness, or None for ground-truth boxes.
            masks: run lengths by box; only those of boxes that are kept are asked for.
        """
        chosen = select_top_k(probabilities, box_scores, rule, k=self.cap)
        return ImageDetections.of(
            image_id,
            boxes=boxes,
            box_index=chosen.box_index,
            category_ids=self.category_ids[chosen.class_index],
            scores=chosen.scores,
            masks=masks,
        )

    def add(self, image: ImageDetections) -> None:
        """Adds what `select` chose of an image."""
        self._builder.add(image)

    def build(self) -> Detections:
        """All images in the order they came."""
        return self._builder.build()


class BestOfCategories:
    """For fixed AP: the best detections of each category over all images.

    Every pair of box and class is looked at; memory is that of 1.5 times `per_category` detections a class
    (and at least a million), with their boxes and masks. Of equal scores earlier images and boxes stay.
    """

    def __init__(self, category_ids: np.ndarray, per_category: int = PER_CATEGORY) -> None:
        """`category_ids` i64 [C], rising."""
        self.category_ids, self.per_category = category_ids, per_category
        self._ids: list[int | str] = []
        self._lowest = np.full(len(category_ids), -np.inf, np.float32)  # worth keeping
        self._pairs: list[tuple[np.ndarray, ...]] = []  # class i32, score f32, row of the boxes i64
        self._boxes: list[np.ndarray] = []
        self._images: list[np.ndarray] = []  # of the boxes, i32
        self._masks: list[MaskTable] = []
        self._num_boxes = self._num_pairs = 0
        self._room = max(len(category_ids) * per_category * 3 // 2, 1_000_000)

    def select(
        self,
        image_id: int | str,
        boxes: np.ndarray,
        probabilities: np.ndarray,
        box_scores: np.ndarray | None,
        rule: ScoreRule,
        masks: MaskSource | None = None,
    ) -> ImageDetections:
        """As of `BestOfImages`."""
        scores = pair_scores(probabilities, box_scores, rule)
        box, label = np.nonzero(scores > self._lowest)
        return ImageDetections.of(
            image_id,
            boxes=boxes,
            box_index=box,
            category_ids=self.category_ids[label],
            scores=scores[box, label],
            masks=masks,
        )

    def add(self, image: ImageDetections) -> None:
        """As of `BestOfImages`."""
        label = np.searchsorted(self.category_ids, image.category_ids).astype(np.int32)
        self._pairs.append((label, image.scores, image.box_index.astype(np.int64) + self._num_boxes))
        self._boxes.append(image.boxes)
        self._images.append(np.full(len(image.boxes), len(self._ids), np.int32))
        if image.masks is not None:
            self._masks.append(image.masks)
        self._ids.append(image.image_id)
        self._num_boxes += len(image.boxes)
        self._num_pairs += len(label)
        if self._num_pairs > self._room:
            self._compact()

    def build(self) -> Detections:
        """All images in the order they came."""
        self._compact()
        label, scores, rows = self._pairs[0]
        boxes, images = self._boxes[0], self._images[0]
        order = np.lexsort((label, rows))  # boxes are in the order of images
        counts = np.bincount(images[rows], minlength=len(self._ids))
        return Detections(
            image_ids=tuple(self._ids),
            offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            category_ids=np.asarray(self.category_ids, np.int64)[label[order]],
            scores=scores[order],
            box_index=rows[order].astype(np.int32),
            boxes=boxes,
            masks=self._masks[0] if self._masks else None,
        )

    def _compact(self) -> None:
        """Leaves the best of each class, and only their boxes and masks."""
        label, scores, rows = self._best()
        used, places = np.unique(rows, return_inverse=True)
        self._pairs = [(label, scores, places.astype(np.int64))]
        self._num_pairs = len(label)
        self._boxes = [np.concatenate([np.zeros((0, 4), np.float32), *self._boxes])[used]]
        self._images = [np.concatenate([np.zeros(0, np.int32), *self._images])[used]]
        if self._masks:
            self._masks = [MaskTable.concatenate(self._masks).take(used)]
        self._num_boxes = len(used)

    def _best(self) -> tuple[np.ndarray, ...]:
        """The pairs that stay, by class and falling score; raises what a class must exceed from now on."""
        none = (np.zeros(0, np.int32), np.zeros(0, np.float32), np.zeros(0, np.int64))
        label, scores, rows = map(np.concatenate, zip(none, *self._pairs, strict=True))
        kept = best_of_groups(label, scores, self.per_category)  # of equal scores the earlier boxes
        names, counts = np.unique(label[kept], return_counts=True)
        worst = scores[kept[np.cumsum(counts) - 1]]
        full = counts == self.per_category
        self._lowest[names[full]] = worst[full]
        return label[kept], scores[kept], rows[kept]


Collector = BestOfImages | BestOfCategories
