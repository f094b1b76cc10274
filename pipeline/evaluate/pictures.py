"""The pictures of an evaluation: a few images as every method names them, and where the head looks."""

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluate.recognise import Recognition
from pipeline.report_figures import figures, pick_images, probabilities, see
from pipeline.verbs.evaluate import EvalSettings
from regionspot_cache.datasets.images import ImageFailure
from regionspot_cache.datasets.regions import box_iou
from regionspot_cache.evaluation.selection import pair_scores
from regionspot_cache.recognition import Recogniser
from regionspot_cache.recognition.proposals import Proposals
from regionspot_cache.reporting.page import ReportSection, Text
from regionspot_cache.reporting.scene import Scene

ATTENTION_OF = 4  # boxes of an image
PROPOSALS = 8  # of an image
SAME_OBJECT = 0.5  # IoU


def pictures(
    recognition: Recognition, methods: Sequence[Recogniser], boxes: Proposals, settings: EvalSettings
) -> list[ReportSection]:
    """A few images, recognised once more; the first method that has attention shows it.

    Args:
        boxes: what the methods recognised.
    """
    dataset = recognition.dataset
    shown: list[ReportSection] = []
    count = 0
    attending_first = sorted(methods, key=lambda method: not hasattr(method, "attention"))
    for i in pick_images(dataset, settings.seed).tolist():
        if count == settings.pictures:
            break
        try:
            scene = _scene(recognition, attending_first, i, boxes)
        except ImageFailure:  # counted in the pass
            continue
        if scene is not None:
            shown += figures(scene, attention_of=ATTENTION_OF)
            count += 1
    body = _explanation(attending_first[0].name, boxes, settings)
    return [Text(title="Pictures", body=body), *shown] if shown else []


def _explanation(first: str, boxes: Proposals, settings: EvalSettings) -> str:
    which = "the annotated boxes"
    if boxes.scores is not None:
        which = (
            f"up to {PROPOSALS} boxes that {first} scores highest, none on top of another; a name has a tick "
            f"or a cross where its box meets an annotated one (IoU of {SAME_OBJECT} or more)"
        )
    files = ""
    if settings.result_files:
        files = " Rows that were read from files name boxes of their own and are in the tables alone."
    return (
        f"Images drawn by seed {settings.seed}, with {which}: what each method says; SAM's masks; then the "
        f"cross-attention of up to {ATTENTION_OF} boxes over the patches of the image in every layer of the "
        f"head: the brighter, the more attention.{files}"
    )


def _scene(
    recognition: Recognition, methods: Sequence[Recogniser], index: int, boxes: Proposals
) -> Scene | None:
    """One image as the methods name it; None without boxes."""
    record = recognition.dataset[index]
    classes = recognition.dataset.class_names
    proposed, objectness = boxes[record.image_id]
    inputs = recognition.inputs(index, proposed, set())
    if not len(inputs.boxes):
        return None
    scores = {  # as in the detections
        method.name: pair_scores(
            probabilities(method, inputs, recognition.text),
            objectness,
            method.score_rule or recognition.score_rule,
        )
        for method in methods
    }
    names = [classes[label] for label in record.labels]
    seen = partial(
        see, f"Image {record.image_id}", inputs, scores, classes, methods[0], masks=recognition.masks
    )
    if objectness is None:
        return seen(truth=names)
    kept = _distinct(inputs.boxes, scores[methods[0].name].max(axis=1))
    met = _met(inputs.boxes[kept], record.boxes, names)
    return seen(kept=kept, truth=met, annotated=(record.boxes, names))


def _distinct(boxes: NDArray[np.float32], scores: NDArray[np.float32]) -> NDArray[np.intp]:
    """The best-scored boxes [n] of which no two show the same object, best first."""
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable").tolist():
        if len(kept) < PROPOSALS and not (box_iou(boxes[[i]], boxes[kept]) >= SAME_OBJECT).any():
            kept.append(i)
    return np.array(kept, np.intp)


def _met(
    boxes: NDArray[np.float32], annotated: NDArray[np.float32], names: Sequence[str]
) -> list[str | None]:
    """The name of the annotated box that each box meets best, None where it meets none."""
    if not len(annotated):
        return [None] * len(boxes)
    iou = box_iou(boxes, annotated)
    return [names[int(row.argmax())] if row.max() >= SAME_OBJECT else None for row in iou]
