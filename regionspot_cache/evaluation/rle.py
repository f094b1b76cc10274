"""Compressed COCO run lengths {"size": [h, w], "counts": bytes}. All use of pycocotools.mask is here."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as mask_utils

from regionspot_cache.errors import InputError

Rle = dict[str, Any]

_mask: Any = mask_utils  # published type stubs do not know lists of run lengths
_MASKS_AT_ONCE = 255  # pycocotools 2.0.11 counts the masks of one call of area in 8 bits


def encode_mask(mask: np.ndarray) -> Rle:
    """Run lengths of a bool mask [h,w]."""
    return _mask.encode(np.asfortranarray(mask, dtype=np.uint8))


def annotation_rle(segmentation: Any, height: int, width: int) -> Rle:
    """Run lengths of an annotated mask, given as polygons, plain counts, or run lengths.

    Raises:
        InputError: it is none of these.
    """
    try:
        if isinstance(segmentation, list):
            return _mask.merge(_mask.frPyObjects(segmentation, height, width))
        if isinstance(segmentation["counts"], list):
            return _mask.frPyObjects(segmentation, height, width)
        return segmentation
    except (IndexError, KeyError, TypeError) as error:
        raise InputError(
            f"an annotation without a usable mask ({type(error).__name__})",
            "polygons or run lengths for every annotation",
            "evaluate boxes only",
        ) from None


def mask_areas(rles: Sequence[Rle]) -> np.ndarray:
    """Pixels of each mask, f64 [n]."""
    parts = [_mask.area(list(rles[at : at + _MASKS_AT_ONCE])) for at in range(0, len(rles), _MASKS_AT_ONCE)]
    return np.concatenate([np.zeros(0), *parts])


def mask_iou(detections: list[Rle], annotations: list[Rle], crowd: np.ndarray) -> np.ndarray:
    """IoU f64 [n,G]; a crowd (bool [G]) is met by the share of the detection inside it."""
    return _mask.iou(detections, annotations, crowd.astype(np.uint8).tolist())


def mask_box(rle: Rle) -> list[float]:
    """Bounding box xywh."""
    return _mask.toBbox(rle).tolist()
