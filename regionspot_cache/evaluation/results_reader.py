"""Detections of any system from a file, entry by entry: COCO results lists and GLIP dictionaries.

COCO: [{"image_id", "category_id", "score", "bbox" [x, y, w, h] and/or "segmentation"}, ...], masks as run
lengths or polygons. GLIP: {image id: {"scores", "labels", "boxes" [x0, y0, x1, y1]}}, labels = category ids.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from regionspot_cache.datasets.values import ENTRY_ERRORS
from regionspot_cache.errors import InputError
from regionspot_cache.evaluation.detections import Detections
from regionspot_cache.evaluation.ground_truth import GroundTruth
from regionspot_cache.evaluation.result_columns import ResultColumns, ResultEntry
from regionspot_cache.json_stream import JsonFile

NOT_EVALUATED = "of images that are not evaluated"


@dataclass(frozen=True, kw_only=True)
class ResultsFile:
    """What a file holds."""

    detections: Detections  # in the order of the file within an image; this decides between equal scores
    form: str  # name of the format, for printing
    sha256: str  # hex digest of the file
    dropped: Counter[str]  # how many detections were left out, by reason


def read_results(
    path: Path,
    truth: GroundTruth | None = None,
    others: frozenset[str] | None = None,
    processes: int = 1,
) -> ResultsFile:
    """Reads a file in one pass; entries of an image need not stand together.

    Without a ground truth all images are taken in the order of their first entry, any category is right, and
    polygons are no masks, for the sizes of images are not known. An entry without bbox gets the bounding box
    of its mask. Polygons that all repeat their boxes, as pycocotools adds them, are no masks either.

    Args:
        path: of the file.
        truth: says which images are wanted, how large they are, and which categories there are. Masks of what
            federated annotations do not judge are checked but not kept (their run lengths are empty).
        others: further images that the file may name, as text; detections of them are left out and counted.
            None: any.
        processes: at most so many check the masks, this one among them, where there are many.

    Raises:
        MissingFileError: no such file.
        InputError: an entry that is no detection, numbers that are not finite, images or categories that the
            annotation file lacks, masks for some boxes only or of another size than the image.
    """
    columns = ResultColumns(path, truth)
    file = JsonFile(path)
    number = 0
    for key, entries in file.pieces(ResultEntry):
        if key is None:
            _add_entries(columns, path, number, entries)
            number += len(entries)
        else:
            _add_image(columns, path, key, entries[0])
    _check_images(path, columns, others)
    detections = columns.detections(processes)
    if truth:
        _check_categories(path, detections, truth.category_ids)
    return ResultsFile(
        detections=detections,
        form="COCO results" if file.opening == "[" else "GLIP dictionary",
        sha256=file.sha256,
        dropped=+Counter({NOT_EVALUATED: columns.outside.total()}),
    )


def _add_entries(columns: ResultColumns, path: Path, first: int, entries: list[Any]) -> None:
    """Adds entries of a list; the error names the unusable one, counted from `first`."""
    try:
        columns.add(entries)
    except ENTRY_ERRORS as error:
        if len(entries) > 1:
            for number, entry in enumerate(entries, first):
                _add_entries(columns, path, number, [entry])
        raise InputError(
            f"{path}: entry {first} is no detection ({_detail(error)})",
            "image_id, category_id, score and bbox [x, y, w, h] or segmentation",
            "write the file as a COCO results list",
        ) from None


def _add_image(columns: ResultColumns, path: Path, key: str, entry: Any) -> None:
    try:
        columns.add_image(key, entry)
    except ENTRY_ERRORS as error:
        raise InputError(
            f"{path}: the entry of image {key!r} is none ({_detail(error)})",
            "a GLIP dictionary: scores, labels and boxes [x0, y0, x1, y1] of one length for each image",
            "write the file as a GLIP dictionary or a COCO results list",
        ) from None


def _detail(error: Exception) -> str:
    return error.found if isinstance(error, InputError) else f"{type(error).__name__}: {error}"


def _check_images(path: Path, columns: ResultColumns, others: frozenset[str] | None) -> None:
    """Refuses files of other images; those of the annotation file that are not evaluated are no error."""
    unknown = [] if others is None else [i for i in columns.outside if str(i) not in others]
    if unknown:
        count = sum(columns.outside[image_id] for image_id in unknown)
        found = f"{path}: {count} detections of {len(unknown)} images that the annotation file lacks, "
        raise InputError(
            f"{found}for example {unknown[0]!r}",
            "image ids of the annotation file",
            "give the annotation file that the detections belong to with --dataset",
        )
    if columns.outside and not len(columns.scores):
        raise InputError(
            f"{path}: none of its {len(columns.outside)} images is evaluated",
            "detections of the evaluated images",
            "give the file of this dataset and split",
        )


def _check_categories(path: Path, detections: Detections, category_ids: np.ndarray) -> None:
    values, counts = np.unique(detections.category_ids, return_counts=True)
    known = np.isin(values, category_ids)
    if known.all():
        return
    span = f", {category_ids[0]} to {category_ids[-1]}" if len(category_ids) else ""
    some = ", ".join(map(str, values[~known][:5].tolist()))
    hint = " (labels that count from 0 are no ids)" if 0 in values[~known] else ""
    raise InputError(
        f"{path}: {counts[~known].sum()} of {counts.sum()} detections have a label that is no category id: "
        f"{np.count_nonzero(~known)} labels, such as {some}{hint}",
        f"one of the {len(category_ids)} category ids of the annotation file{span}",
        "write the category ids of the annotation file into the results",
    )
