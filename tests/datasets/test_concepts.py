"""Concept pools: from a file, and from captions by noun phrases and frequency."""

import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from regionspot_cache.datasets.captions import CaptionedImage
from regionspot_cache.datasets.concepts import noun_phrases, overlap, pool_of_captions, read_pool
from regionspot_cache.datasets.shapes_classes import CLASS_NAMES, caption
from regionspot_cache.errors import InputError, MissingFileError, UsageError


def images(*captions: tuple[str, ...]) -> list[CaptionedImage]:
    return [CaptionedImage(number, f"{number}.jpg", texts) for number, texts in enumerate(captions)]


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("A group of people standing around a parked car.", ["group", "person", "parked car"]),
        ("two brown horses near the old wooden fence", ["brown horse", "old wooden fence"]),
        ("a plain red cross and a checkered pink crescent", ["plain red cross", "checkered pink crescent"]),
        ("A man's hat and 3 dogs & cats", ["man", "hat", "dog", "cat"]),
        ("the zebras are grazing", ["zebra"]),
        ("running fast", []),
        ("\u00fc \u0000 <b> / 12", []),
        ("", []),
    ],
)
def test_noun_phrases(text: str, phrases: list[str]) -> None:
    found = noun_phrases(text)
    assert [phrase for phrase in found if phrase.isascii()] == phrases


def test_phrases_need_no_files_beside_the_package(tmp_path: Path) -> None:
    code = (
        "import nltk; nltk.data.path.clear()\n"
        "from regionspot_cache.datasets.concepts import noun_phrases\n"
        "print(noun_phrases('a red car'))"
    )
    environment = {"HOME": str(tmp_path), "PYTHONPATH": ":".join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "['red car']", done.stderr
    assert not [*tmp_path.iterdir()]


def test_a_phrase_counts_once_an_image_and_order_is_frequency_then_name() -> None:
    pool = pool_of_captions(
        images(("a cat and a dog", "a dog", "two dogs"), ("the cat and a bee",), ("an ant and a bee", "")),
        min_images=1,
        source="mine",
    )
    assert dict(zip(pool.names, pool.images, strict=True)) == {"bee": 2, "cat": 2, "ant": 1, "dog": 1}
    assert pool.names == ("bee", "cat", "ant", "dog")
    assert pool_of_captions(images(("cats",), ("cat",), ("dog",)), min_images=2, source="x").names == ("cat",)
    assert pool.identity()["parser"].startswith("textblob")
    assert pool.identity() == {
        "captions": "mine",
        "images": 3,
        "min_images": 1,
        "parser": pool.source["parser"],
        "parser_version": pool.source["parser_version"],
        "concepts": 4,
        "sha256": hashlib.sha256(b"bee\ncat\nant\ndog\n").hexdigest(),
    }


def test_what_cannot_make_a_pool() -> None:
    with pytest.raises(InputError, match="has no captions"):
        pool_of_captions(images((), ()), min_images=1, source="x")
    with pytest.raises(InputError, match=r"No noun phrase is in 3 of the 2 images(.|\n)*At most 2, .* 'cat'"):
        pool_of_captions(images(("cat",), ("cat",)), min_images=3, source="x")
    with pytest.raises(UsageError):
        pool_of_captions(images(("cat",)), min_images=0, source="x")


def test_a_saved_pool_is_read_again(tmp_path: Path) -> None:
    pool = pool_of_captions(images(("a red car",), ("a red car, a dog",)), min_images=1, source="x")
    pool.save(tmp_path / "in/pool.txt")
    assert (tmp_path / "in/pool.txt").read_text() == "red car,2\ndog,1\n"
    found = read_pool(tmp_path / "in/pool.txt")
    assert (found.names, found.sha256) == (pool.names, pool.sha256)
    assert json.loads((tmp_path / "in/pool.txt.json").read_text()) == pool.identity()


def test_text_before_the_first_comma_counts(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_bytes("\ufeffcat,kitty\r\n hot dog , sausage\r\nCaf\u00e9".encode())
    pool = read_pool(tmp_path / "p.txt")
    assert pool.names == ("cat", "hot dog", "Caf\u00e9")
    assert pool.identity()["file"] == "p.txt"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cat\n\ndog\n ,x\ncat\ncat,a\n", "empty lines 2, 4 and repeated lines 5 (as 1), 6 (as 1)."),
        ("cat\ncat", "repeated lines 2 (as 1)."),
        ("\n" * 12, "empty lines 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 ..."),
        ("", "no concepts"),
    ],
)
def test_lines_that_are_empty_or_repeat_are_one_error(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "p.txt").write_text(text)
    with pytest.raises(InputError) as caught:
        read_pool(tmp_path / "p.txt")
    assert said in caught.value.found


def test_pools_that_are_no_text(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        read_pool(tmp_path / "p.txt")
    (tmp_path / "p.txt").write_bytes(b"caf\xe9")
    with pytest.raises(InputError, match="UTF-8"):
        read_pool(tmp_path / "p.txt")


def test_overlap_compares_as_regionclip_does(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("bow weapon\nHot Dog\ncat\n")
    names = ["bow_(weapon)", "hot_dog", "dog", "cat"]
    assert overlap(read_pool(tmp_path / "p.txt"), names) == ["bow_(weapon)", "hot_dog", "cat"]


def test_without_textblob_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    from regionspot_cache.datasets import concepts

    concepts._textblob.cache_clear()
    monkeypatch.setitem(sys.modules, "textblob.en", None)
    with pytest.raises(UsageError, match=r"captions"):
        noun_phrases("a dog")
    concepts._textblob.cache_clear()


def test_captions_of_the_built_in_world_name_its_classes_at_some_speed() -> None:
    rng = np.random.default_rng(0)
    texts = [(caption(rng.choice(len(CLASS_NAMES), size=3)),) for _ in range(1000)]
    noun_phrases("a dog")
    start = time.process_time()
    pool = pool_of_captions(images(*texts), min_images=1, source="x")
    assert len(texts) / (time.process_time() - start) > 500  # 12,000 on an idle core
    assert len(overlap(pool, CLASS_NAMES)) > 0.95 * len(CLASS_NAMES)
