"""How sure an accuracy is: intervals by drawing the images again (bootstrap)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
INTERVAL = (2.5, 97.5)  # percentiles


@dataclass(frozen=True, kw_only=True)
class Counted:
    """Named regions of I images by their true class; of several heads that named the same regions.

    `right` int [H, I, K] are those named right, `total` int [I, K] all; `images` int [I] says which images.
    """

    images: NDArray[np.int64]
    right: NDArray[np.int64]
    total: NDArray[np.int64]

    def shares(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of R drawings of the images, weights [R, I]: `top1` and `mean over classes`, float64 [2, H, R].

        The mean is over the classes that a drawing has regions of.
        """
        total = weights @ self.total  # [R, K]
        right = np.einsum("ri,hik->hrk", weights, self.right, optimize=True)
        of_class = np.divide(right, total, out=np.zeros_like(right), where=total > 0)
        return np.stack([right.sum(-1) / total.sum(-1), of_class.sum(-1) / (total > 0).sum(-1)])


def accuracies(counted: Counted, seed: int = 0) -> list[dict[str, Any]]:
    """Of every head, `top1` and `class_mean` in percent, each with `low` and `high` of its 95 % interval.

    A head after the first also has `gain`, the same of the difference to the first on the same regions.
    Needs at least one region.
    """
    images = len(counted.total)
    drawn = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), RESAMPLES)
    drawn = drawn[(drawn @ counted.total.sum(1)) > 0].astype(np.float64)
    point = 100 * counted.shares(np.ones((1, images)))[:, :, 0]  # [2, H]
    spread = 100 * counted.shares(drawn)  # [2, H, R]
    found = []
    for head in range(len(counted.right)):
        values: dict[str, Any] = {}
        for name, at, around in zip(("top1", "class_mean"), point, spread, strict=True):
            values[name] = _interval(at[head], around[head])
            if head:
                values[name]["gain"] = _interval(at[head] - at[0], around[head] - around[0])
        found.append(values)
    return found


def _interval(value: float, around: NDArray[np.float64]) -> dict[str, Any]:
    low, high = np.percentile(around, INTERVAL)
    return {"value": float(value), "low": float(low), "high": float(high)}
