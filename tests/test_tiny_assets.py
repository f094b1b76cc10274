"""The weights that ship with the package: size, format, and that they do what the model card says."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from open_clip import OPENAI_IMAGENET_TEMPLATES
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import load_file

import regionspot_cache
from regionspot_cache.backbones.load import Backbone, load_backbone, load_proposer
from regionspot_cache.backbones.presets import load_preset
from regionspot_cache.backbones.vocabulary import text_embeddings
from regionspot_cache.datasets.regions import box_iou
from regionspot_cache.datasets.shapes import World, draw
from regionspot_cache.datasets.shapes_classes import CLASS_NAMES
from tools.tiny.clip_data import templates, write_vocabulary
from tools.tiny.measure import accuracy, crops, embed, render, singles

ASSETS = Path(regionspot_cache.__file__).parent / "assets" / "tiny"
VOCABULARY = ASSETS / "bpe_simple_vocab.txt.gz"
WEIGHTS = ("sam", "clip", "rpn")
FLOOR = 0.5  # zero-shot top-1 over 320 classes; chance is 0.003


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone(load_preset("tiny"))


@pytest.fixture(scope="module")
def tokenizer() -> SimpleTokenizer:
    return SimpleTokenizer(str(VOCABULARY), context_length=32)


def test_weights_are_small_fp16_and_readable_by_everyone() -> None:
    files = [ASSETS / f"{part}.safetensors" for part in WEIGHTS]
    assert sum(path.stat().st_size for path in files) <= 12e6
    for path in files:
        tensors = load_file(path)
        assert {t.dtype for t in tensors.values()} == {torch.float16}
        assert all(t.isfinite().all() for t in tensors.values())


def test_model_card_is_of_these_weights_and_figures() -> None:
    assert (ASSETS / "MODEL_CARD.md").read_text() == render()


def test_vocabulary_is_reproduced_from_the_words_of_the_world(tmp_path: Path) -> None:
    write_vocabulary(tmp_path / "bpe.gz", [*CLASS_NAMES, *(t.format("") for t in templates())])
    text, packaged = (gzip.decompress(path.read_bytes()) for path in (tmp_path / "bpe.gz", VOCABULARY))
    assert text == packaged  # the header of the file differs between Pythons
    assert not text.endswith(b"\n")


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


def test_sam_masks_match_the_shapes(backbone: Backbone) -> None:
    overlaps = []
    for index in range(12):
        scene, _ = draw(World(), "val", index)
        embedding = backbone.masks.embed(backbone.masks.preprocess(scene.image)[None])
        masks, _ = backbone.masks.masks(embedding, scene.boxes, scene.image.shape[:2])
        found = np.asarray(masks)
        overlaps += ((found & scene.masks).sum((1, 2)) / (found | scene.masks).sum((1, 2))).tolist()
    assert np.mean(overlaps) > 0.82


def test_proposals_find_the_objects(backbone: Backbone) -> None:
    proposer = load_proposer(backbone)
    best = []
    for index in range(12):
        scene, _ = draw(World(), "val", index)
        boxes = np.asarray(proposer.propose(scene.image)[0])[:100]
        best += box_iou(scene.boxes, boxes).max(1).tolist()
    assert np.mean(np.array(best) >= 0.5) > 0.85


def test_clip_recognises_objects_whatever_the_templates(backbone: Backbone) -> None:
    some = [template("{}") for template in OPENAI_IMAGENET_TEMPLATES[::8]]  # all of them take many seconds
    ensemble, bare = (
        torch.from_numpy(text_embeddings(backbone.text, CLASS_NAMES, t)) for t in (some, ("{}",))
    )
    for pictures, labels in (singles(160), crops(12, 1.25)):
        images = embed(backbone.text, pictures)
        scores = [accuracy((images @ text.T).argmax(1).numpy(), labels) for text in (ensemble, bare)]
        assert scores[0]["top1"] > FLOOR
        assert abs(scores[0]["top1"] - scores[1]["top1"]) < 0.1
