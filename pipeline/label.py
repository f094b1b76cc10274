"""`rs-cache label`: boxes of a set to names, through a journal, into the format that is asked for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import console
from pipeline.console import counts
from pipeline.label_journal import Journal, journal_path
from pipeline.label_review import best_threshold, review, review_lines
from pipeline.label_work import Labeller, Pass
from pipeline.verbs.label import AUTO, LabelSettings
from regionspot_cache.datasets.box_formats import (
    FORMATS,
    Answers,
    BoxSet,
    in_frame,
    output_format,
    read_boxes,
)
from regionspot_cache.errors import InputError, MissingFileError, UsageError
from regionspot_cache.recognition.synonyms import Vocabulary


def label(settings: LabelSettings, *, as_json: bool = False) -> dict[str, Any]:
    """Names the boxes of the settings, writes them, prints what was found, and returns it.

    Raises:
        UsageError, InputError, MissingFileError: data, classes or output that cannot be used.
        IdentityError: an unfinished output was begun with something else.
    """
    vocabulary = Vocabulary.read(settings.classes)
    if len(vocabulary.names) == 1:
        console.warn("with one class alone every box gets it, with score 1: name what else there is, too")
    boxes = read_boxes(settings.source, settings.images)
    _check_boxes(settings, boxes)
    form = output_format(settings.out, settings.format, boxes)
    _check_output(settings, boxes)
    labels = vocabulary.classes_of(boxes.dataset.class_names)[boxes.dataset.labels]
    if settings.relabel and not (labels >= 0).any():
        raise InputError(
            f"No box of {settings.source} has a label among the classes of {settings.classes}.",
            f"Labels such as {', '.join(filter(None, boxes.dataset.class_names))[:200]}.",
            "name them in --classes, or leave --relabel out",
        )
    labeller = Labeller(settings, vocabulary)
    cached = labeller.cached(boxes.dataset)
    work = labeller.run(boxes, labels, cached)
    with Journal(settings.out, labeller.identity(boxes, cached, work.known)) as journal:
        done = work.go_on(journal)
        if done.failures.total() and not (done.found.rows[:, 0] >= 0).any():
            journal.remove()  # with another image root all of it is to be done again
            raise MissingFileError(
                f"No image of {settings.source} can be read: {_unreadable(done.failures, done.faults)}.",
                f"Pictures below {boxes.dataset.image_root}, of the sizes that the data say.",
                "--images DIR, where they are in another folder",
            )
        threshold = settings.threshold
        if settings.none_below == AUTO:
            threshold = best_threshold(*_judged(labeller, done, boxes, labels))
        shown, proposed = in_frame(boxes, FORMATS[form].exif, None if work.given else done.boxes)
        answers = Answers(
            shown,
            done.found.rows,
            done.found.scores,
            done.found.margins,
            vocabulary.names,
            none_below=threshold,
            none_name=settings.none_name,
            proposed=proposed,
        )
        FORMATS[form].write(settings.out, answers)
        facts = _facts(settings, boxes, done, form, threshold)
        if settings.relabel:
            csv = settings.out.with_name(f"{settings.out.stem}-relabel.csv")
            facts["relabel"] = review(done.found, boxes.dataset, labels, vocabulary.names, csv)
        journal.remove()
    _warn(facts)
    console.result(facts, "\n".join(_lines(facts)), as_json=as_json)
    return facts


def _check_boxes(settings: LabelSettings, boxes: BoxSet) -> None:
    if boxes.format == "pictures" and settings.proposals == "gt":
        raise UsageError(
            f"{settings.source} has pictures and no boxes that are read: no data.yaml, no .xml files.",
            "The data.yaml of a YOLO set, VOC's Annotations, or what proposes boxes.",
            "--proposals rpn",
        )


def _check_output(settings: LabelSettings, boxes: BoxSet) -> None:
    out = settings.out
    if out.exists() and (out.samefile(settings.source) or out.samefile(boxes.path)):
        raise UsageError(f"--out {out} is DATA itself.", "Another place, so that nothing is lost.")
    if out.is_dir() and not journal_path(out).exists() and any(out.iterdir()):
        raise UsageError(f"There is a folder {out} already.", "A new folder.", "--out another")
    if out.exists() and out.is_dir() != (out.suffix == ""):
        raise UsageError(f"{out} is {'a folder' if out.is_dir() else 'a file'}.", "Another --out.")


def _judged(
    labeller: Labeller, done: Pass, boxes: BoxSet, labels: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Best scores and whether the best name is right: of labelled boxes, or else of the examples."""
    named = np.array([bool(name) for name in boxes.dataset.class_names], bool)
    if named.any() and len(done.found.rows) == len(labels):
        known = named[boxes.dataset.labels] & (done.found.rows[:, 0] >= 0)
        return done.found.scores[known, 0], (done.found.rows[:, 0] == labels)[known]
    if labeller.examples is None:
        raise InputError(
            "--none-below auto: there are no labelled boxes to choose by.",
            "Boxes with names in DATA, or examples.",
            "--none-below 0.5, or --examples DIR",
        )
    found = labeller.probabilities(labeller.example_embeddings)
    own = labeller.vocabulary.classes_of(labeller.examples.names)[labeller.examples.labels]
    return found.max(1), found.argmax(1) == own


def _facts(
    settings: LabelSettings, boxes: BoxSet, done: Pass, form: str, threshold: float | None
) -> dict[str, Any]:
    found, dataset = done.found, boxes.dataset
    known = found.rows[:, 0] >= 0
    none = int((known & (found.scores[:, 0] < threshold)).sum()) if threshold is not None else 0
    return {
        "out": str(settings.out),
        "format": form,
        "source_format": boxes.format,
        "images": len(dataset),
        "boxes": len(found.rows),
        "named": int(known.sum()) - none,
        "none_of_these": none,
        "none_below": threshold,
        "unreadable_images": dict(done.failures),
        "unreadable_such_as": done.faults,
        "left_as_they_were": dict(dataset.dropped) if settings.proposals == "gt" else {},
        "from_cache": dict(done.from_cache),
        "images_labelled_now": done.images,
        "images_per_second": float(f"{done.images / done.seconds:.4g}") if done.images else None,
    }


def _warn(facts: dict[str, Any]) -> None:
    if failures := facts["unreadable_images"]:
        console.warn(f"images that cannot be read: {_unreadable(failures, facts['unreadable_such_as'])}")
    if facts["left_as_they_were"]:
        console.warn(f"boxes without an answer: {counts(facts['left_as_they_were'])}")
    if not facts["boxes"]:
        console.warn("there is no box to name; --proposals rpn, or a file, proposes some")


def _unreadable(failures: Mapping[str, int], faults: Mapping[str, str]) -> str:
    """Counts by reason, each with the first image."""
    return "; ".join(f"{count} {reason} ({faults[reason]})" for reason, count in sorted(failures.items()))


def _lines(facts: dict[str, Any]) -> list[str]:
    arrays = ", ".join(f"{path} of {count}" for path, count in sorted(facts["from_cache"].items()))
    first = f"{facts['named']} of {facts['boxes']} boxes in {facts['images']} images have names"
    if facts["none_below"] is not None:
        first += (
            f", {facts['none_of_these']} show none of the classes (score below {facts['none_below']:.4g})"
        )
    lines = [first, f"{Path(facts['out'])} ({facts['format']})", f"from the cache: {arrays or 'nothing'}"]
    return lines + (review_lines(facts["relabel"]) if "relabel" in facts else [])
