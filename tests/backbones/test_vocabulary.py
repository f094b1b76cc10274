"""Class names to text embeddings."""

import hashlib
import resource
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regionspot_cache.backbones.vocabulary import (
    TEMPLATES,
    clean,
    prompts,
    read_class_names,
    template_set,
    text_embeddings,
    unique_classes,
    vild,
)
from regionspot_cache.errors import InputError, MissingFileError, UsageError
from tests.backbones.small import small_clip

NAMES = ["bow_(weapon)", "cabinet/shelf", "dog", "dog"]


class CountingEncoder:
    """Deterministic embeddings of texts; remembers what it was asked."""

    def __init__(self, identity: str = "a") -> None:
        self.identity = identity
        self.texts: list[str] = []

    def encode_text(self, texts) -> torch.Tensor:
        self.texts += texts
        rows = [np.random.default_rng(list(text.encode())).normal(size=8) * (1 + len(text)) for text in texts]
        return torch.tensor(np.array(rows), dtype=torch.float32)

    def text_fingerprint(self) -> dict:
        return {"weights": self.identity}


def test_the_official_set_is_clips_80_and_the_name() -> None:
    assert len(template_set("clip80+name")) == 81
    assert prompts("CD", "clip80+name")[-1] == "CD."
    assert {t("x") for t in open_clip.OPENAI_IMAGENET_TEMPLATES} < set(prompts("x", "clip80+name"))
    assert prompts("dog", "scene") == ["a photo of dog in the scene"]
    assert len(template_set("clip7")) == 7
    assert prompts("dog", "single") == ["a photo of a dog."]
    assert prompts("dog", "name") == ["dog."]
    assert len(set(map(template_set, TEMPLATES))) == len(TEMPLATES)


@pytest.mark.parametrize(
    ("name", "digest"),
    # Made with the 63 templates, the cleaning and the articles of ViLD's public demo, sorted, one a line.
    [
        ("dog", "1439b748097b051f"),
        ("orange_(fruit)", "e6e7303e6e20dd8d"),
        ("Cabinet/Shelf.", "1a6f118ccead81dc"),
    ],
)
def test_vilds_63_prompts(name: str, digest: str) -> None:
    texts = prompts(name, "vild63", "vild")
    assert len(set(texts)) == 63
    assert hashlib.sha256("\n".join(sorted(texts)).encode()).hexdigest().startswith(digest)


def test_articles_follow_the_cleaned_name() -> None:
    assert prompts("Apple", "vild63", "vild")[0] == "There is an apple in the scene."
    assert prompts("_apple", "vild63", "clean")[0] == "There is an apple in the scene."
    assert prompts("dog", ["{article} {}, {article} pet"]) == ["a dog, a pet"]
    assert prompts("{article} x", ["see {article} {}"]) == ["see a {article} x"]


def test_embeddings_equal_a_loop_over_open_clip() -> None:
    clip = small_clip()
    found = text_embeddings(clip, NAMES, cleaning="clean")
    tokenize = open_clip.SimpleTokenizer()
    for name, row in zip(["bow weapon", "cabinet or shelf", "dog", "dog"], found, strict=True):
        texts = [t(name) for t in open_clip.OPENAI_IMAGENET_TEMPLATES] + [f"{name}."]
        with torch.no_grad():
            mean = clip.model.encode_text(tokenize(texts)).mean(0)
        np.testing.assert_allclose(row, (mean / mean.norm()).numpy(), atol=1e-5)


def test_averages_differ_and_are_unit_length() -> None:
    raw = text_embeddings(CountingEncoder(), NAMES, "clip7")
    unit = text_embeddings(CountingEncoder(), NAMES, "clip7", average="unit-mean")
    assert raw.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(raw, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-6)
    assert np.abs(raw - unit).max() > 1e-3


def test_equal_names_are_embedded_once() -> None:
    encoder = CountingEncoder()
    found = text_embeddings(encoder, NAMES, "single")
    assert len(encoder.texts) == 3
    np.testing.assert_array_equal(found[2], found[3])


def test_results_do_not_depend_on_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = text_embeddings(CountingEncoder(), NAMES, "clip7")
    monkeypatch.setattr("regionspot_cache.backbones.vocabulary.PROMPTS_AT_ONCE", 1)
    seen = []
    parts = text_embeddings(CountingEncoder(), NAMES, "clip7", progress=lambda *step: seen.append(step))
    np.testing.assert_array_equal(whole, parts)
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_the_cache_is_used_for_the_same_question_only(tmp_path: Path) -> None:
    def ask(identity: str = "a", names=NAMES, templates="clip7", **options) -> int:
        encoder = CountingEncoder(identity)
        cached = text_embeddings(encoder, names, templates, cache_dir=tmp_path, **options)
        np.testing.assert_array_equal(cached, text_embeddings(CountingEncoder(), names, templates, **options))
        return len(encoder.texts)

    assert ask() == 21
    assert ask() == 0
    assert ask(names=[*NAMES, "dog"]) == 0  # the same three names
    assert ask(identity="b") == 21
    assert ask(names=NAMES[::-1]) == 21
    assert ask(templates="single") == 3
    assert ask(cleaning="clean") == 21
    assert ask(average="unit-mean") == 21


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY broken", None])
def test_an_unreadable_cache_file_is_computed_again(tmp_path: Path, damage: bytes | None) -> None:
    expected = text_embeddings(CountingEncoder(), NAMES, "clip7", cache_dir=tmp_path)
    [path] = tmp_path.iterdir()
    if damage is None:
        np.save(path, expected[:1])
    else:
        path.write_bytes(damage)
    found = text_embeddings(CountingEncoder(), NAMES, "clip7", cache_dir=tmp_path)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(np.load(path), expected[:3])


@given(st.lists(st.sampled_from("abcde"), max_size=12))
def test_merging_equal_names_loses_nothing(names: list[str]) -> None:
    unique, index = unique_classes(names)
    assert len(set(unique)) == len(unique)
    assert [unique[i] for i in index] == names
    assert index.dtype == np.int64


@given(st.text(max_size=30))
def test_cleaning_is_idempotent_and_leaves_no_marks(name: str) -> None:
    cleaned = clean(name)
    assert clean(cleaned) == cleaned
    assert not set(cleaned) & set("_/()\n\t")
    assert cleaned == cleaned.strip()
    assert vild(vild(name)) == vild(name)


def test_class_names_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_text("\ufeffcat\r\n\n big dog \ncaf\u00e9", encoding="utf-8")
    assert read_class_names(path) == ["cat", "big dog", "caf\u00e9"]
    for wrong, message in ((b" \n", "names nothing"), (b"cat\n\xff", "is not UTF-8 text: byte 4")):
        path.write_bytes(wrong)
        with pytest.raises(InputError, match=message):
            read_class_names(path)
    with pytest.raises(MissingFileError):
        read_class_names(tmp_path)


@pytest.mark.parametrize("stored", [b"", b"\x93NUMPY\x01\x00\xff\xff", b"PK\x05\x06" + b"\0" * 18, b"pickle"])
def test_broken_files_of_embeddings_are_computed_again(tmp_path: Path, stored: bytes) -> None:
    expected = text_embeddings(CountingEncoder(), NAMES, "single", cache_dir=tmp_path)
    [file] = tmp_path.iterdir()
    file.write_bytes(stored)
    np.testing.assert_array_equal(
        text_embeddings(CountingEncoder(), NAMES, "single", cache_dir=tmp_path), expected
    )
    np.save(file, expected.astype(np.float16))
    found = text_embeddings(CountingEncoder(), NAMES, "single", cache_dir=tmp_path)
    assert found.dtype == np.float32


def test_mistakes_are_explained() -> None:
    encoder = CountingEncoder()
    with pytest.raises(UsageError, match="clip80"):
        text_embeddings(encoder, NAMES, "clip81")
    with pytest.raises(UsageError, match="raw, clean, vild"):
        text_embeddings(encoder, NAMES, cleaning="tidy")
    with pytest.raises(UsageError, match="raw-mean"):
        text_embeddings(encoder, NAMES, average="median")
    with pytest.raises(InputError, match="No class names"):
        text_embeddings(encoder, [])
    with pytest.raises(InputError, match="Class 1 has no name"):
        text_embeddings(encoder, ["dog", " "])
    with pytest.raises(UsageError, match="no place for the name"):
        template_set(["a photo"])
    with pytest.raises(UsageError, match="No prompt templates"):
        template_set([])
    assert encoder.texts == []


def test_a_full_disk_is_an_error_of_the_system(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            text_embeddings(CountingEncoder(), [str(n) for n in range(2000)], "single", cache_dir=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno
    assert not list(tmp_path.rglob("*.npy"))
