"""From class probabilities of boxes to the detections of an image, and of a dataset image by image."""

from typing import Literal, NamedTuple

import numpy as np

from regionspot_cache.errors import InputError
from regionspot_cache.evaluation.detections import MAX_DETECTIONS

ScoreRule = Literal["product", "official", "geometric", "rc-compat"]
SCORE_RULES: tuple[ScoreRule, ...] = ("product", "official", "geometric", "rc-compat")
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
            takes the square root of the product (as RegionCLIP means to); "rc-compat" that of probability *
            logit of the objectness (as RegionCLIP's code does), and no pair where the logit is negative.

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

    "official" is the product here: its first choice of pairs belongs to a selection per image. Pairs that
    "rc-compat" leaves out are -inf.
    """
    probabilities = np.asarray(probabilities, np.float32)
    if rule not in SCORE_RULES:
        raise InputError(f"score rule {rule!r}", f"one of {', '.join(SCORE_RULES)}", "choose one of these")
    if not np.isfinite(probabilities).all():
        raise InputError("a class probability is not finite", "finite numbers", "check the head's weights")
    if box_scores is None:
        return probabilities
    objectness = np.asarray(box_scores, np.float32)
    inside = (objectness >= 0) & (objectness <= 1)  # false for NaN
    if objectness.shape != (len(probabilities),) or not inside.all():
        raise InputError(
            f"objectness of shape {objectness.shape} with {np.count_nonzero(~inside)} values outside [0, 1]",
            f"[{len(probabilities)}] values between 0 and 1",
            "apply a sigmoid if these are logits",
        )
    if rule == "rc-compat":
        logits = _logits(objectness)[:, None]
        return np.where(logits >= 0, np.sqrt(probabilities * np.maximum(logits, 0)), np.float32(-np.inf))
    product = probabilities * objectness[:, None]
    return np.sqrt(product) if rule == "geometric" else product


def _logits(probabilities: np.ndarray) -> np.ndarray:
    """f32; those of 1 are of the number next to it."""
    below_one = np.minimum(probabilities, np.nextafter(np.float32(1), np.float32(0))).astype(np.float64)
    with np.errstate(divide="ignore"):
        return (np.log(below_one) - np.log1p(-below_one)).astype(np.float32)


def _best(scores: np.ndarray, k: int) -> np.ndarray:
    """Indices of the k highest values but -inf, falling; of equal values the lowest indices, in order."""
    if k < len(scores):
        threshold = np.partition(scores, len(scores) - k)[len(scores) - k]
        above = np.flatnonzero(scores > threshold)
        equal = np.flatnonzero(scores == threshold)[: k - len(above)]
        chosen = np.sort(np.concatenate([above, equal]))
    else:
        chosen = np.arange(len(scores))
    chosen = chosen[scores[chosen] > -np.inf]
    return chosen[np.argsort(-scores[chosen], kind="stable")]
