"""`--method results:FILE`: the detections of another system, scored like our own."""

from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline import console
from pipeline.console import counts
from pipeline.evaluate.scoring import Origin, Scored, Scorer
from regionspot_cache.evaluation import PER_CATEGORY, Detections, ResultsFile, read_results

OWN = "own"  # boxes, prompts and names are those of the other system


def score_results(path: Path, scorer: Scorer, others: frozenset[str] | None) -> Scored:
    """Scores the file as the row named by its stem; says what it leaves out.

    Args:
        others: images that the file may name without being evaluated; see `read_results`.

    Raises:
        MissingFileError, InputError: no such file, or not detections of this dataset.
    """
    truth = scorer.truth
    console.say(f"reading {path}")
    found = read_results(path, truth, others)
    _say_content(path, found, scorer)
    origin = Origin(
        method=f"{path.stem}, {found.form} {path.name}, sha256 {found.sha256[:12]}",
        proposals=OWN,
        templates=OWN,
        class_names=OWN,
        score_rule="as given",
        detections="as given",
    )
    masks = scorer.settings.masks and truth.has_masks and found.detections.masks is not None
    return scorer.score(path.stem, found.detections, origin, masks=masks)


def _say_content(path: Path, found: ResultsFile, scorer: Scorer) -> None:
    detections = found.detections
    images = np.count_nonzero(np.diff(detections.offsets))
    kind = "boxes" if detections.masks is None else "boxes and masks"
    console.say(f"{path}: {len(detections)} detections ({kind}) of {images} images, {found.form}")
    if images < len(scorer.dataset):
        console.warn(f"{path}: no detections of {len(scorer.dataset) - images} evaluated images")
    if scorer.settings.ap == "fixed":
        _say_scarce(path.stem, detections, scorer.dataset.category_ids)
    dropped = found.dropped + Counter(_beyond(detections, scorer))
    if dropped:
        console.warn(f"{path}: left out {counts(dict(dropped))}")


def _say_scarce(name: str, detections: Detections, ids: NDArray[np.int64]) -> None:
    """Detections that the other system did not write are missed by fixed AP; our own methods write all."""
    found = np.bincount(np.searchsorted(ids, detections.category_ids), minlength=len(ids))
    if few := np.count_nonzero(found < PER_CATEGORY):
        console.warn(
            f"{name}: {few} of {len(ids)} classes have fewer than {PER_CATEGORY:,} detections; "
            "their fixed AP is too low where the system left some out"
        )


def _beyond(detections: Detections, scorer: Scorer) -> dict[str, int]:
    """How many detections are too many for the chosen AP."""
    if scorer.settings.ap == "fixed":
        found, most = np.unique(detections.category_ids, return_counts=True)[1], PER_CATEGORY
        return {f"behind the best {most} of a class": int(np.maximum(found - most, 0).sum())}
    found, most = np.diff(detections.offsets), scorer.settings.cap
    return {f"behind the best {most} of an image": int(np.maximum(found - most, 0).sum())}
