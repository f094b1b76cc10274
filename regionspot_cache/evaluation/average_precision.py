"""Average precision of LVIS and COCO, without loops over images or empty (image, category) pairs.

Follows lvis-api and cocoapi in every rule, down to the order of equal scores; tests compare them.
"""

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from regionspot_cache.datasets.tables import Table, ranks
from regionspot_cache.datasets.values import places
from regionspot_cache.errors import InputError
from regionspot_cache.evaluation.detections import MAX_DETECTIONS, Detections
from regionspot_cache.evaluation.ground_truth import GroundTruth, ground_truth
from regionspot_cache.evaluation.matching import (
    AT_ONCE,
    MATCHED,
    UNMATCHED,
    Edges,
    MaskPairs,
    Matches,
    Pairs,
    box_edges,
    mask_edges,
    match,
    shared_pairs,
)
from regionspot_cache.evaluation.metrics import (
    AREA_RANGES,
    IOU_THRESHOLDS,
    AveragePrecision,
    Curves,
    summarize,
)
from regionspot_cache.evaluation.reference import coco_curves, lvis_curves
from regionspot_cache.evaluation.results_file import IouType
from regionspot_cache.shared_work import shared_work

COCO_PER_PAIR = 100  # detections per image and category in COCO's AP


@dataclass(frozen=True, kw_only=True)
class Candidates(Table):
    """Detections that count, ordered by pair and falling score."""

    keys: np.ndarray  # i64 [D], pair keys
    categories: np.ndarray  # i64 [D], category index
    scores: np.ndarray  # [D]
    boxes: np.ndarray  # i32 [D], rows of Detections.boxes
    areas: np.ndarray  # f64 [D]


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Detections that count, with what they match."""

    candidates: Candidates
    matches: Matches
    ignore: np.ndarray  # bool [G,A], annotations that do not count for a range of sizes

    def by_score(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Candidates of a category by falling score; equal ones by image, then as they were given.

        Returns:
            Rows of candidates i64 [D] in that order; rows of matches i64 [K], and their places in it, rising.
        """
        order = np.lexsort((-self.candidates.scores, self.candidates.categories))
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        hits = np.argsort(place[self.matches.detection])
        return order, hits, place[self.matches.detection][hits]

    def counts_unmatched(self, truth: GroundTruth, area: int) -> np.ndarray:
        """bool [D], which candidates are false positives of a range of sizes unless they match."""
        (low, high), areas = AREA_RANGES[area], self.candidates.areas
        open_ended = _contains(truth.not_exhaustive, self.candidates.keys)
        return ~(open_ended | (areas < low) | (areas > high))


def judge(
    truth: GroundTruth, detections: Detections, iou_type: IouType, per_pair: int | None = None
) -> Judged:
    """Matches detections and annotations, in this process; arguments and errors as of `judging`."""
    with judging(truth, detections, iou_type, per_pair) as judged:
        return judged()


@contextmanager
def judging(
    truth: GroundTruth,
    detections: Detections,
    iou_type: IouType,
    per_pair: int | None = None,
    processes: int = 1,
    at_once: int = AT_ONCE,
) -> Generator[Callable[[], Judged]]:
    """Begins to match detections and annotations in other processes; what is given waits for the outcome.

    Counts the `detections` given (see `Detections.capped` and `best_of_categories`), `per_pair` of them for
    an image and category (None: all). Raises InputError as `image_index`, and for "segm" without masks.

    Args:
        processes: at most so many compare masks, this one among them; boxes are quick.
        at_once: combinations of a detection and an annotation that are compared in one go.
    """
    masks = detections.masks if iou_type == "segm" else None
    if iou_type == "segm" and masks is None and len(detections):
        raise InputError("the detections have no masks", "a mask for every box", "evaluate boxes only")
    found = _candidates(truth, detections, iou_type, per_pair)
    areas = truth.areas[:, None]  # [G,1]
    ignore = truth.ignore[:, None] | (areas < AREA_RANGES[:, 0]) | (areas > AREA_RANGES[:, 1])  # [G,A]
    chunks = list(shared_pairs(found.keys, truth.pairs).chunks(at_once))

    def judged(edges: Iterable[Edges]) -> Judged:
        matches = _match_all(truth, found, zip(chunks, edges, strict=True), ignore)
        return Judged(candidates=found, matches=matches, ignore=ignore)

    if masks is None:
        boxes = detections.boxes[found.boxes]
        yield lambda: judged(box_edges(pairs, boxes, truth) for pairs in chunks)
        return

    def call(pairs: Pairs) -> tuple[MaskPairs]:
        return (MaskPairs.of(pairs, masks, found.boxes, truth),)

    with shared_work(MaskPairs.overlaps, [partial(call, pairs) for pairs in chunks], processes) as overlaps:
        yield lambda: judged(map(mask_edges, chunks, overlaps()))


def _candidates(
    truth: GroundTruth, detections: Detections, iou_type: IouType, per_pair: int | None
) -> Candidates:
    image = image_index(truth, detections)[detections.image_of_row]
    category = np.searchsorted(truth.category_ids, detections.category_ids)
    known = np.isin(detections.category_ids, truth.category_ids)
    keys = truth.pair_key(image, category)
    if truth.federated:
        known &= _contains(truth.pairs, keys) | _contains(truth.negative, keys)
    rows = np.flatnonzero(known)
    found = Candidates(
        keys=keys[rows],
        categories=category[rows],
        scores=detections.scores[rows],
        boxes=detections.box_index[rows],
        areas=_areas(detections, detections.box_index[rows], iou_type),
    )
    if truth.federated:
        found = found.take(found.areas > 0)
    found = found.take(np.lexsort((-found.scores, found.keys)))
    return found if per_pair is None else found.take(ranks(found.keys) < per_pair)


def image_index(truth: GroundTruth, detections: Detections) -> np.ndarray:
    """i64 [M], places of the images of detections in the ground truth, which must have them; 7 is "7"."""
    index = places(truth.image_ids, "the ground truth")
    unknown = [image_id for image_id in detections.image_ids if str(image_id) not in index]
    if unknown:
        raise InputError(
            f"detections of image {unknown[0]!r} and {len(unknown) - 1} more that the ground truth lacks",
            "images of the annotation file",
            "give the annotation file that the detections belong to",
        )
    return np.array([index[str(image_id)] for image_id in detections.image_ids], np.int64)


def _contains(sorted_keys: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """As np.isin, without sorting again."""
    if not len(sorted_keys):
        return np.zeros(len(keys), bool)
    return sorted_keys[np.searchsorted(sorted_keys, keys).clip(max=len(sorted_keys) - 1)] == keys


def _areas(detections: Detections, box_index: np.ndarray, iou_type: IouType) -> np.ndarray:
    if iou_type == "segm" and detections.masks is not None:
        return detections.masks.areas[box_index].astype(np.float64)
    boxes = detections.boxes[box_index].astype(np.float64, copy=False)
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _match_all(
    truth: GroundTruth, found: Candidates, chunks: Iterable[tuple[Pairs, Edges]], ignore: np.ndarray
) -> Matches:
    no_outcome = np.zeros((0, len(AREA_RANGES), len(IOU_THRESHOLDS)), np.uint8)
    parts = [Matches(detection=np.zeros(0, np.int64), outcome=no_outcome)]
    for pairs, edges in chunks:
        first, last = pairs.annotation_start[0], pairs.annotation_start[-1] + pairs.annotation_count[-1]
        edges = replace(edges, annotation=edges.annotation - first)  # of this run
        parts.append(match(edges, found.keys, ignore[first:last], truth.crowd[first:last], IOU_THRESHOLDS))
    return Matches.concatenate(parts)


def _accumulate(truth: GroundTruth, judged: Judged) -> Curves:
    num_categories = len(truth.category_ids)
    curves = Curves.empty(num_categories)
    order, hits, hit_place = judged.by_score()
    bounds = np.searchsorted(judged.candidates.categories[order], np.arange(num_categories + 1))
    hit_bounds = np.searchsorted(hit_place, bounds)
    for a in range(len(AREA_RANGES)):
        counts_unmatched = judged.counts_unmatched(truth, a)[order]  # [D]
        total = np.concatenate([[0], np.cumsum(counts_unmatched)])  # before each detection, and in all
        outcome = judged.matches.outcome[hits, a]  # [K,T]
        wanted = np.bincount(truth.categories[~judged.ignore[:, a]], minlength=num_categories)
        # False positives up to each hit: unmatched detections that count, less the hits among them.
        spared = (outcome != UNMATCHED) & counts_unmatched[hit_place, None]
        spared = np.concatenate([np.zeros((1, spared.shape[1]), np.int64), np.cumsum(spared, axis=0)])
        false = total[hit_place + 1, None] - spared[1:]  # [K,T], counted from the first category on
        for c in np.flatnonzero(wanted):
            rows = slice(hit_bounds[c], hit_bounds[c + 1])
            before = total[bounds[c]] - spared[rows.start]
            curves.set(a, int(c), outcome[rows] == MATCHED, false[rows] - before, int(wanted[c]))
    return curves


ApType = Literal["standard", "fixed"]


def counted(
    detections: Detections, truth: GroundTruth, ap: ApType, cap: int = MAX_DETECTIONS
) -> tuple[Detections, int | None]:
    """The detections that count, and how many of them for an image and category; arguments of `evaluate`."""
    if ap == "fixed":
        return detections.best_of_categories(), None
    return detections.capped(cap), None if truth.federated else COCO_PER_PAIR


def evaluate(
    detections: Detections,
    annotations: Path | str | Mapping[str, Any] | GroundTruth,
    *,
    iou_types: Sequence[IouType] = ("bbox", "segm"),
    subsets: Mapping[str, Sequence[int]] | None = None,
    image_ids: Iterable[int | str] | None = None,
    ap: ApType = "standard",
    cap: int = MAX_DETECTIONS,
    fast: bool = True,
    processes: int = 1,
) -> dict[IouType, AveragePrecision]:
    """AP by the rules of LVIS where images name the categories searched for, else by those of COCO.

    Args:
        annotations: file or content, which is read only, or what `ground_truth` made of them.
        iou_types: overlap of boxes, of masks, or both.
        subsets: names and category ids of further means, for example {"novel": [...]}.
        image_ids: judge only these images; None: all of the annotation file, with detections or
            not. A `GroundTruth` has its images already.
        ap: "standard" counts the best detections of each image; "fixed" the 10,000 best of each category over
            the dataset, however many of an image (Dave et al. 2021), which does not make categories compete.
        cap: standard AP: how many of an image count, over all classes, before any filter.
        fast: our own evaluator; False: the lvis package or pycocotools (slow; the same numbers).
        processes: our own evaluator: at most so many compare masks, this one among them, where there are
            many. The numbers are the same, bit for bit; each further process takes about 0.1 GB.

    Raises MissingFileError and InputError: annotations that cannot be used, detections of other images, or no
    masks for "segm".
    """
    truth = ground_truth(annotations, image_ids)
    image_index(truth, detections)  # refuses detections of other images before any work
    best, per_pair = counted(detections, truth, ap, cap)

    def curves(kind: IouType) -> Curves:
        if fast:
            return _accumulate(truth, judged[kind]())
        if truth.federated:
            return lvis_curves(truth, best, kind)
        return coco_curves(truth, best, kind, per_pair)

    categories, frequency = truth.category_ids, truth.frequency
    with ExitStack() as stack:
        # Masks are at work in other processes while boxes are here.
        judged = {
            kind: stack.enter_context(judging(truth, best, kind, per_pair, processes))
            for kind in (iou_types if fast else ())
        }
        return {kind: summarize(curves(kind), categories, frequency, subsets or {}) for kind in iou_types}
