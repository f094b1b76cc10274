"""Boxes to recognise: one type, whatever they come from."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, Self

import numpy as np

from regionspot_cache.datasets import DetectionDataset
from regionspot_cache.datasets.values import TextIds, places
from regionspot_cache.errors import InputError
from regionspot_cache.files import file_sha256, replacing
from regionspot_cache.json_stream import write_json_array
from regionspot_cache.recognition.proposal_files import Piece, read_pieces

BoxUnit = Literal["pixels", "normalised"]
ScoreUnit = Literal["probabilities", "logits"]

_NEARLY_ALL = 0.9  # share of the boxes that decides about the unit
_SLACK = 0.05  # by which normalised boxes may leave their image
_TINY = 2  # pixels; smaller images say nothing about the unit


class ImageProposals(NamedTuple):
    """The boxes of one image."""

    boxes: np.ndarray  # f32 [n,4] xyxy, pixels of the original image
    scores: np.ndarray | None  # f32 [n], best first; None for ground truth, which has no score


@dataclass(frozen=True, kw_only=True)
class Proposals:
    """Boxes and scores per image, best first.

    Attributes:
        identity: where the boxes come from; printed beside every number made with them.
        image_ids: the images [M], in the order of the dataset.
        offsets: i64 [M+1], the rows of each image.
        boxes: f32 [T,4] xyxy, pixels of the original image.
        scores: f32 [T], or None for ground truth.
        dropped: what was left out, by reason.
    """

    identity: str
    image_ids: tuple[int | str, ...]
    offsets: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray | None
    dropped: Counter[str] = field(default_factory=Counter)
    _index: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        index = places(self.image_ids, self.identity)
        object.__setattr__(self, "_index", index)

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, image_id: int | str) -> ImageProposals:
        """Boxes of one image; none if the image has none. Ids match as 7 or "7"."""
        i = self._index.get(str(image_id))
        rows = slice(0, 0) if i is None else slice(*self.offsets[i : i + 2])
        return ImageProposals(self.boxes[rows], None if self.scores is None else self.scores[rows])

    @classmethod
    def from_images(cls, identity: str, images: Iterable[tuple[int | str, np.ndarray, np.ndarray]]) -> Self:
        """From (image id, boxes [n,4] xyxy, scores [n]) of every image, for example of an RPN."""
        ids, boxes, scores = [], [np.zeros((0, 4), np.float32)], [np.zeros(0, np.float32)]
        for image_id, image_boxes, image_scores in images:
            order = np.argsort(-image_scores, kind="stable")
            ids.append(image_id)
            boxes.append(image_boxes[order].astype(np.float32))
            scores.append(image_scores[order].astype(np.float32))
        return cls(
            identity=identity,
            image_ids=tuple(ids),
            offsets=np.cumsum([0, *map(len, boxes[1:])], dtype=np.int64),
            boxes=np.concatenate(boxes),
            scores=np.concatenate(scores),
        )

    def save(self, path: Path) -> None:
        """Writes a COCO results list (.json; category_id 1) or the arrays (.npz), whole or not at all.

        Raises:
            InputError: another ending, or ground truth (it has no scores to write).
        """
        if self.scores is None:
            raise InputError("ground-truth boxes have no scores", "scored proposals", "save RPN proposals")
        writers = {".json": self._write_coco, ".npz": self._write_npz}
        if path.suffix not in writers:
            raise InputError(
                f"cannot write proposals to {path}", "an ending .json or .npz", "rename the file"
            )
        with replacing(path) as staging:
            writers[path.suffix](staging, self.scores)

    def _write_coco(self, path: Path, scores: np.ndarray) -> None:
        runs = zip(self.image_ids, self.offsets[:-1], self.offsets[1:], strict=True)
        write_json_array(path, (self._coco_entries(i, scores, slice(start, end)) for i, start, end in runs))

    def _coco_entries(self, image_id: int | str, scores: np.ndarray, rows: slice) -> list[dict]:
        boxes = self.boxes[rows].astype(np.float64)
        boxes[:, 2:] -= boxes[:, :2]
        return [
            {"image_id": image_id, "category_id": 1, "bbox": box, "score": score}
            for box, score in zip(boxes.tolist(), scores[rows].tolist(), strict=True)
        ]

    def _write_npz(self, path: Path, scores: np.ndarray) -> None:
        np.savez(
            path,
            image_ids=np.asarray(self.image_ids),
            offsets=self.offsets,
            boxes=self.boxes,
            scores=scores,
        )


def ground_truth_proposals(dataset: DetectionDataset) -> Proposals:
    """The annotated boxes themselves, without scores."""
    split = f" {dataset.split}" if dataset.split else ""
    return Proposals(
        identity=f"ground-truth boxes of {dataset.name}{split}",
        image_ids=tuple(dataset.image_ids),
        offsets=np.asarray(dataset.offsets, np.int64),
        boxes=np.asarray(dataset.boxes, np.float32),
        scores=None,
    )


def load_proposals(
    path: Path,
    dataset: DetectionDataset,
    *,
    top_n: int | None = None,
    boxes_in: BoxUnit = "pixels",
    scores_as: ScoreUnit = "probabilities",
) -> Proposals:
    """Reads the proposals that a file holds for the images of a dataset.

    Boxes are clipped to their image. Left out and counted by reason: boxes or scores that are not finite,
    boxes without area, repeated boxes (the best score stays), boxes behind the `top_n` best of an image, and
    images that the dataset does not have. An image that the file lacks has no proposals, and is counted.

    Args:
        path: a file of any format of `proposal_files`.
        dataset: the images; ids match as 7 or "7".
        top_n: how many boxes an image keeps, best first; None keeps all.
        boxes_in: "pixels" of the original image, or "normalised": fractions of its width and height.
        scores_as: "probabilities", or "logits", of which the sigmoid is taken. Where the format itself says
            that its scores are logits (Detectron2), that is done anyway.

    Raises:
        MissingFileError, InputError: no such file, an unknown format, broken content, boxes in another unit,
            or scores that are no probabilities.
    """
    form, pieces, logits = read_pieces(path)
    dropped: Counter[str] = Counter()
    if scores_as == "logits" and not logits:
        form += ", sigmoid of the logits"
    logits |= scores_as == "logits"
    image, boxes, scores = _gather(path, pieces, dataset, dropped, logits=logits)
    _to_pixels(path, image, boxes, dataset, boxes_in)
    _check_probabilities(path, scores)
    keep = _clean(image, boxes, scores, dataset, dropped)
    keep = _best_first(image, boxes, scores, keep, top_n, dropped)
    counts = np.bincount(image[keep], minlength=len(dataset.image_ids))
    unit = ", normalised" if boxes_in == "normalised" else ""
    limit = "" if top_n is None else f", top {top_n}"
    return Proposals(
        identity=f"{path.name} ({form}{unit}{limit}, sha256 {file_sha256(path)[:12]})",
        image_ids=tuple(dataset.image_ids),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        boxes=boxes[keep],
        scores=scores[keep],
        dropped=+dropped,  # reasons that occurred
    )


def _gather(
    path: Path,
    pieces: Iterable[Piece],
    dataset: DetectionDataset,
    dropped: Counter[str],
    *,
    logits: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image index i64 [T], boxes f32 [T,4], scores f32 [T] of the images that the dataset has."""
    index = places(dataset.image_ids, dataset.name)
    ids = TextIds(str(path))
    images, boxes, scores = [np.zeros(0, np.int64)], [np.zeros((0, 4), np.float32)], [np.zeros(0, np.float32)]
    seen, unknown = set(), set()
    for image_id, image_boxes, image_scores in pieces:
        text = ids.text(image_id)
        i = index.get(text)
        if i is None:
            unknown.add(text)
            continue
        seen.add(i)
        images.append(np.full(len(image_boxes), i))
        with np.errstate(over="ignore"):  # beyond float32 becomes infinite, and is dropped as such
            boxes.append(image_boxes.astype(np.float32))
            scores.append((_sigmoid(image_scores) if logits else image_scores).astype(np.float32))
    dropped["image not in the dataset"] = len(unknown)
    dropped["image without proposals"] = len(index) - len(seen)
    return np.concatenate(images), np.concatenate(boxes), np.concatenate(scores)


def _to_pixels(
    path: Path, image: np.ndarray, boxes: np.ndarray, dataset: DetectionDataset, unit: BoxUnit
) -> None:
    """Scales normalised `boxes` [T,4] in place.

    Raises:
        InputError: the boxes are in the other unit.
    """
    sides = np.tile(np.stack([dataset.widths, dataset.heights], axis=1)[image], 2)  # [T,4]
    with np.errstate(invalid="ignore"):
        judged = np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        judged &= sides.min(axis=1, initial=_TINY + 1) > _TINY
    inside = np.count_nonzero((np.abs(boxes[judged]) <= 1 + _SLACK).all(axis=1))
    fractions = inside >= _NEARLY_ALL * np.count_nonzero(judged)
    if judged.any() and fractions != (unit == "normalised"):
        count, example = np.count_nonzero(judged), boxes[judged][0].tolist()
        what = f"{path}: {inside} of {count} boxes lie between 0 and 1, such as {example}"
        if fractions:
            raise InputError(
                what,
                "corners in pixels of the original image",
                "say that they are fractions of its width and height: --set proposal_boxes=normalised",
            )
        raise InputError(
            what, "all of them there, for proposal_boxes is normalised", "leave that setting out"
        )
    if unit == "normalised":
        boxes *= sides


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    # Neither overflows nor loses small probabilities; NaN stays NaN and is dropped with its reason later.
    return np.exp(-np.logaddexp(0, -logits))


def _check_probabilities(path: Path, scores: np.ndarray) -> None:
    outside = int(np.count_nonzero((scores < 0) | (scores > 1)))
    if outside:
        finite = scores[np.isfinite(scores)]
        raise InputError(
            f"{path}: {outside} of {len(scores)} scores lie outside [0, 1]; "
            f"they range from {finite.min(initial=0):.6g} to {finite.max(initial=0):.6g}",
            "probabilities",
            "say that they are logits, --set proposal_scores=logits, or write probabilities",
        )


def _clean(
    image: np.ndarray, boxes: np.ndarray, scores: np.ndarray, dataset: DetectionDataset, dropped: Counter[str]
) -> np.ndarray:
    """Clips `boxes` in place; returns the rows worth keeping."""
    finite_box = np.asarray(np.isfinite(boxes).all(axis=1))
    finite_score = np.isfinite(scores)
    # Adding zero turns -0 into 0, so that equal boxes have equal bytes.
    np.maximum(boxes, 0, out=boxes, where=finite_box[:, None])
    boxes += 0.0
    sizes = np.stack([dataset.widths, dataset.heights], axis=1).astype(np.float32)[image]  # [T,2]
    np.minimum(boxes, np.tile(sizes, 2), out=boxes, where=finite_box[:, None])
    with np.errstate(invalid="ignore"):
        flat = finite_box & ~(boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    dropped["non-finite box"] = int(np.count_nonzero(~finite_box))
    dropped["non-finite score"] = int(np.count_nonzero(finite_box & ~finite_score))
    dropped["no area inside the image"] = int(np.count_nonzero(flat & finite_score))
    return np.flatnonzero(finite_box & finite_score & ~flat)


def _best_first(
    image: np.ndarray,
    boxes: np.ndarray,
    scores: np.ndarray,
    keep: np.ndarray,
    top_n: int | None,
    dropped: Counter[str],
) -> np.ndarray:
    """Orders the kept rows by image and falling score, without repeated boxes and with at most top_n each."""
    rows = keep[np.lexsort((-scores[keep], image[keep]))]
    records = np.concatenate([image[rows, None].astype(np.float64), boxes[rows].astype(np.float64)], axis=1)
    _, first = np.unique(records.view([("", np.float64)] * 5), return_index=True)
    unique = rows[np.sort(first)]
    dropped["repeated box"] = len(rows) - len(unique)
    if top_n is None:
        return unique
    starts = np.searchsorted(image[unique], image[unique])
    best = unique[np.arange(len(unique)) - starts < top_n]
    dropped["behind the best"] = len(unique) - len(best)
    return best
