"""The greedy matching of COCO and LVIS for all images, categories, thresholds and sizes at once.

Within a pair (image, category) detections choose in the order of their scores, so round r lets the r-th
detection of every pair choose, all pairs and all settings side by side.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from regionspot_cache.datasets.tables import Table, ranks
from regionspot_cache.evaluation.overlap import Edges

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
    state = _State(ignore=ignore, crowd=crowd, taken=np.zeros((*ignore.shape, len(limits)), bool))
    outcome = np.zeros((len(detection), ignore.shape[1], len(limits)), np.uint8)
    edge_order = np.argsort(turns[of_edge], kind="stable")
    edge_ends = np.searchsorted(turns[of_edge][edge_order], np.arange(turns.max(initial=-1) + 2))
    for start, end in pairwise(edge_ends):
        turn = edge_order[start:end]
        above = edges.iou[turn, None] >= limits  # [E,T]
        chooser = of_edge[turn]
        outcome[np.unique(chooser)] = state.choose(edges.annotation[turn], rank[turn], above, chooser)
    return Matches(detection=detection, outcome=outcome)


@dataclass(frozen=True, kw_only=True)
class _State:
    ignore: np.ndarray  # bool [G,A]
    crowd: np.ndarray  # bool [G]
    taken: np.ndarray  # bool [G,A,T]

    def choose(
        self, annotation: np.ndarray, rank: np.ndarray, above: np.ndarray, chooser: np.ndarray
    ) -> np.ndarray:
        """One turn; all choosers are of different pairs, so no annotation occurs twice. u8 [n,A,T]."""
        free = ~self.taken[annotation] & above[:, None, :]  # [E,A,T]
        # Ranks are 1.. within a detection; annotations that count come before all that are ignored.
        counts = (~self.ignore[annotation]).astype(np.int32)  # [E,A]
        first_ignored = rank.max() + 1
        preference = free * (rank[:, None] + counts * first_ignored)[:, :, None]  # [E,A,T]
        starts = np.flatnonzero(np.diff(chooser, prepend=-1))
        best = np.maximum.reduceat(preference, starts, axis=0)  # [n,A,T]
        lengths = np.diff(starts, append=len(chooser))
        chosen = free & (preference == np.repeat(best, lengths, axis=0))
        self.taken[annotation] |= chosen & ~self.crowd[annotation, None, None]
        return np.where(best == 0, UNMATCHED, np.where(best > first_ignored, MATCHED, IGNORED))
