"""How many annotated objects a set of class-agnostic proposals covers."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from regionspot_cache.datasets.tables import Table
from regionspot_cache.evaluation.ground_truth import GroundTruth, ground_truth
from regionspot_cache.evaluation.metrics import AREA_RANGES, IOU_THRESHOLDS, NOT_MEASURED
from regionspot_cache.evaluation.overlap import MIN_IOU

LIMITS = (100, 300, 1000)  # proposals per image
RECALL_RULE = "objects of images without proposals count as missed"  # Detectron2 leaves those images out
_SIZES = ("", "s", "m", "l")


class BoxSource(Protocol):
    """Boxes f32 [n,4] xyxy and scores of an image, best first (proposals.Proposals)."""

    def __getitem__(self, image_id: int | str) -> tuple[np.ndarray, np.ndarray | None]: ...


@dataclass(frozen=True, kw_only=True)
class _Edges(Table):
    """Overlaps of at least MIN_IOU between proposals and annotations of one image."""

    annotation: np.ndarray  # i64 [E]
    proposal: np.ndarray  # i64 [E], unique over all images
    rank: np.ndarray  # i64 [E], place of the proposal in its image
    iou: np.ndarray  # f64 [E]


def proposal_recall(
    proposals: BoxSource,
    annotations: Path | str | Mapping[str, Any] | GroundTruth,
    limits: tuple[int, ...] = LIMITS,
) -> dict[str, float]:
    """Class-agnostic recall with one proposal per object.

    The pair with the highest IoU is matched first, as in Detectron2; unlike there, objects of images without
    proposals count as missed (`RECALL_RULE`). Crowds are no objects.

    Returns:
        "AR@100" (mean over IoU 0.50:0.05:0.95), "ARs@100", "ARm@100", "ARl@100" (by annotated area) and
        "R50@100" (at IoU 0.5) for each limit, as fractions; -1 where there is no object of this size.
    """
    truth = ground_truth(annotations)
    edges = _edges(proposals, truth)
    metrics = {}
    for limit in limits:
        near = edges.rank < limit
        for size, (low, high) in zip(_SIZES, AREA_RANGES, strict=True):
            wanted = ~truth.ignore & (truth.areas >= low) & (truth.areas <= high)  # [G]
            chosen = np.flatnonzero(near & wanted[edges.annotation])
            ious = _greedy(edges.annotation[chosen], edges.proposal[chosen], edges.iou[chosen])
            recalls = _recalls(ious, int(np.count_nonzero(wanted)))
            metrics[f"AR{size}@{limit}"] = float(recalls.mean())
            if not size:
                metrics[f"R50@{limit}"] = float(recalls[0])
    return metrics


def _recalls(ious: np.ndarray, wanted: int) -> np.ndarray:
    """Share of the annotations matched at each threshold, f64 [T]."""
    if not wanted:
        return np.full(len(IOU_THRESHOLDS), NOT_MEASURED)
    return (ious[:, None] >= IOU_THRESHOLDS).sum(axis=0) / wanted


def _edges(proposals: BoxSource, truth: GroundTruth) -> _Edges:
    bounds = np.searchsorted(truth.images, np.arange(len(truth.image_ids) + 1))
    no_rows = np.zeros(0, np.int64)
    parts = [_Edges(annotation=no_rows, proposal=no_rows, rank=no_rows, iou=np.zeros(0))]
    first = 0  # number of the image's first proposal
    for i, image_id in enumerate(truth.image_ids):
        rows = np.arange(bounds[i], bounds[i + 1])
        boxes = proposals[image_id][0]
        if len(rows) and len(boxes):
            iou = _iou(boxes.astype(np.float64), truth.boxes[rows])  # [n,G]
            p, g = np.nonzero(iou >= MIN_IOU)
            parts.append(_Edges(annotation=rows[g], proposal=p + first, rank=p, iou=iou[p, g]))
        first += len(boxes)
    return _Edges.concatenate(parts)


def _iou(xyxy: np.ndarray, xywh: np.ndarray) -> np.ndarray:
    """IoU [n,G] of boxes [n,4] xyxy and [G,4] xywh."""
    low, high = xywh[:, :2], xywh[:, :2] + xywh[:, 2:]
    sides = np.minimum(xyxy[:, None, 2:], high) - np.maximum(xyxy[:, None, :2], low)  # [n,G,2]
    both = sides.clip(min=0).prod(axis=2)
    union = (xyxy[:, 2:] - xyxy[:, :2]).prod(axis=1)[:, None] + xywh[:, 2:].prod(axis=1) - both
    return np.divide(both, union, out=np.zeros_like(both), where=both > 0)


def _greedy(annotation: np.ndarray, proposal: np.ndarray, iou: np.ndarray) -> np.ndarray:
    """IoUs of the matching that takes the highest overlap first, over all images at once.

    An edge that is the highest of both its annotation and its proposal is taken in any order of work, so all
    such edges are taken together, and their neighbours go; a few rounds are enough.
    """
    # By falling IoU, of equal ones by annotation and proposal: the place is then a strict order.
    order = np.lexsort((proposal, annotation, -iou))
    _, annotation = np.unique(annotation[order], return_inverse=True)
    _, proposal = np.unique(proposal[order], return_inverse=True)
    iou, taken = iou[order], []
    while len(iou):
        first_of_annotation, first_of_proposal = _firsts(annotation), _firsts(proposal)
        place = np.arange(len(iou))
        best = (first_of_annotation[annotation] == place) & (first_of_proposal[proposal] == place)
        taken.append(iou[best])
        gone_annotation = np.isin(annotation, annotation[best])
        gone_proposal = np.isin(proposal, proposal[best])
        left = ~(gone_annotation | gone_proposal)
        annotation, proposal, iou = annotation[left], proposal[left], iou[left]
    return np.concatenate([np.zeros(0), *taken])


def _firsts(groups: np.ndarray) -> np.ndarray:
    """Place of the first occurrence of each value."""
    firsts = np.zeros(groups.max() + 1, np.int64)
    firsts[groups[::-1]] = np.arange(len(groups))[::-1]  # the last write wins, and that is the first place
    return firsts
