"""Annotations of a COCO- or LVIS-style file in columns, as average precision needs them."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from regionspot_cache.datasets.values import places
from regionspot_cache.errors import InputError
from regionspot_cache.evaluation.annotations import Annotations
from regionspot_cache.evaluation.rle import Rle, annotation_rle


@dataclass(frozen=True, kw_only=True)
class GroundTruth:
    """Boxes to find, and what was looked for where.

    Attributes:
        image_ids: [M], sorted: among equal scores the order of images decides, as in lvis and pycocotools.
        sizes: i32 [M,2], height and width.
        category_ids: i64 [C], sorted.
        frequency: [C] of "r", "c", "f", or None where the file does not say.
        images: i64 [G], image index of each annotation.
        categories: i64 [G], category index.
        boxes: f64 [G,4] xywh, as in the file.
        areas: f64 [G], of the mask where there is one.
        ignore: bool [G], annotations that count neither for nor against (crowds, in COCO).
        crowd: bool [G], annotations that may match many detections.
        segmentations: [G], as in the file.
        federated: whether images name the categories that they were searched for (LVIS).
        negative: i64, sorted pair keys (see `pair_key`) of categories known to be absent.
        not_exhaustive: i64, sorted pair keys of categories of which not all objects are annotated.
    """

    image_ids: tuple[int | str, ...]
    sizes: np.ndarray
    category_ids: np.ndarray
    frequency: tuple[str, ...] | None
    images: np.ndarray
    categories: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    ignore: np.ndarray
    crowd: np.ndarray
    segmentations: list[Any]
    federated: bool
    negative: np.ndarray
    not_exhaustive: np.ndarray

    def pair_key(self, images: np.ndarray, categories: np.ndarray) -> np.ndarray:
        """One i64 for each (image index, category index), ordered by image."""
        return np.asarray(images, np.int64) * len(self.category_ids) + categories

    def rle(self, row: int) -> Rle:
        """Compressed run lengths of annotation `row`.

        Raises:
            InputError: the annotation has no usable mask.
        """
        height, width = (int(n) for n in self.sizes[self.images[row]])
        return annotation_rle(self.segmentations[row], height, width)


def is_federated(annotations: Annotations) -> bool:
    """Whether every image names the categories known to be absent, as LVIS does."""
    images = annotations["images"]
    return bool(images) and all("neg_category_ids" in image for image in images)


def judged_pairs(annotations: Annotations, image_ids: Iterable[int | str]) -> Iterator[tuple[int, int]]:
    """(place in `image_ids`, category id) of all that federated annotations speak of: found, or absent."""
    place = places(image_ids, "the evaluated images")
    for annotation in annotations["annotations"]:
        yield place[str(annotation["image_id"])], annotation["category_id"]
    for image in annotations["images"]:
        for category in image["neg_category_ids"]:
            yield place[str(image["id"])], category


def restrict(annotations: Annotations, image_ids: Iterable[int | str]) -> Annotations:
    """Only these images and their annotations: what an evaluation of a sample may be judged by.

    Raises:
        InputError: an image that the annotations do not have.
    """
    wanted = places(image_ids, "the evaluated images").keys()
    images = [image for image in annotations["images"] if str(image["id"]) in wanted]
    if len(images) != len(wanted):
        raise InputError(
            f"{len(wanted) - len(images)} images are not in the ground truth",
            "images of the annotation file",
            "give the annotation file that the detections belong to",
        )
    kept = [a for a in annotations["annotations"] if str(a["image_id"]) in wanted]
    return Annotations(images=images, annotations=kept, categories=annotations["categories"])


def by_id(entries: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Entries in the order of their ids, texts behind numbers."""
    return sorted(entries, key=lambda entry: (isinstance(entry["id"], str), entry["id"]))


def ground_truth(annotations: Annotations) -> GroundTruth:
    """Columns of annotations. Those without area take that of their box.

    LVIS annotations without area are left out, as lvis does; COCO ones stay, as pycocotools does.

    Raises:
        InputError: an annotation names an unknown image.
    """
    federated = is_federated(annotations)
    images, categories = by_id(annotations["images"]), by_id(annotations["categories"])
    image_index = {image["id"]: i for i, image in enumerate(images)}
    category_index = {category["id"]: i for i, category in enumerate(categories)}
    objects = [a for a in annotations["annotations"] if a["category_id"] in category_index]
    if federated:
        objects = [a for a in objects if annotation_area(a) > 0]
    flag = "ignore" if federated else "iscrowd"
    ignore = np.array([bool(a.get(flag, 0)) for a in objects], bool)
    return GroundTruth(
        image_ids=tuple(image_index),
        sizes=np.array([(image["height"], image["width"]) for image in images], np.int32).reshape(-1, 2),
        category_ids=np.array(list(category_index), np.int64),
        frequency=_frequency(categories),
        images=_images(objects, image_index),
        categories=np.array([category_index[a["category_id"]] for a in objects], np.int64),
        boxes=np.array([a["bbox"] for a in objects], np.float64).reshape(-1, 4),
        areas=np.array([annotation_area(a) for a in objects], np.float64),
        ignore=ignore,
        crowd=np.zeros_like(ignore) if federated else ignore,
        segmentations=[a.get("segmentation") for a in objects],
        federated=federated,
        negative=_pairs(images, category_index, "neg_category_ids"),
        not_exhaustive=_pairs(images, category_index, "not_exhaustive_category_ids"),
    )


def _images(objects: list[dict[str, Any]], image_index: Mapping[int | str, int]) -> np.ndarray:
    """The place of the image of each annotation, i64 [G]."""
    unknown = [a["image_id"] for a in objects if a["image_id"] not in image_index]
    if unknown:
        raise InputError(
            f"{len(unknown)} annotations of the ground truth are of images that it lacks, "
            f"for example {unknown[0]!r}",
            "image ids that `images` lists",
            "complete the annotation file",
        )
    return np.array([image_index[a["image_id"]] for a in objects], np.int64)


def annotation_area(annotation: Mapping[str, Any]) -> float:
    """The annotated area, or that of the box."""
    if "area" in annotation:
        return annotation["area"]
    return annotation["bbox"][2] * annotation["bbox"][3]


def _frequency(categories: list[dict[str, Any]]) -> tuple[str, ...] | None:
    letters = tuple(category.get("frequency", "") for category in categories)
    return letters if letters and all(letter in ("r", "c", "f") for letter in letters) else None


def _pairs(images: list[dict[str, Any]], category_index: dict[int, int], field: str) -> np.ndarray:
    keys = [
        i * len(category_index) + category_index[category]
        for i, image in enumerate(images)
        for category in image.get(field, ())
        if category in category_index
    ]
    return np.unique(np.array(keys, np.int64))
