"""Classes with several words."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regionspot_cache.errors import InputError
from regionspot_cache.recognition.synonyms import Vocabulary

LINES = ["sofa, couch , settee", "dog", "cat, kitten"]


def test_a_line_is_a_class_named_by_its_first_word(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("\n".join(LINES) + "\n\n")
    found = Vocabulary.read(path)
    assert found.names == ("sofa", "dog", "cat")
    assert found.words == ("sofa", "couch", "settee", "dog", "cat", "kitten")
    assert found.classes_of(["Couch", " kitten", "bus", ""]).tolist() == [0, 2, -1, -1]


@given(st.lists(st.floats(-20, 20), min_size=6, max_size=6), st.booleans())
def test_classes_compete_by_their_best_words_alone(logits: list[float], background: bool) -> None:
    found = Vocabulary.of(LINES)

    def softmax(values: np.ndarray) -> np.ndarray:
        values = np.append(values, 0.0) if background else values
        shares = np.exp(values - values.max())
        return (shares / shares.sum())[: len(values) - background]

    words = np.array(logits)
    best = np.array([words[found.owner == k].max() for k in range(3)])
    classes = found.best_words(softmax(words)[None].astype(np.float32))[0]
    np.testing.assert_allclose(classes, softmax(best), atol=2e-5 if not background else 2e-4)


def test_single_words_are_left_as_they_are() -> None:
    values = np.array([[0.25, 0.5]], np.float32)
    assert Vocabulary.of(["a", "b"]).best_words(values) is values


@pytest.mark.parametrize("lines", [["a, b", "B"], ["a, a"], ["a", ", "]])
def test_a_word_in_two_places_and_a_class_without_one(lines: list[str]) -> None:
    with pytest.raises(InputError, match="The classes: the "):
        Vocabulary.of(lines)


def test_the_file_of_a_word_that_is_there_twice_is_named(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("dog\ncat, Dog\n")
    with pytest.raises(InputError, match=r"names\.txt: the word 'dog' is there twice"):
        Vocabulary.read(path)
