"""Detections of a method or a file against the ground truth: numbers, their protocol, AP of every class."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline import console
from pipeline.console import counts
from pipeline.verbs.evaluate import EvalSettings
from regionspot_cache.datasets import DetectionDataset
from regionspot_cache.evaluation import (
    PER_CATEGORY,
    RECALL_RULE,
    AccuracyMeter,
    AveragePrecision,
    Detections,
    EvaluationResult,
    IouType,
    Protocol,
    ResultsFile,
    proposal_recall,
    read_results,
)
from regionspot_cache.evaluation import evaluate as average_precision
from regionspot_cache.evaluation.average_precision import counted, judge
from regionspot_cache.evaluation.ground_truth import GroundTruth
from regionspot_cache.evaluation.resampled_ap import WeightedPrecision, ap_samples
from regionspot_cache.evaluation.result import AP_TYPES
from regionspot_cache.shared_work import usable_cores

if TYPE_CHECKING:
    from regionspot_cache.recognition.proposals import Proposals

OWN = "own"  # boxes, prompts and names are those of the other system


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One row of the table, called `name` as the files of its detections, with the AP of every category."""

    name: str
    result: EvaluationResult
    average_precision: Mapping[IouType, AveragePrecision]
    ap_samples: NDArray[np.float64]
    """Box AP in draws of the images, [resamples]; empty where rows are not compared."""


class Scorer:
    """Scores every method of one evaluation by the same protocol."""

    def __init__(
        self, settings: EvalSettings, dataset: DetectionDataset, truth: GroundTruth, out: Path
    ) -> None:
        """`out` is the folder that results go to."""
        self.settings, self.dataset, self.truth, self.out = settings, dataset, truth, out
        novel = np.asarray(dataset.class_novel, bool)
        self.members = {"novel": np.flatnonzero(novel), "base": np.flatnonzero(~novel)} if novel.any() else {}

    def score(
        self,
        name: str,
        detections: Detections,
        origin: Mapping[str, str],
        *,
        masks: bool,
        accuracy: AccuracyMeter | None = None,
        proposals: "Proposals | None" = None,
    ) -> Scored:
        """Metrics of one method.

        Args:
            origin: the part of the protocol that says how the detections came about.
            masks: score the masks too.
            accuracy: of ground-truth boxes.
            proposals: scored boxes, whose recall is measured.
        """
        kinds: tuple[IouType, ...] = ("bbox", "segm") if masks else ("bbox",)
        scored = average_precision(
            detections,
            self.truth,
            iou_types=kinds,
            subsets={k: self.dataset.category_ids[c].tolist() for k, c in self.members.items()},
            ap=self.settings.ap,
            cap=self.settings.cap,
            fast=not self.settings.reference,
            processes=usable_cores(),
        )
        metrics = {"box" if kind == "bbox" else "mask": found.metrics for kind, found in scored.items()}
        if accuracy is not None:
            members = {name: classes.tolist() for name, classes in self.members.items()}
            metrics["accuracy"] = accuracy.summary(self.dataset.class_frequency, members)
        if proposals is not None:
            metrics["recall"] = proposal_recall(proposals, self.truth)
        dataset = self.dataset
        split = self.settings.class_split
        classes = f"{len(dataset.class_names)} classes of {split}" if split else ""
        sample = "" if dataset.limit is None else f"{len(dataset)} images drawn by seed {dataset.seed}"
        protocol = Protocol(
            dataset=dataset.name,
            split=", ".join(filter(None, (dataset.split, classes, sample))),
            metric="LVIS" if self.truth.federated else "COCO",
            ap_type=AP_TYPES[self.settings.ap],
            cap=self.settings.cap if self.settings.ap == "standard" else None,
            recall="" if proposals is None else RECALL_RULE,
            **origin,
        )
        result = EvaluationResult(protocol=protocol, metrics=metrics)
        return Scored(
            name=name, result=result, average_precision=scored, ap_samples=self._ap_samples(detections)
        )

    def _ap_samples(self, detections: Detections) -> NDArray[np.float64]:
        settings = self.settings
        if not settings.compares or not settings.resamples:
            return np.zeros(0)
        best, per_pair = counted(detections, self.truth, settings.ap, settings.cap)
        precision = WeightedPrecision.of(self.truth, judge(self.truth, best, "bbox", per_pair))
        return ap_samples(precision, settings.resamples, settings.seed)


def score_results(path: Path, scorer: Scorer, others: frozenset[str] | None) -> Scored:
    """Scores the detections of another system as the row named by the file's stem; says what it leaves out.

    Args:
        others: images that the file may name without being evaluated; see `read_results`.

    Raises:
        MissingFileError, InputError: no such file, or not detections of this dataset.
    """
    truth = scorer.truth
    console.say(f"reading {path}")
    found = read_results(path, truth, others, processes=usable_cores())
    _say_content(path, found, scorer)
    method = f"{path.stem}, {found.form} {path.name}, sha256 {found.sha256[:12]}"
    origin = {"method": method, "score_rule": "as given", "detections": "as given"}
    origin |= dict.fromkeys(("proposals", "templates", "class_names"), OWN)
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
        ids, most, of = scorer.dataset.category_ids, PER_CATEGORY, "a class"
        counted = np.bincount(np.searchsorted(ids, detections.category_ids), minlength=len(ids))
        if few := np.count_nonzero(counted < most):  # our own methods write all
            console.warn(
                f"{path.stem}: {few} of {len(ids)} classes have fewer than {most:,} detections; "
                "their fixed AP is too low where the system left some out"
            )
    else:
        counted, most, of = np.diff(detections.offsets), scorer.settings.cap, "an image"
    beyond = {f"behind the best {most} of {of}": int(np.maximum(counted - most, 0).sum())}
    if dropped := found.dropped + Counter(beyond):
        console.warn(f"{path}: left out {counts(dict(dropped))}")
