"""Classes by examples: pictures of regions beside the words, or where words say too little.

The prototype of a class is the mean of the unit embeddings of its examples, mixed with the embedding of its
name. How much the examples count is chosen by leaving each of them out in turn.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from regionspot_cache.datasets import DetectionDataset
from regionspot_cache.datasets.coco_style import read_coco_style
from regionspot_cache.datasets.images import ImageFailure, find_image, read_image
from regionspot_cache.errors import InputError, MissingFileError, near
from regionspot_cache.recognition.pictures import to_pixels

WEIGHTS = tuple(np.linspace(0, 1, 11).tolist())
WEIGHT = 0.5  # where no class has two examples, so that none can be left out
ROWS_AT_ONCE = 4096
Source = Path | str | DetectionDataset | Mapping[str, Sequence[Any]]


class Prototypes(NamedTuple):
    """What stands for classes in place of their text embeddings."""

    embeddings: NDArray[np.float32]  # [K, E], rows of length 1
    weight: float  # of the examples, from 0 (words alone) to 1 (no words)


@dataclass(frozen=True, kw_only=True, eq=False)
class Examples:
    """Embedded examples of some classes."""

    names: tuple[str, ...]  # of the classes
    embeddings: NDArray[np.float32]  # [n, E], rows of length 1
    labels: NDArray[np.int64]  # [n], indices into `names`
    left_out: Counter[str] = field(default_factory=Counter)  # reason -> images that could not be read

    def labels_among(self, classes: Sequence[str]) -> NDArray[np.int64]:
        """[n] indices into other class names, -1 for examples of none. InputError: no example of any."""
        places = {name: k for k, name in reversed(list(enumerate(classes)))}
        found = np.array([places.get(name, -1) for name in self.names], np.int64)[self.labels]
        if not (found >= 0).any():
            known = near(classes[0], self.names) if classes else ""
            raise InputError(
                f"No example of {', '.join(classes)[:200]}.",
                f"{known}Names as of the examples: {', '.join(self.names)[:200]}.",
            )
        return found


class ExampleImage(NamedTuple):
    """An image with regions that are examples."""

    image: NDArray[np.uint8]  # [H, W, 3]
    boxes: NDArray[np.float32]  # [N, 4] xyxy, pixels
    names: tuple[str, ...]  # N


def prototypes(
    embeddings: NDArray[np.float32],
    labels: NDArray[np.int64],
    text: NDArray[np.float32],
    weight: float | None = None,
) -> Prototypes:
    """Examples and words as one embedding a class.

    Pictures lie apart from words in such spaces. A class without examples therefore gets, in the place of
    their mean, its words moved by what the means of the other classes differ from theirs on average.

    Args:
        embeddings: [n, E], rows of length 1.
        labels: [n], the class of each; negative for none.
        text: [K, E], rows of length 1.
        weight: of the examples; chosen by leaving each out in turn when not given.
    """
    kept = labels >= 0
    embeddings, labels = embeddings[kept], labels[kept]
    if not len(labels):
        return Prototypes(text, 0.0)
    sums = np.zeros_like(text)
    np.add.at(sums, labels, embeddings)
    means = _means(sums, np.bincount(labels, minlength=len(text)) > 0, text)
    if weight is None:
        weight = _best_weight(embeddings, labels, sums, means, text)
    return Prototypes(_mixed(means, text, weight), weight)


def _means(
    sums: NDArray[np.float32], known: NDArray[np.bool_], text: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Unit means [K, E] of the examples; for classes without, the words moved to where pictures lie."""
    means = _unit(sums)
    means[~known] = _unit(text[~known] + (means[known] - text[known]).mean(0))
    return means


def _best_weight(
    embeddings: NDArray[np.float32],
    labels: NDArray[np.int64],
    sums: NDArray[np.float32],
    means: NDArray[np.float32],
    text: NDArray[np.float32],
) -> float:
    """The weight that names most examples right, each left out of its own class; of equals the widest margin.

    Every class counts the same, however many examples it has.
    """
    counts = np.bincount(labels, minlength=len(text))
    tried = np.flatnonzero(counts[labels] > 1)
    if not len(tried) or len(text) < 2:
        return WEIGHT
    share = 1 / counts[labels[tried]]
    found = []
    for weight in WEIGHTS:
        margins = _margins(embeddings, labels, tried, sums, _mixed(means, text, weight), text, weight)
        found.append((float(share @ (margins > 0)), float(share @ margins), weight))
    return max(found)[2]


def _margins(
    embeddings: NDArray[np.float32],
    labels: NDArray[np.int64],
    tried: NDArray[np.intp],
    sums: NDArray[np.float32],
    mixed: NDArray[np.float32],
    text: NDArray[np.float32],
    weight: float,
) -> NDArray[np.float32]:
    """How much nearer each tried example is to its own class, made without it, than to the next other."""
    margins = []
    for start in range(0, len(tried), ROWS_AT_ONCE):
        rows = tried[start : start + ROWS_AT_ONCE]
        regions, own = embeddings[rows], labels[rows]
        without = _mixed(_unit(sums[own] - regions), text[own], weight)
        similar = regions @ mixed.T
        similar[np.arange(len(rows)), own] = -np.inf
        margins.append((regions * without).sum(1) - similar.max(1))
    return np.concatenate(margins)


def _mixed(means: NDArray[np.float32], text: NDArray[np.float32], weight: float) -> NDArray[np.float32]:
    return _unit(np.float32(weight) * means + np.float32(1 - weight) * text)


def _unit(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def read_examples(
    source: Source, left_out: Counter[str], *, images: Path | None = None
) -> Iterator[ExampleImage]:
    """Images with example regions, one after the other.

    Args:
        source: a folder with a folder of images a class (the whole image is the region), a COCO-style file of
            labelled boxes, a loaded dataset, or a list of images a class name (as of `to_pixels`).
        left_out: counts images of files that cannot be read, by reason.
        images: the image folder of a COCO-style file.

    Raises:
        MissingFileError: no such folder or file.
        InputError: a folder without folders of images, or what the readers raise.
    """
    if isinstance(source, Mapping):
        for name, pictures in source.items():
            for picture in pictures:
                yield _whole(to_pixels(picture), name)
        return
    if isinstance(source, DetectionDataset):
        yield from _of_dataset(source, left_out)
        return
    path = Path(source)
    if path.is_dir():
        yield from _of_folder(path, left_out)
    elif path.is_file():
        yield from _of_dataset(read_coco_style(path, roots=(images,) if images else ()), left_out)
    else:
        expected = "A folder with a folder of images a class, or a COCO-style JSON file."
        raise MissingFileError(f"There are no examples at {path}.", expected)


def _of_folder(root: Path, left_out: Counter[str]) -> Iterator[ExampleImage]:
    """Hidden files and folders are no examples."""
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not folders:
        raise InputError(f"{root} has no folders.", "A folder of images for every class: FOLDER/CLASS/*.jpg.")
    for folder in folders:
        for file in sorted(path for path in folder.iterdir() if not path.name.startswith(".")):
            try:
                pixels = read_image(find_image(root, f"{folder.name}/{file.name}"))
            except ImageFailure as failure:
                left_out[failure.reason] += 1
                continue
            yield _whole(pixels, folder.name)


def _whole(pixels: NDArray[np.uint8], name: str) -> ExampleImage:
    height, width = pixels.shape[:2]
    return ExampleImage(pixels, np.array([[0, 0, width, height]], np.float32), (name,))


def _of_dataset(dataset: DetectionDataset, left_out: Counter[str]) -> Iterator[ExampleImage]:
    for record in dataset:
        if not len(record.boxes):
            continue
        try:
            path = find_image(dataset.image_root, record.file_name)
            pixels = read_image(path, expected_size=(record.width, record.height), exif=dataset.exif)
        except ImageFailure as failure:
            left_out[failure.reason] += 1
            continue
        yield ExampleImage(pixels, record.boxes, tuple(dataset.class_names[k] for k in record.labels))
