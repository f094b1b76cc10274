"""Three label spaces of different size over the training images of the built-in world, for data mixes."""

from typing import Any

import numpy as np

from regionspot_cache.datasets.shapes_annotations import count
from regionspot_cache.datasets.shapes_classes import CLASSES, class_probabilities

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

    Image, annotation and category ids are those of `train`, and so are names, captions and frequencies (r, c,
    f by all training images). `image_count` and `instance_count` are those of the result. Categories outside
    the label space are gone from `neg_category_ids` and `not_exhaustive_category_ids` too. Images stay when
    they lose all their boxes.

    Args:
        train: content of train.json.
        space: "s", "m" or "l": the images at index 0, 1 or 2, counted modulo 3.
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
