"""A concept pool: the words that a teacher chooses from when it names the regions of captioned images."""

import hashlib
import json
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from regionspot_cache.datasets.captions import CaptionedImage
from regionspot_cache.errors import InputError, UsageError
from regionspot_cache.files import read_text, replacing

PARSER = "textblob.en tagger, noun phrases"
_FORMAT = "One concept a line, the text before the first comma, each once."
# Penn tags as letters; all others break a phrase.
_KINDS = {"DT": "d", "PDT": "d", "PRP$": "d", "CD": "d", "VBN": "v", "VBG": "v"}
_KINDS |= dict.fromkeys(("JJ", "JJR", "JJS"), "j") | dict.fromkeys(("NN", "NNS", "NNP", "NNPS"), "n")
_KINDS["VB"] = "b"
_PHRASE = re.compile(r"(?:(?<=d)[vj]+|j*)n+|(?:(?<=d)[vj]+|j+)(?<=j)b")
_WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")


@dataclass(frozen=True, kw_only=True)
class ConceptPool:
    """Concepts in a fixed order, by which pseudo-labels count.

    Attributes:
        names: C different, non-empty texts without comma.
        source: where they come from, json-able: a file, or captions, parser and rule.
        images: number of images that each was found in, where it was counted.
    """

    names: tuple[str, ...]
    source: Mapping[str, Any]
    images: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def sha256(self) -> str:
        """Hex digest of the names, one a line."""
        return hashlib.sha256("".join(f"{name}\n" for name in self.names).encode()).hexdigest()

    def identity(self) -> dict[str, Any]:
        """What the pool is, json-able; `sha256` alone decides whether two are equal."""
        return {**self.source, "concepts": len(self), "sha256": self.sha256}

    def save(self, path: Path) -> None:
        """Writes FILE, `name,images` a line, which `read_pool` reads, and the identity as FILE.json."""
        counts = (f",{count}" for count in self.images) if self.images else ("" for _ in self.names)
        text = "".join(f"{name}{count}\n" for name, count in zip(self.names, counts, strict=True))
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as staging:
            staging.write_text(text, encoding="utf-8")
        with replacing(path.with_name(f"{path.name}.json")) as staging:
            staging.write_text(json.dumps(self.identity(), indent=2) + "\n")


def read_pool(file: Path) -> ConceptPool:
    """Reads a text file with a concept a line: the text before the first comma, without outer white space.

    Raises:
        MissingFileError: no such file.
        InputError: no UTF-8, no concepts, or lines that are empty or repeat another; names the lines.
    """
    names = [line.partition(",")[0].strip() for line in read_text(file, _FORMAT).splitlines()]
    first: dict[str, int] = {}
    empty, repeated = [], []
    for number, name in enumerate(names, 1):
        if not name:
            empty.append(str(number))
        elif first.setdefault(name, number) != number:
            repeated.append(f"{number} (as {first[name]})")
    problems = [
        f"{what} lines {', '.join(lines[:10])}{' ...' if len(lines) > 10 else ''}"
        for what, lines in (("empty", empty), ("repeated", repeated))
        if lines
    ]
    if problems or not names:
        found = " and ".join(problems) or "no concepts"
        raise InputError(f"{file} has {found}.", _FORMAT, "Remove these lines." if problems else "")
    return ConceptPool(names=tuple(names), source={"file": file.name})


def pool_of_captions(images: Iterable[CaptionedImage], *, min_images: int, source: str) -> ConceptPool:
    """The noun phrases that occur in the captions of at least `min_images` images, most frequent first.

    A phrase counts once an image, however often its captions have it; equal counts go by name. Memory follows
    the number of different phrases.

    Args:
        images: with their captions.
        min_images: least number of images. RegionCLIP took 100.
        source: names the captions.

    Raises:
        InputError: no captions, or no phrase is that frequent.
        UsageError: TextBlob is not installed, or `min_images` is less than 1.
    """
    if min_images < 1:
        raise UsageError(f"min_images = {min_images}.", "min_images >= 1.")
    counts: Counter[str] = Counter()
    captioned = 0
    for image in images:
        captioned += bool(image.captions)
        counts.update({phrase for caption in image.captions for phrase in noun_phrases(caption)})
    if not captioned:
        raise InputError(f"{source} has no captions.", "A file of captions, such as captions_train2017.json.")
    kept = sorted((-count, name) for name, count in counts.items() if count >= min_images)
    if not kept:
        name, most = max(counts.items(), key=lambda item: item[1], default=("none", 0))
        found = f"No noun phrase is in {min_images} of the {captioned} images with captions."
        raise InputError(found, f"At most {most}, the count of {name!r}.", "--min-images N")
    return ConceptPool(
        names=tuple(name for _, name in kept),
        images=tuple(-count for count, _ in kept),
        source={
            "captions": source,
            "images": captioned,
            "min_images": min_images,
            "parser": PARSER,
            "parser_version": version("textblob"),
        },
    )


def noun_phrases(caption: str) -> list[str]:
    """Noun phrases of a text in its order, in lower case, plural nouns (tag NNS) in the singular.

    A phrase is adjectives and nouns that end in a noun, as TextBlob's tagger sees them; determiners, numbers
    and possessives do not belong to it. Behind these a participle is an adjective ("a parked car"); behind an
    adjective, what is tagged a base verb is a noun ("a red cross").

    Raises:
        UsageError: TextBlob is not installed.
    """
    tag, singular = _textblob()
    tagged = tag(caption.lower())
    kinds = "".join(_KINDS.get(kind, ".") if _WORD.fullmatch(word) else "." for word, kind in tagged)
    return [
        " ".join(
            singular(word) if kind == "NNS" else word for word, kind in tagged[found.start() : found.end()]
        )
        for found in _PHRASE.finditer(kinds)
    ]


@cache
def _textblob() -> tuple[Callable[[str], list[tuple[str, str]]], Callable[[str], str]]:
    """TextBlob's tagger and singular, whose rules come with it; its phrase extractors need NLTK corpora."""
    try:
        from textblob.en import tag
        from textblob.en.inflect import singularize
    except ImportError:
        found = "Noun phrases are found by TextBlob, which is not installed."
        raise UsageError(found, "The extra `captions`.", "pip install 'regionspot-cache[captions]'") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it leaves the files of its rules open
        tag("a word")
    return tag, singularize


def overlap(pool: ConceptPool, class_names: Sequence[str]) -> list[str]:
    """The class names that are in the pool, in their order: what a zero-shot claim must state.

    Case, `_` and parentheses do not count, as in RegionCLIP: "bow_(weapon)" is "bow weapon".
    """
    plain = {_plain(name) for name in pool.names}
    return [name for name in class_names if _plain(name) in plain]


def _plain(name: str) -> str:
    return " ".join(re.sub(r"[()]", "", name.replace("_", " ")).lower().split())
