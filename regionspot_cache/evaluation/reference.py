"""The reference: AP by pycocotools and by the lvis package, made to run beside current numpy.

lvis 0.5.3 uses numpy.float, which numpy 1.24 removed; its __init__ imports opencv and matplotlib for a viewer
and configures the root logger. Its three modules that matter are imported here without that __init__.
"""

import contextlib
import importlib
import importlib.util
import io
import sys
import threading
from functools import cache
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from regionspot_cache.datasets.values import places
from regionspot_cache.errors import InputError
from regionspot_cache.evaluation.detections import Detections
from regionspot_cache.evaluation.ground_truth import GroundTruth
from regionspot_cache.evaluation.metrics import Curves
from regionspot_cache.evaluation.results_file import IouType, image_entries
from regionspot_cache.evaluation.rle import annotation_rle, mask_areas


def reference_input(
    truth: GroundTruth, detections: Detections, iou_type: IouType
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Annotations and results; images are numbered in the order of `truth`. "segm" needs masks of all."""
    images: list[dict[str, Any]] = [
        {"id": number, "height": height, "width": width}
        for number, (height, width) in enumerate(truth.sizes.tolist(), start=1)
    ]
    if truth.federated:
        lists = {"neg_category_ids": truth.negative, "not_exhaustive_category_ids": truth.not_exhaustive}
        for name, keys in lists.items():
            for image in images:
                image[name] = []
            for place, category in truth.pairs_of(keys):
                images[place][name].append(category)
    columns = (truth.images, truth.category_ids[truth.categories], truth.boxes, truth.areas, truth.crowd)
    objects: list[dict[str, Any]] = [
        {"image_id": image + 1, "category_id": category, "bbox": box, "area": area, "iscrowd": int(crowd)}
        for image, category, box, area, crowd in zip(*(c.tolist() for c in columns), strict=True)
    ]
    for row, annotation in enumerate(objects):
        annotation |= {"id": row + 1, "ignore": int(truth.ignore[row])}  # an id of 0 would say "no match"
        if iou_type == "segm":
            annotation["segmentation"] = annotation_rle(*truth.mask(row))
    # lvis wants a frequency; `summarize` does not take it from there.
    categories = [{"id": category, "frequency": "f"} for category in truth.category_ids.tolist()]
    place = places(truth.image_ids, "the ground truth")
    results = [
        {**entry, "image_id": place[str(image_id)] + 1}
        for index, image_id in enumerate(detections.image_ids)
        for entry in image_entries(detections, index, iou_type)
    ]
    return {"images": images, "annotations": objects, "categories": categories}, results


def coco_curves(
    truth: GroundTruth, detections: Detections, iou_type: IouType, per_pair: int | None = None
) -> Curves:
    """The curves that pycocotools computes of `per_pair` detections of an image and category (None: all)."""
    content, results = reference_input(truth, detections, iou_type)
    for number, entry in enumerate(results, start=1):
        masks = [entry["segmentation"]] if "segmentation" in entry else []
        area = float(mask_areas(masks)[0]) if masks else entry["bbox"][2] * entry["bbox"][3]
        entry |= {"id": number, "area": area}
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation: Any = COCOeval(_index(content), _index({**content, "annotations": results}), iou_type)
        evaluation.params.maxDets = [per_pair or len(detections) + 1]
        evaluation.evaluate()
        evaluation.accumulate()
    curves: dict[str, np.ndarray] = evaluation.eval
    # [T,R,K,A,M] and [T,K,A,M]; M holds the one limit of detections.
    return Curves(precision=curves["precision"][..., -1], recall=curves["recall"][..., -1])


def _index(dataset: dict[str, Any]) -> COCO:
    coco: Any = COCO()
    coco.dataset = dataset
    coco.createIndex()
    return coco


# lvis warns about every list of results that is not a file.
_QUIET = SimpleNamespace(**dict.fromkeys(("info", "warn", "warning"), lambda *_: None))
_IMPORT_LOCK = threading.Lock()


@cache
def load_lvis_api() -> Any:
    """LVIS, LVISResults and LVISEval of the package, without opencv, matplotlib or a change of logging."""
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
        vars(module)["logging"] = SimpleNamespace(getLogger=lambda _: _QUIET)
    vars(evaluation)["np"] = SimpleNamespace(**vars(np) | {"float": float})  # numpy itself stays as it is
    return SimpleNamespace(LVIS=gt.LVIS, LVISResults=results.LVISResults, LVISEval=evaluation.LVISEval)


def _take_modules() -> dict[str, ModuleType]:
    """Removes lvis from the imported modules and returns what was there."""
    names = [name for name in sys.modules if name == "lvis" or name.startswith("lvis.")]
    return {name: sys.modules.pop(name) for name in names}


def lvis_curves(truth: GroundTruth, detections: Detections, iou_type: IouType) -> Curves:
    """The curves that lvis computes of all detections given. Minutes and gigabytes on the whole of LVIS."""
    api = load_lvis_api()
    content, entries = reference_input(truth, detections, iou_type)
    index = api.LVIS.__new__(api.LVIS)
    index.logger, index.dataset = _QUIET, content
    index._create_index()
    if entries:
        results = api.LVISResults(index, entries, max_dets=-1)
    else:  # lvis looks at the first result to learn what kind they are
        results = api.LVISResults.__new__(api.LVISResults)
        results.logger, results.dataset = _QUIET, {**content, "annotations": []}
        results._create_index()
    evaluation = api.LVISEval(index, results, iou_type)
    evaluation.evaluate()
    evaluation.accumulate()
    return Curves(precision=evaluation.eval["precision"], recall=evaluation.eval["recall"])
