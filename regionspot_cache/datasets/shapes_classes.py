"""Classes of the built-in world: 4 textures x 10 colours x 8 shapes, and how often each one is drawn."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

TEXTURES = ("plain", "striped", "dotted", "checkered")
COLOURS = {
    "red": (214, 38, 38),
    "orange": (248, 140, 20),
    "yellow": (246, 226, 52),
    "green": (44, 164, 58),
    "cyan": (52, 214, 222),
    "blue": (44, 78, 222),
    "purple": (132, 46, 178),
    "pink": (250, 130, 190),
    "brown": (128, 76, 36),
    "white": (244, 244, 244),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "crescent", "bar")

# Zipf-Mandelbrot tail of the training split: from about a thousand boxes down to a handful.
_ZIPF_EXPONENT, _ZIPF_SHIFT = 1.6, 12.0
_NOVEL_SHARE = 0.10


@dataclass(frozen=True, kw_only=True)
class ShapeClass:
    """One class; `index` counts from 0, the category id in the JSON files is index + 1."""

    index: int
    texture: str
    colour: str
    shape: str
    novel: bool

    @property
    def name(self) -> str:
        return f"{self.texture} {self.colour} {self.shape}"


# Every combination once; a fifth is novel, and so is a fifth of the classes of every attribute value.
CLASSES = tuple(
    ShapeClass(index=i, texture=texture, colour=colour, shape=shape, novel=(s + 2 * c + t) % 5 == 0)
    for i, ((s, shape), (c, colour), (t, texture)) in enumerate(
        product(enumerate(SHAPES), enumerate(COLOURS), enumerate(TEXTURES))
    )
)
CLASS_NAMES = tuple(c.name for c in CLASSES)


def class_probabilities(split: str) -> NDArray[np.float64]:
    """How often each class is drawn, f64 [C]: long-tailed for "train", with few novel ones; else uniform."""
    if split != "train":
        return np.full(len(CLASSES), 1 / len(CLASSES))
    novel = np.array([c.novel for c in CLASSES])
    # A hash of the name ranks the classes, so that rank tells nothing about texture, colour or shape.
    order = np.argsort([zlib.crc32(name.encode()) for name in CLASS_NAMES], kind="stable")
    base = order[~novel[order]]
    weights = np.zeros(len(CLASSES))
    weights[base] = (np.arange(len(base)) + _ZIPF_SHIFT) ** -_ZIPF_EXPONENT
    weights[base] *= (1 - _NOVEL_SHARE) / weights[base].sum()
    weights[novel] = _NOVEL_SHARE / novel.sum()
    return weights


def caption(labels: Sequence[int]) -> str:
    """Describe a scene by its objects, the first four at most: "a striped red star and a plain blue ring"."""
    *others, last = [f"a {CLASS_NAMES[label]}" for label in labels[:4]] or [""]
    return f"{', '.join(others)} and {last}" if others else last
