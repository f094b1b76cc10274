"""A backbone of more than two arrays: from extraction to training, and tokens out of a stored embedding."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize

from regionspot_cache.backbones import (
    Array,
    Backbone,
    BackboneSpec,
    ClipSpec,
    HeadInputs,
    MaskEncoder,
    OwnSpec,
    SamSpec,
    TextEncoder,
    load_backbone,
    load_preset,
    save_preset,
)
from regionspot_cache.backbones.hf_sam import TransformersSam
from regionspot_cache.backbones.sam_base import FrozenSam
from regionspot_cache.datasets import DetectionDataset, load_dataset
from regionspot_cache.datasets.regions import BOX_QUERY, position_vectors
from regionspot_cache.extraction.run import Plan, extract
from regionspot_cache.recognition import RegionInputs, RegionSpot
from regionspot_cache.store import Cache, LabelledCache, dequantise, open_cache, quantise
from regionspot_cache.training import Stage, TrainConfig, TrainingSource, train
from regionspot_cache.training.head import RegionHead, read_model_config
from regionspot_cache.training.head_config import HeadOptions
from tests.backbones.small import picture, random_boxes, small_sam
from tests.backbones.small_hf import CONFIGS, model_folder, small_transformers_sam

Size = tuple[int, int]
SIZE, MEAN = 32, 0.5


class ConvMap:
    """A network that knows no CLIP and no SAM: a map of an image by two convolutions, in CLIP's width."""

    def __init__(self, spec: OwnSpec, device: torch.device | str) -> None:
        self.width = int(spec.options["width"])
        self.seed = int(spec.weights.removeprefix("random:"))
        self.device = torch.device(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.network = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.Conv2d(8, self.width, 2, 2))
        self.network.to(self.device).eval().requires_grad_(False)

    @property
    def arrays(self) -> Mapping[str, Array]:
        return {"map": Array(shape=(16, self.width), grid=(4, 4))}

    def fingerprint(self) -> dict[str, Any]:
        return {"network": "two convolutions", "seed": self.seed, "width": self.width}

    def preprocess(self, image: np.ndarray) -> Tensor:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255 - MEAN
        return interpolate(pixels, (SIZE, SIZE), mode="bilinear", antialias=True)[0]

    @torch.inference_mode()
    def encode(
        self, batch: Tensor, boxes: Sequence[np.ndarray], sizes: Sequence[Size]
    ) -> Mapping[str, Sequence[Tensor] | Tensor]:
        return {"map": self.network(batch.to(self.device)).flatten(2).transpose(1, 2)}


def backbone_spec(**head: Any) -> BackboneSpec:
    """The packaged networks with random weights, with two layers of CLIP and a network of one's own."""
    return BackboneSpec(
        name="parts",
        parts={
            "sam": SamSpec(
                model="packaged",
                weights="random:1",
                precision="fp32",
                store=("transformer", "embedding"),
            ),
            "clip": ClipSpec(model="packaged", weights="random:2", precision="fp32", layers=(-1, 0)),
            "dino": OwnSpec(network=f"{__name__}:ConvMap", weights="random:3", options={"width": 192}),
        },
        head=HeadInputs(**head),
    )


@pytest.fixture(scope="module")
def dataset(world: Path) -> DetectionDataset:
    return load_dataset("shapes", data_root=world.parent, limit=7)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone(backbone_spec())


@pytest.fixture(scope="module", params=["int8", "float16"])
def cache(
    request: pytest.FixtureRequest, dataset: DetectionDataset, tmp_path_factory: pytest.TempPathFactory
) -> Cache:
    path = tmp_path_factory.mktemp("parts") / "cache"
    plan = Plan(partition_size=3)
    extract(dataset, path, backbone=backbone_spec(), plan=plan, dtype=request.param, device="cpu")
    return open_cache(path)


def image_of(dataset: DetectionDataset, cache: Cache, i: int) -> np.ndarray:
    from regionspot_cache.datasets.images import read_image

    return read_image(Path(dataset.image_root) / cache.file_names[i])


def test_a_backbone_file_keeps_its_parts(tmp_path: Path) -> None:
    spec = backbone_spec(query=BOX_QUERY, memory=("clip/map", "dino/map"))
    save_preset(spec, tmp_path / "parts.yaml")
    assert load_preset(tmp_path / "parts.yaml") == spec
    assert spec.head.parts == ("clip", "dino")
    assert hash(spec) == hash(replace(spec)) != hash(backbone_spec())


def test_only_the_parts_that_are_asked_for_are_loaded(backbone: Backbone) -> None:
    assert list(load_backbone(backbone.spec, parts=["dino"]).parts) == ["dino"]
    assert backbone.text is backbone.parts["clip"]
    assert backbone.masks is backbone.parts["sam"]
    assert not isinstance(backbone.parts["dino"], TextEncoder | MaskEncoder)


def test_the_cache_holds_what_the_networks_give(
    dataset: DetectionDataset, cache: Cache, backbone: Backbone
) -> None:
    widths = {name: array.shape for name, array in backbone.parts["clip"].arrays.items()}
    assert list(widths) == ["map", "map_0"]
    assert {f"{p}/{a.name}" for p, spec in cache.parts.items() for a in spec.arrays} == {
        *("sam/transformer", "sam/embedding", "clip/map", "clip/map_0", "dino/map")
    }
    for part, encoder in backbone.parts.items():
        assert cache.parts[part].fingerprint == encoder.fingerprint() | {"decoder": "pillow"}
        for i in range(len(cache)):
            image, boxes = image_of(dataset, cache, i), cache.boxes(i)
            found = encoder.encode(encoder.preprocess(image)[None], [boxes], [cache.size(i)[::-1]])
            for name in encoder.arrays:
                expected, stored = found[name][0].numpy(), cache.read(f"{part}/{name}", i)
                largest = np.abs(expected).max(axis=-1, keepdims=True)
                bound = (
                    largest / 127 / 2 if cache.array(f"{part}/{name}").dtype == "int8" else largest * 2**-11
                )
                assert (np.abs(stored - expected) <= 1.01 * bound + 1e-4 * largest).all()
    assert not np.allclose(cache.read("clip/map", 0), cache.read("clip/map_0", 0), atol=0.1)


def test_tokens_and_masks_come_out_of_the_stored_embedding(
    dataset: DetectionDataset, cache: Cache, backbone: Backbone
) -> None:
    sam = backbone.parts["sam"]
    assert isinstance(sam, FrozenSam)
    bound, agreement = (0.9999, 0.999) if cache.array("sam/embedding").dtype == "float16" else (0.995, 0.98)
    for i in range(len(cache)):
        image, size = image_of(dataset, cache, i), cache.size(i)[::-1]
        boxes = random_boxes(6, *size, seed=i)  # boxes that the cache has no token of
        expected = sam.embed(sam.preprocess(image)[None])
        restored = sam.restored(cache.read("sam/embedding", i))
        wanted, found = (sam.tokens(e, [boxes], [size])["transformer"][0] for e in (expected, restored))
        assert torch.cosine_similarity(wanted, found).min() > bound
        assert torch.cosine_similarity(wanted, found.roll(1, 0)).max() < 0.9999  # the tokens do differ
        masks = [sam.masks(e, boxes, size)[0] for e in (expected, restored)]
        assert (masks[0] == masks[1]).float().mean() > agreement


@pytest.mark.parametrize("family", ["segment_anything", *CONFIGS])
def test_every_family_restores_its_stored_embedding(family: str, tmp_path: Path) -> None:
    sam: FrozenSam
    store = ("transformer", "embedding")
    if family == "segment_anything":
        sam = small_sam(store=store)
    else:
        sam = small_transformers_sam(model_folder(tmp_path, family), store=store)
    image, boxes, size = picture(90, 131), random_boxes(5, 90, 131), (90, 131)
    embedding = sam.embed(sam.preprocess(image)[None])
    stored = sam.encode(sam.preprocess(image)[None], [boxes], [size])["embedding"][0].numpy()
    assert stored.shape == sam.arrays["embedding"].shape
    restored = sam.restored(stored)
    wanted, found = (sam.tokens(e, [boxes], [size])["transformer"][0] for e in (embedding, restored))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    if sam.masks_need_cells_alone:
        assert torch.equal(sam.masks(restored, boxes, size)[0], sam.masks(embedding, boxes, size)[0])


def test_masks_that_need_more_than_the_stored_embedding_run_the_network(tmp_path: Path) -> None:
    sam: TransformersSam = small_transformers_sam(
        model_folder(tmp_path, "sam2"), store=("transformer", "embedding")
    )
    image, boxes = picture(90, 131), random_boxes(3, 90, 131)
    embedding = sam.embed(sam.preprocess(image)[None])
    stored = sam.stored(embedding)[0].numpy()
    embedded, real = [], sam.embed
    spec = BackboneSpec(parts={"sam": sam.spec, "clip": ClipSpec()})
    backbone = Backbone({"sam": sam}, spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sam, "embed", lambda batch: embedded.append(1) or real(batch))
        inputs = RegionInputs(backbone, image, boxes, cached={"sam/embedding": stored})
        [expected] = sam.tokens(embedding, [boxes], [(90, 131)])["transformer"]
        torch.testing.assert_close(inputs.query("sam/transformer"), expected, rtol=0, atol=1e-5)
        assert not embedded
        masks = inputs.masks.pixels(range(3))
        assert inputs.on(boxes[:1]).masks.pixels([0]).shape == (1, 90, 131)
        assert len(embedded) == 1
    np.testing.assert_array_equal(masks, sam.masks(embedding, boxes, (90, 131))[0].numpy())


def test_an_embedding_of_int8_gives_nearly_the_same_tokens() -> None:
    sam = small_sam(store=("transformer", "embedding"))
    image, boxes, size = picture(90, 131), random_boxes(40, 90, 131), (90, 131)
    embedding = sam.embed(sam.preprocess(image)[None])
    stored = sam.stored(embedding)[0].numpy()
    restored = sam.restored(dequantise(*quantise(stored)))
    wanted, found = (sam.tokens(e, [boxes], [size])["transformer"][0] for e in (embedding, restored))
    relative = (found - wanted).norm(dim=1) / wanted.norm(dim=1)
    own = torch.from_numpy(dequantise(*quantise(wanted.numpy())))
    assert 0 < relative.max() < 0.02
    assert relative.mean() < 4 * ((own - wanted).norm(dim=1) / wanted.norm(dim=1)).mean()


QUERIES = ["sam/transformer", BOX_QUERY]
MEMORY = ("clip/map", "clip/map_0", "dino/map")


@pytest.mark.parametrize("query", QUERIES)
def test_a_head_on_a_list_of_maps_trains_and_predicts(
    query: str, dataset: DetectionDataset, cache: Cache, backbone: Backbone, tmp_path: Path
) -> None:
    arrays = HeadInputs(query=query, memory=MEMORY)
    generator = torch.Generator().manual_seed(0)
    names = tuple(dataset.class_names)
    text = normalize(torch.randn(len(names), 24, generator=generator), dim=-1)
    source = TrainingSource(
        name="shapes",
        cache=LabelledCache(cache, dataset),
        inputs=arrays,
        class_names=names,
        text_embeddings=text.numpy(),
        class_map=np.arange(len(names)),
    )
    stage = Stage(steps=6, learning_rate=1e-3, warmup_steps=1, milestones=())
    head = HeadOptions(depth=1, num_heads=2, ffn_dim=16)
    config = TrainConfig(head=head, stages=(stage,), batch_size=3, precision="fp32", log_every=2)
    assert not train([source], config, tmp_path).left_out["shapes"]
    written = read_model_config(tmp_path)
    assert written["inputs"] == arrays.to_dict()
    assert list(written["networks"]) == list(arrays.parts)
    trained = RegionHead.from_pretrained(tmp_path)
    clip_maps = [backbone.parts["clip"].arrays[name].shape[0] for name in ("map", "map_0")]
    assert [prefix + rows * columns for prefix, rows, columns in trained.config.maps] == [*clip_maps, 16]
    method, image, boxes = RegionSpot(trained, arrays), image_of(dataset, cache, 0), cache.boxes(0)
    fresh = RegionInputs(backbone, image, boxes)
    stored = {path: cache.read(path, 0) for path in arrays.arrays}
    cached = RegionInputs(backbone, lambda: pytest.fail("read"), boxes, size=image.shape[:2], cached=stored)
    one, two = (method.logits(inputs, text) for inputs in (fresh, cached))
    assert one.shape == (len(boxes), len(names))
    probabilities = (one.softmax(-1) - two.softmax(-1)).abs()
    assert probabilities.mean() < 0.02


def test_the_query_of_a_position_is_of_the_box_alone(backbone: Backbone) -> None:
    boxes = random_boxes(4, 40, 60)
    inputs = RegionInputs(backbone, lambda: pytest.fail("read"), boxes, size=(40, 60))
    found = inputs.query(BOX_QUERY).numpy()
    np.testing.assert_array_equal(found, position_vectors(boxes, (60, 40)))
    np.testing.assert_allclose(found, position_vectors(boxes * 3, (180, 120)), atol=1e-4)  # of its image
    assert position_vectors(boxes[:0], (60, 40)).shape == (0, found.shape[1])
    moved = position_vectors(boxes + np.float32([1, 0, 1, 0]), (60, 40))
    assert np.abs(moved - found).max(axis=1).min() > 0.1
