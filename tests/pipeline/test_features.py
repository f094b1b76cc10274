"""Stored features against the reference implementations on the same weights."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from segment_anything import SamPredictor

from pipeline.features import (
    NON_FINITE,
    Clock,
    Encoders,
    ImageLoader,
    PartitionFeatures,
    empty_rows,
    put_rows,
)
from regionspot_cache.datasets.images import ExifRule
from regionspot_cache.store import STATUS_OK, STATUS_REASONS, Cache, Quantised, open_cache
from tests.running import rs_cache

CACHE = Path("rs-cache-data/caches/shapes-train-small")
IMAGES = Path("rs-cache-data/datasets/shapes/images")
EXIF: ExifRule = "ignore"


def image_of(cache: Cache, i: int, place: Path) -> np.ndarray:
    planned, slot = cache.partition(i // cache.partition_size), i % cache.partition_size
    return np.asarray(Image.open(place / IMAGES / planned.file_names[slot]).convert("RGB"))


def reference_tokens(network: torch.nn.Module, image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Mask token 0 after the two-way transformer, as SamPredictor makes it; [n, D]."""
    found: list[torch.Tensor] = []

    def keep(_: object, __: object, result: tuple[torch.Tensor, torch.Tensor]) -> None:
        found.append(result[0][:, 1])  # behind the IoU token

    predictor = SamPredictor(network)
    predictor.set_image(image)
    hook = network.mask_decoder.transformer.register_forward_hook(keep)
    try:
        for box in boxes:
            predictor.predict(box=box, multimask_output=False)
    finally:
        hook.remove()
    return torch.cat(found).numpy()


def reference_map(model: torch.nn.Module, preprocess: Callable, image: np.ndarray) -> np.ndarray:
    """Tokens of the last block before `ln_post`, as open_clip's own forward pass makes them; [N, C]."""
    found: list[torch.Tensor] = []
    hook = model.visual.transformer.register_forward_hook(lambda *given: found.append(given[-1]))
    try:
        with torch.inference_mode():
            model.encode_image(preprocess(Image.fromarray(image))[None])
    finally:
        hook.remove()
    return found[0][0].numpy()


@pytest.fixture(scope="module")
def in_part_precision(finished: Path) -> Path:
    cache = Path("part-precision")
    ran = rs_cache(
        *("extract", "--backbone", "small.yaml", "--limit", 6, "--cache", cache),
        *("--set", "dtype=float16", "--set", "partition_size=4"),
        cwd=finished,
    )
    assert ran.code == 0
    return finished / cache


@pytest.mark.parametrize("dtype", ["int8", "float16"])
def test_stored_features_are_those_of_sampredictor_and_open_clip(
    dtype: str, finished: Path, in_part_precision: Path, small_backbone
) -> None:
    cache = open_cache(finished / CACHE if dtype == "int8" else in_part_precision)
    clip = small_backbone.clip
    preprocess = open_clip.image_transform(
        clip.image_size, is_train=False, mean=clip.parts.mean, std=clip.parts.std, resize_mode="squash"
    )
    for i in range(6):
        image = image_of(cache, i, finished)
        with torch.inference_mode():
            tokens = reference_tokens(small_backbone.sam.network, image, cache.boxes(i))
        pairs = [
            (cache.read_tokens(i), tokens),
            (cache.read_map(i), reference_map(clip.model, preprocess, image)),
        ]
        for stored, expected in pairs:
            assert stored.shape == expected.shape
            largest = np.abs(expected).max(axis=-1, keepdims=True)
            bound = largest / 127 / 2 if dtype == "int8" else np.abs(expected) * 2**-11 + 1e-7
            assert (np.abs(stored - expected) <= 1.01 * bound + 1e-4 * largest).all()


def test_images_without_boxes_have_maps_and_failed_ones_nothing(finished: Path, small_backbone) -> None:
    cache = open_cache(finished / CACHE)
    planned = cache.partition(0)
    encoders = Encoders(sam=small_backbone.sam, clip=small_backbone.clip)
    loader = ImageLoader(root=finished / IMAGES, exif=EXIF, encoders=encoders, clock=Clock())
    planned.offsets[1:] = planned.offsets[-1]  # all boxes belong to the first image
    planned.file_names[2] = "train/none.jpg"
    planned.file_names[3] = "../outside.jpg"
    found = PartitionFeatures(planned, encoders, loader.clock, dtype="int8")
    for batch in loader.batches(planned, [0, 1, 2, 3], size=3, threads=2):
        found.add(batch)
    for part in ("sam", "clip"):
        reasons = [STATUS_REASONS[code] for code in found.status[part]]
        assert reasons[2:] == ["missing", "outside root"]
        assert (found.status[part][:2] == STATUS_OK).all()
    assert {slot: reason for slot, (reason, _) in found.failures.items()} == {
        2: "missing",
        3: "outside root",
    }


def test_batches_keep_the_order_and_read_little_ahead(finished: Path, small_backbone) -> None:
    cache = open_cache(finished / CACHE)
    planned, read = cache.partition(0), []
    loader = ImageLoader(root=finished / IMAGES, exif=EXIF, encoders=Encoders(), clock=Clock())
    real = loader._load
    object.__setattr__(loader, "_load", lambda planned, slot: read.append(slot) or real(planned, slot % 4))
    batches = loader.batches(planned, list(range(20)), size=2, threads=3)
    order = []
    for done, batch in enumerate(batches, start=1):
        order += [item.slot for item in batch]
        assert len(read) <= 2 * done + 4
    assert order == [slot % 4 for slot in range(20)]
    assert {"read", "decode", "prepare"} <= set(loader.clock.seconds)


def test_features_that_are_not_finite_fail_their_image_and_part_alone(finished: Path, small_backbone) -> None:
    cache = open_cache(finished / CACHE)
    planned = cache.partition(0)
    encoders = Encoders(sam=small_backbone.sam, clip=small_backbone.clip)
    found = PartitionFeatures(planned, encoders, Clock(), dtype="float16")
    maps = torch.zeros(encoders.clip.map_shape)
    found._keep(0, "clip", 0, {"map": maps})
    for slot, value in ((1, torch.nan), (2, torch.inf), (3, 1e6)):
        found._keep(slot, "clip", slot, {"map": maps + value})
    assert found.status["clip"][0] == STATUS_OK
    assert [STATUS_REASONS[code] for code in found.status["clip"][1:]] == [NON_FINITE] * 3
    assert (found.status["sam"] == 0).all()


def test_rows_are_quantised_as_they_come() -> None:
    values = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    small, part = empty_rows((5, 8), "int8"), empty_rows((5, 8), "float16")
    for rows in (small, part):
        put_rows(rows, slice(1, 4), values)
    assert isinstance(small, Quantised)
    np.testing.assert_allclose(
        small.values[1:4] * small.scale[1:4, None].astype(np.float32), values, atol=0.02
    )
    np.testing.assert_allclose(part[1:4], values, rtol=1e-3)
    assert not small.values[[0, 4]].any()
