"""One result type for every annotation format: a dataset as compact arrays, an image as a small record."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regionspot_cache.datasets.augmentation import Augmentation, ViewTable
from regionspot_cache.datasets.images import ExifRule
from regionspot_cache.datasets.regions import Boxes, BoxPolicy, xyxy_to_xywh
from regionspot_cache.datasets.source import DatasetSource
from regionspot_cache.datasets.tables import offsets_of

ImageId = int | str


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageRecord:
    """One annotated image."""

    image_id: ImageId  # as in the annotation file; text in OpenImages
    file_name: str  # relative to the dataset's image root, forward slashes
    width: int  # annotated width in pixels
    height: int  # annotated height in pixels
    boxes: Boxes  # float32 [N, 4] xyxy, pixels; cleaned by the dataset's policy
    labels: NDArray[np.int32]  # int32 [N], indices into the dataset's `class_names`
    annotation_ids: NDArray[np.int64]  # int64 [N]; in OpenImages the row of the CSV file, counted from 1


@dataclass(frozen=True, kw_only=True, eq=False)
class DetectionDataset:
    """Annotated images in compact arrays: 25 million boxes take 0.8 GB."""

    name: str  # catalog name, or the stem of the annotation file
    split: str  # for example "train"; "" when unknown
    format: str  # "coco", "lvis", "o365v1", "o365v2", "v3det" or "openimages"
    image_root: Path  # folder that `file_names` are relative to
    annotation_files: tuple[Path, ...]  # the files read, for evaluators that need the original ground truth
    annotation_sha256: str  # hex digest of `annotation_files`, one after the other
    class_names: tuple[str, ...]  # stripped names, in the order of `category_ids`; may repeat (V3Det)
    category_ids: NDArray[np.int64]  # int64 [C], ids in the file, rising
    class_frequency: tuple[str, ...]  # "r", "c", "f" (LVIS) or "" for each class
    class_novel: tuple[bool, ...]  # classes marked as held out of training (V3Det, shapes)
    image_ids: list[ImageId]  # M ids as in the file
    file_names: list[str]  # M names relative to `image_root`, forward slashes
    widths: NDArray[np.int32]  # int32 [M] pixels
    heights: NDArray[np.int32]  # int32 [M] pixels
    offsets: NDArray[np.int64]  # [M + 1]; the boxes of image i are rows offsets[i] to offsets[i + 1]
    boxes: Boxes  # float32 [T, 4] xyxy, pixels
    labels: NDArray[np.int32]  # int32 [T], indices into `class_names`
    annotation_ids: NDArray[np.int64]  # int64 [T]
    crowd: NDArray[np.bool_]  # bool [T]; True only when the policy keeps groups
    # reason -> number of boxes; reasons that begin with "image: " count images
    dropped: Counter[str] = field(default_factory=Counter)
    policy: BoxPolicy = field(default_factory=BoxPolicy)  # how boxes were cleaned
    exif: ExifRule = "ignore"  # how images must be turned for the boxes to fit
    limit: int | None = None  # number of images asked of `sample`, None for the whole dataset
    seed: int = 0  # seed of `sample`
    # of the records, when there are extra views of images (`with_views`); then widths, heights and boxes are
    # those of the view, and image ids repeat
    views: ViewTable | None = None
    augmentation: Augmentation | None = None  # what made them
    source: DatasetSource | None = None  # how to read it again

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> ImageRecord:
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        index %= len(self)
        rows = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        return ImageRecord(
            image_id=self.image_ids[index],
            file_name=self.file_names[index],
            width=int(self.widths[index]),
            height=int(self.heights[index]),
            boxes=self.boxes[rows],
            labels=self.labels[rows],
            annotation_ids=self.annotation_ids[rows],
        )

    def __iter__(self) -> Iterator[ImageRecord]:
        return (self[index] for index in range(len(self)))

    @property
    def num_boxes(self) -> int:
        return len(self.boxes)

    def sample(self, limit: int | None, seed: int = 0) -> "DetectionDataset":
        """`limit` images drawn without replacement by `seed`, in their old order; all when `limit` is None.

        Classes and drop counts stay those of the whole dataset.
        """
        if limit is None or limit >= len(self):
            return self
        chosen = np.random.default_rng(seed).choice(len(self), size=max(limit, 0), replace=False)
        return replace(self.select(np.sort(chosen)), limit=limit, seed=seed)

    def select(self, images: NDArray[np.int64]) -> "DetectionDataset":
        """The images with these indices, in this order."""
        counts = np.diff(self.offsets)[images]
        offsets = offsets_of(counts)
        # Row r of the result is row (r - its image's new start + its image's old start) here.
        rows = np.arange(offsets[-1]) + np.repeat(self.offsets[images] - offsets[:-1], counts)
        return replace(
            self,
            image_ids=[self.image_ids[i] for i in images],
            file_names=[self.file_names[i] for i in images],
            widths=self.widths[images],
            heights=self.heights[images],
            offsets=offsets,
            boxes=self.boxes[rows],
            labels=self.labels[rows],
            annotation_ids=self.annotation_ids[rows],
            crowd=self.crowd[rows],
            views=self.views and self.views.take(images),
        )

    def with_boxes(self, rows: NDArray[np.bool_], others: str) -> "DetectionDataset":
        """Boxes of set `rows` [T], on the images that have any; `dropped` counts the others as `others`."""
        counts = np.diff(np.concatenate([[0], np.cumsum(rows)])[self.offsets])
        kept = replace(
            self,
            offsets=offsets_of(counts),
            boxes=self.boxes[rows],
            labels=self.labels[rows],
            annotation_ids=self.annotation_ids[rows],
            crowd=self.crowd[rows],
            dropped=self.dropped + Counter({others: int((~rows).sum())}),
        )
        return kept.select(np.flatnonzero(counts > 0))


def to_coco_dict(dataset: DetectionDataset) -> dict[str, Any]:
    """COCO-style ground truth of a dataset, for formats that have no such file (OpenImages) and for samples.

    Boxes are the cleaned ones; load the dataset with `BoxPolicy(drop_crowd=False)` to keep groups, which are
    written with `iscrowd` 1. Image ids stay as they are, `area` is the area of the box.
    """
    images = [
        {"id": record.image_id, "file_name": record.file_name, "width": record.width, "height": record.height}
        for record in dataset
    ]
    image_of_box = np.repeat(np.arange(len(dataset)), np.diff(dataset.offsets))
    category_of_box = dataset.category_ids[dataset.labels]
    boxes = xyxy_to_xywh(dataset.boxes).tolist()
    annotations = [
        {
            "id": int(annotation_id),
            "image_id": dataset.image_ids[image],
            "category_id": int(category),
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": int(crowd),
        }
        for annotation_id, image, category, box, crowd in zip(
            dataset.annotation_ids, image_of_box, category_of_box, boxes, dataset.crowd, strict=True
        )
    ]
    classes = zip(dataset.category_ids.tolist(), dataset.class_names, dataset.class_frequency, strict=True)
    categories = [
        {"id": number, "name": name} | ({"frequency": frequency} if frequency else {})
        for number, name, frequency in classes
    ]
    return {"images": images, "annotations": annotations, "categories": categories}
