"""Training from a stored cache, with images that failed and images without boxes."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from regionspot_cache.errors import DamageError
from regionspot_cache.store import STATUS_CODES, create_cache, make_clip_part, make_sam_part, open_cache
from regionspot_cache.training import TrainingSource, train
from regionspot_cache.training.head import RegionHead
from tests.training.fake import GRID, MAP_DIM, MAP_TOKENS, TEXT_DIM, TOKEN_DIM, make_config

IMAGES, CLASSES = 21, ("cat", "dog", "owl")


def make_dataset() -> SimpleNamespace:
    """Stand-in for a detection dataset whose third image has no box."""
    random = np.random.default_rng(0)
    counts = random.integers(1, 5, IMAGES)
    counts[2] = 0
    total = int(counts.sum())
    corners = random.uniform(0, 40, (total, 2))
    return SimpleNamespace(
        name="boxes",
        split="train",
        image_root=Path("images"),
        annotation_sha256="ab" * 32,
        class_names=CLASSES,
        category_ids=np.array([1, 5, 7]),
        class_frequency=("f", "c", "r"),
        image_ids=list(range(IMAGES)),
        file_names=[f"{i:06d}.jpg" for i in range(IMAGES)],
        widths=np.full(IMAGES, 100, np.int32),
        heights=np.full(IMAGES, 100, np.int32),
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        boxes=np.concatenate([corners, corners + 20], axis=1).astype(np.float32),
        labels=random.integers(0, 3, total).astype(np.int32),
        annotation_ids=np.arange(total),
        dropped={},
        policy=SimpleNamespace(to_dict=lambda: {"min_size": 1.0}),
        views=None,
        augmentation=None,
        exif="ignore",
    )


def write_cache(path: Path) -> None:
    """A sealed cache in which image 5 has no CLIP map."""
    parts = [
        make_sam_part({"transformer": TOKEN_DIM}, fingerprint={"model": "sam tiny"}),
        make_clip_part(MAP_TOKENS, MAP_DIM, fingerprint={"model": "clip tiny"}),
    ]
    writer = create_cache(path, make_dataset(), partition_size=4, parts=parts)
    random = np.random.default_rng(1)
    for partition in range(writer.num_partitions):
        plan = writer.partition(partition)
        images, boxes = len(plan.image_ids), len(plan.boxes)
        status = np.full(images, STATUS_CODES["ok"], np.uint8)
        tokens = random.normal(size=(boxes, TOKEN_DIM)).astype(np.float32)
        writer.commit("sam", partition, {"transformer": tokens}, status)
        maps = random.normal(size=(images, MAP_TOKENS, MAP_DIM)).astype(np.float32)
        status[[i for i, image in enumerate(plan.image_ids) if image == 5]] = STATUS_CODES["missing"]
        writer.commit("clip", partition, {"map": maps}, status)
    writer.seal()


def make_real_source(path: Path) -> TrainingSource:
    text = np.linalg.qr(np.random.default_rng(2).normal(size=(TEXT_DIM, TEXT_DIM)))[0][: len(CLASSES)]
    return TrainingSource(
        name="boxes",
        cache=open_cache(path),
        class_names=CLASSES,
        text_embeddings=text.astype(np.float32),
        class_map=np.arange(len(CLASSES)),
        grid=GRID,
    )


@pytest.mark.parametrize("memory_bytes", [0, 2**20])
def test_a_stored_cache_trains(tmp_path: Path, memory_bytes: int) -> None:
    write_cache(tmp_path / "cache")
    source = make_real_source(tmp_path / "cache")
    result = train([source], make_config(memory_bytes=memory_bytes), tmp_path / "out")
    assert result.left_out == {"boxes": {"without boxes": 1, "without CLIP map": 1}}
    RegionHead.from_pretrained(tmp_path / "out")
    lines = (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    assert all(np.isfinite(json.loads(line)["loss"]) for line in lines)


def test_memory_and_disk_give_the_same_head(tmp_path: Path) -> None:
    write_cache(tmp_path / "cache")
    source = make_real_source(tmp_path / "cache")
    for memory_bytes in (0, 2**20):
        train([source], make_config(memory_bytes=memory_bytes), tmp_path / str(memory_bytes))
    one, two = (RegionHead.from_pretrained(tmp_path / name).state_dict() for name in ("0", "1048576"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_damage_of_a_stored_map_is_named(tmp_path: Path) -> None:
    write_cache(tmp_path / "cache")
    source = make_real_source(tmp_path / "cache")
    files = (tmp_path / "cache" / "clip" / "map").rglob("*")
    objects = [file for file in files if file.is_file() and file.suffix != ".json"]
    for path in objects:
        data = bytearray(path.read_bytes())
        data[7] ^= 1  # first record
        path.write_bytes(data)
    with pytest.raises(DamageError, match="clip/map"):
        train([source], make_config(memory_bytes=0), tmp_path / "out")
