"""Images to judge a head by: a part of a dataset that is not trained on, drawn class by class."""

from typing import NamedTuple

import numpy as np

from regionspot_cache.datasets.records import DetectionDataset


class Split(NamedTuple):
    """The images with boxes of a dataset, twice none."""

    train: DetectionDataset
    held_out: DetectionDataset


def hold_out(dataset: DetectionDataset, share: float, seed: int) -> Split:
    """Holds out about `share` of the images of every class; the rarest class is first.

    Every class keeps at least one image to learn from, so that a class of one image is not held out. Images
    without boxes are in neither part.
    """
    owner = np.repeat(np.arange(len(dataset)), np.diff(dataset.offsets))
    pairs = np.unique(np.stack([dataset.labels.astype(np.int64), owner]), axis=1)  # class, image
    left = np.bincount(pairs[0], minlength=len(dataset.class_names))  # images of a class to learn from
    random = np.random.default_rng(seed)
    place = np.full(len(dataset), -1)  # 1: held out, 0: trained on
    for label in np.argsort(left, kind="stable")[np.count_nonzero(left == 0) :].tolist():
        images = random.permutation(pairs[1][pairs[0] == label])
        wanted = int(share * len(images) + 0.5) - np.count_nonzero(place[images] == 1)
        for image in images[place[images] < 0].tolist():
            shown = np.unique(dataset.labels[dataset.offsets[image] : dataset.offsets[image + 1]])
            held = wanted > 0 and bool((left[shown] > 1).all())
            place[image], wanted = int(held), wanted - held
            left[shown] -= held
    return Split(*(dataset.select(np.flatnonzero(place == part)) for part in (0, 1)))
