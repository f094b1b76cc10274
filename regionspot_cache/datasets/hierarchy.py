"""Class trees: which classes of a data set include each other, so that one says nothing against the other.

A box labelled "Man" is also a Person, and one labelled "Person" may be a Man; a one-hot target would punish
both. OpenImages' tree (bbox_labels_600_hierarchy.json: nested LabelName, Subcategory, Part) and V3Det's
(v3det_2023_v1_category_tree.json: father2child, id2name) are read. A `Part` is no kind of its whole: a wheel
is not a car, so "Wheel" and "Car" keep counting against each other, and their trees are apart.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regionspot_cache.datasets.openimages import read_classes
from regionspot_cache.datasets.sources import OPENIMAGES_CLASSES
from regionspot_cache.datasets.values import text
from regionspot_cache.errors import InputError
from regionspot_cache.files import read_json

OFFICIAL = (
    "OpenImages: https://storage.googleapis.com/openimages/2018_04/bbox_labels_600_hierarchy.json, beside "
    "class-descriptions-boxable.csv; V3Det: v3det_2023_v1_category_tree.json of its annotations"
)
_MOST = 0.5  # share of the class names that a file must know; fewer, and it belongs to another data set

Edges = dict[str, set[str]]  # node -> its direct kinds


def hierarchy_ignore(file: Path, class_names: Sequence[str]) -> NDArray[np.bool_]:
    """Which classes say nothing about a box of each class: its ancestors and descendants.

    Nodes are found by name. OpenImages' are MIDs, whose names are read from the class descriptions
    (`MID,Name`) in the same folder; without such a file the nodes' own names count.

    Args:
        file: OpenImages' or V3Det's tree, see `OFFICIAL`.
        class_names: K different names of the label space.

    Returns:
        bool [K, K], symmetric, False on the diagonal: `TrainingSource.ignore`.

    Raises:
        MissingFileError: no such file.
        InputError: not a class tree, or one that knows fewer than half of the names.
    """
    edges, names = read_hierarchy(file)
    nodes: defaultdict[str, list[str]] = defaultdict(list)
    for node, name in names.items():
        nodes[name].append(node)
    known = [name for name in class_names if name in nodes]
    if len(known) < _MOST * len(class_names) or not known:
        raise InputError(
            f"{file} knows {len(known)} of the {len(class_names)} classes; not, for example, "
            f"{next((name for name in class_names if name not in nodes), '')!r}",
            f"a tree of this label space; this one has {len(names)} nodes, such as {next(iter(nodes), '')!r}",
            "Name the cache that the file belongs to; MIDs need class-descriptions-boxable.csv beside it.",
        )
    rows = {name: row for row, name in enumerate(class_names)}
    ignore = np.zeros((len(class_names), len(class_names)), bool)
    for name in known:
        below = {names[node] for root in nodes[name] for node in _descendants(root, edges) if node in names}
        ignore[rows[name], [rows[other] for other in below if other in rows]] = True
    np.fill_diagonal(ignore, False)
    return ignore | ignore.T


def read_hierarchy(file: Path) -> tuple[Edges, dict[str, str]]:
    """Direct kinds of every node, and the name of every node that has one; errors as `hierarchy_ignore`."""
    tree = read_json(file, OFFICIAL, "Fetch it, again if it is here.")
    try:
        if "father2child" in tree:
            for node, kinds in tree["father2child"].items():
                if not isinstance(kinds, list) or not all(isinstance(kind, str | int) for kind in kinds):
                    raise TypeError(f"the kinds of {node!r} are no list of ids")
            v3det = {node: set(map(str, kinds)) for node, kinds in tree["father2child"].items()}
            return v3det, {node: text(name, node).strip() for node, name in tree["id2name"].items()}
        edges: Edges = defaultdict(set)
        labels = dict.fromkeys(_walk(tree, edges))
    except (TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(f"{file} is not a class tree: {error!r}.", OFFICIAL, "Fetch it again.") from None
    beside = (file.parent / Path(place).name for place in OPENIMAGES_CLASSES)
    descriptions = next((path for path in beside if path.is_file()), None)
    described = dict(zip(*read_classes(descriptions), strict=True)) if descriptions else {}
    return edges, {label: described.get(label, label) for label in labels}


def _walk(node: Mapping[str, Any], edges: Edges) -> Iterator[str]:
    """Labels of a node and all below it; notes the direct kinds of each."""
    label = text(node["LabelName"], "LabelName")
    yield label
    for kind in node.get("Subcategory", ()):
        edges[label].add(text(kind["LabelName"], "LabelName"))
        yield from _walk(kind, edges)
    for part in node.get("Part", ()):
        yield from _walk(part, edges)


def _descendants(root: str, edges: Mapping[str, set[str]]) -> set[str]:
    found: set[str] = set()
    waiting = [root]
    while waiting:
        new = edges.get(waiting.pop(), set()) - found
        found |= new
        waiting += new
    return found
