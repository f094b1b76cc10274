"""Pictures of an evaluation: the images with the most wrong names, as every method names their boxes."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluate.recognise import Recognition
from pipeline.report_figures import FEW, figures, see
from pipeline.verbs.evaluate import EvalSettings
from regionspot_cache.datasets import DetectionDataset
from regionspot_cache.datasets.images import ImageFailure
from regionspot_cache.datasets.regions import box_iou
from regionspot_cache.evaluation.answers import SAME_OBJECT, ObjectAnswers
from regionspot_cache.evaluation.selection import pair_scores
from regionspot_cache.recognition import Recogniser
from regionspot_cache.recognition.proposals import Proposals
from regionspot_cache.reporting.page import Cell, ReportSection, Table, Text
from regionspot_cache.reporting.scene import Scene

ATTENTION_OF = 4  # boxes of an image
PROPOSALS = 8  # of an image
WORST = 10  # images of the table
RULE = (
    "An image counts as bad as the probabilities of its wrong names sum to, so confident errors weigh most{}."
)
OF_PROPOSALS = "; of the boxes that show an annotated object, the one with the best score names it"


@dataclass(frozen=True, kw_only=True)
class WorstImages:
    """Images with boxes, the worst first.

    Attributes:
        order: i64 [n], indices of images.
        wrong: i64 [M], objects of every image with a wrong name.
        sums: f64 [M], of the probabilities of those names.
    """

    order: NDArray[np.int64]
    wrong: NDArray[np.int64]
    sums: NDArray[np.float64]


def worst_images(dataset: DetectionDataset, objects: ObjectAnswers) -> WorstImages:
    """The images by what a method calls their objects; equal ones in the order of the dataset."""
    count = np.diff(dataset.offsets)
    image_of = np.repeat(np.arange(len(dataset)), count)
    lost = objects.wrong_probability(dataset.labels)
    sums = np.bincount(image_of, lost, len(dataset)).astype(np.float64)
    wrong = np.bincount(image_of[lost > 0], minlength=len(dataset))
    order = np.argsort(-sums, kind="stable")
    return WorstImages(order=order[count[order] > 0], wrong=wrong, sums=sums)


def _table(dataset: DetectionDataset, worst: WorstImages, method: str, rule: str) -> list[ReportSection]:
    count = np.diff(dataset.offsets)
    rows: list[list[Cell]] = [
        [
            str(dataset.image_ids[i]),
            dataset.file_names[i],
            int(count[i]),
            int(worst.wrong[i]),
            float(worst.sums[i]),
        ]
        for i in worst.order[:WORST].tolist()
        if worst.wrong[i]
    ]
    columns = ["image", "file", "objects", "named wrongly", "sum"]
    table = Table(caption=f"Worst images of {method}", columns=columns, rows=rows, note=rule)
    return [table] if rows else []


def pictures(
    recognition: Recognition,
    methods: Sequence[Recogniser],
    boxes: Proposals,
    settings: EvalSettings,
    worst: WorstImages,
) -> list[ReportSection]:
    """The worst images of the first method as a table, and a few, recognised once more, as pictures.

    The first method that has attention shows it.

    Args:
        boxes: what the methods recognised.
    """
    dataset = recognition.dataset
    lead, rule = methods[0].name, RULE.format("" if boxes.scores is None else OF_PROPOSALS)
    table = _table(dataset, worst, lead, rule)
    shown: list[ReportSection] = []
    count = 0
    attending_first = sorted(methods, key=lambda method: not hasattr(method, "attention"))
    many = np.diff(dataset.offsets)[worst.order] > FEW[1]
    for i in worst.order[np.argsort(many, kind="stable")].tolist():
        if count == settings.pictures:
            break
        try:
            scene = _scene(recognition, attending_first, i, boxes)
        except ImageFailure:  # counted in the pass
            continue
        if scene is not None:
            shown += figures(scene, attention_of=ATTENTION_OF)
            count += 1
    body = _explanation(lead, attending_first[0].name, boxes, settings)
    titled: list[ReportSection] = [Text(title="Worst images"), *table] if table else []
    return [*titled, Text(title="Pictures", body=body), *shown] if shown else titled


def _explanation(lead: str, first: str, boxes: Proposals, settings: EvalSettings) -> str:
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
        f"The worst images of {lead}, those with up to {FEW[1]} objects first, because more cannot be read; "
        f"with {which}: what each method says; SAM's masks; then the "
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
    inputs = recognition.inputs(index, proposed)
    if not len(inputs.boxes):
        return None
    scores = {  # as in the detections
        method.name: pair_scores(
            method.probabilities(inputs, recognition.text_of(method)),
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
        if scores[i] == -np.inf:  # left out by the score rule
            break
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
