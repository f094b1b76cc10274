"""Detections of one method against the ground truth: numbers, their protocol, the AP of every class."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.verbs.evaluate import EvalSettings
from regionspot_cache.datasets import DetectionDataset
from regionspot_cache.evaluation import (
    RECALL_RULE,
    AccuracyMeter,
    AveragePrecision,
    Detections,
    EvaluationResult,
    IouType,
    Protocol,
    proposal_recall,
)
from regionspot_cache.evaluation import evaluate as average_precision
from regionspot_cache.evaluation.ground_truth import GroundTruth
from regionspot_cache.evaluation.result import AP_TYPES

if TYPE_CHECKING:
    from regionspot_cache.recognition.proposals import Proposals


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One row of the table and what it was computed from.

    Attributes:
        name: of the row; the files of its detections begin with it.
        result: metrics and protocol.
        average_precision: per kind of overlap, with the AP of every category.
        class_names: by category id.
    """

    name: str
    result: EvaluationResult
    average_precision: Mapping[IouType, AveragePrecision]
    class_names: Mapping[int, str]


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The part of the protocol that says how the detections came about; see `evaluation.Protocol`."""

    method: str
    proposals: str
    templates: str
    class_names: str
    score_rule: str


class Scorer:
    """Scores every method of one evaluation by the same protocol."""

    def __init__(
        self, settings: EvalSettings, dataset: DetectionDataset, truth: GroundTruth, out: Path
    ) -> None:
        """`out` is the folder that results go to."""
        self.settings, self.dataset, self.truth, self.out = settings, dataset, truth, out
        ids = dataset.category_ids.tolist()
        self.class_names = dict(zip(ids, dataset.class_names, strict=True))
        self.subsets = {}
        if any(dataset.class_novel):
            self.subsets = {
                "novel": [c for c, novel in zip(ids, dataset.class_novel, strict=True) if novel],
                "base": [c for c, novel in zip(ids, dataset.class_novel, strict=True) if not novel],
            }

    def score(
        self,
        name: str,
        detections: Detections,
        origin: Origin,
        *,
        masks: bool,
        accuracy: AccuracyMeter | None = None,
        proposals: "Proposals | None" = None,
    ) -> Scored:
        """Metrics of one method.

        Args:
            masks: score the masks too.
            accuracy: of ground-truth boxes.
            proposals: scored boxes, whose recall is measured.
        """
        kinds: tuple[IouType, ...] = ("bbox", "segm") if masks else ("bbox",)
        scored = average_precision(
            detections,
            self.truth,
            iou_types=kinds,
            subsets=self.subsets,
            ap=self.settings.ap,
            cap=self.settings.cap,
            fast=not self.settings.reference,
        )
        metrics = {"box" if kind == "bbox" else "mask": found.metrics for kind, found in scored.items()}
        if accuracy is not None:
            metrics["accuracy"] = self._accuracy(accuracy)
        if proposals is not None:
            metrics["recall"] = proposal_recall(proposals, self.truth)
        return Scored(
            name=name,
            result=EvaluationResult(
                protocol=self._protocol(origin, RECALL_RULE if proposals is not None else ""), metrics=metrics
            ),
            average_precision=scored,
            class_names=self.class_names,
        )

    def _accuracy(self, meter: AccuracyMeter) -> dict[str, float]:
        index = {category: i for i, category in enumerate(self.dataset.category_ids.tolist())}
        members = {name: [index[c] for c in ids] for name, ids in self.subsets.items()}
        return meter.summary(self.dataset.class_frequency, members)

    def _protocol(self, origin: Origin, recall: str) -> Protocol:
        dataset = self.dataset
        sample = "" if dataset.limit is None else f"{len(dataset)} images drawn by seed {dataset.seed}"
        return Protocol(
            dataset=dataset.name,
            split=", ".join(filter(None, (dataset.split, sample))),
            metric="LVIS" if self.truth.federated else "COCO",
            ap_type=AP_TYPES[self.settings.ap],
            cap=self.settings.cap if self.settings.ap == "standard" else None,
            recall=recall,
            **vars(origin),
        )
