"""Images that are held out: of every class, never all of one."""

from itertools import chain

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from regionspot_cache.datasets import DetectionDataset
from regionspot_cache.datasets.held_out import hold_out


def dataset(labels: list[list[int]]) -> DetectionDataset:
    counts = [len(each) for each in labels]
    total = sum(counts)
    classes = 6
    return DetectionDataset(
        name="mine",
        split="",
        format="coco",
        image_root=None,  # type: ignore[arg-type]
        annotation_files=(),
        annotation_sha256="",
        class_names=tuple(map(str, range(classes))),
        category_ids=np.arange(classes),
        class_frequency=("",) * classes,
        class_novel=(False,) * classes,
        image_ids=list(range(len(labels))),
        file_names=[f"{i}.jpg" for i in range(len(labels))],
        widths=np.full(len(labels), 10, np.int32),
        heights=np.full(len(labels), 10, np.int32),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        boxes=np.zeros((total, 4), np.float32),
        labels=np.array([*chain(*labels)], np.int32),
        annotation_ids=np.arange(total),
        crowd=np.zeros(total, bool),
    )


@settings(max_examples=30)
@given(st.lists(st.lists(st.integers(0, 5), max_size=4), max_size=30), st.integers(0, 5))
def test_every_class_is_learned_and_no_box_is_lost(labels: list[list[int]], seed: int) -> None:
    whole = dataset(labels)
    split = hold_out(whole, 0.3, seed)
    assert set(split.train.labels) == set(whole.labels)
    assert split.train.num_boxes + split.held_out.num_boxes == whole.num_boxes
    assert not set(split.train.image_ids) & set(split.held_out.image_ids)
    again = hold_out(whole, 0.3, seed)
    assert again.held_out.image_ids == split.held_out.image_ids


def test_the_share_holds_for_every_class() -> None:
    rare = [[0]] * 5 + [[1]] * 20 + [[2]] * 100
    split = hold_out(dataset(rare), 0.2, 0)
    assert np.bincount(split.held_out.labels).tolist() == [1, 4, 20]
    assert hold_out(dataset(rare), 0.2, 1).held_out.image_ids != split.held_out.image_ids


def test_a_class_of_one_image_is_not_judged() -> None:
    split = hold_out(dataset([[0, 1], [1], [1], [1], []]), 0.5, 0)
    assert set(split.held_out.labels) == {1}
    assert hold_out(dataset([[0], [1]]), 0.5, 0).held_out.num_boxes == 0
    assert hold_out(dataset([[0], [0], [0]]), 0.0, 0).held_out.num_boxes == 0
