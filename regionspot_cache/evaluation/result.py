"""Numbers together with the protocol they were measured by; neither is shown without the other."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from regionspot_cache.evaluation.detections import MAX_DETECTIONS, PER_CATEGORY
from regionspot_cache.evaluation.metrics import NOT_MEASURED

AP_TYPES = {"standard": "standard", "fixed": f"fixed ({PER_CATEGORY:,} a class)"}


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What decides whether two numbers may be compared."""

    # dataset and split: with the sample where it is one, for example "val, 500 of 19,809 images, seed 0"
    dataset: str
    split: str
    metric: str  # "LVIS" or "COCO"
    method: str  # what recognises the regions, with its backbone and checkpoint
    proposals: str  # identity of the boxes
    templates: str  # name of the prompt templates
    class_names: str  # rule by which names of the file become words
    score_rule: str  # "probability" for ground-truth boxes, else a rule of `selection`; "as given" in a file
    detections: str  # the `DetectionProtocol` as text; "as given" in a file
    # "standard": the best detections of each image over all classes count; or "fixed (10,000 a class)": those
    # of each class over the dataset. Numbers of one type never stand beside the other.
    ap_type: str = "standard"
    cap: int | None = MAX_DETECTIONS  # how many of an image; None for fixed AP, which does not limit them
    recall: str = ""  # how the recall of proposals counts; "" where it is not measured

    def __str__(self) -> str:
        cap = "no cap" if self.cap is None else f"{self.cap} detections"
        dataset = f"{self.dataset} {self.split}".strip()
        return (
            f"{self.method}: {dataset}, {self.metric} {self.ap_type} AP, {cap} an image; "
            f"boxes: {self.proposals}; detections: {self.detections}; "
            f"score: {self.score_rule}; "
            f"prompts: {self.templates}, names {self.class_names}"
            f"{self.recall and f'; recall: {self.recall}'}"
        )


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """Metrics by group ("box", "mask", "recall", "accuracy") as fractions, -1 where not measurable."""

    protocol: Protocol
    metrics: Mapping[str, Mapping[str, float]]

    def __str__(self) -> str:
        """The protocol, then a line of percentages per group."""
        lines = [str(self.protocol)]
        for group, values in self.metrics.items():
            shown = {name: f"{100 * value:.1f}" for name, value in values.items() if name != "boxes"}
            shown |= {name: "-" for name in shown if values[name] == NOT_MEASURED}
            lines.append(f"  {group + ':':<9} {'  '.join(map(' '.join, shown.items()))}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        return {
            "protocol": asdict(self.protocol),
            "metrics": {group: dict(values) for group, values in self.metrics.items()},
        }
