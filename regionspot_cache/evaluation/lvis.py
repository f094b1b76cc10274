"""The reference: AP by the lvis package itself, made to run beside current numpy.

lvis 0.5.3 uses numpy.float, which numpy 1.24 removed; its __init__ imports opencv and matplotlib for a viewer
and configures the root logger. Its three modules that matter are imported here without that __init__.
"""

import importlib
import importlib.util
import sys
import threading
from functools import cache
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from regionspot_cache.errors import InputError
from regionspot_cache.evaluation.detections import Detections
from regionspot_cache.evaluation.ground_truth import GroundTruth
from regionspot_cache.evaluation.metrics import Curves
from regionspot_cache.evaluation.reference import reference_input
from regionspot_cache.evaluation.results_file import IouType


class LvisApi(NamedTuple):
    LVIS: Any
    LVISResults: Any
    LVISEval: Any


class _Numpy(ModuleType):
    """numpy with the alias that lvis needs; numpy itself stays as it is."""

    float = float

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


def _say_nothing(*_: object) -> None: ...


# lvis warns about every list of results that is not a file.
_QUIET = SimpleNamespace(
    getLogger=lambda _: SimpleNamespace(info=_say_nothing, warn=_say_nothing, warning=_say_nothing)
)
_IMPORT_LOCK = threading.Lock()


@cache
def load_lvis_api() -> LvisApi:
    """The classes of the lvis package; imports neither opencv nor matplotlib, and leaves logging alone.

    Raises:
        InputError: the package is not installed.
    """
    spec = importlib.util.find_spec("lvis")
    if spec is None or spec.submodule_search_locations is None:
        raise InputError("the package lvis is not installed", "lvis 0.5.3", "pip install lvis")
    bare = ModuleType("lvis")
    bare.__path__ = list(spec.submodule_search_locations)
    with _IMPORT_LOCK:
        others = _take_modules()
        sys.modules["lvis"] = bare
        try:
            gt, results, evaluation = (
                importlib.import_module(f"lvis.{name}") for name in ("lvis", "results", "eval")
            )
        finally:
            _take_modules()
            sys.modules.update(others)
    for module in (gt, results, evaluation):
        vars(module)["logging"] = _QUIET
    vars(evaluation)["np"] = _Numpy("numpy")
    return LvisApi(gt.LVIS, results.LVISResults, evaluation.LVISEval)


def _take_modules() -> dict[str, ModuleType]:
    """Removes lvis from the imported modules and returns what was there."""
    names = [name for name in sys.modules if name == "lvis" or name.startswith("lvis.")]
    return {name: sys.modules.pop(name) for name in names}


def lvis_curves(truth: GroundTruth, detections: Detections, iou_type: IouType) -> Curves:
    """The curves that the lvis package computes. Minutes and gigabytes on the whole of LVIS.

    Args:
        truth: federated.
        detections: those that count; lvis limits nothing here.
    """
    api = load_lvis_api()
    content, entries = reference_input(truth, detections, iou_type)
    index = api.LVIS.__new__(api.LVIS)
    index.logger, index.dataset = _QUIET.getLogger(""), content
    index._create_index()
    evaluation = api.LVISEval(index, _results(api, index, entries), iou_type)
    evaluation.evaluate()
    evaluation.accumulate()
    return Curves(precision=evaluation.eval["precision"], recall=evaluation.eval["recall"])


def _results(api: LvisApi, truth: Any, entries: list[dict[str, Any]]) -> Any:
    if entries:
        return api.LVISResults(truth, entries, max_dets=-1)
    # lvis looks at the first result to learn what kind they are, so an empty list needs another way in.
    results = api.LVISResults.__new__(api.LVISResults)
    results.logger, results.dataset = truth.logger, {**truth.dataset, "annotations": []}
    results._create_index()
    return results
