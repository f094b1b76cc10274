"""Annotation readers with one result type, and the catalog of datasets by name. Never imports torch."""

from regionspot_cache.datasets.catalog import DATASET_NAMES, evaluation_split, load_dataset, load_source
from regionspot_cache.datasets.records import DetectionDataset, ImageRecord, to_coco_dict
from regionspot_cache.datasets.views import with_views

__all__ = [
    "DATASET_NAMES",
    "DetectionDataset",
    "ImageRecord",
    "evaluation_split",
    "load_dataset",
    "load_source",
    "to_coco_dict",
    "with_views",
]
