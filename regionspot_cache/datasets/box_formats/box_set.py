"""Images with boxes as one source lists them, whatever its format, and what is said about the boxes."""

from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from regionspot_cache.datasets.assemble import UNKNOWN_IMAGE, FileBoxes, assemble
from regionspot_cache.datasets.images import ExifRule, ImageFailure, find_image, image_size, safe_file_name
from regionspot_cache.datasets.layouts import choose_layout, coco_patterns
from regionspot_cache.datasets.records import DetectionDataset
from regionspot_cache.datasets.regions import BoxPolicy
from regionspot_cache.errors import InputError

UNNAMED = ""
"""The class of boxes that have no name yet."""
POLICY = BoxPolicy(deduplicate=False)


class Answer(NamedTuple):
    """What was recognised in one box."""

    name: str  # the best class, or the name for none of them
    names: tuple[str, ...]  # the best classes, best first
    scores: tuple[float, ...]  # of `names`
    margin: float  # best minus second score

    def fields(self) -> dict[str, Any]:
        """The extra fields of a box in the output."""
        scores = [round(score, 6) for score in self.scores]
        margin = round(self.margin, 6)
        return {"score": scores[0], "margin": margin, "names": list(self.names), "scores": scores}


class LabelledBox(NamedTuple):
    """A box of the output."""

    box: tuple[float, float, float, float]  # xyxy, pixels
    before: str  # its name in the source, `UNNAMED` without one
    answer: Answer | None

    @property
    def name(self) -> str:
        """The name in the output."""
        return self.answer.name if self.answer else self.before

    def fields(self) -> dict[str, Any]:
        """`Answer.fields`, and the name before where there was one; nothing without an answer."""
        if self.answer is None:
            return {}
        return self.answer.fields() | ({"was": self.before} if self.before else {})


@dataclass(frozen=True, kw_only=True)
class BoxSet:
    """Images and boxes of one source.

    Attributes:
        format: a name of `FORMATS`.
        path: the file or folder that was read.
        dataset: usable boxes; `annotation_ids` are the places of boxes among all entries of the source.
        failures: images by index whose size could not be found out; their boxes are not in `dataset`.
        header: what the format's own writer needs again, such as categories or columns.
    """

    format: str
    path: Path
    dataset: DetectionDataset
    failures: dict[int, ImageFailure]
    header: Any = None


class Answers:
    """What was recognised, by box.

    Args:
        boxes: of the source.
        rows: int [T, k], the best classes of every box of the dataset, best first; -1 where nothing is known.
        scores: float32 [T, k].
        margins: float32 [T], best minus second score.
        names: of the classes.
        none_below: scores below it are named `none_name`.
        proposed: boxes float32 [T, 4] and offsets [M + 1] in place of those of the dataset.
    """

    def __init__(
        self,
        boxes: BoxSet,
        rows: NDArray[np.int32],
        scores: NDArray[np.float32],
        margins: NDArray[np.float32],
        names: Sequence[str],
        *,
        none_below: float | None = None,
        none_name: str = "none of these",
        proposed: tuple[NDArray[np.float32], NDArray[np.int64]] | None = None,
    ) -> None:
        self.boxes, self._rows, self._scores, self._margins = boxes, rows, scores, margins
        self._names, self._none_below, self._none_name = tuple(names), none_below, none_name
        self._proposed = proposed
        ids = boxes.dataset.annotation_ids
        self._place = np.full(int(ids.max(initial=-1)) + 1, -1, np.int64)
        self._place[ids] = np.arange(len(ids))

    @property
    def proposed(self) -> bool:
        """Whether the boxes are new ones."""
        return self._proposed is not None

    @property
    def classes(self) -> tuple[str, ...]:
        """All names that answers can have."""
        return self._names if self._none_below is None else (*self._names, self._none_name)

    def of_row(self, row: int) -> Answer | None:
        """The answer of a recognised box."""
        if self._rows[row, 0] < 0:
            return None
        scores = tuple(self._scores[row].tolist())
        names = tuple(self._names[k] for k in self._rows[row].tolist())
        none = self._none_below is not None and scores[0] < self._none_below
        return Answer(self._none_name if none else names[0], names, scores, float(self._margins[row]))

    def of_entry(self, entry: int) -> LabelledBox | None:
        """An entry of the source with its answer; None for one that was not recognised."""
        row = int(self._place[entry]) if entry < len(self._place) else -1
        if row < 0 or self.proposed or (answer := self.of_row(row)) is None:
            return None
        dataset = self.boxes.dataset
        return LabelledBox(_decimals(dataset.boxes[row]), dataset.class_names[dataset.labels[row]], answer)

    def of_image(self, index: int) -> Iterator[LabelledBox]:
        """The boxes of an image: those of the dataset, or the new ones."""
        dataset = self.boxes.dataset
        boxes, offsets = self._proposed or (dataset.boxes, dataset.offsets)
        for row in range(int(offsets[index]), int(offsets[index + 1])):
            before = UNNAMED if self._proposed else dataset.class_names[dataset.labels[row]]
            yield LabelledBox(_decimals(boxes[row]), before, self.of_row(row))


def _decimals(box: NDArray[np.float32]) -> tuple[float, float, float, float]:
    """The shortest decimals that are these numbers in float32: 145.71 and not 145.7100067138672."""
    x0, y0, x1, y1 = (float(str(value)) for value in box)
    return x0, y0, x1, y1


@dataclass
class BoxCollector:
    """Takes images and boxes in the order of a source; every call of `box` or `skip` is one entry."""

    source: Path
    exif: ExifRule = "ignore"
    names: dict[str, int] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._files: list[str] = []
        self._sizes: list[tuple[int, int] | None] = []
        self._images, self._labels, self._entries = array("q"), array("i"), array("q")
        self._boxes, self._fractions, self._groups = array("d"), array("b"), array("b")
        self._entry = 0

    def image(self, file_name: str, size: tuple[int, int] | None) -> int:
        """The index of a new image; its size is read from the file where the source does not say it."""
        self._files.append(file_name)
        self._sizes.append(size if size and min(size) > 0 else None)
        return len(self._files) - 1

    def box(
        self, image: int, xyxy: Sequence[Any], name: str, *, group: bool = False, fractions: bool = False
    ) -> None:
        """A box of an image (-1: one that is not listed), in pixels or in fractions of width and height."""
        if len(xyxy) != 4 or not all(type(value) in (int, float) for value in xyxy):
            raise InputError(
                f"{self.source}: the box {list(xyxy)!r} is no four numbers.", "Corners of a box."
            )
        self._images.append(image)
        self._boxes.extend(map(float, xyxy))
        self._labels.append(self.names.setdefault(name, len(self.names)))
        self._fractions.append(fractions)
        self._groups.append(group)
        self._entries.append(self._entry)
        self._entry += 1

    def skip(self, reason: str) -> None:
        """An entry that has no usable box."""
        self.dropped[reason] += 1
        self._entry += 1

    def build(
        self,
        form: str,
        sha256: str,
        roots: Sequence[Path],
        header: Any = None,
        ids: Sequence[int | str] | None = None,
    ) -> BoxSet:
        """All that was taken; images have the ids that the source gives them, or their names."""
        root, pattern = choose_layout(
            [safe_file_name(name) or name for name in self._files], roots, coco_patterns(""), required=False
        )
        files = [pattern(name) for name in self._files]
        unique = len(set(self._files)) == len(files)
        ids = ids if ids is not None else self._files if unique else range(len(files))
        sizes, failures = self._all_sizes(root, files)
        widths, heights = sizes.T.copy()
        images = np.array(self._images, np.int64)
        lost = np.isin(images, list(failures))
        images[lost] = -1
        boxes = np.array(self._boxes, np.float64).reshape(-1, 4)
        fractions = np.array(self._fractions, bool)
        boxes[fractions] *= np.tile(sizes[images[fractions]], 2)
        with np.errstate(over="ignore"):
            boxes = boxes.astype(np.float32)
        dataset = assemble(
            FileBoxes(
                images=images,
                boxes=boxes,
                labels=np.array(self._labels, np.int32),
                ids=np.array(self._entries, np.int64),
                crowd=np.array(self._groups, bool),
            ),
            name=self.source.stem,
            split="",
            format=form,
            image_root=root,
            annotation_files=(self.source,),
            annotation_sha256=sha256,
            class_names=tuple(self.names),
            category_ids=np.arange(len(self.names)),
            class_frequency=("",) * len(self.names),
            class_novel=(False,) * len(self.names),
            image_ids=list(ids),
            file_names=files,
            widths=widths,
            heights=heights,
            dropped=self.dropped,
            policy=POLICY,
            exif=self.exif,
        )
        unknown = dataset.dropped.pop(UNKNOWN_IMAGE, 0) - int(lost.sum())  # those of failures count as images
        if unknown:
            dataset.dropped[UNKNOWN_IMAGE] = unknown
        return BoxSet(format=form, path=self.source, dataset=dataset, failures=failures, header=header)

    def _all_sizes(
        self, root: Path, files: Sequence[str]
    ) -> tuple[NDArray[np.int32], dict[int, ImageFailure]]:
        sizes, failures = np.zeros((len(files), 2), np.int32), dict[int, ImageFailure]()
        for i, known in enumerate(self._sizes):
            try:
                sizes[i] = known or image_size(find_image(root, files[i]), self.exif)
            except ImageFailure as failure:
                failures[i] = failure
        return sizes, failures
