"""Classes that have several words: a box takes the score of the word that fits it best.

Synonyms are whole names, each of which may be the right one. The mean of their embeddings lies between them
and fits a box of any of them worse than its own word does; the best word does not lose by a poor one beside
it. Words of one class do not compete with each other: in the softmax a class counts by its best word alone.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regionspot_cache.backbones.vocabulary import read_class_names
from regionspot_cache.errors import InputError

EXPECTED = "A class a line: its name, then synonyms after commas; no word twice, in any case of letters."
REMEDY = "Take one of the two out, or give the text file with the classes."


@dataclass(frozen=True, kw_only=True, eq=False)
class Vocabulary:
    """Classes and their words."""

    names: tuple[str, ...]  # K classes, each by its first word
    words: tuple[str, ...]  # W words, those of a class together
    owner: NDArray[np.int64]  # [W], the class of each word, rising

    @classmethod
    def of(cls, lines: Sequence[str], source: str = "The classes") -> "Vocabulary":
        """From lines of words between commas. InputError: a word that is in two classes or twice in one."""
        words, owner = list[str](), list[int]()
        for number, line in enumerate(lines):
            own = [word.strip() for word in line.split(",") if word.strip()]
            if not own:
                raise InputError(f"{source}: the class {line!r} has no name.", EXPECTED, REMEDY)
            words += own
            owner += [number] * len(own)
        counts = Counter(word.casefold() for word in words)
        if twice := [word for word in words if counts[word.casefold()] > 1]:
            raise InputError(f"{source}: the word {twice[0]!r} is there twice.", EXPECTED, REMEDY)
        first = np.searchsorted(owner, np.arange(len(lines)))
        return cls(names=tuple(words[i] for i in first), words=tuple(words), owner=np.array(owner, np.int64))

    @classmethod
    def read(cls, path: Path) -> "Vocabulary":
        """From a text file, a class on each line; errors as of `of` and `read_class_names`."""
        return cls.of(read_class_names(path), str(path))

    def classes_of(self, names: Sequence[str]) -> NDArray[np.int64]:
        """The class that each name is a word of, in any case of letters, -1 for none, int64 [n]."""
        places = {word.casefold(): int(k) for word, k in zip(self.words, self.owner, strict=True)}
        return np.array([places.get(name.strip().casefold(), -1) for name in names], np.int64)

    def best_words(self, probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probabilities of words [N, W] to those of classes [N, K], each class by its best word.

        What a row lacks to 1, for none of the words, keeps its place beside them.
        """
        if len(self.names) == len(self.words):
            return probabilities
        starts = np.searchsorted(self.owner, np.arange(len(self.names)))
        best = np.maximum.reduceat(probabilities.astype(np.float64), starts, axis=1)
        rest = np.maximum(1 - probabilities.sum(1, dtype=np.float64), 0)
        return (best / (best.sum(1) + rest)[:, None]).astype(np.float32)
