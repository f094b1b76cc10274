"""Readers of proposal files: boxes and scores per image in whatever form detectors write them.

Formats (xyxy pixels of the original image unless said otherwise):
    .json  GLIP dictionary {image id: {"scores", "labels", "boxes"}}, or a COCO results list (xywh)
    .pkl   Detectron2 box_proposals.pkl, read without executing it (`safe_pickle`)
    .npz   arrays image_ids [M], offsets [M+1], boxes [T,4], scores [T], as `Proposals.save` writes them
"""

from collections.abc import Iterator
from itertools import chain, groupby
from pathlib import Path
from reprlib import repr as brief
from typing import Any, NamedTuple

import numpy as np

from regionspot_cache.datasets.values import check_image_id, integers, numbers
from regionspot_cache.errors import InputError, MissingFileError
from regionspot_cache.json_stream import JsonFile
from regionspot_cache.models.safe_pickle import load_arrays

# (image id, boxes f64 [n,4] xyxy, scores f64 [n]); an image may come in several pieces.
Piece = tuple[int | str, np.ndarray, np.ndarray]
Entries = Iterator[tuple[Any, Any]]  # of `JsonFile.entries`

_XYXY_ABS, _XYWH_ABS = 0, 1  # detectron2.structures.BoxMode


class ProposalFile(NamedTuple):
    """What a file holds."""

    form: str  # name of the format, for printing
    pieces: Iterator[Piece]  # in file order
    logits: bool = False  # whether the scores are logits by the format


def read_pieces(path: Path) -> ProposalFile:
    """Opens a proposal file; pieces are checked as they come. Raises MissingFileError and InputError."""
    if not path.is_file():
        raise MissingFileError(f"{path} does not exist", "a proposal file", "check the path")
    reader = {".json": _read_json, ".pkl": _read_detectron2, ".npz": _read_npz}.get(path.suffix.lower())
    if reader is None:
        raise _unknown(path, f"the ending {path.suffix!r}")
    return reader(path)


def _unknown(path: Path, found: str) -> InputError:
    return InputError(
        f"{path}: {found} is no known form of proposals",
        "a GLIP dictionary or COCO results list (.json), Detectron2 proposals (.pkl), or .npz",
        "convert the file to a COCO results list: [{image_id, bbox: [x, y, w, h], score}, ...]",
    )


def _piece(path: Path, image_id: Any, boxes: Any, scores: Any, *, xywh: bool = False) -> Piece:
    """The checked piece; `xywh` boxes become xyxy."""
    try:
        check_image_id(image_id)
        box_array, score_array = numbers(boxes, 4), numbers(scores)
        if len(box_array) != len(score_array):
            raise ValueError(f"{len(box_array)} boxes but {len(score_array)} scores")
    except ValueError as error:
        raise InputError(
            f"{path}: proposals of image {brief(image_id)} cannot be used ({error})",
            "an image id, boxes [n, 4] and scores [n] of numbers",
            "write the file again",
        ) from None
    if xywh:
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is dropped as such
            box_array = np.concatenate([box_array[:, :2], box_array[:, :2] + box_array[:, 2:]], axis=1)
    return image_id, box_array, score_array


def _read_json(path: Path) -> ProposalFile:
    file = JsonFile(path)
    entries = file.entries()
    first = next(entries, None)
    if first is None:
        return ProposalFile("empty JSON", iter(()))
    read, form = (_coco_results, "COCO results") if file.opening == "[" else (_glip, "GLIP dictionary")
    return ProposalFile(form, read(path, chain([first], entries)))


def _glip(path: Path, entries: Entries) -> Iterator[Piece]:
    for image_id, entry in entries:
        if not isinstance(entry, dict) or "boxes" not in entry or "scores" not in entry:
            raise _unknown(path, f"the entry of {image_id!r} without boxes and scores")
        yield _piece(path, image_id, entry["boxes"], entry["scores"])


def _coco_results(path: Path, entries: Entries) -> Iterator[Piece]:
    def kind_and_id(numbered: tuple[Any, Any]) -> tuple[type, Any]:
        entry = numbered[1]
        if not isinstance(entry, dict) or not {"image_id", "bbox", "score"} <= entry.keys():
            raise _unknown(path, "an entry without image_id, bbox and score")
        return type(entry["image_id"]), entry["image_id"]  # 1 == True

    # Detectors write an image in one run; arrays per run, not per box, keep this fast.
    for (_, image_id), group in groupby(entries, key=kind_and_id):
        run = [entry for _, entry in group]
        boxes, scores = [entry["bbox"] for entry in run], [entry["score"] for entry in run]
        yield _piece(path, image_id, boxes, scores, xywh=True)


def _read_detectron2(path: Path) -> ProposalFile:
    content = load_arrays(path)
    if not isinstance(content, dict):
        raise _unknown(path, f"a pickled {type(content).__name__}")
    ids = content.get("ids", content.get("indexes"))
    logits = content.get("objectness_logits")
    scores = content.get("scores") if logits is None else logits
    boxes, mode = content.get("boxes"), content.get("bbox_mode", _XYXY_ABS)
    columns = [_rows(column) for column in (ids, boxes, scores)]
    if len({len(column) if column is not None else -1 for column in columns}) != 1 or columns[0] is None:
        raise _unknown(path, "a dictionary without ids, boxes and objectness_logits of one length")
    if type(mode) is not int or mode not in (_XYXY_ABS, _XYWH_ABS):
        raise _unknown(path, f"bbox_mode {brief(mode)}")
    name = "Detectron2 proposals" if logits is None else "Detectron2 proposals, sigmoid of the logits"
    pieces = (_piece(path, *row, xywh=mode == _XYWH_ABS) for row in zip(*columns, strict=True))
    return ProposalFile(name, pieces, logits=logits is not None)


def _rows(column: Any) -> list[Any] | None:
    """The values of a list or an array, one an image; ids of an array as plain numbers."""
    if isinstance(column, np.ndarray) and column.ndim:
        return column.tolist() if column.ndim == 1 else list(column)
    return list(column) if isinstance(column, list | tuple) else None


def _read_npz(path: Path) -> ProposalFile:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            ids, offsets = arrays["image_ids"].tolist(), integers(arrays["offsets"])
            boxes, scores = numbers(arrays["boxes"], 4), numbers(arrays["scores"])
    except Exception as error:  # a broken archive can raise nearly anything
        raise _unknown(path, f"content ({type(error).__name__}: {error})") from None
    fits = isinstance(ids, list) and len(offsets) == len(ids) + 1 and len(boxes) == len(scores)
    if not fits or offsets[0] != 0 or offsets[-1] != len(boxes) or np.any(np.diff(offsets) < 0):
        raise _unknown(path, "a list of offsets that does not fit its boxes")
    pieces = (
        _piece(path, image_id, boxes[start:end], scores[start:end])
        for image_id, start, end in zip(ids, offsets[:-1], offsets[1:], strict=True)
    )
    return ProposalFile("npz", pieces)
