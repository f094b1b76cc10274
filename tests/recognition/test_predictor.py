"""The Python interface for one image."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from regionspot_cache.errors import IdentityError, InputError, MissingFileError
from regionspot_cache.recognition.predictor import RegionPredictor
from regionspot_cache.store import open_cache

RUN = Path("rs-cache-data/runs/small")
CACHE = Path("rs-cache-data/caches/shapes-val-small")
IMAGES = Path("rs-cache-data/datasets/shapes/images")
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


@pytest.mark.parametrize(
    "image", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.float32), np.zeros((8, 8, 4), np.uint8)]
)
def test_images_that_are_none(image: np.ndarray, predictor: RegionPredictor, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        predictor.set_image(image)
    (tmp_path / "a.jpg").write_bytes(b"no image")
    for path in (tmp_path / "a.jpg", tmp_path / "b.jpg"):
        with pytest.raises(InputError, match=path.name):
            predictor.set_image(path)


def test_predict_wants_an_image_first(finished: Path, small_backbone, predictor: RegionPredictor) -> None:
    fresh = RegionPredictor(predictor.method, small_backbone)
    with pytest.raises(InputError, match="set_image"):
        fresh.predict([[1, 1, 5, 5]], CLASSES)


def test_other_networks_and_missing_files_are_refused(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(IdentityError) as caught:
        RegionPredictor.from_pretrained(finished / RUN, backbone=finished / "other.yaml")
    assert "clip.weights_sha256" in caught.value.found
    with pytest.raises(MissingFileError):
        RegionPredictor.from_pretrained(tmp_path)
