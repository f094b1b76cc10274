"""Stored features against the reference implementations on the same weights."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from segment_anything import SamPredictor

from regionspot_cache.backbones import Array, Backbone, ClipBackbone, Encoder, SamBackbone
from regionspot_cache.backbones.encoder import Size
from regionspot_cache.datasets.images import ExifRule, ImageFailure
from regionspot_cache.errors import UsageError
from regionspot_cache.extraction.features import NON_FINITE, PartitionFeatures, part_spec, side_by_side
from regionspot_cache.extraction.loader import Clock, ImageLoader, Loaded
from regionspot_cache.store import (
    STATUS_OK,
    STATUS_REASONS,
    STORAGE,
    Cache,
    PartitionPlan,
    StorageName,
    open_cache,
)
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


@pytest.mark.parametrize(("dtype", "error"), [("int8", None), ("float16", 2**-11), ("bfloat16", 2**-8)])
def test_stored_features_are_those_of_sampredictor_and_open_clip(
    dtype: StorageName, error: float | None, finished: Path, small_backbone: Backbone
) -> None:
    ran = rs_cache(
        *("extract", "--backbone", "small.yaml", "--limit", 6, "--cache", dtype),
        *("--set", f"dtype={dtype}", "--set", "partition_size=4"),
        cwd=finished,
    )
    assert ran.code == 0
    cache = open_cache(finished / dtype)
    sam, clip = small_backbone.parts["sam"], small_backbone.parts["clip"]
    assert isinstance(sam, SamBackbone)
    assert isinstance(clip, ClipBackbone)
    preprocess = open_clip.image_transform(
        clip.image_size, is_train=False, mean=clip.parts.mean, std=clip.parts.std, resize_mode="squash"
    )
    for i in range(6):
        image = image_of(cache, i, finished)
        with torch.inference_mode():
            tokens = reference_tokens(sam.network, image, cache.boxes(i))
        pairs = [
            (cache.read("sam/transformer", i), tokens),
            (cache.read("clip/map", i), reference_map(clip.model, preprocess, image)),
        ]
        for stored, expected in pairs:
            assert stored.shape == expected.shape
            largest = np.abs(expected).max(axis=-1, keepdims=True)
            bound = largest / 127 / 2 if error is None else np.abs(expected) * error + 1e-7
            assert (np.abs(stored - expected) <= 1.01 * bound + 1e-4 * largest).all()


def test_images_without_boxes_have_maps_and_failed_ones_nothing(
    finished: Path, small_backbone: Backbone
) -> None:
    cache = open_cache(finished / CACHE)
    planned = cache.partition(0)
    encoders = small_backbone.parts
    loader = ImageLoader(root=finished / IMAGES, exif=EXIF, encoders=encoders, clock=Clock())
    planned.offsets[1:] = planned.offsets[-1]  # all boxes belong to the first image
    planned.file_names[2] = "train/none.jpg"
    planned.file_names[3] = "../outside.jpg"
    specs = {name: part_spec(name, encoder, "int8") for name, encoder in encoders.items()}
    found = PartitionFeatures(planned, specs, encoders, loader.clock)
    for batch in loader.batches(planned, [0, 1, 2, 3], size=3, threads=2):
        found.add(batch)
    found.finish()
    for part in ("sam", "clip"):
        reasons = [STATUS_REASONS[code] for code in found.status[part]]
        assert reasons[2:] == ["missing", "outside root"]
        assert (found.status[part][:2] == STATUS_OK).all()
    assert {slot: reason for slot, (reason, _) in found.failures.items()} == {
        2: "missing",
        3: "outside root",
    }
    assert (found.files[:2] > 0).all()
    assert not found.files[2:].any()
    assert (
        found.files[:2, 0] == [(finished / IMAGES / n).stat().st_size for n in planned.file_names[:2]]
    ).all()


def test_batches_keep_the_order_and_read_little_ahead(finished: Path) -> None:
    cache = open_cache(finished / CACHE)
    planned, read = cache.partition(0), []
    loader = ImageLoader(root=finished / IMAGES, exif=EXIF, encoders={}, clock=Clock())
    real = loader._load
    object.__setattr__(loader, "_load", lambda planned, slot: read.append(slot) or real(planned, slot % 4))
    batches = loader.batches(planned, list(range(20)), size=2, threads=3)
    order = []
    for done, batch in enumerate(batches, start=1):
        order += [item.slot for item in batch]
        assert len(read) <= 2 * done + 4
    assert order == [slot % 4 for slot in range(20)]
    assert {"read", "decode", "prepare"} <= set(loader.clock.seconds)


class Given:
    """An encoder whose inputs are its map, and whose tokens are the boxes of the image."""

    device = torch.device("cpu")
    arrays: ClassVar = {
        "map": Array(shape=(3, 8), grid=(1, 3)),
        "token": Array(shape=(4,), per_box=True),
    }

    def fingerprint(self) -> dict[str, Any]:
        return {"made": "up"}

    def preprocess(self, image: np.ndarray) -> torch.Tensor:
        return torch.zeros(3, 8)

    def encode(self, batch: torch.Tensor, boxes: Sequence[np.ndarray], sizes: Sequence[Size]) -> Any:
        return {"map": batch, "token": [torch.from_numpy(each) for each in boxes]}


def given_features(planned: PartitionPlan, dtype: StorageName, **encoders: Encoder) -> PartitionFeatures:
    specs = {name: part_spec(name, encoder, dtype) for name, encoder in encoders.items()}
    return PartitionFeatures(planned, specs, encoders, Clock())


def loaded(planned: PartitionPlan, slot: int, inputs: dict[str, torch.Tensor]) -> Loaded:
    boxes = planned.boxes[planned.offsets[slot] : planned.offsets[slot + 1]]
    return Loaded(slot=slot, boxes=boxes, size=(96, 128), stamp=(slot, 2, 3), inputs=inputs)


def test_features_that_are_not_finite_fail_their_image_and_part_alone(finished: Path) -> None:
    planned = open_cache(finished / CACHE).partition(0)
    found = given_features(planned, "float16", first=Given(), second=Given())
    maps = torch.zeros(3, 8)
    values = (0, torch.nan, torch.inf, 1e6)
    found.add([loaded(planned, i, {"first": maps + v, "second": maps}) for i, v in enumerate(values)])
    found.finish()
    assert found.status["first"][0] == STATUS_OK
    assert [STATUS_REASONS[code] for code in found.status["first"][1:]] == [NON_FINITE] * 3
    assert (found.status["second"] == STATUS_OK).all()
    assert {slot: reason for slot, (reason, _) in found.failures.items()} == dict.fromkeys(
        (1, 2, 3), NON_FINITE
    )
    assert found.failures[1][1].startswith("first: ")
    assert found.files.tolist() == [[slot, 2, 3] for slot in range(4)]


@pytest.mark.parametrize("dtype", STORAGE)
def test_rows_are_encoded_as_they_come(finished: Path, dtype: StorageName) -> None:
    planned = open_cache(finished / CACHE).partition(0)
    found = given_features(planned, dtype, own=Given())
    for rows in found.arrays["own"].values():
        for stored in rows:
            if stored is not None:
                stored[:] = 1
    maps = torch.from_numpy(np.random.default_rng(0).normal(size=(4, 3, 8)).astype(np.float32))
    found.add([loaded(planned, slot, {"own": maps[slot]}) for slot in (1, 2)])
    rows, tokens = found.arrays["own"]["map"], found.arrays["own"]["token"]
    start, stop = planned.offsets[1], planned.offsets[3]
    assert stop > start
    boxes, rtol = planned.boxes[start:stop], {"float16": 2**-11, "bfloat16": 2**-8}.get(dtype, 0)
    error = {"int8": 0.02, "int4": 0.4}.get(dtype, 0)
    decoded = STORAGE[dtype].decode(*rows)
    np.testing.assert_allclose(decoded[1:3], maps[1:3], rtol=rtol, atol=error)
    kind = "int8" if dtype == "int4" else dtype  # vectors of boxes
    decoded = STORAGE[kind].decode(*tokens)
    np.testing.assert_allclose(decoded[start:stop], boxes, rtol=rtol, atol=1 if error else 0)
    assert (rows.values[[0, 3]] == 1).all()
    assert (tokens.values[:start] == 1).all()
    assert (tokens.values[stop:] == 1).all()
    assert (rows.scale is None) == (not error)
    assert found.status["own"].tolist() == [0, STATUS_OK, STATUS_OK, 0]


def test_a_network_that_gives_other_shapes_than_it_declares_is_named(finished: Path) -> None:
    planned = open_cache(finished / CACHE).partition(0)
    found = given_features(planned, "int8", own=Given())
    with pytest.raises(UsageError, match=r"part own gave map of shape \[4, 8\][\s\S]*\[3, 8\]"):
        found.add([loaded(planned, 0, {"own": torch.zeros(4, 8)})])


def test_an_array_that_a_network_declares_and_does_not_give_is_named(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = open_cache(finished / CACHE).partition(0)
    monkeypatch.setattr(Given, "encode", lambda *given: {"map": given[1]})
    found = given_features(planned, "int8", own=Given())
    with pytest.raises(UsageError, match="part own gave token not at all"):
        found.add([loaded(planned, 0, {"own": torch.zeros(3, 8)})])


def test_what_a_network_declares_is_what_its_part_stores() -> None:
    spec = part_spec("own", Given(), "int8")
    assert spec.fingerprint == {"made": "up", "decoder": "pillow"}
    assert [(a.name, a.dtype, a.item_shape, a.ragged, a.grid) for a in spec.arrays] == [
        ("map", "int8", (3, 8), False, (1, 3)),
        ("token", "int8", (4,), True, None),
    ]


def test_features_do_not_depend_on_batches_or_on_networks_side_by_side(
    finished: Path, small_backbone: Backbone
) -> None:
    planned, encoders = open_cache(finished / CACHE).partition(0), small_backbone.parts
    specs = {name: part_spec(name, encoder, "int8") for name, encoder in encoders.items()}
    loader = ImageLoader(root=finished / IMAGES, exif=EXIF, encoders=encoders, clock=Clock())
    found = []
    before = torch.get_num_threads()
    for size, threads in ((1, 2), (3, 1), (4, 1)):
        torch.set_num_threads(threads)
        try:
            with side_by_side(encoders) as each:
                assert (each is map) == (threads > 1)
                features = PartitionFeatures(planned, specs, encoders, loader.clock, each)
                for batch in loader.batches(planned, [0, 1, 2, 3], size=size, threads=2):
                    features.add(batch)
                features.finish()
        finally:
            torch.set_num_threads(before)
        found.append(features.arrays)
    for other in found[1:]:
        for part, array in (("sam", "transformer"), ("clip", "map")):
            first, second = (STORAGE["int8"].decode(*arrays[part][array]) for arrays in (found[0], other))
            step = found[0][part][array].scale.astype(np.float32)[..., None]
            assert (np.abs(first - second) <= 1.01 * step).all()


def test_images_on_both_sides_of_a_failed_one_keep_their_rows(finished: Path) -> None:
    planned = open_cache(finished / CACHE).partition(0)
    found = given_features(planned, "float16", own=Given())
    for rows in found.arrays["own"].values():
        rows.values[:] = 7
    batch = [loaded(planned, i, {"own": torch.full((3, 8), float(i))}) for i in (0, 2, 3)]
    found.add([batch[0], replace(loaded(planned, 1, {}), failure=ImageFailure("missing", "")), *batch[1:]])
    found.finish()
    assert found.arrays["own"]["map"].values[:, 0, 0].tolist() == [0, 7, 2, 3]
    middle = slice(planned.offsets[1], planned.offsets[2])
    assert (found.arrays["own"]["token"].values[middle] == 7).all()
    kept = np.ones(planned.num_boxes, bool)
    kept[middle] = False
    expected = planned.boxes[kept].astype(np.float16)
    np.testing.assert_array_equal(found.arrays["own"]["token"].values[kept], expected)
