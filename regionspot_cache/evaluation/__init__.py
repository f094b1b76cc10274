"""Detections and how good they are: LVIS and COCO average precision, proposal recall, accuracy."""

from regionspot_cache.evaluation.accuracy import AccuracyMeter
from regionspot_cache.evaluation.detections import (
    MAX_DETECTIONS,
    Detections,
    DetectionsBuilder,
    MaskTable,
)
from regionspot_cache.evaluation.evaluate import evaluate
from regionspot_cache.evaluation.metrics import AveragePrecision
from regionspot_cache.evaluation.recall import proposal_recall
from regionspot_cache.evaluation.result import EvaluationResult, Protocol
from regionspot_cache.evaluation.results_file import IouType, read_results, write_results
from regionspot_cache.evaluation.rle import encode_mask
from regionspot_cache.evaluation.selection import SCORE_RULES, ScoreRule, Selection, select_top_k

__all__ = [
    "MAX_DETECTIONS",
    "SCORE_RULES",
    "AccuracyMeter",
    "AveragePrecision",
    "Detections",
    "DetectionsBuilder",
    "EvaluationResult",
    "IouType",
    "MaskTable",
    "Protocol",
    "ScoreRule",
    "Selection",
    "encode_mask",
    "evaluate",
    "proposal_recall",
    "read_results",
    "select_top_k",
    "write_results",
]
