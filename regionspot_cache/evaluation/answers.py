"""What a method says about boxes, beside the annotated objects that they show."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regionspot_cache.datasets.records import ImageRecord
from regionspot_cache.datasets.regions import box_iou

SAME_OBJECT = 0.5  # IoU from which on a box shows an annotated object
NOTHING = -1  # no object, no class


@dataclass(frozen=True, kw_only=True)
class BoxAnswers:
    """The n boxes of one image as a method names them, k names each.

    Attributes:
        places: i64 [n], the box among all that were recognised in the image.
        boxes: f32 [n, 4] xyxy, pixels.
        labels: i32 [n, k], class indices, best first; of equal ones the lower.
        probabilities: f32 [n, k], falling.
        objectness: f32 [n], None for annotated boxes.
        ranks_by: f32 [n], score of the box's best detection.
        met: i64 [n], the annotated object of the image that the box shows; -1 for none.
        iou: f32 [n], with that object; of boxes that show none, the highest with any.
        truth: i32 [n], class index of that object, or -1.
        true_probability: f32 [n], of that class; NaN without an object.
    """

    places: NDArray[np.int64]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int32]
    probabilities: NDArray[np.float32]
    objectness: NDArray[np.float32] | None
    ranks_by: NDArray[np.float32]
    met: NDArray[np.int64]
    iou: NDArray[np.float32]
    truth: NDArray[np.int32]
    true_probability: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.boxes)


def answers_of(
    record: ImageRecord,
    boxes: NDArray[np.float32],
    probabilities: NDArray[np.float32],
    *,
    places: NDArray[np.int64] | None = None,
    objectness: NDArray[np.float32] | None = None,
    ranks_by: NDArray[np.float32] | None = None,
    top: int,
) -> BoxAnswers:
    """The answers of an image.

    Args:
        boxes: f32 [n, 4] with class probabilities [n, K]; those of the record in its order, unless there is
            objectness: then each shows the object that it overlaps most, if by `SAME_OBJECT` or more.
        ranks_by: f32 [n]; the highest probability when not given.
        top: names of a box, as far as there are classes.
    """
    n = len(boxes)
    labels = _best_classes(probabilities, top)
    found = np.take_along_axis(probabilities, labels, axis=1)
    if objectness is None:
        met, iou = np.arange(n), np.ones(n, np.float32)
    else:
        met, iou = _met(boxes, record.boxes)
    truth = np.full(n, NOTHING, np.int32)
    truth[met >= 0] = record.labels[met[met >= 0]]
    own = np.take_along_axis(probabilities, truth.clip(min=0).astype(np.int64)[:, None], axis=1)[:, 0]
    return BoxAnswers(
        places=np.arange(n) if places is None else places,
        boxes=boxes,
        labels=labels.astype(np.int32),
        probabilities=found,
        objectness=objectness,
        ranks_by=found[:, 0] if ranks_by is None else ranks_by,
        met=met,
        iou=iou,
        truth=truth,
        true_probability=np.where(truth >= 0, own, np.float32(np.nan)),
    )


def _best_classes(probabilities: NDArray[np.float32], top: int) -> NDArray[np.int64]:
    """[n, k] class indices, best first; k maxima are found sooner than all K are sorted."""
    left, rows = probabilities.copy(), np.arange(len(probabilities))
    labels = np.zeros((len(left), min(top, left.shape[1])), np.int64)
    for column in labels.T:
        column[:] = left.argmax(axis=1)
        left[rows, column] = -np.inf
    return labels


def _met(
    boxes: NDArray[np.float32], annotated: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    if not len(annotated):
        return np.full(len(boxes), NOTHING, np.int64), np.zeros(len(boxes), np.float32)
    overlaps = box_iou(boxes, annotated)
    highest = overlaps.max(axis=1)
    return np.where(highest >= SAME_OBJECT, overlaps.argmax(axis=1), NOTHING), highest


class ObjectAnswers:
    """What a method calls every annotated object of a dataset: 8 bytes an object.

    Of several boxes that show an object, the one with the best detection speaks.

    Attributes:
        said: i32 [T], class index, -1 where no box shows the object.
        probability: f32 [T], of that class.
    """

    def __init__(self, num_objects: int) -> None:
        self.said = np.full(num_objects, NOTHING, np.int32)
        self.probability = np.zeros(num_objects, np.float32)

    def add(self, first: int, image: BoxAnswers) -> None:
        """Adds an image whose objects begin at row `first`."""
        order = np.argsort(-image.ranks_by, kind="stable")[::-1]  # what is written last stays: the best
        order = order[image.met[order] >= 0]
        self.said[first + image.met[order]] = image.labels[order, 0]
        self.probability[first + image.met[order]] = image.probabilities[order, 0]

    def right(self, labels: NDArray[np.int32]) -> NDArray[np.bool_]:
        """bool [T], by the true class indices [T]."""
        return self.said == labels

    def wrong_probability(self, labels: NDArray[np.int32]) -> NDArray[np.float32]:
        """f32 [T], the probability of the wrong name; 0 for right ones and for objects that no box shows."""
        wrong = (self.said >= 0) & (self.said != labels)
        return np.where(wrong, self.probability, np.float32(0))
