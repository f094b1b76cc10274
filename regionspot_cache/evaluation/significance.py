"""Whether two methods differ by more than chance, on the same images.

Images are drawn, not objects: those of one image are alike. Every draw is a function of the seed, so all
methods are compared on the same ones.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
_AT_ONCE = 2_000_000  # numbers of a block


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A measure of two methods as fractions; `low` and `high` bound the difference with 95% confidence."""

    first: float
    second: float
    low: float
    high: float

    @property
    def difference(self) -> float:
        """The second less the first."""
        return self.second - self.first

    def to_json(self) -> dict[str, float | None]:
        """Every number, None for NaN."""
        values = {**asdict(self), "difference": self.difference}
        return {name: value if np.isfinite(value) else None for name, value in values.items()}


def image_weights(images: int, resamples: int, seed: int, width: int = 1) -> Iterator[NDArray[np.int64]]:
    """Draws of as many images with replacement, as how often each was drawn: i64 [b, images] a block.

    Args:
        resamples: draws in all.
        width: numbers that the caller makes of one draw; b is such that a block of them stays small.
    """
    rng = np.random.default_rng(seed)
    at_once = max(1, _AT_ONCE // max(width, images, 1))
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        drawn = [np.bincount(rng.integers(images, size=images), minlength=images) for _ in range(rows)]
        yield np.stack(drawn)


def difference(
    first: float, second: float, samples_first: NDArray[np.float64], samples_second: NDArray[np.float64]
) -> Difference:
    """The difference with its interval: percentiles of the differences in each of B draws; NaN counts not."""
    found = samples_second - samples_first
    found = found[~np.isnan(found)]
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(found, [tail, 100 - tail]) if len(found) else (np.nan, np.nan)
    return Difference(first=first, second=second, low=float(low), high=float(high))


def accuracy_samples(
    right: NDArray[np.bool_], image_of: NDArray[np.int64], images: int, resamples: int, seed: int
) -> NDArray[np.float64]:
    """The share of right objects, bool [T] with their images [T], in every draw: f64 [resamples]."""
    total = np.bincount(image_of, minlength=images).astype(np.float64)
    good = np.bincount(image_of, right, images)
    parts = [
        np.divide(weights @ good, objects, out=np.full(len(weights), np.nan), where=objects > 0)
        for weights in image_weights(images, resamples, seed)
        for objects in [weights @ total]
    ]
    return np.concatenate([np.zeros(0), *parts])


def mcnemar(only_first: int, only_second: int) -> float:
    """McNemar's exact test: how probable so uneven a split of the objects on which two methods differ is.

    Args:
        only_first: objects that the first method alone names right.
        only_second: that the second alone does.

    Returns:
        The two-sided p-value; 1 where they differ on none.
    """
    total, fewer = only_first + only_second, min(only_first, only_second)
    logarithms = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, total + 1)))])  # of factorials
    k = np.arange(fewer + 1)
    chances = logarithms[total] - logarithms[k] - logarithms[total - k] - total * np.log(2)
    return float(min(1.0, 2 * np.exp(chances).sum()))
