"""Annotations of the built-in world in LVIS format: of an image, of the file as a whole, and in label spaces.

A label space is a third of the training images with some of the classes, for data mixes.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from regionspot_cache.datasets.shapes_classes import CLASSES, ShapeClass, caption, class_probabilities
from regionspot_cache.datasets.shapes_scene import Scene

NEGATIVES = 30  # classes known to be absent, per image


def image_annotations(
    scene: Scene, *, split: str, image_id: int, file_name: str, rng: np.random.Generator
) -> dict[str, Any]:
    """The image entry and its annotations, without annotation ids: {"image": ..., "annotations": [...]}.

    Training images leave out objects of novel classes; these stay visible and are never listed as absent.
    """
    height, width = scene.image.shape[:2]
    boxed = [k for k, label in enumerate(scene.labels) if is_boxed(int(label), split)]
    hidden = {label + 1 for label in scene.hidden if is_boxed(label, split)}
    image = {
        "id": image_id,
        "file_name": file_name,
        "width": width,
        "height": height,
        "caption": caption(scene.labels.tolist()),
        "neg_category_ids": _negatives(scene, split, rng),
        "not_exhaustive_category_ids": sorted(hidden),
    }
    return {"image": image, "annotations": [_annotation(scene, k, image_id) for k in boxed]}


def is_boxed(label: int, split: str) -> bool:
    """Whether objects of a class are annotated in a split: novel ones only in validation."""
    return split != "train" or not CLASSES[label].novel


def _annotation(scene: Scene, k: int, image_id: int) -> dict[str, Any]:
    x1, y1, x2, y2 = (float(v) for v in scene.boxes[k])
    mask: Any = np.asfortranarray(scene.masks[k], np.uint8)
    rle: Any = coco_mask.encode(mask)
    size, counts = [int(side) for side in rle["size"]], rle["counts"].decode("ascii")
    return {
        "image_id": image_id,
        "category_id": int(scene.labels[k]) + 1,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": float(scene.masks[k].sum()),
        "segmentation": {"size": size, "counts": counts},
    }


def _negatives(scene: Scene, split: str, rng: np.random.Generator) -> list[int]:
    """Category ids of absent classes: half of them differ from a present class in one attribute only."""
    shown = {*scene.labels.tolist(), *scene.hidden}
    absent = [c for c in CLASSES if c.index not in shown and is_boxed(c.index, split)]
    similar = [c.index for c in absent if any(_shared(c, CLASSES[label]) == 2 for label in shown)]
    chosen = set(rng.permutation(similar)[: NEGATIVES // 2].tolist())
    others = [c.index for c in absent if c.index not in chosen]
    chosen.update(rng.permutation(others)[: NEGATIVES - len(chosen)].tolist())
    return sorted(index + 1 for index in chosen)


def _shared(a: ShapeClass, b: ShapeClass) -> int:
    return (a.texture == b.texture) + (a.colour == b.colour) + (a.shape == b.shape)


def count(annotations: Iterable[dict[str, Any]]) -> defaultdict[int, dict[str, int]]:
    """{"image_count", "instance_count"} of each category id, in the order of the annotation file."""
    counts: defaultdict[int, dict[str, int]] = defaultdict(lambda: {"image_count": 0, "instance_count": 0})
    seen: set[tuple[int, int]] = set()
    for annotation in annotations:
        pair = (annotation["image_id"], annotation["category_id"])
        counts[pair[1]]["image_count"] += pair not in seen
        counts[pair[1]]["instance_count"] += 1
        seen.add(pair)
    return counts


def dataset_json(
    images: list[dict[str, Any]],
    annotations: list[dict[str, Any]],
    train_annotations: list[dict[str, Any]],
    *,
    split: str,
) -> dict[str, Any]:
    """The whole annotation file. Frequencies follow the training images, counts the split itself."""
    counts, in_train = count(annotations), count(train_annotations)
    return {
        "info": {"description": f"shapes, the built-in world of regionspot-cache, {split} split"},
        "licenses": [],
        "categories": [_category(c, in_train[c.index + 1], counts[c.index + 1]) for c in CLASSES],
        "images": images,
        "annotations": [{"id": number, **a} for number, a in enumerate(annotations, start=1)],
    }


def _category(kind: ShapeClass, in_train: dict[str, int], counts: dict[str, int]) -> dict[str, Any]:
    images = in_train["image_count"]
    return {
        "id": kind.index + 1,
        "name": kind.name,
        "synonyms": [kind.name],
        "synset": f"{kind.name.replace(' ', '_')}.n.01",
        "def": f"a {kind.shape} of {kind.colour} colour with a {kind.texture} surface",
        "frequency": "r" if images < 10 else "c" if images < 100 else "f",
        **counts,
        "novel": kind.novel,
    }


# Size of each label space; the images of one are every third of the training split, so no two share any.
SPACES = {"s": 64, "m": 128, "l": 256}


def space_file(space: str) -> str:
    """Name of the annotation file of a label space, beside train.json."""
    return f"train-{space}.json"


def space_category_ids(space: str) -> frozenset[int]:
    """Ids of the 64, 128 or 256 classes that training boxes show most often; the small ones lie in the large.

    The rank is that of `class_probabilities`, so it is the same for a world of any size and seed.
    """
    expected = class_probabilities("train") * [not kind.novel for kind in CLASSES]
    most = np.argsort(-expected, kind="stable")[: SPACES[space]]
    return frozenset((most + 1).tolist())


def restrict(train: dict[str, Any], space: str) -> dict[str, Any]:
    """The third of the training images that belongs to a label space, with boxes of its classes only.

    Image, annotation and category ids are those of `train`, the content of train.json, and so are names,
    captions and frequencies (r, c, f by all training images). `image_count` and `instance_count` are those of
    the result. Categories outside the label space are gone from `neg_category_ids` and
    `not_exhaustive_category_ids` too. Images stay when they lose all their boxes.
    """
    kept = space_category_ids(space)
    images = [_image(entry, kept) for entry in train["images"][list(SPACES).index(space) :: len(SPACES)]]
    image_ids = {image["id"] for image in images}
    annotations = [a for a in train["annotations"] if a["image_id"] in image_ids and a["category_id"] in kept]
    counted = count(annotations)
    categories = [{**c, **counted[c["id"]]} for c in train["categories"] if c["id"] in kept]
    description = f"{train['info']['description']}, label space of {len(categories)} classes"
    return {
        **train,
        "info": {"description": description},
        "categories": categories,
        "images": images,
        "annotations": annotations,
    }


def _image(entry: dict[str, Any], kept: frozenset[int]) -> dict[str, Any]:
    lists = ("neg_category_ids", "not_exhaustive_category_ids")
    return {**entry, **{key: [number for number in entry[key] if number in kept] for key in lists}}
