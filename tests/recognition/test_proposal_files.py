"""Proposal files that cannot be used: whatever is broken in them is an error of ours."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from regionspot_cache.errors import InputError
from regionspot_cache.recognition.proposals import load_proposals
from tests.recognition.test_proposals import BOXES, DATASET, SCORES, detectron2


@pytest.mark.parametrize("image_id", [None, True, 7.0, [7], 2**63, "\ud800"])
def test_what_is_no_image_id(image_id: object, tmp_path: Path) -> None:
    entries = [{"image_id": i, "bbox": [1, 1, 5, 5], "score": 0.5} for i in (1, image_id)]
    (tmp_path / "p.json").write_text(json.dumps(entries))
    with pytest.raises(InputError, match="proposals of image"):
        load_proposals(tmp_path / "p.json", DATASET)


@pytest.mark.parametrize(
    "change",
    [
        {"offsets": np.array([0.0, 2.5])},
        {"offsets": np.array([1, 2])},
        {"offsets": np.array([[0, 2]])},
        {"offsets": np.array(2)},
        {"scores": np.array([0.5])},
        {"scores": np.array(["a", "b"])},
        {"boxes": np.zeros((2, 3))},
        {"image_ids": np.array(7)},
        {"image_ids": np.array([7.5])},
        {"image_ids": np.array([7, 9])},
    ],
)
def test_broken_arrays(change: dict, tmp_path: Path) -> None:
    good = {"image_ids": np.array([7]), "offsets": np.array([0, 2]), "boxes": BOXES, "scores": SCORES}
    np.savez(tmp_path / "good.npz", **good)
    assert len(load_proposals(tmp_path / "good.npz", DATASET)[7].boxes) == 2
    np.savez(tmp_path / "bad.npz", **good | change)
    with pytest.raises(InputError):
        load_proposals(tmp_path / "bad.npz", DATASET)


@pytest.mark.parametrize(
    "change",
    [
        {"ids": 7},
        {"ids": {7: 1, 8: 2}},
        {"ids": "7b"},
        {"ids": [7, None]},
        {"boxes": np.array(5.0)},
        {"boxes": [None, None]},
        {"boxes": ["ab", "cd"]},
        {"boxes": [np.zeros((2, 3)), np.zeros((0, 3))]},
        {"objectness_logits": [[0.5, "a"], []]},
        {"objectness_logits": 3},
        {"bbox_mode": [0]},
        {"bbox_mode": np.array([0, 1])},
    ],
)
def test_broken_pickles(change: dict, tmp_path: Path) -> None:
    (tmp_path / "p.pkl").write_bytes(pickle.dumps(detectron2(**change)))
    with pytest.raises(InputError):
        load_proposals(tmp_path / "p.pkl", DATASET)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", b"", "ending"),
        ("p.json", b"", "is cut off"),
        ("p.json", b'{"7": {"boxes": []}}', "without boxes and scores"),
        ("p.json", b'{"7": {"boxes": [[1, 2, 3]], "scores": [1]}}', "image '7'"),
        ("p.json", b'{"7": {"boxes": [[1, 2, 3, 4]], "scores": [1, 2]}}', "1 boxes but 2 scores"),
        ("p.json", b'{"7": {"boxes": [["a", 2, 3, 4]], "scores": [1]}}', "cannot be used"),
        ("p.json", b'[{"bbox": [1, 2, 3, 4]}]', "without image_id"),
        ("p.pkl", b"garbage", "not a readable pickle"),
        ("p.pkl", pickle.dumps([1]), "pickled list"),
        ("p.pkl", pickle.dumps(detectron2(bbox_mode=3)), "bbox_mode 3"),
        ("p.pkl", pickle.dumps(detectron2(ids=[1])), "of one length"),
        ("p.npz", b"garbage", "no known form"),
    ],
)
def test_broken_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_proposals(tmp_path / name, DATASET)
