"""A pass of recognition over a dataset."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.evaluate.cached import CachedFeatures
from pipeline.evaluate.recognise import Recognition, Regions
from regionspot_cache.backbones import SamSpec, load_backbone, load_preset
from regionspot_cache.datasets import load_dataset
from regionspot_cache.evaluation import DetectionProtocol
from regionspot_cache.extraction import extract
from regionspot_cache.recognition import RegionInputs
from regionspot_cache.recognition.proposals import Proposals, ground_truth_proposals
from regionspot_cache.store import open_cache

TOKENS, MAP = "sam/transformer", "clip/map"
CACHE = Path("rs-cache-data/caches/shapes-val-small")


class Fixed:
    """A method whose answers are a function of the box alone, and that asks for tokens and map."""

    name = "fixed"
    score_rule = text_part = None
    reads = (TOKENS, MAP)
    reads_pixels = False

    def __init__(self) -> None:
        self.inputs: list[RegionInputs] = []

    def embed(self, batch: Sequence[RegionInputs]) -> list[torch.Tensor]:
        self.inputs += batch
        for inputs in batch:
            inputs.query(TOKENS)
            inputs.memory((MAP,))
        return [torch.from_numpy(inputs.boxes[:, 2:3] - inputs.boxes[:, :1]) for inputs in batch]

    def scores(self, embeddings: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        return (-(torch.arange(len(text)) - embeddings).abs()).softmax(-1)


@pytest.fixture
def dataset(finished: Path):
    return load_dataset("shapes:val", data_root=finished / "rs-cache-data/datasets")


def recognition(dataset, backbone, regions: Regions, **changes: object) -> Recognition:
    texts = {None: torch.eye(len(dataset.class_names))}
    values = {"cached": None, "masks": False, "score_rule": "product"} | changes
    return Recognition(dataset=dataset, backbone=backbone, texts=texts, regions=regions, **values)


def test_cached_tokens_are_used_for_the_very_boxes_only(dataset, small_backbone, finished: Path) -> None:
    cache, method = open_cache(finished / CACHE), Fixed()
    known, cached = ground_truth_proposals(dataset), CachedFeatures(cache, dataset, cache.parts)
    found = recognition(dataset, small_backbone, Regions(known=known), cached=cached).run([method])
    assert found.from_cache == {MAP: 8, TOKENS: 8}
    for record, inputs in zip(dataset, method.inputs, strict=True):
        i = cache.file_names.index(record.file_name)
        np.testing.assert_array_equal(inputs.query(TOKENS).numpy(), cache.read(TOKENS, i))
        np.testing.assert_array_equal(inputs.memory((MAP,)).numpy(), cache.read(MAP, i))
    moved = Proposals.from_images(
        "moved", [(r.image_id, r.boxes / 2, np.ones(len(r.boxes), "f4")) for r in dataset]
    )
    found = recognition(dataset, small_backbone, Regions(known=moved), cached=cached).run([Fixed()])
    assert found.from_cache == {MAP: 8}


def test_cached_tokens_follow_the_boxes_of_a_file(dataset, small_backbone, finished: Path) -> None:
    """In another order, and a box twice."""
    cache, method = open_cache(finished / CACHE), Fixed()
    boxes = [np.concatenate([r.boxes[::-1], r.boxes[:1]]) for r in dataset]
    known = Proposals.from_images(
        "reversed",
        [
            (r.image_id, b, np.linspace(1, 0.5, len(b), dtype="f4"))
            for r, b in zip(dataset, boxes, strict=True)
        ],
    )
    cached = CachedFeatures(cache, dataset, cache.parts)
    found = recognition(dataset, small_backbone, Regions(known=known), cached=cached).run([method])
    assert found.from_cache == {MAP: 8, TOKENS: 8}
    for record, inputs in zip(dataset, method.inputs, strict=True):
        there = cache.read(TOKENS, cache.file_names.index(record.file_name))
        expected = np.concatenate([there[::-1], there[:1]])
        np.testing.assert_array_equal(inputs.query(TOKENS).numpy(), expected)


def test_parts_that_are_not_named_are_computed(dataset, small_backbone, finished: Path) -> None:
    cached = CachedFeatures(open_cache(finished / CACHE), dataset, ["sam"])
    known = ground_truth_proposals(dataset)
    found = recognition(dataset, small_backbone, Regions(known=known), cached=cached).run([Fixed()])
    assert found.from_cache == {TOKENS: 8}


def test_tokens_of_new_boxes_are_decoded_from_a_cached_embedding(
    dataset, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The encoder of the SAM does not run."""
    plain = load_preset(finished / "small.yaml")
    sam = replace(plain.first(SamSpec), store=("transformer", "embedding"))
    backbone = load_backbone(plain.with_parts(sam=sam))
    extract(dataset, tmp_path / "cache", backbone=backbone.spec, dtype="float16")
    cache, method = open_cache(tmp_path / "cache"), Fixed()
    boxes = [(r.image_id, r.boxes / 2, np.ones(len(r.boxes), "f4")) for r in dataset]
    regions = Regions(known=Proposals.from_images("moved", boxes))
    live = Fixed()
    recognition(dataset, backbone, regions).run([live])
    wanted = [inputs.query(TOKENS).numpy() for inputs in live.inputs]

    def fails(batch: torch.Tensor) -> torch.Tensor:
        raise AssertionError("the encoder runs")

    monkeypatch.setattr(backbone.parts["sam"], "embed", fails)
    cached = CachedFeatures(cache, dataset, cache.parts)
    found = recognition(dataset, backbone, regions, cached=cached).run([method])
    assert found.from_cache == {MAP: 8, "sam/embedding": 8}
    for inputs, expected in zip(method.inputs, wanted, strict=True):
        found_tokens = inputs.query(TOKENS).numpy()
        assert found_tokens.shape == expected.shape
        np.testing.assert_allclose(found_tokens, expected, atol=0.02 * np.abs(expected).max())


def test_detections_are_the_best_pairs_of_box_and_class(dataset, small_backbone) -> None:
    known, method = ground_truth_proposals(dataset), Fixed()
    found = recognition(
        dataset, small_backbone, Regions(known=known), protocol=DetectionProtocol(top_k=5)
    ).run([method])
    detections = found.tallies["fixed"].collector.build()
    assert len(detections.scores) <= 5 * len(dataset)
    assert (detections.scores > 0).all()
    first = dataset[0]
    found = method.scores(*method.embed(method.inputs[:1]), torch.eye(len(dataset.class_names))).numpy()
    best = np.sort(found.ravel())[::-1][:5]
    rows = detections.image_of_row == detections.image_ids.index(first.image_id)
    mine = np.sort(detections.scores[rows])[::-1]
    np.testing.assert_allclose(mine, best, rtol=1e-5)


def test_a_method_may_bring_its_own_score_rule(dataset, small_backbone) -> None:
    boxes = [(r.image_id, r.boxes, np.full(len(r.boxes), 0.25, "f4")) for r in dataset]
    regions = Regions(known=Proposals.from_images("quarter", boxes))
    scores = {}
    for rule in (None, "geometric"):
        method = Fixed()
        method.score_rule = rule
        found = recognition(dataset, small_backbone, regions).run([method])
        scores[rule] = found.tallies["fixed"].collector.build().scores
    np.testing.assert_allclose(scores["geometric"] ** 2, scores[None], rtol=1e-5)


def test_fixed_ap_keeps_every_pair(dataset, small_backbone) -> None:
    regions = Regions(known=ground_truth_proposals(dataset))
    found = recognition(
        dataset, small_backbone, regions, ap="fixed", protocol=DetectionProtocol(top_k=1)
    ).run([Fixed()])
    detections = found.tallies["fixed"].collector.build()
    assert len(detections) == dataset.num_boxes * len(dataset.class_names)
    assert len(detections.boxes) == dataset.num_boxes


def test_unreadable_images_are_counted_and_the_rest_goes_on(dataset, small_backbone, tmp_path: Path) -> None:
    class NeedsPixels(Fixed):
        reads_pixels = True

    known = ground_truth_proposals(dataset)
    object.__setattr__(dataset, "image_root", tmp_path)
    found = recognition(dataset, small_backbone, Regions(known=known)).run([NeedsPixels()])
    assert found.failures == {"missing": 8}


class Other(Fixed):
    name = "other"


@pytest.mark.parametrize("ap", ["standard", "fixed"])
@pytest.mark.parametrize("masks", [True, False])
def test_an_image_that_goes_missing_in_the_middle_is_left_out_for_every_method(
    ap: str, masks: bool, dataset, small_backbone, finished: Path, tmp_path: Path
) -> None:
    """Map and tokens are cached: what needs the file comes late, after other methods or as masks."""

    class Removing(Fixed):
        name = "removing"

        def embed(self, batch: Sequence[RegionInputs]) -> list[torch.Tensor]:
            for i in (3, 6):
                (root / dataset.file_names[i]).unlink(missing_ok=True)
            if not masks:
                assert all(inputs.image.ndim == 3 for inputs in batch)
            return super().embed(batch)

    root = tmp_path / "images"
    shutil.copytree(dataset.image_root, root)
    known, cache = ground_truth_proposals(dataset), open_cache(finished / CACHE)
    cached = CachedFeatures(cache, dataset, cache.parts)
    whole = recognition(dataset, small_backbone, Regions(known=known), masks=masks, cached=cached, ap=ap)
    damaged = replace(whole, dataset=replace(dataset, image_root=root))
    methods = [Removing(), Fixed(), Other()] if masks else [Fixed(), Removing(), Other()]
    found = damaged.run(methods)
    assert found.failures == {"missing": 2}
    assert found.from_cache == {MAP: 6, TOKENS: 6}
    left = dataset.select(np.delete(np.arange(len(dataset)), [3, 6]))
    cached = CachedFeatures(cache, left, cache.parts)
    expected = replace(whole, dataset=left, cached=cached).run([Fixed()]).tallies["fixed"]
    wanted = expected.collector.build()
    assert wanted.image_ids == tuple(left.image_ids)
    for tally in found.tallies.values():
        built = tally.collector.build()
        assert built.image_ids == wanted.image_ids
        for column in ("offsets", "category_ids", "scores", "box_index", "boxes"):
            np.testing.assert_array_equal(getattr(built, column), getattr(wanted, column))
        assert (built.masks and built.masks.data) == (wanted.masks and wanted.masks.data)
        assert tally.accuracy.summary(dataset.class_frequency)["boxes"] == left.num_boxes
        assert tally.confusion.result().boxes.tolist() == expected.confusion.result().boxes.tolist()
