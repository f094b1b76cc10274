"""Columns of equal length that are cut and joined together."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray


class Table:
    """Base of dataclasses all of whose fields are arrays with one row an entry."""

    def take(self, rows: Any) -> Self:
        """These rows, in this order: indices, a mask or a slice."""
        return type(self)(**{name: column[rows] for name, column in vars(self).items()})

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """The rows of all parts (at least one), one after the other."""
        return cls(**{name: np.concatenate([vars(part)[name] for part in parts]) for name in vars(parts[0])})


def offsets_of(counts: Sequence[int] | NDArray[np.integer]) -> NDArray[np.int64]:
    """int64 [M + 1]: where the rows of each of M groups of these sizes begin and end."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def ranks(groups: NDArray) -> NDArray[np.int64]:
    """0, 1, 2, ... within each run of equal values of a sorted array."""
    return np.arange(len(groups)) - np.searchsorted(groups, groups)
