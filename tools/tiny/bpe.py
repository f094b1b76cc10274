"""Learn the small byte-pair vocabulary of the tiny world, as a file for open_clip's SimpleTokenizer."""

import gzip
import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from open_clip import OPENAI_IMAGENET_TEMPLATES

# Simple prompts and the ones of the scene kind, beside the 80 ImageNet templates of CLIP.
EXTRA_TEMPLATES = (
    "{}",
    "{}.",
    "a {}",
    "a {}.",
    "the {}.",
    "a photo of a {}",
    "a photo of {} in the scene",
    "a photo of a {} in the scene.",
    "{} in the scene",
    "there is a {} in the scene.",
    "there is the {} in the scene.",
    "this is a {} in the scene.",
    "this is the {} in the scene.",
    "this is one {} in the scene.",
)


def templates() -> list[str]:
    """All prompt templates used in training, with {} for the name; simple ones come first."""
    return [*EXTRA_TEMPLATES, *(template("{}") for template in OPENAI_IMAGENET_TEMPLATES)]


def learn_merges(texts: Sequence[str]) -> list[tuple[str, str]]:
    """Merge the most frequent adjacent pair until every word of the texts is one token."""
    counts = Counter(word for text in texts for word in re.findall(r"[a-z]+|[^\sa-z]+", text.lower()))
    words = {word: [*word[:-1], word[-1] + "</w>"] for word in sorted(counts)}
    merges: list[tuple[str, str]] = []
    while True:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in words.items():
            for pair in pairwise(parts):
                pairs[pair] += counts[word]
        if not pairs:
            return merges
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        words = {word: _merge(parts, best) for word, parts in words.items()}


def _merge(parts: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for part in parts:
        if merged and (merged[-1], part) == pair:
            merged[-1] += part
        else:
            merged.append(part)
    return merged


def write_vocabulary(path: Path, texts: Sequence[str]) -> None:
    """Write the merges as the gzipped text that SimpleTokenizer(bpe_path) reads; a function of the texts."""
    # SimpleTokenizer skips the first line and takes every other one as a pair: no newline may end the file.
    lines = ["#version: tiny", *(" ".join(pair) for pair in learn_merges(texts))]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("\n".join(lines).encode(), mtime=0))
