"""Captioned images for the small CLIP: single objects (small pieces and photos) and whole scenes; prompts.

Labels stand for the phrases of an image's caption. No boxes and no masks are used. The vocabulary of byte
pairs is learnt from the prompts, as a file for open_clip's SimpleTokenizer.
"""

import gzip
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip import OPENAI_IMAGENET_TEMPLATES
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import normalize

from regionspot_cache.datasets.shapes_classes import CLASSES, class_probabilities
from regionspot_cache.datasets.shapes_scene import draw_scene, draw_single, image_rng
from tools.tiny.training import CLIP_SCENES, CLIP_SINGLES

INPUT = 128  # pixels of CLIP's input
PIECE = 48  # pixels of a small piece, at the scale of a scene
PIECES, PHOTOS, SCENES = 32_000, 12_000, 9_000  # distinct images of each kind
VALIDATION = 1_000_000
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]

Sample = tuple[NDArray[np.uint8], list[int], list[int]]  # image, classes in the caption, classes left open


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Pictures and what their captions say."""

    images: Tensor
    """float32 [B,3,h,w], normalised."""
    present: Tensor
    """float32 [B,C], 1 for the phrases of the caption."""
    known: Tensor
    """bool [B,C], False for phrases that are neither in the caption nor surely absent."""
    classes: Tensor
    """int64 [K], the phrases to compare with; all phrases of the captions are among them."""


def squash(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Resize to a square with bicubic filtering, as CLIP's preprocessing does."""
    return np.array(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))


def piece(index: int) -> Sample:
    """One object at the size it has in a scene."""
    rng = image_rng(CLIP_SINGLES, 0, 0, index)
    label = int(rng.integers(len(CLASSES)))
    low = np.exp(rng.uniform(np.log(0.125), np.log(0.46)))
    return squash(draw_single(rng, label, 2 * PIECE, (low, low)), PIECE), [label], []


def large_piece(index: int) -> Sample:
    """One object of at least three patches across, as the larger ones in a scene."""
    rng = image_rng(CLIP_SINGLES, 0, 2, index)
    label = int(rng.integers(len(CLASSES)))
    return squash(draw_single(rng, label, 2 * PIECE, (0.25, 0.46)), PIECE), [label], []


def photo(index: int) -> Sample:
    """One object that fills the picture, at any sharpness."""
    rng = image_rng(CLIP_SINGLES, 0, 1, index)
    label = int(rng.integers(len(CLASSES)))
    side = int(np.exp(rng.uniform(np.log(26), np.log(170))))
    return squash(draw_single(rng, label, side, (0.33, 0.52)), INPUT), [label], []


def scene(index: int) -> Sample:
    """A whole scene; the caption names every object but the hidden ones."""
    drawn = draw_scene(image_rng(CLIP_SCENES, 0, 0, index), class_probabilities("uniform"))
    return squash(drawn.image, INPUT), drawn.labels.tolist(), list(drawn.hidden)


class Pool:
    """Images drawn on first use and kept in memory."""

    def __init__(self, draw: Callable[[int], Sample], size: int, side: int) -> None:
        self.draw, self.size = draw, size
        self.images = np.zeros((size, side, side, 3), np.uint8)
        self.labels: list[tuple[list[int], list[int]] | None] = [None] * size

    def batch(self, rng: np.random.Generator, count: int, phrases: int) -> Batch:
        """Random images, mirrored half of the time, and about `phrases` phrases to compare them with."""
        picked = rng.integers(self.size, size=count)
        present = torch.zeros(count, len(CLASSES))
        known = torch.ones(count, len(CLASSES), dtype=torch.bool)
        for row, index in enumerate(picked):
            named, left_open = self._labels(int(index))
            known[row, left_open] = False
            known[row, named] = True
            present[row, named] = 1
        images = self.images[picked]
        mirrored = rng.random(count) < 0.5
        images[mirrored] = images[mirrored, :, ::-1]
        others = torch.from_numpy(rng.permutation(len(CLASSES))[:phrases])
        classes = torch.cat([present.any(0).nonzero()[:, 0], others]).unique()
        pixels = normalize(torch.from_numpy(images).permute(0, 3, 1, 2) / 255, MEAN, STD)
        return Batch(images=pixels, present=present, known=known, classes=classes)

    def _labels(self, index: int) -> tuple[list[int], list[int]]:
        labels = self.labels[index]
        if labels is None:
            self.images[index], *rest = self.draw(index)
            labels = self.labels[index] = (rest[0], rest[1])
        return labels


# Simple prompts and the ones of the scene kind, beside the 80 ImageNet templates of CLIP.
EXTRA_TEMPLATES = Path(__file__).with_name("templates.txt").read_text(encoding="utf-8").splitlines()


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
