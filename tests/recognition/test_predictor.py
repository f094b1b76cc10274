"""The Python interface for one image."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from regionspot_cache.errors import IdentityError, InputError, MissingFileError, UsageError
from regionspot_cache.recognition.predictor import METHODS, RegionPredictor
from regionspot_cache.recognition.words import ClassEmbeddings
from regionspot_cache.store import open_cache

RUN = Path("rs-cache-data/runs/small")
CACHE = Path("rs-cache-data/caches/shapes-val-small")
IMAGES = Path("rs-cache-data/datasets/shapes/images")
BOXES = [[10, 10, 60, 60], [40, 30, 90, 100]]
CLASSES = ["red star", "blue circle", "green ring"]


@pytest.fixture(scope="module")
def predictor(finished: Path) -> RegionPredictor:
    return RegionPredictor.from_pretrained(finished / RUN)


@pytest.fixture(scope="module")
def pixels(finished: Path) -> np.ndarray:
    return np.asarray(Image.open(finished / IMAGES / "val/000001.jpg").convert("RGB"))


def test_probabilities_names_and_scores_belong_together(
    predictor: RegionPredictor, pixels: np.ndarray
) -> None:
    found = predictor.set_image(pixels).predict([[10, 10, 60, 60], [40, 30, 90, 100]], CLASSES)
    assert found.classes == tuple(CLASSES)
    assert found.probabilities.shape == (2, 3)
    np.testing.assert_allclose(found.probabilities.sum(1), 1, rtol=1e-5)
    np.testing.assert_array_equal(found.scores, found.probabilities.max(1))
    assert found.names == tuple(CLASSES[i] for i in found.probabilities.argmax(1))
    assert found.boxes.dtype == np.float32


def test_it_says_what_the_head_says_on_cached_features(predictor: RegionPredictor, finished: Path) -> None:
    cache = open_cache(finished / CACHE)
    name = cache.partition(0).file_names[0]
    found = predictor.set_image(finished / IMAGES / name).predict(cache.boxes(0), CLASSES)
    head, text = predictor.method.head, predictor.embed(CLASSES)
    tokens, image_map = (torch.from_numpy(cache.read(path, 0)) for path in ("sam/transformer", "clip/map"))
    with torch.inference_mode():
        embeddings = head(tokens[None], image_map[None], torch.ones(1, len(tokens), dtype=torch.bool))
        expected = head.logits(embeddings, text)[0].softmax(-1).numpy()
    np.testing.assert_allclose(found.probabilities, expected, atol=0.1)  # int8 features, logits times 100
    assert np.mean(np.abs(found.probabilities - expected)) < 0.02


def test_the_networks_run_once_an_image(
    predictor: RegionPredictor, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor.set_image(pixels)
    first = predictor.predict([[10, 10, 60, 60]], CLASSES)

    def never(*_: object) -> None:
        raise AssertionError

    for encoder in predictor.backbone.parts.values():
        monkeypatch.setattr(type(encoder), "encode", never)
    monkeypatch.setattr(type(predictor.backbone.masks), "embed", never)
    again = predictor.predict([[10, 10, 60, 60]], CLASSES)
    np.testing.assert_array_equal(first.probabilities, again.probabilities)


def test_no_boxes_and_boxes_over_the_border(predictor: RegionPredictor, pixels: np.ndarray) -> None:
    height, width = pixels.shape[:2]
    none = predictor.set_image(pixels).predict(np.zeros((0, 4)), CLASSES)
    assert (none.names, none.probabilities.shape) == ((), (0, 3))
    found = predictor.predict([[-5, -5, width + 50, height + 50]], CLASSES)
    np.testing.assert_array_equal(found.boxes, [[0, 0, width, height]])


@pytest.mark.parametrize(
    "boxes",
    [
        [[1, 2, 3]],
        [[1, 2, 3, 4], [5, 6]],
        [[1, 2], [3, 4]],
        7,
        [[9, 9, 5, 5]],
        [[np.nan, 1, 5, 5]],
        [[np.inf, 1, np.inf, 5]],
        [[-9, -9, -5, -5]],
        [[5000, 5, 5010, 10]],
        [["a", "b", "c", "d"]],
    ],
)
def test_boxes_that_are_none(boxes: list, predictor: RegionPredictor, pixels: np.ndarray) -> None:
    with pytest.raises(InputError) as caught:
        predictor.set_image(pixels).predict(boxes, CLASSES)
    assert "boxes" in caught.value.found


def test_images_that_are_none(predictor: RegionPredictor, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        predictor.set_image(np.zeros((8, 8, 3), np.int64))
    (tmp_path / "a.jpg").write_bytes(b"no image")
    for path in (tmp_path / "a.jpg", tmp_path / "b.jpg"):
        with pytest.raises(InputError, match=path.name):
            predictor.set_image(path)


def test_predict_wants_an_image_first(small_backbone, predictor: RegionPredictor) -> None:
    fresh = RegionPredictor(predictor.method, small_backbone)
    for ask in (lambda: fresh.predict(BOXES, CLASSES), lambda: fresh.embed_regions(BOXES)):
        with pytest.raises(InputError, match="set_image"):
            ask()


def test_names_in_one_text(predictor: RegionPredictor, pixels: np.ndarray) -> None:
    expected = predictor.set_image(pixels).predict(BOXES, CLASSES)
    found = predictor.predict(BOXES, "red star, blue circle,green ring,")
    assert found.classes == expected.classes
    np.testing.assert_array_equal(found.probabilities, expected.probabilities)
    assert predictor.predict(BOXES, "star").names == ("star", "star")


@pytest.mark.parametrize("classes", ["", " , ", [], ["a", ""], ["a", 7], 7, {"a": 1}, None])
def test_names_that_are_none(classes: Any, predictor: RegionPredictor, pixels: np.ndarray) -> None:
    with pytest.raises(InputError, match="classes"):
        predictor.set_image(pixels).predict(BOXES, classes)


def test_every_name_is_paid_for_once(
    predictor: RegionPredictor, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    encode = predictor.backbone.text.encode_text
    monkeypatch.setattr(
        predictor.backbone.text, "encode_text", lambda texts: asked.extend(texts) or encode(texts)
    )
    predictor.set_image(pixels).predict(BOXES, "new one, new two")
    assert len(asked) == 2
    predictor.predict(BOXES, "new two, new three, new one")
    assert len(asked) == 3
    assert "new three" in asked[-1]


def test_the_names_used_last_are_kept(small_backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ClassEmbeddings(small_backbone.text, {"templates": "single"}, most=2)
    found = words(["a", "b", "c", "a"])
    np.testing.assert_array_equal(found[0], found[3])
    np.testing.assert_allclose(found.norm(dim=1), 1, rtol=1e-5)
    monkeypatch.setattr(small_backbone.text, "encode_text", None)
    np.testing.assert_array_equal(words(["a", "c"]), found[[0, 2]])
    for names in (["b"], ["a", "b"]):
        with pytest.raises(TypeError):
            words(names)
    words.prompts["templates"] = "name"  # other prompts are other embeddings
    with pytest.raises(TypeError):
        words(["a"])


def test_embeddings_are_in_the_space_of_the_words(predictor: RegionPredictor, pixels: np.ndarray) -> None:
    prediction = predictor.set_image(pixels).predict(BOXES, CLASSES)
    found = predictor.embed_regions(BOXES)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.norm(dim=1), 1, rtol=1e-5)
    logits = predictor.method.head.config.logit_scale * found @ predictor.embed(CLASSES).T
    np.testing.assert_allclose(logits.softmax(-1), prediction.probabilities, rtol=1e-3, atol=1e-5)
    assert predictor.embed_regions(np.zeros((0, 4))).shape == (0, found.shape[1])
    np.testing.assert_array_equal(
        predictor.embed_regions(pixels[:, ::-1], BOXES),
        predictor.set_image(pixels[:, ::-1]).embed_regions(BOXES),
    )


def test_several_images(predictor: RegionPredictor, pixels: np.ndarray) -> None:
    images = [
        Image.fromarray(pixels),
        pixels[:, ::-1] / 255,
        torch.from_numpy(pixels.copy()).permute(2, 0, 1),
    ]
    present = predictor.set_image(pixels).predict(BOXES, CLASSES)
    found = predictor.predict_batch(images, [BOXES, BOXES, []], CLASSES)
    assert [len(prediction) for prediction in found] == [2, 2, 0]
    np.testing.assert_array_equal(found[0].probabilities, present.probabilities)
    np.testing.assert_array_equal(found[1].image, pixels[:, ::-1])
    np.testing.assert_array_equal(predictor.predict(BOXES, CLASSES).probabilities, present.probabilities)
    with pytest.raises(InputError, match="image 1 of 2: boxes"):
        predictor.predict_batch(images[:2], [BOXES, [[1, 2]]], CLASSES)
    with pytest.raises(InputError, match="image 1 of 2: missing"):
        predictor.predict_batch([pixels, "nowhere.jpg"], [BOXES, BOXES], CLASSES)
    for wrong in (images, "nowhere.jpg"):
        with pytest.raises(InputError, match="boxes of 2"):
            predictor.predict_batch(wrong, [BOXES, BOXES], CLASSES)


@pytest.mark.parametrize("method", METHODS[:4])
def test_without_a_head(method: str, finished: Path, pixels: np.ndarray) -> None:
    predictor = RegionPredictor.from_backbone(finished / "small.yaml", method=method)
    found = predictor.set_image(pixels).predict(BOXES, CLASSES)
    embeddings = predictor.embed_regions(BOXES)
    np.testing.assert_allclose(embeddings.norm(dim=1), 1, rtol=1e-5)
    scale = predictor.backbone.text.logit_scale
    logits = scale * embeddings @ predictor.embed(CLASSES).T
    np.testing.assert_allclose(logits.softmax(-1), found.probabilities, rtol=1e-3, atol=1e-5)
    assert len(predictor.predict([], CLASSES)) == 0
    assert predictor.embed_regions([]).shape == (0, embeddings.shape[1])


def test_methods_that_are_none(finished: Path) -> None:
    with pytest.raises(UsageError, match="clip-box"):
        RegionPredictor.from_backbone(finished / "small.yaml", method="clip-bax")
    with pytest.raises(UsageError, match="from_pretrained"):
        RegionPredictor.from_backbone(finished / "small.yaml", method="regionspot")


def test_examples_instead_of_words(predictor: RegionPredictor, pixels: np.ndarray, tmp_path: Path) -> None:
    halves = {"left half": pixels[:, :100], "right half": pixels[:, -100:], "never asked": pixels}
    for name, half in halves.items():
        (tmp_path / name).mkdir()
        for k in range(2):
            Image.fromarray(half).save(tmp_path / name / f"{k}.png")
    examples = predictor.embed_examples(tmp_path)
    assert examples.embeddings.shape == (6, predictor.embed("a").shape[1])
    found = predictor.set_image(halves["left half"]).predict(
        [[0, 0, 100, pixels.shape[0]]], examples=examples
    )
    assert found.classes == ("left half", "never asked", "right half")
    assert found.names == ("left half",)
    asked = predictor.predict([[0, 0, 100, pixels.shape[0]]], "right half,left half", examples=tmp_path)
    assert asked.names == ("left half",)
    with pytest.raises(InputError, match="Did you mean left half"):
        predictor.predict(BOXES, "left halv", examples=examples)


def test_examples_that_cannot_be_read(predictor: RegionPredictor, tmp_path: Path) -> None:
    (tmp_path / "star").mkdir()
    (tmp_path / "star" / "notes.txt").write_text("no image")
    with pytest.raises(InputError, match="1 undecodable"):
        predictor.embed_examples(tmp_path)


def test_other_networks_and_missing_files_are_refused(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(IdentityError) as caught:
        RegionPredictor.from_pretrained(finished / RUN, backbone=finished / "other.yaml")
    assert "clip.weights_sha256" in caught.value.found
    with pytest.raises(MissingFileError):
        RegionPredictor.from_pretrained(tmp_path)


def test_it_shows_what_it_is(predictor: RegionPredictor, pixels: np.ndarray) -> None:
    predictor.set_image(pixels)
    assert repr(predictor) == "RegionPredictor(regionspot on small, an image of 256 x 256 pixels)"


@pytest.mark.parametrize("classes", ["car, bus, car", ["a", "a"], "a\nb\na"])
def test_a_name_that_is_there_twice(predictor: RegionPredictor, pixels: np.ndarray, classes: Any) -> None:
    with pytest.raises(InputError, match="is there twice"):
        predictor.set_image(pixels).predict(BOXES, classes)


def test_boxes_in_fractions_are_refused_with_what_makes_them_pixels(
    predictor: RegionPredictor, pixels: np.ndarray
) -> None:
    with pytest.raises(InputError) as caught:
        predictor.set_image(pixels).predict([[0.1, 0.1, 0.5, 1.0]], CLASSES)
    assert caught.value.remedy == "boxes * [256, 256, 256, 256]"


def test_a_device_that_is_not_there(finished: Path) -> None:
    for make in (
        lambda: RegionPredictor.from_pretrained(finished / RUN, device="cud"),
        lambda: RegionPredictor.from_backbone("tiny", device="cud"),
    ):
        with pytest.raises(UsageError, match="no device 'cud'"):
            make()
