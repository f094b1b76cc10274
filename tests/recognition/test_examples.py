"""Classes by examples, as arrays and from where they are read."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from regionspot_cache.datasets.coco_style import read_coco_style
from regionspot_cache.errors import InputError, MissingFileError
from regionspot_cache.recognition.examples import (
    WEIGHT,
    ExampleImage,
    Examples,
    Source,
    prototypes,
    read_examples,
)

WIDTH = 16


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def drawn(
    seed: int, shots: int, classes: int = 6, noise: float = 0.15
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings and labels of examples, and the places that they are scattered about, all far from words."""
    rng = np.random.default_rng(seed)
    places = unit(rng.normal(size=(classes, WIDTH)) + 3 * np.eye(WIDTH)[0])
    labels = np.repeat(np.arange(classes), shots)
    return unit(places[labels] + noise * rng.normal(size=(len(labels), WIDTH))), labels, places


def words(seed: int, classes: int = 6) -> np.ndarray:
    return unit(np.random.default_rng(100 + seed).normal(size=(classes, WIDTH)))


def right(regions: np.ndarray, labels: np.ndarray, classes: np.ndarray) -> float:
    return float(((regions @ classes.T).argmax(1) == labels).mean())


def test_the_weight_says_how_much_examples_count() -> None:
    embeddings, labels, _ = drawn(0, 3)
    text = words(0)
    assert prototypes(embeddings, labels, text, 0.0).embeddings == pytest.approx(text, abs=1e-6)
    means = unit(embeddings.reshape(6, 3, WIDTH).mean(1))
    assert prototypes(embeddings, labels, text, 1.0).embeddings == pytest.approx(means, abs=1e-6)
    half = prototypes(embeddings, labels, text, 0.5)
    assert half.embeddings == pytest.approx(unit(means + text), abs=1e-6)
    assert half.embeddings.dtype == np.float32


@pytest.mark.parametrize("seed", range(3))
def test_good_examples_replace_words_that_say_nothing(seed: int) -> None:
    embeddings, labels, places = drawn(seed, 5)
    regions = unit(places[labels] + 0.15 * np.random.default_rng(9).normal(size=(len(labels), WIDTH)))
    text = words(seed)
    made = prototypes(embeddings, labels, text)
    assert made.weight > 0.5
    assert right(regions, labels, made.embeddings) > right(regions, labels, text) + 0.3


@pytest.mark.parametrize("seed", range(3))
def test_good_words_are_kept_beside_examples_that_are_poor(seed: int) -> None:
    embeddings, labels, places = drawn(seed, 2, classes=12, noise=1.0)
    assert prototypes(embeddings, labels, places).weight < 0.5


def test_the_weight_is_that_of_leaving_each_out_one_by_one() -> None:
    embeddings, labels, places = drawn(3, 4, noise=0.5)
    text = unit(places + 0.2 * np.random.default_rng(5).normal(size=places.shape))
    score = {}
    for weight in np.linspace(0, 1, 11):
        margins = []
        for i, label in enumerate(labels):
            rest = np.arange(len(labels)) != i
            classes = prototypes(embeddings[rest], labels[rest], text, float(weight)).embeddings
            similar = embeddings[i] @ classes.T
            margins.append(similar[label] - np.delete(similar, label).max())
        score[float(weight)] = (np.mean(np.array(margins) > 0), np.mean(margins))
    assert prototypes(embeddings, labels, text).weight == max(score, key=lambda weight: score[weight])


@pytest.mark.parametrize("labels", [[0, 1, 2], [0, 0, 0]])
def test_where_nothing_can_be_left_out(labels: list[int]) -> None:
    embeddings, _, _ = drawn(0, 1)
    assert prototypes(embeddings[:3], np.array(labels), words(0)).weight == WEIGHT


def test_classes_without_examples_keep_their_chances() -> None:
    """The words are good, and examples of half of the classes take little from the other half."""
    embeddings, labels, places = drawn(1, 5, classes=12)
    text = unit(places - 2 * np.eye(WIDTH)[0] * places[:, :1])  # apart from the pictures
    given = labels < 6
    regions, others = embeddings, ~given
    made = prototypes(embeddings[given], labels[given], text, 0.5).embeddings
    alone = text.copy()
    alone[:6] = made[:6]  # words left where they are
    found = right(regions[others], labels[others], made)
    assert found > right(regions[others], labels[others], alone) + 0.2
    assert right(regions[given], labels[given], made) > 0.8
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1, rtol=1e-5)


def test_no_example_leaves_the_words() -> None:
    text = words(0)
    made = prototypes(np.zeros((2, WIDTH), np.float32), np.array([-1, -1]), text)
    assert made.weight == 0
    np.testing.assert_array_equal(made.embeddings, text)


def test_examples_of_other_classes_are_left_aside() -> None:
    examples = Examples(
        names=("cat", "dog"), embeddings=np.eye(3, dtype=np.float32), labels=np.array([0, 1, 1])
    )
    assert examples.labels_among(["dog", "cow"]).tolist() == [-1, 0, 0]
    with pytest.raises(InputError, match="Did you mean cat"):
        examples.labels_among(["cats"])


PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)


def read(source: Source, **options: Path) -> tuple[list[ExampleImage], Counter[str]]:
    left_out: Counter[str] = Counter()
    return list(read_examples(source, left_out, **options)), left_out


def test_a_folder_of_folders(tmp_path: Path) -> None:
    root = tmp_path / "mine"
    for name in ("cat", "dog", ".hidden"):
        (root / name).mkdir(parents=True)
        Image.fromarray(PIXELS).save(root / name / "a.png")
    (root / "dog" / "notes.txt").write_text("no image")
    (root / "dog" / ".DS_Store").write_text("")
    Image.fromarray(PIXELS).save(tmp_path / "outside.png")
    (root / "dog" / "out.png").symlink_to(tmp_path / "outside.png")
    found, left_out = read(root)
    assert [example.names for example in found] == [("cat",), ("dog",)]
    assert found[0].boxes.tolist() == [[0, 0, 8, 6]]
    np.testing.assert_array_equal(found[0].image, PIXELS)
    assert left_out == {"undecodable": 1, "outside root": 1}


def test_labelled_boxes(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    Image.fromarray(PIXELS).save(tmp_path / "photos" / "a.png")
    images = [
        {"id": k, "file_name": name, "width": 8, "height": 6}
        for k, name in enumerate(("a.png", "b.png", "c"))
    ]
    boxes = [(0, [1, 1, 4, 3], 1), (0, [2, 2, 5, 4], 2), (1, [0, 0, 3, 3], 1)]
    annotations = [
        {"id": i, "image_id": image, "bbox": box, "category_id": category, "area": 12, "iscrowd": 0}
        for i, (image, box, category) in enumerate(boxes, 1)
    ]
    file = tmp_path / "mine.json"
    names = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": names}))
    [example], left_out = read(file, images=tmp_path / "photos")
    assert example.names == ("cat", "dog")
    assert example.boxes.tolist() == [[1, 1, 5, 4], [2, 2, 7, 6]]
    assert left_out == {"missing": 1}
    again, _ = read(read_coco_style(file, roots=(tmp_path / "photos",)))
    assert again[0].names == example.names


def test_images_in_hand() -> None:
    found, left_out = read({"cat": [PIXELS, Image.fromarray(PIXELS)], "dog": []})
    assert [example.names for example in found] == [("cat",), ("cat",)]
    assert not left_out


def test_sources_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="nowhere"):
        read(tmp_path / "nowhere")
    with pytest.raises(InputError, match="CLASS"):
        read(tmp_path)
