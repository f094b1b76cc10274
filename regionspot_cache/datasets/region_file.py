"""The region file: proposals of captioned images as a COCO-style file, a dataset like any other.

It has one category, "region". The boxes of an image are the best proposals, best first, each with a `score`,
the logit of its objectness; the last one is the whole image, whose `score` is null. Sides are multiples of an
eighth of a pixel, exact in JSON as in float32. `captions` holds the captions, `info` what all was made from.

Work goes in chunks of images, JSON lines in the folder FILE.parts; the same call continues from these.
"""

import fcntl
import json
import os
import shutil
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TextIO

import numpy as np
from numpy.typing import NDArray

from regionspot_cache.datasets.captions import CaptionedImage
from regionspot_cache.datasets.images import ImageFailure, find_image, read_image
from regionspot_cache.datasets.regions import Boxes, clean_boxes, xyxy_to_xywh
from regionspot_cache.errors import InputError, MissingFileError
from regionspot_cache.files import read_json, replacing
from regionspot_cache.identity import require_same
from regionspot_cache.json_stream import JsonFile

FORMAT = 1
CATEGORY = "region"
TOP_N = 300  # RegionCLIP's proposals an image
CHUNK = 128  # images; an interrupted run repeats one chunk at most
_STEPS = 8  # to a pixel
_LEAST = 2.0**-24  # a probability that is 0 or 1 in float32 still has a logit: +-16.6

Progress = Callable[[int, int], None]  # images done, images in all


class Proposer(Protocol):
    """Source of class-agnostic boxes; those of `backbones.proposer` are."""

    def propose(self, image: NDArray[np.uint8], /) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Boxes float32 [n, 4] xyxy in pixels, and objectness [n] in [0, 1], of an RGB image [H, W, 3]."""
        ...

    def identity(self) -> dict[str, Any]:
        """What decides the boxes, json-able."""
        ...


def regions_of(
    boxes: NDArray[np.float32], scores: NDArray[np.float32], size: tuple[int, int], top_n: int = TOP_N
) -> tuple[Boxes, list[float | None]]:
    """The boxes of one image as they are written, float32 [n + 1, 4] xyxy, and their logits.

    Rounded to an eighth of a pixel; without those that `BoxPolicy` would drop (less than a pixel, repeated,
    not finite, outside) and those that are the whole image; the best `top_n`; then the whole image.

    Args:
        boxes: float32 [n, 4] xyxy pixels.
        scores: float32 [n] in [0, 1].
        size: (width, height) of the image.
        top_n: most boxes beside the whole image.
    """
    order = np.argsort(-scores, kind="stable")
    frame = np.array([[0, 0, *size]], np.float32)
    rounded = np.round(boxes[order] * _STEPS) / _STEPS
    clean = clean_boxes(rounded, np.zeros(len(order)), width=size[0], height=size[1])
    kept = np.flatnonzero((clean.boxes != frame).any(axis=1))[:top_n]
    chance = np.clip(scores[order][clean.kept[kept]].astype(np.float64), _LEAST, 1 - _LEAST)
    logits = np.round(np.log(chance) - np.log1p(-chance), 4)
    return np.concatenate([clean.boxes[kept], frame]), [*logits.tolist(), None]


@dataclass(frozen=True, kw_only=True)
class RegionWork:
    """What a region file is made from.

    Attributes:
        records: the images.
        root: folder of their files.
        proposer: makes the boxes.
        identity: what the records are, json-able, such as a digest.
        top_n: most proposals of an image.
        chunk: images that are written at a time.
        threads: that decode images.
    """

    records: Sequence[CaptionedImage]
    root: Path
    proposer: Proposer
    identity: dict[str, Any]
    top_n: int = TOP_N
    chunk: int = CHUNK
    threads: int = 4

    def made_from(self) -> dict[str, Any]:
        """All that decides the file."""
        proposals = {"top_n": self.top_n, **self.proposer.identity()}
        return {"format": FORMAT, "images": self.identity, "proposals": proposals}

    def chunks(self, folder: Path) -> Iterator[tuple[Path, Sequence[CaptionedImage]]]:
        """The file of every chunk, and its images."""
        for number, start in enumerate(range(0, len(self.records), self.chunk)):
            yield folder / f"{number:06}.jsonl", self.records[start : start + self.chunk]


def write_region_file(out: Path, work: RegionWork, progress: Progress | None = None) -> Counter[str]:
    """Proposes boxes for every image and writes the region file, whole or not at all.

    A finished file is left as it is. Memory grows with the records and one chunk, not with the boxes.

    Args:
        out: the file, .json.
        work: images, proposer and rules.
        progress: called after every image.

    Returns:
        numbers of "images", "boxes" (with the whole images) and "captions" in the file; and of images that
        could not be read, as "image: missing" and other reasons of `ImageFailure`.

    Raises:
        IdentityError: the file, or an unfinished one, was made from something else.
        InputError: another process writes it, or another file is there.
        MissingFileError: no image could be read.
    """
    parts = out.with_name(f"{out.name}.parts")
    if out.exists():
        counts = _finished(out, work)
        shutil.rmtree(parts, ignore_errors=True)  # of a process that was killed after its last step
        return counts
    parts.mkdir(parents=True, exist_ok=True)
    with _claimed(parts):
        _require_same_work(parts, work)
        counts, done = Counter(), 0
        for part, records in work.chunks(parts):
            if not part.is_file():
                _write_chunk(part, work, records, done, progress)
            elif progress:
                progress(done + len(records), len(work.records))
            done += len(records)
            counts.update(json.loads(part.read_text().rpartition("\n")[2]))
        if not counts["images"]:
            raise _nothing_read(work, counts)
        _assemble(parts / out.name, parts, work, {"made_from": work.made_from(), "counts": counts})
        os.replace(parts / out.name, out)
        shutil.rmtree(parts)
    return counts


def _write_chunk(
    part: Path, work: RegionWork, records: Sequence[CaptionedImage], done: int, progress: Progress | None
) -> None:
    """One line an image, in order, and one of counts."""
    counts: Counter[str] = Counter()
    with replacing(part) as staging, staging.open("w") as file:
        for record, image in _decoded(work, records):
            if isinstance(image, ImageFailure):
                counts[f"image: {image.reason}"] += 1
                line = None
            else:
                height, width = image.shape[:2]
                boxes, scores = regions_of(*work.proposer.propose(image), (width, height), work.top_n)
                counts.update(images=1, boxes=len(boxes), captions=len(record.captions))
                line = [width, height, xyxy_to_xywh(boxes).tolist(), scores]
            _write(file, line)
            file.write("\n")
            done += 1
            if progress:
                progress(done, len(work.records))
        _write(file, counts)
        _to_disk(file)


def _decoded(
    work: RegionWork, records: Sequence[CaptionedImage]
) -> Iterator[tuple[CaptionedImage, NDArray[np.uint8] | ImageFailure]]:
    """Images in order, decoded a few ahead."""

    def read(record: CaptionedImage) -> NDArray[np.uint8] | ImageFailure:
        try:
            return read_image(find_image(work.root, record.file_name))
        except ImageFailure as failure:
            return failure

    with ThreadPoolExecutor(work.threads) as pool:
        ahead: deque[tuple[CaptionedImage, Future]] = deque()
        for record in records:
            ahead.append((record, pool.submit(read, record)))
            if len(ahead) > 2 * work.threads:
                first, image = ahead.popleft()
                yield first, image.result()
        for record, image in ahead:
            yield record, image.result()


def _assemble(out: Path, parts: Path, work: RegionWork, info: dict[str, Any]) -> None:
    """The sections one after the other, each in one pass over the chunks."""

    def images() -> Iterator[tuple[CaptionedImage, list[Any]]]:
        for part, records in work.chunks(parts):
            lines = part.read_text().splitlines()[:-1]
            for record, line in zip(records, map(json.loads, lines), strict=True):
                if line is not None:
                    yield record, line

    boxes = (
        {"image_id": record.image_id, "category_id": 1, "bbox": box, "score": score}
        for record, (_, _, boxes, scores) in images()
        for box, score in zip(boxes, scores, strict=True)
    )
    sections: dict[str, Iterator[dict[str, Any]]] = {
        "images": (
            {"id": record.image_id, "file_name": record.file_name, "width": width, "height": height}
            for record, (width, height, _, _) in images()
        ),
        "annotations": ({"id": number, **box} for number, box in enumerate(boxes, 1)),
        "categories": iter([{"id": 1, "name": CATEGORY}]),
        "captions": (
            {"image_id": record.image_id, "caption": caption}
            for record, _ in images()
            for caption in record.captions
        ),
    }
    with out.open("w") as file:
        file.write('{"info":')
        _write(file, info)
        for name, entries in sections.items():
            file.write(f',\n"{name}":[')
            for number, entry in enumerate(entries):
                file.write(",\n" if number else "\n")
                _write(file, entry)
            file.write("]")
        file.write("}\n")
        _to_disk(file)


def _write(file: TextIO, value: Any) -> None:
    file.write(json.dumps(value, separators=(",", ":")))


def _to_disk(file: TextIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _finished(out: Path, work: RegionWork) -> Counter[str]:
    """What is in a file that is there, which must be this one."""
    remedy = f"Give another --out FILE, or remove {out}."
    _, info = next(JsonFile(out).entries(), (None, None))
    if not isinstance(info, dict) or not {"made_from", "counts"} <= info.keys():
        raise InputError(f"{out} is there, and is no region file.", "A new file.", remedy)
    require_same(info["made_from"], work.made_from(), what=str(out), wanted_by="this run", remedy=remedy)
    return Counter(info["counts"])


def _require_same_work(parts: Path, work: RegionWork) -> None:
    """Keeps what the chunks are made from beside them, or compares."""
    file, made_from = parts / "made_from.json", {**work.made_from(), "chunk": work.chunk}
    if not file.is_file():
        with replacing(file) as staging, staging.open("w") as text:
            _write(text, made_from)
            _to_disk(text)
    remedy = f"Give another --out FILE, or remove {parts}."
    found = read_json(file, "What rs-cache propose wrote.", remedy)
    require_same(found, made_from, what=f"The unfinished {parts}", wanted_by="this run", remedy=remedy)


def _nothing_read(work: RegionWork, counts: Counter[str]) -> MissingFileError:
    reasons = ", ".join(f"{count} {reason.removeprefix('image: ')}" for reason, count in counts.items())
    example = f", for example {work.root / work.records[0].file_name}" if work.records else ""
    return MissingFileError(
        f"None of the {len(work.records)} images could be read: {reasons}{example}.",
        "Image files below that folder.",
        "Give the folder with --images DIR.",
    )


@contextmanager
def _claimed(parts: Path) -> Generator[None]:
    """Holds the lock of a folder, which the kernel releases with the process."""
    lock = os.open(parts, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"Another process writes {parts}.", "One at a time.", "Wait for it.") from None
        yield
    finally:
        os.close(lock)
