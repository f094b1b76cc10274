"""Boxes to recognise: one type, whatever they come from."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np

from regionspot_cache.datasets import DetectionDataset
from regionspot_cache.datasets.tables import Table, offsets_of, ranks
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
    """Boxes and scores per image, best first."""

    identity: str  # where the boxes come from; printed beside every number made with them
    image_ids: tuple[int | str, ...]  # the M images, in the order of the dataset
    offsets: np.ndarray  # i64 [M+1], the rows of each image
    boxes: np.ndarray  # f32 [T,4] xyxy, pixels of the original image
    scores: np.ndarray | None  # f32 [T], or None for ground truth
    dropped: Counter[str] = field(default_factory=Counter)  # what was left out, by reason
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
            offsets=offsets_of(list(map(len, boxes[1:]))),
            boxes=np.concatenate(boxes),
            scores=np.concatenate(scores),
        )

    def save(self, path: Path) -> None:
        """Writes a COCO results list (.json; category_id 1) or the arrays (.npz), whole or not at all.

        Raises InputError for another ending, or ground truth (it has no scores to write).
        """
        if self.scores is None:
            raise InputError("ground-truth boxes have no scores", "scored proposals", "save RPN proposals")
        if path.suffix not in (".json", ".npz"):
            raise InputError(
                f"cannot write proposals to {path}", "an ending .json or .npz", "rename the file"
            )
        with replacing(path) as staging:
            if path.suffix == ".json":
                write_json_array(staging, map(self._coco_entries, self.image_ids))
            else:
                columns = {"offsets": self.offsets, "boxes": self.boxes, "scores": self.scores}
                np.savez(staging, image_ids=np.asarray(self.image_ids), **columns)

    def _coco_entries(self, image_id: int | str) -> list[dict[str, Any]]:
        boxes, scores = self[image_id]
        assert scores is not None
        xywh = boxes.astype(np.float64)
        xywh[:, 2:] -= xywh[:, :2]
        return [
            {"image_id": image_id, "category_id": 1, "bbox": box, "score": score}
            for box, score in zip(xywh.tolist(), scores.tolist(), strict=True)
        ]


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
    if scores_as == "logits" and not logits:
        form += ", sigmoid of the logits"
    found, dropped = _gather(path, pieces, dataset)
    sides = np.stack([dataset.widths, dataset.heights] * 2, axis=1)[found.image]  # [T,4]
    _check_unit(path, found.boxes, sides, boxes_in)
    if boxes_in == "normalised":
        found.boxes[:] *= sides
    if logits or scores_as == "logits":
        # Neither overflows nor loses small probabilities; NaN stays NaN and is dropped with its reason later.
        found = replace(found, scores=np.exp(-np.logaddexp(0, -found.scores)))
    _check_probabilities(path, found.scores)
    kept = _best_first(_clean(found, sides, dropped), top_n, dropped)
    unit = ", normalised" if boxes_in == "normalised" else ""
    limit = "" if top_n is None else f", top {top_n}"
    return Proposals(
        identity=f"{path.name} ({form}{unit}{limit}, sha256 {file_sha256(path)[:12]})",
        image_ids=tuple(dataset.image_ids),
        offsets=offsets_of(np.bincount(kept.image, minlength=len(dataset.image_ids))),
        boxes=kept.boxes,
        scores=kept.scores.astype(np.float32),
        dropped=+dropped,  # reasons that occurred
    )


@dataclass(frozen=True, kw_only=True)
class _Found(Table):
    """Boxes of a file."""

    image: np.ndarray  # i64 [T], index in the dataset
    boxes: np.ndarray  # f32 [T,4]
    scores: np.ndarray  # f64 [T]


def _gather(path: Path, pieces: Iterable[Piece], dataset: DetectionDataset) -> tuple[_Found, Counter[str]]:
    """The boxes of images that the dataset has, and counts of images that only one of the two has."""
    index = places(dataset.image_ids, dataset.name)
    ids = TextIds(str(path))
    found = [_Found(image=np.zeros(0, np.int64), boxes=np.zeros((0, 4), np.float32), scores=np.zeros(0))]
    seen, unknown = set(), set()
    for image_id, boxes, scores in pieces:
        text = ids.text(image_id)
        i = index.get(text)
        (unknown if i is None else seen).add(text)
        if i is not None:
            with np.errstate(over="ignore"):  # beyond float32 becomes infinite, and is dropped as such
                boxes = boxes.astype(np.float32)
            found.append(_Found(image=np.full(len(boxes), i), boxes=boxes, scores=scores))
    missing = len(index) - len(seen)
    dropped = {"image not in the dataset": len(unknown), "image without proposals": missing}
    return _Found.concatenate(found), Counter(dropped)


def _check_unit(path: Path, boxes: np.ndarray, sides: np.ndarray, unit: BoxUnit) -> None:
    """Raises InputError for boxes [T,4] in the other unit; `sides` [T,4] are those of their images."""
    with np.errstate(invalid="ignore"):
        judged = np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    judged &= sides.min(axis=1, initial=_TINY + 1) > _TINY
    count = np.count_nonzero(judged)
    inside = np.count_nonzero((np.abs(boxes[judged]) <= 1 + _SLACK).all(axis=1))
    fractions = inside >= _NEARLY_ALL * count
    if not count or fractions == (unit == "normalised"):
        return
    what = f"{path}: {inside} of {count} boxes lie between 0 and 1, such as {boxes[judged][0].tolist()}"
    if fractions:
        raise InputError(
            what,
            "corners in pixels of the original image",
            "say that they are fractions of its width and height: --set proposal_boxes=normalised",
        )
    raise InputError(what, "all of them there, for proposal_boxes is normalised", "leave that setting out")


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


def _clean(found: _Found, sides: np.ndarray, dropped: Counter[str]) -> _Found:
    """Boxes clipped to their image; without those that are not finite or have no area there."""
    finite_box, finite_score = np.isfinite(found.boxes).all(axis=1), np.isfinite(found.scores)
    rows = np.flatnonzero(finite_box & finite_score)
    # Adding zero turns -0 into 0, so that equal boxes have equal bytes.
    boxes = np.clip(found.boxes[rows], 0, sides[rows].astype(np.float32)) + np.float32(0)
    solid = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    dropped["non-finite box"] = int(np.count_nonzero(~finite_box))
    dropped["non-finite score"] = int(np.count_nonzero(finite_box & ~finite_score))
    dropped["no area inside the image"] = int(np.count_nonzero(~solid))
    return replace(found.take(rows), boxes=boxes).take(solid)


def _best_first(found: _Found, top_n: int | None, dropped: Counter[str]) -> _Found:
    """Ordered by image and falling score, without repeated boxes and with at most `top_n` of an image."""
    ordered = found.take(np.lexsort((-found.scores, found.image)))
    boxes = np.concatenate([ordered.image[:, None].astype(np.float64), ordered.boxes], axis=1)
    _, first = np.unique(boxes.view([("", np.float64)] * 5), return_index=True)
    unique = ordered.take(np.sort(first))
    best = unique if top_n is None else unique.take(ranks(unique.image) < top_n)
    dropped["repeated box"] = len(ordered.image) - len(unique.image)
    dropped["behind the best"] = len(unique.image) - len(best.image)
    return best
