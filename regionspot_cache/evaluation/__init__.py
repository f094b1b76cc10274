"""Detections and how good they are: LVIS and COCO average precision, proposal recall, accuracy."""

from regionspot_cache.evaluation.average_precision import ApType, evaluate
from regionspot_cache.evaluation.confusion import AccuracyMeter
from regionspot_cache.evaluation.detections import PER_CATEGORY, Detections, MaskTable
from regionspot_cache.evaluation.metrics import AveragePrecision
from regionspot_cache.evaluation.protocols import (
    BestOfCategories,
    BestOfImages,
    Collector,
    DetectionProtocol,
    regionclip_protocol,
)
from regionspot_cache.evaluation.recall import RECALL_RULE, proposal_recall
from regionspot_cache.evaluation.result import EvaluationResult, Protocol
from regionspot_cache.evaluation.results_file import IouType, write_results
from regionspot_cache.evaluation.results_reader import ResultsFile, read_results
from regionspot_cache.evaluation.rle import encode_mask
from regionspot_cache.evaluation.selection import SCORE_RULES, ScoreRule, select_top_k

__all__ = [
    "PER_CATEGORY",
    "RECALL_RULE",
    "SCORE_RULES",
    "AccuracyMeter",
    "ApType",
    "AveragePrecision",
    "BestOfCategories",
    "BestOfImages",
    "Collector",
    "DetectionProtocol",
    "Detections",
    "EvaluationResult",
    "IouType",
    "MaskTable",
    "Protocol",
    "ResultsFile",
    "ScoreRule",
    "encode_mask",
    "evaluate",
    "proposal_recall",
    "read_results",
    "regionclip_protocol",
    "select_top_k",
    "write_results",
]
