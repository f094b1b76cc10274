"""Readers of proposal files: boxes and scores per image in whatever form detectors write them.

Formats (xyxy pixels of the original image unless said otherwise):
    .json  GLIP dictionary {image id: {"scores", "labels", "boxes"}}, or a COCO results list (xywh)
    .pkl   Detectron2 box_proposals.pkl, read without executing it (`safe_pickle`)
    .npz   arrays image_ids [M], offsets [M+1], boxes [T,4], scores [T], as `Proposals.save` writes them
"""

import zipfile
from collections.abc import Callable, Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from regionspot_cache.errors import InputError, MissingFileError
from regionspot_cache.json_stream import json_entries
from regionspot_cache.safe_pickle import load_arrays

# (image id, boxes f64 [n,4] xyxy, scores f64 [n]); an image may come in several pieces.
Piece = tuple[int | str, np.ndarray, np.ndarray]

_XYXY_ABS, _XYWH_ABS = 0, 1  # detectron2.structures.BoxMode


def read_pieces(path: Path) -> tuple[str, Iterator[Piece]]:
    """Opens a proposal file.

    Returns:
        name of the format, for printing, and the pieces in file order.

    Raises:
        MissingFileError, InputError: no such file, an unknown format, or broken content.
    """
    if not path.is_file():
        raise MissingFileError(f"{path} does not exist", "a proposal file", "check the path")
    readers: dict[str, Callable[[Path], tuple[str, Iterator[Piece]]]] = {
        ".json": _read_json,
        ".pkl": _read_detectron2,
        ".npz": _read_npz,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise _unknown(path, f"the ending {path.suffix!r}")
    return reader(path)


def _unknown(path: Path, found: str) -> InputError:
    return InputError(
        f"{path}: {found} is no known form of proposals",
        "a GLIP dictionary or COCO results list (.json), Detectron2 proposals (.pkl), or .npz",
        "convert the file to a COCO results list: [{image_id, bbox: [x, y, w, h], score}, ...]",
    )


def as_boxes(values: Any, what: str) -> np.ndarray:
    """float64 [n,4] from nested lists or an array."""
    return _as_array(values, what, (-1, 4))


def _as_array(values: Any, what: str, shape: tuple[int, ...]) -> np.ndarray:
    try:
        array = np.asarray(values, dtype=np.float64)
        if array.ndim > len(shape) or (array.size and array.shape[1:] != shape[1:]):
            raise ValueError(f"shape {array.shape}")
        return array.reshape(shape)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{what}: cannot be used ({error})",
            "boxes [n, 4] and scores [n] of numbers",
            "write the file again",
        ) from None


def _piece(image_id: int | str, boxes: Any, scores: Any) -> Piece:
    what = f"proposals of image {image_id}"
    box_array, score_array = as_boxes(boxes, what), _as_array(scores, what, (-1,))
    if len(box_array) != len(score_array):
        raise InputError(
            f"{what}: {len(box_array)} boxes but {len(score_array)} scores",
            "one score per box",
            "write the file again",
        )
    return image_id, box_array, score_array


def _read_json(path: Path) -> tuple[str, Iterator[Piece]]:
    for key, _ in json_entries(path):
        return ("COCO results", _coco_results(path)) if key is None else ("GLIP dictionary", _glip(path))
    return "empty JSON", iter(())


def _glip(path: Path) -> Iterator[Piece]:
    for image_id, entry in json_entries(path):
        if not isinstance(entry, dict) or "boxes" not in entry or "scores" not in entry:
            raise _unknown(path, f"the entry of {image_id!r} without boxes and scores")
        yield _piece(str(image_id), entry["boxes"], entry["scores"])


def _coco_results(path: Path) -> Iterator[Piece]:
    # Detectors write an image in one run; arrays per run, not per box, keep this fast.
    for image_id, group in groupby(_coco_entries(path), key=itemgetter("image_id")):
        entries = list(group)
        boxes = as_boxes([entry["bbox"] for entry in entries], f"proposals of image {image_id}")
        boxes[:, 2:] += boxes[:, :2]
        yield _piece(image_id, boxes, [entry["score"] for entry in entries])


def _coco_entries(path: Path) -> Iterator[dict]:
    for _, entry in json_entries(path):
        if not isinstance(entry, dict) or not {"image_id", "bbox", "score"} <= entry.keys():
            raise _unknown(path, "an entry without image_id, bbox and score")
        yield entry


def _read_detectron2(path: Path) -> tuple[str, Iterator[Piece]]:
    content = load_arrays(path)
    if not isinstance(content, dict):
        raise _unknown(path, f"a pickled {type(content).__name__}")
    ids = content.get("ids", content.get("indexes"))
    logits = content.get("objectness_logits")
    scores = content.get("scores") if logits is None else logits
    boxes, mode = content.get("boxes"), content.get("bbox_mode", _XYXY_ABS)
    if ids is None or boxes is None or scores is None or not len(ids) == len(boxes) == len(scores):
        raise _unknown(path, "a dictionary without ids, boxes and objectness_logits of one length")
    if mode not in (_XYXY_ABS, _XYWH_ABS):
        raise _unknown(path, f"bbox_mode {mode!r}")
    name = "Detectron2 proposals" if logits is None else "Detectron2 proposals, sigmoid of the logits"
    return name, _detectron2_pieces(ids, boxes, scores, xywh=mode == _XYWH_ABS, logits=logits is not None)


def _detectron2_pieces(ids: Any, boxes: Any, scores: Any, *, xywh: bool, logits: bool) -> Iterator[Piece]:
    for image_id, image_boxes, image_scores in zip(ids, boxes, scores, strict=True):
        plain_id = image_id.item() if isinstance(image_id, np.generic) else image_id
        piece = _piece(plain_id, image_boxes, image_scores)
        box_array = piece[1].copy()
        if xywh:
            box_array[:, 2:] += box_array[:, :2]
        yield plain_id, box_array, _sigmoid(piece[2]) if logits else piece[2]


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    # tanh does not overflow, exp(-x) does; NaN stays NaN and is dropped with its reason later.
    return 0.5 * (1.0 + np.tanh(0.5 * logits))


def _read_npz(path: Path) -> tuple[str, Iterator[Piece]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            ids, offsets = file["image_ids"], file["offsets"]
            boxes, scores = file["boxes"], file["scores"]
    except (KeyError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise _unknown(path, f"content ({error})") from None
    if offsets.shape != (len(ids) + 1,) or offsets[-1] != len(boxes) or np.any(np.diff(offsets) < 0):
        raise _unknown(path, "a list of offsets that does not fit its boxes")
    return "npz", (
        _piece(image_id, boxes[start:end], scores[start:end])
        for image_id, start, end in zip(ids.tolist(), offsets[:-1], offsets[1:], strict=True)
    )
