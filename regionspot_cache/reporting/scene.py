"""One image with what is known and what is said about its regions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from regionspot_cache.errors import InputError
from regionspot_cache.reporting.lettering import shortened

MARKS = {True: "✓ ", False: "✗ ", None: ""}


class Names(NamedTuple):
    """What a method calls n boxes: names, and scores float32 [n]."""

    names: Sequence[str]
    scores: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One image as every method names its regions. InputError: parts that do not belong together."""

    title: str
    image: NDArray[np.uint8]  # [H, W, 3]
    boxes: NDArray[np.float32]  # [n, 4] xyxy, pixels
    named: Mapping[str, Names]  # by method; the first is the one whose masks and attention are shown
    # n true names, None for a box that shows no annotated object; None when nothing is known
    truth: Sequence[str | None] | None = None
    # boxes [m, 4] and names of the annotation, where `boxes` are proposals
    annotated: tuple[NDArray[np.float32], Sequence[str]] | None = None
    masks: NDArray[np.bool_] | None = None  # [n, H, W]
    attention: NDArray[np.float32] | None = None  # [L, n, gh, gw] over the whole image, not negative

    def __post_init__(self) -> None:
        n, (marked, labels) = len(self.boxes), self.annotated or (np.zeros((0, 4)), ())
        maps = np.zeros((1, n, 1, 1)) if self.attention is None else self.attention
        fits = {
            "image": self.image.dtype == np.uint8 and self.image.shape[2:] == (3,) and self.image.size > 0,
            "boxes": self.boxes.shape == (n, 4) and np.isfinite(self.boxes).all(),
            "names": self.named and all(len(part) == n for one in self.named.values() for part in one),
            "truth": self.truth is None or len(self.truth) == n,
            "annotated": marked.shape == (len(labels), 4) and np.isfinite(marked).all(),
            "masks": self.masks is None or self.masks.shape == (n, *self.image.shape[:2]),
            "attention": maps.ndim == 4 and maps.shape[1] == n and 0 not in maps.shape[2:],
            "attention values": np.isfinite(maps).all(),
        }
        if wrong := [part for part, good in fits.items() if not good]:
            raise InputError(
                f"{self.title} has {n} boxes, and its {', '.join(wrong)} do not fit",
                "shapes as reporting.scene.Scene says, every value finite",
            )

    def right(self, method: str, i: int) -> bool | None:
        """Whether a method names box i as it is, but for case and underscores; None where that is unknown."""
        true = None if self.truth is None else self.truth[i]
        return None if true is None else _comparable(self.named[method].names[i]) == _comparable(true)

    def says(self, method: str, i: int, *, length: int = 200) -> str:
        """What a method says about box i, such as `✓ cat 0.93`, the name in at most `length` characters."""
        names, scores = self.named[method]
        return f"{MARKS[self.right(method, i)]}{shortened(names[i], length)} {scores[i]:.2f}"


def _comparable(name: str) -> str:
    return name.replace("_", " ").strip().casefold()
