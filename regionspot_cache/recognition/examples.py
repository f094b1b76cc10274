"""Classes by examples: pictures of regions beside the words, or where words say too little.

The prototype of a class is the mean of the unit embeddings of its examples, mixed with the embedding of its
name. How much the examples count is chosen by leaving each of them out in turn
(benchmarks/2026-11-26-examples.md).
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
WEIGHT = 0.1  # where nothing can be chosen: no class has two examples, or only one has any
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

    Pictures lie apart from words in such spaces, so that classes with examples would be nearer to every
    region. The words of the other classes are therefore moved towards the mean of the examples, by as much as
    examples of other classes came nearer to those that have some.

    Args:
        embeddings: [n, E], rows of length 1.
        labels: [n], the class of each; negative for none.
        text: [K, E], rows of length 1.
        weight: of the examples; when not given, the one that names most of them right: each left out of its
            own class, and where some classes have no examples, in that share, as if its class had none.
    """
    kept = labels >= 0
    if not kept.any():
        return Prototypes(text, 0.0)
    given = _Given(embeddings[kept], labels[kept], text)
    weight = given.best_weight() if weight is None else weight
    return Prototypes(given.classes(weight)[0], weight)


class _Given:
    """Examples and words, unit rows."""

    def __init__(
        self, embeddings: NDArray[np.float32], labels: NDArray[np.int64], text: NDArray[np.float32]
    ) -> None:
        self.embeddings, self.labels, self.text = embeddings, labels, text
        self.counts = np.bincount(labels, minlength=len(text))
        self.known = self.counts > 0
        self.sums = np.zeros_like(text)
        np.add.at(self.sums, labels, embeddings)

    def classes(self, weight: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """[K, E] that stands for the classes, and [K, E] that would if they had no examples."""
        mixed = np.where(self.known[:, None], _mixed(self.sums, self.text, weight), self.text)
        moved = self._moved(mixed)
        return np.where(self.known[:, None], mixed, moved), moved

    def _moved(self, mixed: NDArray[np.float32]) -> NDArray[np.float32]:
        """The words, moved along the mean of the examples; as they are where only one class has any."""
        others = int(self.known.sum()) - 1
        centre = self.embeddings.mean(0)
        length = float(np.linalg.norm(centre))
        if not others or not length:
            return self.text
        change = mixed - self.text
        own = float((self.embeddings * change[self.labels]).sum())
        total = len(self.labels) * float(centre @ change.sum(0))
        along = self.text @ (axis := centre / length)
        wanted = np.clip(along + (total - own) / (len(self.labels) * others * length), -0.99, 0.99)[:, None]
        across = _unit(self.text - along[:, None] * axis)
        return (wanted * axis + np.sqrt(1 - wanted**2) * across).astype(np.float32)

    def best_weight(self) -> float:
        """Of equally good weights the one with the widest margins; every class counts the same."""
        if self.counts.max() < 2 or len(self.text) < 2 or self.known.sum() < 2:
            return WEIGHT
        shares = {True: float(self.known.mean()), False: float(1 - self.known.mean())}
        found = []
        for weight in WEIGHTS:
            score = np.zeros(2)
            for others, share in shares.items():
                if share:
                    score += share * self._judged(weight, with_others=others)
            found.append((*score.tolist(), weight))
        return max(found)[2]

    def _judged(self, weight: float, *, with_others: bool) -> NDArray[np.float64]:
        """The share of the examples named right and their mean margin over the next class.

        Args:
            with_others: the class of each is made of its other examples; of its words alone otherwise.
        """
        tried = np.flatnonzero(self.counts[self.labels] > 1)
        standing, moved = self.classes(weight)
        margins = []
        for start in range(0, len(tried), ROWS_AT_ONCE):
            rows = tried[start : start + ROWS_AT_ONCE]
            regions, own = self.embeddings[rows], self.labels[rows]
            mine = _mixed(self.sums[own] - regions, self.text[own], weight) if with_others else moved[own]
            similar = regions @ standing.T
            similar[np.arange(len(rows)), own] = -np.inf
            margins.append((regions * mine).sum(1) - similar.max(1))
        margin = np.concatenate(margins)
        share = 1 / self.counts[self.labels[tried]]
        return np.array([share @ (margin > 0), share @ margin]) / share.sum()


def _mixed(sums: NDArray[np.float32], text: NDArray[np.float32], weight: float) -> NDArray[np.float32]:
    return _unit(np.float32(weight) * _unit(sums) + np.float32(1 - weight) * text)


def _unit(x: NDArray[Any]) -> NDArray[np.float32]:
    return (x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)).astype(np.float32)


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
