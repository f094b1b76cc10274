"""Base and novel classes of open-vocabulary detection: which boxes a head may learn, and what it is asked."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from regionspot_cache.config import validate
from regionspot_cache.datasets.records import DetectionDataset
from regionspot_cache.errors import InputError, UsageError, near, one_of
from regionspot_cache.yaml_text import read_yaml

NAMED = Path(__file__).with_name("class_splits.yaml")
OUTSIDE = "class outside the split"


@dataclass(frozen=True, kw_only=True)
class Frequencies:
    """Classes by LVIS frequency: "r", "c", "f"."""

    frequency: tuple[Literal["r", "c", "f"], ...]


@dataclass(frozen=True, kw_only=True)
class ClassSplit:
    """Two disjoint groups of classes, each by names or by frequency."""

    base: tuple[str, ...] | Frequencies
    novel: tuple[str, ...] | Frequencies


def load_class_split(name_or_file: str) -> ClassSplit:
    """A split by its name, or from a YAML file with `base` and `novel`.

    Raises:
        UsageError: no such name, or a file with other keys.
        MissingFileError: no such file.
    """
    known: dict[str, Any] = read_yaml(NAMED)
    if name_or_file in known:
        return validate(ClassSplit, known[name_or_file], name_or_file)
    if Path(name_or_file).suffix not in (".yaml", ".yml"):
        raise UsageError(
            f"There is no class split {name_or_file!r}.",
            f"{one_of(name_or_file, known)[:-1]}, or a .yaml file with base and novel.",
        )
    return validate(ClassSplit, read_yaml(Path(name_or_file)), name_or_file)


def restrict(
    dataset: DetectionDataset, split: ClassSplit, keep: Literal["base", "all"] = "all"
) -> DetectionDataset:
    """The boxes of the classes of a split, on the images that have any; the others are counted in `dropped`.

    Args:
        dataset: with all classes of the split.
        split: base and novel classes.
        keep: "base" for what a head may be trained on; "all" for evaluation, where `class_novel` tells.

    Raises:
        InputError: a class that the dataset lacks, or that is in both groups.
    """
    base, novel = _members(dataset, split.base), _members(dataset, split.novel)
    if twice := sorted(set(base) & set(novel)):
        raise InputError(f"Class {dataset.class_names[twice[0]]!r} is base and novel.", "Disjoint groups.")
    chosen = np.array(sorted(base if keep == "base" else {*base, *novel}), np.int64)
    new_label = np.full(len(dataset.class_names), -1, np.int32)
    new_label[chosen] = np.arange(len(chosen))
    kept = dataset.with_boxes(new_label[dataset.labels] >= 0, OUTSIDE)
    return replace(
        kept,
        class_names=tuple(dataset.class_names[c] for c in chosen),
        category_ids=dataset.category_ids[chosen],
        class_frequency=tuple(dataset.class_frequency[c] for c in chosen),
        class_novel=tuple(int(c) in set(novel) for c in chosen),
        labels=new_label[kept.labels],
    )


def _members(dataset: DetectionDataset, group: Sequence[str] | Frequencies) -> list[int]:
    """Labels of a group."""
    if isinstance(group, Frequencies):
        found = [i for i, letter in enumerate(dataset.class_frequency) if letter in group.frequency]
        if not found:
            letters = ", ".join(group.frequency)
            raise InputError(f"{dataset.name} has no class of frequency {letters}.", "Annotations of LVIS.")
        return found
    label_of: dict[str, int] = {name: i for i, name in enumerate(dataset.class_names)}
    if missing := [name for name in group if name not in label_of]:
        raise InputError(
            f"{dataset.name} lacks {len(missing)} of the {len(group)} classes, first {missing[0]!r}.",
            f"{near(missing[0], label_of)}A class of each name among its {len(label_of)}.",
        )
    return [label_of[name] for name in group]
