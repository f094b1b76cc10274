"""How many annotated objects a set of class-agnostic proposals covers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from regionspot_cache.datasets.tables import ranks
from regionspot_cache.evaluation.ground_truth import GroundTruth, ground_truth
from regionspot_cache.evaluation.matching import Edges, box_edges, shared_pairs
from regionspot_cache.evaluation.metrics import AREA_RANGES, IOU_THRESHOLDS, NOT_MEASURED

LIMITS = (100, 300, 1000)  # proposals per image
RECALL_RULE = "objects of images without proposals count as missed"  # Detectron2 leaves those images out
_SIZES = ("", "s", "m", "l")


class BoxSource(Protocol):
    """Boxes f32 [n,4] xyxy and scores of an image, best first (proposals.Proposals)."""

    def __getitem__(self, image_id: int | str) -> tuple[np.ndarray, np.ndarray | None]: ...


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
    boxes = [proposals[image_id][0] for image_id in truth.image_ids]
    image = np.repeat(np.arange(len(boxes)), list(map(len, boxes)))
    found = np.concatenate([np.zeros((0, 4), np.float32), *boxes])
    parts = [box_edges(pairs, found, truth) for pairs in shared_pairs(image, truth.images).chunks()]
    edges = Edges.concatenate([Edges.none(), *parts])
    rank = ranks(image)[edges.detection]
    metrics = {}
    for limit in limits:
        for size, (low, high) in zip(_SIZES, AREA_RANGES, strict=True):
            wanted = ~truth.ignore & (truth.areas >= low) & (truth.areas <= high)  # [G]
            ious = _greedy(edges.take((rank < limit) & wanted[edges.annotation]))
            recalls = np.full(len(IOU_THRESHOLDS), NOT_MEASURED)
            if wanted.any():
                recalls = (ious[:, None] >= IOU_THRESHOLDS).sum(axis=0) / np.count_nonzero(wanted)
            metrics[f"AR{size}@{limit}"] = float(recalls.mean())
            if not size:
                metrics[f"R50@{limit}"] = float(recalls[0])
    return metrics


def _greedy(edges: Edges) -> np.ndarray:
    """IoUs of the matching that takes the highest overlap first, over all images at once.

    An edge that is the highest of both its annotation and its proposal is taken in any order of work, so all
    such edges are taken together, and their neighbours go; a few rounds are enough.
    """
    # By falling IoU, of equal ones by annotation and proposal: the place is then a strict order.
    edges = edges.take(np.lexsort((edges.detection, edges.annotation, -edges.iou)))
    _, annotation = np.unique(edges.annotation, return_inverse=True)
    _, proposal = np.unique(edges.detection, return_inverse=True)
    iou, taken = edges.iou, []
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
