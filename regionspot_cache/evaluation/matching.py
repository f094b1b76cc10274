"""Which detections overlap which annotations, and the greedy matching of COCO and LVIS.

All images, categories, thresholds and sizes are matched at once: within a pair (image, category) detections
choose in the order of their scores, so round r lets the r-th detection of every pair choose.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np

from regionspot_cache.datasets.tables import Table, ranks
from regionspot_cache.evaluation.detections import MaskTable
from regionspot_cache.evaluation.ground_truth import GroundTruth
from regionspot_cache.evaluation.rle import annotation_rle, mask_iou

MIN_IOU = 0.5  # the lowest threshold: pairs below can never match
AT_ONCE = 1 << 15  # combinations: a quarter of a second of comparing masks


@dataclass(frozen=True, kw_only=True)
class Edges(Table):
    """Overlaps of at least MIN_IOU, ordered by detection, then annotation."""

    detection: np.ndarray  # i64 [E]
    annotation: np.ndarray  # i64 [E]
    iou: np.ndarray  # f64 [E]

    @classmethod
    def none(cls) -> Self:
        return cls(detection=np.zeros(0, np.int64), annotation=np.zeros(0, np.int64), iou=np.zeros(0))


@dataclass(frozen=True, kw_only=True)
class Pairs(Table):
    """(image, category) pairs with both detections and annotations, as runs of two sorted lists."""

    detection_start: np.ndarray  # i64 [P]
    detection_count: np.ndarray
    annotation_start: np.ndarray
    annotation_count: np.ndarray

    def __len__(self) -> int:
        return len(self.detection_start)

    def chunks(self, size: int = AT_ONCE) -> Iterator["Pairs"]:
        """Runs of pairs of about `size` combinations each."""
        ends = np.cumsum(self.detection_count * self.annotation_count)
        at = 0
        while at < len(self):
            done = ends[at - 1] if at else 0
            end = max(at + 1, int(np.searchsorted(ends, done + size, side="right")))
            yield self.take(slice(at, end))
            at = end


def shared_pairs(detection_keys: np.ndarray, annotation_keys: np.ndarray) -> Pairs:
    """From the sorted pair keys (i64) of detections and annotations."""
    d_key, d_start, d_count = np.unique(detection_keys, return_index=True, return_counts=True)
    a_key, a_start, a_count = np.unique(annotation_keys, return_index=True, return_counts=True)
    _, d, a = np.intersect1d(d_key, a_key, assume_unique=True, return_indices=True)
    return Pairs(
        detection_start=d_start[d],
        detection_count=d_count[d],
        annotation_start=a_start[a],
        annotation_count=a_count[a],
    )


def box_edges(pairs: Pairs, boxes: np.ndarray, truth: GroundTruth) -> Edges:
    """By the IoU of detected boxes [D,4] xyxy; a crowd is met by the share of the detection inside it."""
    d, a = _combinations(pairs)
    found = boxes[d].astype(np.float64)
    found[:, 2:] -= found[:, :2]
    return _edges(d, a, _box_iou(found, truth.boxes[a], truth.crowd[a]))


def _combinations(pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """Every (detection, annotation) of each pair, i64 [E] each."""
    counts = pairs.detection_count * pairs.annotation_count
    pair = np.repeat(np.arange(len(pairs)), counts)
    within = np.arange(len(pair)) - np.repeat(np.cumsum(counts) - counts, counts)
    d, a = np.divmod(within, pairs.annotation_count[pair])
    return pairs.detection_start[pair] + d, pairs.annotation_start[pair] + a


def _box_iou(d: np.ndarray, a: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    # The order of operations is that of pycocotools' bbIou, so that the last bit agrees too.
    w = np.minimum(d[:, 2] + d[:, 0], a[:, 2] + a[:, 0]) - np.maximum(d[:, 0], a[:, 0])
    h = np.minimum(d[:, 3] + d[:, 1], a[:, 3] + a[:, 1]) - np.maximum(d[:, 1], a[:, 1])
    both = np.maximum(w, 0) * np.maximum(h, 0)
    d_area, a_area = d[:, 2] * d[:, 3], a[:, 2] * a[:, 3]
    union = np.where(crowd, d_area, d_area + a_area - both)
    return np.divide(both, union, out=np.zeros_like(both), where=both > 0)


@dataclass(frozen=True, kw_only=True)
class MaskPairs:
    """What comparing the masks of some pairs takes, so little that it can go to another process."""

    masks: MaskTable  # of the detections, pair by pair
    annotations: list[tuple[Any, int, int]]  # segmentations with height and width, pair by pair
    crowd: np.ndarray  # bool, of the annotations
    counts: np.ndarray  # i64 [P,2], of detections and annotations

    @classmethod
    def of(cls, pairs: Pairs, masks: MaskTable, mask_rows: np.ndarray, truth: GroundTruth) -> Self:
        """`mask_rows` i32 [D] are those of the detections."""
        found = _rows(pairs.detection_start, pairs.detection_count)
        wanted = _rows(pairs.annotation_start, pairs.annotation_count)
        return cls(
            masks=masks.take(mask_rows[found]),
            annotations=[truth.mask(row) for row in wanted.tolist()],
            crowd=truth.crowd[wanted],
            counts=np.stack([pairs.detection_count, pairs.annotation_count], axis=1),
        )

    def overlaps(self) -> np.ndarray:
        """IoU f64 [E] of every combination; InputError for annotations without a usable mask."""
        found = self.masks.rles(np.arange(len(self.masks)))
        wanted = [annotation_rle(*annotation) for annotation in self.annotations]
        parts = [np.zeros(0)]
        d = a = 0
        for dn, an in self.counts.tolist():
            iou = mask_iou(found[d : d + dn], wanted[a : a + an], self.crowd[a : a + an])  # [dn,an]
            parts.append(iou.reshape(-1))
            d, a = d + dn, a + an
        return np.concatenate(parts)


def _rows(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Those of all runs, i64."""
    return np.repeat(starts - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())


def mask_edges(pairs: Pairs, iou: np.ndarray) -> Edges:
    """By the `overlaps` of masks."""
    return _edges(*_combinations(pairs), iou)


def _edges(d: np.ndarray, a: np.ndarray, iou: np.ndarray) -> Edges:
    kept = np.flatnonzero(iou >= MIN_IOU)
    return Edges(detection=d[kept], annotation=a[kept], iou=iou[kept])


# Axes: E edges, n detections of a round, A area ranges, T IoU thresholds.
UNMATCHED, MATCHED, IGNORED = 0, 1, 2


@dataclass(frozen=True, kw_only=True)
class Matches(Table):
    """Outcome of the detections that overlap an annotation at all; every other detection is UNMATCHED."""

    detection: np.ndarray  # i64 [K]
    outcome: np.ndarray  # u8 [K,A,T]


def match(
    edges: Edges, pair_of: np.ndarray, ignore: np.ndarray, crowd: np.ndarray, thresholds: np.ndarray
) -> Matches:
    """Matches detections to annotations.

    A detection takes the free annotation with the highest IoU, of equal ones the last; annotations to be
    ignored only if no other reaches the threshold.

    Args:
        edges: ordered by detection (pair, then falling score) and annotation.
        pair_of: i64 [D], the pair key of each detection.
        ignore: bool [G,A].
        crowd: bool [G], annotations that stay free when taken.
        thresholds: f64 [T].
    """
    detection, of_edge = np.unique(edges.detection, return_inverse=True)
    turns = ranks(pair_of[detection])  # [K]
    by_iou = np.lexsort((edges.iou, of_edge))  # stable: equal overlaps stay in the order of annotations
    rank = np.empty(len(by_iou), np.int32)
    rank[by_iou] = ranks(of_edge[by_iou]) + 1
    limits = np.minimum(thresholds, 1 - 1e-10)
    taken = np.zeros((*ignore.shape, len(limits)), bool)  # [G,A,T]
    outcome = np.zeros((len(detection), ignore.shape[1], len(limits)), np.uint8)
    edge_order = np.argsort(turns[of_edge], kind="stable")
    edge_ends = np.searchsorted(turns[of_edge][edge_order], np.arange(turns.max(initial=-1) + 2))
    for start, end in pairwise(edge_ends):
        # All choosers of a turn are of different pairs, so no annotation occurs twice.
        turn = edge_order[start:end]
        annotation, chooser = edges.annotation[turn], of_edge[turn]
        free = ~taken[annotation] & (edges.iou[turn, None] >= limits)[:, None, :]  # [E,A,T]
        # Ranks are 1.. within a detection; annotations that count come before all that are ignored.
        counts = (~ignore[annotation]).astype(np.int32)  # [E,A]
        first_ignored = rank[turn].max() + 1
        preference = free * (rank[turn, None] + counts * first_ignored)[:, :, None]  # [E,A,T]
        starts = np.flatnonzero(np.diff(chooser, prepend=-1))
        best = np.maximum.reduceat(preference, starts, axis=0)  # [n,A,T]
        lengths = np.diff(starts, append=len(chooser))
        chosen = free & (preference == np.repeat(best, lengths, axis=0))
        taken[annotation] |= chosen & ~crowd[annotation, None, None]
        matched = np.where(best > first_ignored, MATCHED, IGNORED)
        outcome[chooser[starts]] = np.where(best == 0, UNMATCHED, matched)
    return Matches(detection=detection, outcome=outcome)
