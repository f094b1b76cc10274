"""The weights that ship with the package: size, format, and that they do what the model card says."""

import gzip
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from open_clip import OPENAI_IMAGENET_TEMPLATES
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import load_file

import regionspot_cache
from pipeline.tiny.bpe import learn_merges, templates, write_vocabulary
from pipeline.tiny.common import Schedule, Stage
from pipeline.tiny.measure import accuracy, crops, embed, singles
from regionspot_cache.backbones.load import Backbone, load_backbone, load_proposer
from regionspot_cache.backbones.presets import load_preset
from regionspot_cache.backbones.vocabulary import text_embeddings
from regionspot_cache.datasets.regions import box_iou
from regionspot_cache.datasets.shapes import World, draw
from regionspot_cache.datasets.shapes_classes import CLASS_NAMES

ASSETS = Path(regionspot_cache.__file__).parent / "assets" / "tiny"
WEIGHTS = ("sam", "clip", "rpn")
FLOOR = 0.5  # zero-shot top-1 over 320 classes; chance is 0.003


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone(load_preset("tiny"))


@pytest.fixture(scope="module")
def tokenizer() -> SimpleTokenizer:
    return SimpleTokenizer(str(ASSETS / "bpe_simple_vocab.txt.gz"), context_length=32)


def test_weights_are_small_fp16_and_readable_by_everyone() -> None:
    files = [ASSETS / f"{part}.safetensors" for part in WEIGHTS]
    assert sum(path.stat().st_size for path in files) <= 12e6
    for path in files:
        tensors = load_file(path)
        assert {t.dtype for t in tensors.values()} == {torch.float16}
        assert all(t.isfinite().all() for t in tensors.values())


def test_model_card_repeats_the_measured_figures() -> None:
    measured = json.loads((ASSETS / "config.json").read_text())["measured"]
    card = (ASSETS / "MODEL_CARD.md").read_text()
    for value in (
        measured["sam"]["mean_iou"],
        measured["rpn"]["recall_at_100_iou_0.5"],
        measured["clip"]["singles"]["top1"],
        measured["clip"]["crops x1.25"]["top1"],
    ):
        assert f"{value:.3f}" in card


def test_vocabulary_is_reproduced_from_the_words_of_the_world(tmp_path: Path) -> None:
    write_vocabulary(tmp_path / "bpe.gz", [*CLASS_NAMES, *(t.format("") for t in templates())])
    assert (tmp_path / "bpe.gz").read_bytes() == (ASSETS / "bpe_simple_vocab.txt.gz").read_bytes()
    assert not gzip.decompress((tmp_path / "bpe.gz").read_bytes()).endswith(b"\n")


def test_every_word_of_the_world_is_one_token(tokenizer: SimpleTokenizer) -> None:
    for name in CLASS_NAMES:
        assert len(tokenizer.encode(name)) == 3
    for template in OPENAI_IMAGENET_TEMPLATES:
        assert len(tokenizer.encode(template(CLASS_NAMES[0]))) <= 30  # with start and end: the context


def test_unknown_words_fall_back_to_bytes(tokenizer: SimpleTokenizer) -> None:
    for text in ("rhinoceros", "naïve", "猫", "x" * 100):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids).strip() == text
        assert max(ids) < tokenizer.vocab_size


def test_merges_join_frequent_pairs_first() -> None:
    assert learn_merges(["ab ab ab cd"]) == [("a", "b</w>"), ("c", "d</w>")]


def test_sam_masks_match_the_shapes(backbone: Backbone) -> None:
    overlaps = []
    for index in range(12):
        scene, _ = draw(World(), "val", index)
        embedding = backbone.sam.embed(backbone.sam.preprocess(scene.image)[None])
        masks, _ = backbone.sam.masks(embedding, scene.boxes, scene.image.shape[:2])
        found = np.asarray(masks)
        overlaps += ((found & scene.masks).sum((1, 2)) / (found | scene.masks).sum((1, 2))).tolist()
    assert np.mean(overlaps) > 0.82


def test_proposals_find_the_objects(backbone: Backbone) -> None:
    proposer = load_proposer(load_preset("tiny").proposer, backbone.sam)
    best = []
    for index in range(12):
        scene, _ = draw(World(), "val", index)
        boxes = np.asarray(proposer.propose(scene.image)[0])[:100]
        best += box_iou(scene.boxes, boxes).max(1).tolist()
    assert np.mean(np.array(best) >= 0.5) > 0.85


def test_clip_recognises_objects_whatever_the_templates(backbone: Backbone) -> None:
    some = [template("{}") for template in OPENAI_IMAGENET_TEMPLATES[::8]]  # all of them take many seconds
    ensemble, bare = (
        torch.from_numpy(text_embeddings(backbone.clip, CLASS_NAMES, t)) for t in (some, ("{}",))
    )
    for pictures, labels in (singles(160), crops(12, 1.25)):
        images = embed(backbone.clip, pictures)
        scores = [accuracy((images @ text.T).argmax(1).numpy(), labels) for text in (ensemble, bare)]
        assert scores[0]["top1"] > FLOOR
        assert abs(scores[0]["top1"] - scores[1]["top1"]) < 0.1


def test_stages_warm_up_and_decay_and_may_end_before_their_horizon() -> None:
    cut, last = Stage(steps=50, rate=1.0, horizon=100, warmup=10), Stage(steps=20, rate=0.5, warmup=0)
    schedule = Schedule(stages=(cut, last))
    assert schedule.steps == 70
    assert schedule.rate_at(0) == pytest.approx(0.1)
    assert schedule.rate_at(10) == pytest.approx(1.0)
    assert schedule.rate_at(49) == pytest.approx(0.01 + 0.495 * (1 + math.cos(math.pi * 39 / 90)))
    assert schedule.rate_at(50) == pytest.approx(0.5)
    assert schedule.rate_at(69) < 0.02
