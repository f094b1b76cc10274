"""From class probabilities of boxes to the detections of an image, and of a dataset image by image."""

from typing import Literal, NamedTuple

import numpy as np

from regionspot_cache.errors import InputError
from regionspot_cache.evaluation.detections import MAX_DETECTIONS, PER_CATEGORY, Detections, MaskSource

ScoreRule = Literal["product", "official", "geometric"]
SCORE_RULES: tuple[ScoreRule, ...] = ("product", "official", "geometric")
PRESELECT = 900  # detections that the official rule takes by probability alone


class Selection(NamedTuple):
    """The detections of one image, by box and class."""

    box_index: np.ndarray  # i32 [k]
    class_index: np.ndarray  # i32 [k]
    scores: np.ndarray  # f32 [k], falling


def select_top_k(
    probabilities: np.ndarray,
    box_scores: np.ndarray | None,
    rule: ScoreRule = "product",
    *,
    k: int = MAX_DETECTIONS,
    preselect: int = PRESELECT,
) -> Selection:
    """The k best (box, class) pairs of an image; every box may appear with every class.

    Equal scores are taken in the order of (box, class), so the result does not depend on the machine.

    Args:
        probabilities: [N,C], class probabilities of each box. Taken as float32.
        box_scores: [N] objectness in [0, 1], or None for ground-truth boxes: probability alone, by any rule.
        rule: "product" takes the k best of probability * objectness; "official" takes the `preselect` most
            probable pairs first and the k best products of those (as RegionSpot's code does); "geometric"
            takes the square root of the product (as RegionCLIP does).

    Raises:
        InputError: scores that are not finite, objectness outside [0, 1], or an unknown rule.
    """
    probabilities = np.asarray(probabilities, np.float32)
    scores = pair_scores(probabilities, box_scores, rule).ravel()  # [N*C]
    if rule == "official" and box_scores is not None:
        candidates = np.sort(_best(probabilities.ravel(), preselect))
        flat = candidates[_best(scores[candidates], k)]
    else:
        flat = _best(scores, k)
    box, label = np.divmod(flat, max(probabilities.shape[1], 1))
    return Selection(box.astype(np.int32), label.astype(np.int32), scores[flat])


def pair_scores(
    probabilities: np.ndarray, box_scores: np.ndarray | None, rule: ScoreRule = "product"
) -> np.ndarray:
    """The score of every (box, class) pair, f32 [N,C]; arguments and errors as of `select_top_k`.

    "official" is the product here: its first choice of pairs belongs to a selection per image.
    """
    probabilities = np.asarray(probabilities, np.float32)
    if rule not in SCORE_RULES:
        raise InputError(f"score rule {rule!r}", f"one of {', '.join(SCORE_RULES)}", "choose one of these")
    if not np.isfinite(probabilities).all():
        raise InputError("a class probability is not finite", "finite numbers", "check the head's weights")
    if box_scores is None:
        return probabilities
    box_scores = np.asarray(box_scores, np.float32)
    inside = (box_scores >= 0) & (box_scores <= 1)  # false for NaN
    if box_scores.shape != (len(probabilities),) or not inside.all():
        raise InputError(
            f"objectness of shape {box_scores.shape} with {np.count_nonzero(~inside)} values outside [0, 1]",
            f"[{len(probabilities)}] values between 0 and 1",
            "apply a sigmoid if these are logits",
        )
    product = probabilities * box_scores[:, None]
    return np.sqrt(product) if rule == "geometric" else product


def _best(scores: np.ndarray, k: int) -> np.ndarray:
    """Indices of the k highest values, falling; of equal values the lowest indices, in order."""
    if k < len(scores):
        threshold = np.partition(scores, len(scores) - k)[len(scores) - k]
        above = np.flatnonzero(scores > threshold)
        equal = np.flatnonzero(scores == threshold)[: k - len(above)]
        chosen = np.sort(np.concatenate([above, equal]))
    else:
        chosen = np.arange(len(scores))
    return chosen[np.argsort(-scores[chosen], kind="stable")]


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
        chosen = self._choose(probabilities, box_scores, rule)
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

    def _choose(self, probabilities: np.ndarray, box_scores: np.ndarray | None, rule: ScoreRule) -> Selection:
        raise NotImplementedError


class BestOfImages(Collector):
    """For standard AP: the `cap` best pairs of box and class of each image."""

    def __init__(self, category_ids: np.ndarray, cap: int) -> None:
        super().__init__(category_ids)
        self.cap = cap

    def _choose(self, probabilities: np.ndarray, box_scores: np.ndarray | None, rule: ScoreRule) -> Selection:
        return select_top_k(probabilities, box_scores, rule, k=self.cap)


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

    def _choose(self, probabilities: np.ndarray, box_scores: np.ndarray | None, rule: ScoreRule) -> Selection:
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
