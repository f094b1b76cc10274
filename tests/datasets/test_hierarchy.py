"""Class trees of OpenImages and V3Det: who is a kind of whom, and what that leaves of the loss."""

import json
from pathlib import Path

import numpy as np
import pytest

from regionspot_cache.datasets.hierarchy import hierarchy_ignore, read_hierarchy
from regionspot_cache.errors import InputError, MissingFileError

NAMES = ("Person", "Man", "Woman", "Car", "Vehicle", "Wheel", "Human face", "Tree")
MIDS = {name: f"/m/{number:04x}" for number, name in enumerate(NAMES)}


def node(name: str, kinds: tuple = (), parts: tuple = ()) -> dict:
    found: dict = {"LabelName": MIDS.get(name, name)}
    return found | ({"Subcategory": list(kinds)} if kinds else {}) | ({"Part": list(parts)} if parts else {})


TREE = node(
    "/m/0bl9f",
    (
        node("Person", (node("Man"), node("Woman")), (node("Human face"),)),
        node("Vehicle", (node("Car", parts=(node("Wheel"),)),), (node("Wheel"),)),
        node("Tree"),
    ),
)
RELATED = {("Person", "Man"), ("Person", "Woman"), ("Vehicle", "Car")}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "class-descriptions-boxable.csv").write_text(
        "".join(f"{mid},{name}\n" for name, mid in MIDS.items())
    )
    file = tmp_path / "bbox_labels_600_hierarchy.json"
    file.write_text(json.dumps(TREE))
    return file


def pairs(ignore: np.ndarray, names: tuple[str, ...]) -> set[tuple[str, str]]:
    return {(names[i], names[j]) for i, j in zip(*np.nonzero(ignore), strict=True)}


def both_ways(related: set[tuple[str, str]]) -> set[tuple[str, str]]:
    return related | {(b, a) for a, b in related}


def test_ancestors_and_descendants_say_nothing_and_parts_and_siblings_do(tree: Path) -> None:
    ignore = hierarchy_ignore(tree, NAMES)
    assert ignore.dtype == bool
    assert pairs(ignore, NAMES) == both_ways(RELATED)


def test_rows_follow_the_label_space(tree: Path) -> None:
    names = ("Woman", "Tree", "Person", "Unheard of")
    assert pairs(hierarchy_ignore(tree, names), names) == both_ways({("Person", "Woman")})


def test_kinds_of_kinds_count_though_the_class_between_is_missing(tmp_path: Path) -> None:
    tree = node("Entity", (node("Animal", (node("Dog", (node("Poodle"),)), node("Cat"))),))
    (tmp_path / "tree.json").write_text(json.dumps(tree))
    names = ("Poodle", "Animal", "Cat")
    found = pairs(hierarchy_ignore(tmp_path / "tree.json", names), names)
    assert found == both_ways({("Animal", "Poodle"), ("Animal", "Cat")})


def test_a_class_that_occurs_twice_has_all_its_ancestors(tmp_path: Path) -> None:
    tree = node("Entity", (node("Toy", (node("Kite"),)), node("Aircraft", (node("Kite"),))))
    (tmp_path / "tree.json").write_text(json.dumps(tree))
    names = ("Toy", "Aircraft", "Kite")
    found = pairs(hierarchy_ignore(tmp_path / "tree.json", names), names)
    assert found == both_ways({("Toy", "Kite"), ("Aircraft", "Kite")})


def test_the_tree_of_v3det(tmp_path: Path) -> None:
    """Two nodes may bear one name, as in V3Det; the class then has the relatives of both."""
    tree = {
        "categoryid2treeid": {"1": "n1"},
        "id2name": {"n1": "animal ", "n2": "crane", "n3": "machine", "n4": "crane", "n5": "tower_crane"},
        "father2child": {"n1": ["n2"], "n3": ["n4"], "n4": ["n5"], "n5": ["n4"]},
    }
    (tmp_path / "tree.json").write_text(json.dumps(tree))
    names = ("animal", "crane", "machine", "tower_crane")
    found = pairs(hierarchy_ignore(tmp_path / "tree.json", names), names)
    related = {
        ("animal", "crane"),
        ("machine", "crane"),
        ("machine", "tower_crane"),
        ("crane", "tower_crane"),
    }
    assert found == both_ways(related)


def test_a_tree_of_other_classes_is_refused_with_counts(tree: Path) -> None:
    with pytest.raises(InputError, match="knows 1 of the 3 classes") as refused:
        hierarchy_ignore(tree, ("Person", "sofa", "lamp"))
    assert "'sofa'" in refused.value.found
    (tree.parent / "class-descriptions-boxable.csv").unlink()
    with pytest.raises(InputError, match="knows 0 of the 8 classes") as refused:
        hierarchy_ignore(tree, NAMES)
    assert "class-descriptions-boxable.csv" in refused.value.remedy


@pytest.mark.parametrize(
    "text",
    [
        *("{", "[1, 2]", "3", '{"a": 1}', '{"father2child": {}}', "\xff", "[" * 100_000, "9" * 5000),
        '{"LabelName": ["a"]}',
        '{"LabelName": "a", "Subcategory": [{"LabelName": 5}]}',
        '{"father2child": {"a": "bc"}, "id2name": {"a": "x"}}',
        '{"father2child": {"a": [["b"]]}, "id2name": {"a": "x"}}',
        '{"father2child": {"a": []}, "id2name": {"a": null}}',
        '{"LabelName": "a", "Subcategory": [' * 100_000 + '{"LabelName": "b"}' + "]}" * 100_000,
    ],
)
def test_what_is_no_tree_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "tree.json"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=r"tree\.json"):
        read_hierarchy(file)


def test_a_missing_file_says_where_it_comes_from(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError) as missing:
        read_hierarchy(tmp_path / "none.json")
    assert "storage.googleapis.com/openimages/2018_04" in missing.value.expected


def test_a_box_does_not_push_down_its_ancestors() -> None:
    torch = pytest.importorskip("torch")
    from regionspot_cache.training.losses import region_loss

    names = ("Person", "Man", "Woman", "Tree")
    ignore = np.zeros((4, 4), bool)
    for a, b in both_ways({("Person", "Man"), ("Person", "Woman")}):
        ignore[names.index(a), names.index(b)] = True
    logits = torch.randn(2, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = torch.tensor([1, 0])  # a man, and a person
    mask = torch.from_numpy(ignore)[labels]
    region_loss(logits, labels, torch.full((2,), 0.5), ignore=mask).backward()
    gradient = logits.grad
    assert gradient[0].nonzero().flatten().tolist() == [1, 2, 3]  # all but Person
    assert gradient[1].nonzero().flatten().tolist() == [0, 3]  # neither Man nor Woman
    assert gradient[0, 1] < 0 < gradient[0, 2]
