"""Training from a stored cache, with images that failed and images without boxes."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from regionspot_cache.backbones.presets import HeadInputs
from regionspot_cache.datasets.regions import BOX_QUERY
from regionspot_cache.errors import DamageError
from regionspot_cache.store import (
    STATUS_CODES,
    ArraySpec,
    LabelledCache,
    PartSpec,
    create_cache,
    open_cache,
)
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
    token = ArraySpec(name="transformer", dtype="int8", item_shape=(TOKEN_DIM,), ragged=True)
    feature = ArraySpec(name="map", dtype="int8", item_shape=(MAP_TOKENS, MAP_DIM), ragged=False, grid=GRID)
    other = ArraySpec(name="map", dtype="int8", item_shape=(6, MAP_DIM), ragged=False, grid=(2, 3))
    parts = [
        PartSpec(name="sam", arrays=(token,), fingerprint={"model": "sam tiny"}),
        PartSpec(name="clip", arrays=(feature,), fingerprint={"model": "clip tiny"}),
        PartSpec(name="dino", arrays=(other,), fingerprint={"model": "dino tiny"}),
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
        maps = random.normal(size=(images, 6, MAP_DIM)).astype(np.float32)
        writer.commit("dino", partition, {"map": maps}, np.full(images, STATUS_CODES["ok"], np.uint8))
    writer.seal()


def make_real_source(path: Path, inputs: HeadInputs | None = None) -> TrainingSource:
    text = np.linalg.qr(np.random.default_rng(2).normal(size=(TEXT_DIM, TEXT_DIM)))[0][: len(CLASSES)]
    return TrainingSource(
        name="boxes",
        cache=LabelledCache(open_cache(path), make_dataset()),
        inputs=inputs or HeadInputs(),
        class_names=CLASSES,
        text_embeddings=text.astype(np.float32),
        class_map=np.arange(len(CLASSES)),
    )


@pytest.mark.parametrize("memory_bytes", [0, 2**20])
def test_a_stored_cache_trains(tmp_path: Path, memory_bytes: int) -> None:
    write_cache(tmp_path / "cache")
    source = make_real_source(tmp_path / "cache")
    result = train([source], make_config(memory_bytes=memory_bytes), tmp_path / "out")
    assert result.left_out == {"boxes": {"without boxes": 1, "without clip": 1}}
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


@pytest.mark.parametrize("query", ["sam/transformer", BOX_QUERY])
def test_a_head_on_two_maps_trains(tmp_path: Path, query: str) -> None:
    write_cache(tmp_path / "cache")
    inputs = HeadInputs(query=query, memory=("clip/map", "dino/map"))
    source = make_real_source(tmp_path / "cache", inputs)
    assert source.map_shape == (MAP_TOKENS + 6, MAP_DIM)
    maps, scales = source.raw_maps([0, 3])
    for row, image in enumerate((0, 3)):
        for start, path in ((0, "clip/map"), (MAP_TOKENS, "dino/map")):
            stored = source.cache.cache.read(path, image)
            found = maps[row, start : start + len(stored)] * scales[row, start : start + len(stored), None]
            np.testing.assert_allclose(found, stored, rtol=1e-3)
    for memory_bytes in (0, 2**20):
        train([source], make_config(memory_bytes=memory_bytes), tmp_path / str(memory_bytes))
    one, two = (RegionHead.from_pretrained(tmp_path / name) for name in ("0", "1048576"))
    assert one.config.maps == ((1, *GRID), (0, 2, 3))
    assert one.config.token_dim == source.queries(0).shape[1]
    assert all(torch.equal(value, two.state_dict()[name]) for name, value in one.state_dict().items())


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
