"""Write the built-in world to disk as JPEG images and LVIS annotation files."""

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from PIL import Image

from regionspot_cache.datasets.shapes_annotations import (
    SPACES,
    dataset_json,
    image_annotations,
    restrict,
    space_file,
)
from regionspot_cache.datasets.shapes_classes import class_probabilities
from regionspot_cache.datasets.shapes_scene import Scene, draw_scene, image_rng
from regionspot_cache.errors import DamageError, InputError, MissingFileError
from regionspot_cache.files import file_sha256, read_json, replacing
from regionspot_cache.shared_work import usable_cores

FORMAT = 1  # raise when the same parameters would give other images or annotations
SPLITS = ("train", "val")
CHUNK = 50  # images per task; a restart repeats unfinished chunks only
JPEG_QUALITY = 92

Progress = Callable[[int, int], None]  # images done, images in all


@dataclass(frozen=True, kw_only=True)
class World:
    """What decides every byte of the annotation files and every pixel drawn."""

    seed: int = 0
    train: int = 3000
    val: int = 600
    format: int = FORMAT

    @property
    def name(self) -> str:
        return "-".join(map(str, astuple(self)))

    def chunks(self, split: str) -> "list[Chunk]":
        size = self.train if split == "train" else self.val
        starts = range(0, size, CHUNK)
        return [Chunk(world=self, split=split, start=at, stop=min(at + CHUNK, size)) for at in starts]


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Images of a split that are drawn in one task."""

    world: World
    split: str
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def part(self, root: Path) -> Path:
        """The entries of its images, a file that is there when all of them are."""
        return root / "parts" / self.world.name / f"{self.split}-{self.start:06d}.json"


def materialise(
    root: Path,
    *,
    seed: int = 0,
    train: int = 3000,
    val: int = 600,
    processes: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Write root/train.json, root/val.json and root/images/{train,val}/NNNNNN.jpg; skip what is complete.

    `file_name` in the annotations is relative to root/images. The result depends on seed, train and val only.
    An interrupted call is continued by the next one; two calls at once wait for each other. root/COMPLETE is
    written last.

    Args:
        processes: worker processes (None: one per core); with 1 nothing is started.
        progress: called as progress(images done, images in all).

    Raises:
        InputError: root holds a world of other parameters.
    """
    world = World(seed=seed, train=train, val=val)
    if is_complete(root, world):
        return
    root.mkdir(parents=True, exist_ok=True)
    with _locked(root / ".lock"):
        if is_complete(root, world):  # another process was faster
            return
        _write_chunks(root, world, processes or usable_cores(), progress)
        _write_annotations(root, world)
        shutil.rmtree(root / "parts", ignore_errors=True)


def materialise_space(root: Path, space: str) -> Path:
    """Write root/train-s.json, -m or -l (see `restrict`) from the train.json of a complete world, if absent.

    Nothing is drawn: its images are those of the world. Calls at the same time wait for each other.
    """
    path = root / space_file(space)
    if not path.is_file():
        with _locked(root / ".lock"):
            if not path.is_file():  # another process was faster
                _write_json(path, restrict(_train_annotations(root), space))
    return path


def _train_annotations(root: Path) -> Any:
    """The content of train.json, which must be the file that was written with the world."""
    path = root / "train.json"
    marker = _read_dict(root / "COMPLETE")
    digests = marker.get("sha256")
    if not (path.is_file() and isinstance(digests, dict) and digests.get(path.name) == file_sha256(path)):
        raise DamageError(
            f"{path} is not the file that was written with the world.",
            "SHA-256 as in COMPLETE.",
            f"rm -r {root}",
        )
    return json.loads(path.read_text())


def is_complete(root: Path, world: World) -> bool:
    """Whether root holds this world by its marker; a torn one counts as none, another is an InputError."""
    found = _read_dict(root / "COMPLETE").get("world")
    if not isinstance(found, dict):
        return False
    if found != asdict(world):
        raise InputError(
            f"{root} holds the world {found}.",
            f"The world {asdict(world)} was asked for.",
            f"Choose another folder, or delete {root}.",
        )
    return all((root / f"{split}.json").is_file() for split in SPLITS)


def draw(world: World, split: str, index: int) -> tuple[Scene, dict[str, Any]]:
    """Draw image `index` of a split, with its annotations: a pure function of the arguments."""
    rng = image_rng(world.seed, SPLITS.index(split), index)
    scene = draw_scene(rng, class_probabilities(split))
    image_id = index + 1 + (0 if split == "train" else world.train)
    name = f"{split}/{index:06d}.jpg"
    return scene, image_annotations(scene, split=split, image_id=image_id, file_name=name, rng=rng)


def _write_chunks(root: Path, world: World, processes: int, progress: Progress | None) -> None:
    for split in SPLITS:
        (root / "images" / split).mkdir(parents=True, exist_ok=True)
    for other in {*root.glob("parts/*")} - {root / "parts" / world.name}:  # its images are drawn over
        shutil.rmtree(other)
    chunks = [chunk for split in SPLITS for chunk in world.chunks(split)]
    missing = [chunk for chunk in chunks if not chunk.part(root).is_file()]
    total = sum(map(len, chunks))
    done = total - sum(map(len, missing))
    for chunk in _run(root, missing, processes):
        done += len(chunk)
        if progress:
            progress(done, total)


def _run(root: Path, chunks: list[Chunk], processes: int) -> Iterator[Chunk]:
    """Write chunks here or in worker processes, and yield each one when it is on disk."""
    if processes == 1 or len(chunks) < 2:
        for chunk in chunks:
            yield _write_chunk(root, chunk)
        return
    with ProcessPoolExecutor(min(processes, len(chunks)), mp_context=get_context("spawn")) as pool:
        yield from pool.map(_write_chunk, [root] * len(chunks), chunks)


def _write_chunk(root: Path, chunk: Chunk) -> Chunk:
    entries = []
    for index in range(chunk.start, chunk.stop):
        scene, entry = draw(chunk.world, chunk.split, index)
        path = root / "images" / entry["image"]["file_name"]
        with replacing(path) as temporary:
            Image.fromarray(scene.image).save(temporary, "JPEG", quality=JPEG_QUALITY)
        entries.append(entry)
    chunk.part(root).parent.mkdir(parents=True, exist_ok=True)
    _write_json(chunk.part(root), entries)
    return chunk


def _write_annotations(root: Path, world: World) -> None:
    """Join the parts to the two files, then put the marker; label spaces of an earlier world go."""
    for space in SPACES:
        (root / space_file(space)).unlink(missing_ok=True)
    digests, train_annotations = {}, None
    for split in SPLITS:  # training images come first: their counts tell how frequent a class is
        parts = [json.loads(chunk.part(root).read_text()) for chunk in world.chunks(split)]
        entries = [entry for part in parts for entry in part]
        annotations = [a for entry in entries for a in entry["annotations"]]
        train_annotations = train_annotations if split != "train" else annotations
        images = [entry["image"] for entry in entries]
        path = root / f"{split}.json"
        _write_json(path, dataset_json(images, annotations, train_annotations or [], split=split))
        digests[path.name] = file_sha256(path)
    _write_json(root / "COMPLETE", {"world": asdict(world), "sha256": digests})


@contextmanager
def _locked(path: Path) -> Generator[None]:
    """Hold an exclusive lock; the kernel releases it when the process ends in any way."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write_json(path: Path, value: Any) -> None:
    with replacing(path) as temporary, temporary.open("w") as file:
        json.dump(value, file, separators=(",", ":"))
        file.flush()
        os.fsync(file.fileno())


def _read_dict(path: Path) -> dict[str, Any]:
    """The object in a JSON file; an empty one when the file is missing or torn."""
    try:
        content = read_json(path, "")
    except (MissingFileError, InputError):
        return {}
    return content if isinstance(content, dict) else {}
