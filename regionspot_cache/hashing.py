"""Random numbers by counter: functions of their arguments, equal on every numpy version and machine."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

STEP = np.uint64(0x9E3779B97F4A7C15)


def mix64(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The output function of SplitMix64 (Steele et al., OOPSLA 2014), uint64 of any shape."""
    with np.errstate(over="ignore"):
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def random64(key: ArrayLike, *counters: ArrayLike) -> NDArray[np.uint64]:
    """uint64 of the common shape of non-negative integers: one for each key of a stream and its counters."""
    state = np.asarray(key).astype(np.uint64)
    for counter in counters:
        with np.errstate(over="ignore"):
            state = state + (np.asarray(counter).astype(np.uint64) + np.uint64(1)) * STEP
        state = mix64(state)
    return state


def uniform(key: ArrayLike, *counters: ArrayLike) -> NDArray[np.float64]:
    """`random64` as float64 in [0, 1)."""
    return (random64(key, *counters) >> np.uint64(11)).astype(np.float64) * 2.0**-53
