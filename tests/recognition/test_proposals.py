import json
import os
import pickle
import resource
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from regionspot_cache.errors import InputError, MissingFileError
from regionspot_cache.models.safe_pickle import load_arrays
from regionspot_cache.recognition.proposals import Proposals, ground_truth_proposals, load_proposals

DATASET = SimpleNamespace(
    name="lvis",
    split="val",
    image_ids=[7, "b", 9],
    widths=np.array([100, 50, 80], np.int32),
    heights=np.array([60, 50, 80], np.int32),
    offsets=np.array([0, 1, 1, 3]),
    boxes=np.arange(12, dtype=np.float32).reshape(3, 4),
)
BOXES = [[10, 10, 30, 40], [0, 0, 20, 20]]  # xyxy
SCORES = [0.25, 0.75]


def write_glip(path: Path) -> None:
    entries = {"7": {"scores": SCORES, "labels": [1, 2], "boxes": BOXES}}
    entries |= {"b": {"scores": [], "labels": [], "boxes": []}}
    path.write_text(json.dumps(entries))


def write_coco(path: Path) -> None:
    entries = [
        {"image_id": 7, "category_id": 3, "bbox": [x, y, x2 - x, y2 - y], "score": score}
        for (x, y, x2, y2), score in zip(BOXES, SCORES, strict=True)
    ]
    path.write_text(
        json.dumps([entries[0], {**entries[0], "image_id": "b", "bbox": [1, 1, 2, 2]}, entries[1]])
    )


def detectron2(**changes: object) -> dict:
    content = {
        "ids": [7, "b"],
        "boxes": [np.array(BOXES, np.float32), np.zeros((0, 4), np.float32)],
        "objectness_logits": [np.log(np.array(SCORES) / (1 - np.array(SCORES))), np.zeros(0)],
        "bbox_mode": 0,
    }
    return content | changes


def write_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(detectron2()))


def write_xywh_pickle(path: Path) -> None:
    boxes = np.array(BOXES, np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    old_keys = {"indexes": np.array([7]), "boxes": [boxes], "scores": [np.array(SCORES)], "bbox_mode": 1}
    path.write_bytes(pickle.dumps(old_keys, protocol=2))


def write_npz(path: Path) -> None:
    Proposals.from_images("x", [("7", np.array(BOXES), np.array(SCORES))]).save(path)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("glip.json", write_glip),
        ("coco.json", write_coco),
        ("d2.pkl", write_pickle),
        ("old.pkl", write_xywh_pickle),
        ("own.npz", write_npz),
    ],
)
def test_formats(tmp_path: Path, name: str, write) -> None:
    write(tmp_path / name)
    proposals = load_proposals(tmp_path / name, DATASET)
    assert len(proposals) == 3
    boxes, scores = proposals["7"]
    np.testing.assert_array_equal(boxes, np.array(BOXES[::-1], np.float32))
    np.testing.assert_allclose(scores, SCORES[::-1], rtol=1e-6)
    assert boxes.dtype == scores.dtype == np.float32
    assert proposals[9].boxes.shape == (0, 4)
    assert proposals["unknown"].scores.shape == (0,)
    assert proposals.dropped["image without proposals"] in (1, 2)
    assert set(proposals.dropped) == {"image without proposals"}
    assert proposals.identity.startswith(f"{name} (")


def test_bad_boxes_are_counted(tmp_path: Path) -> None:
    nan = float("nan")
    rows = [
        ([-5, -5, 20, 20], 0.5),  # clipped
        ([0, 0, 20, 20], 0.9),  # the same box after clipping, with a better score
        ([90, 50, 200, 200], 0.8),  # clipped
        ([1, 1, nan, 2], 0.5),
        ([1, 1, 1e300, float("inf")], 0.5),
        ([1, 1, 2, 2], nan),
        ([5, 5, 5, 9], 0.5),
        ([9, 9, 5, 5], 0.5),
        ([100, 0, 120, 9], 0.5),
        ([3, 3, 4, 4], 0.1),
    ]
    entry = {"boxes": [row[0] for row in rows], "scores": [row[1] for row in rows]}
    (tmp_path / "p.json").write_text(json.dumps({"7": entry, "b": entry, "77": entry}))
    proposals = load_proposals(tmp_path / "p.json", DATASET, top_n=2)
    assert proposals[7].boxes.tolist() == [[0, 0, 20, 20], [90, 50, 100, 60]]
    assert proposals[7].scores.tolist() == pytest.approx([0.9, 0.8])
    assert proposals["b"].boxes.tolist() == [[0, 0, 20, 20], [3, 3, 4, 4]]
    assert proposals.dropped == {
        "non-finite box": 4,
        "non-finite score": 2,
        "no area inside the image": 7,
        "repeated box": 2,
        "behind the best": 1,
        "image not in the dataset": 1,
        "image without proposals": 1,
    }


def test_equal_scores_keep_file_order(tmp_path: Path) -> None:
    entry = {"boxes": [[i, 0, i + 1, 1] for i in range(50)], "scores": [0.5] * 50}
    (tmp_path / "p.json").write_text(json.dumps({"7": entry}))
    assert load_proposals(tmp_path / "p.json", DATASET, top_n=9)[7].boxes[:, 0].tolist() == list(range(9))


@pytest.mark.parametrize("ending", [".json", ".npz"])
def test_save_and_load(tmp_path: Path, ending: str) -> None:
    rng = np.random.default_rng(0)
    images = []
    for image_id, count in [(7, 20), ("b", 0), (9, 5)]:
        low = rng.random((count, 2), np.float32) * 20
        images.append(
            (image_id, np.concatenate([low, low + 1 + rng.random((count, 2)) * 20], 1), rng.random(count))
        )
    made = Proposals.from_images("rpn", images)
    assert all((np.diff(made[image_id].scores) <= 0).all() for image_id in made.image_ids)
    made.save(tmp_path / f"p{ending}")
    read = load_proposals(tmp_path / f"p{ending}", DATASET)
    np.testing.assert_array_equal(read.boxes, made.boxes)
    np.testing.assert_array_equal(read.scores, made.scores)
    np.testing.assert_array_equal(read.offsets, made.offsets)


def test_ground_truth() -> None:
    proposals = ground_truth_proposals(DATASET)
    assert proposals.identity == "ground-truth boxes of lvis val"
    assert proposals[9].boxes.tolist() == DATASET.boxes[1:].tolist()
    assert proposals[9].scores is None
    with pytest.raises(InputError, match="no scores"):
        proposals.save(Path("unused.json"))


UNIT = [[0.1, 0.1, 0.3, 0.9], [0, 0, 0.2, 0.2]]


def glip(path: Path, boxes: list, scores: list) -> Path:
    path.write_text(json.dumps({"7": {"boxes": boxes, "scores": scores}}))
    return path


def test_normalised_boxes_are_refused_or_converted(tmp_path: Path) -> None:
    file = glip(tmp_path / "p.json", UNIT, SCORES)
    with pytest.raises(InputError, match=r"2 of 2 boxes lie between 0 and 1") as caught:
        load_proposals(file, DATASET)
    assert "--set proposal_boxes=normalised" in caught.value.remedy
    proposals = load_proposals(file, DATASET, boxes_in="normalised")
    np.testing.assert_allclose(proposals[7].boxes, [[0, 0, 20, 12], [10, 6, 30, 54]], rtol=1e-6)
    assert "normalised" in proposals.identity
    with pytest.raises(InputError, match="0 of 2 boxes"):
        load_proposals(glip(tmp_path / "q.json", BOXES, SCORES), DATASET, boxes_in="normalised")


def test_a_few_tiny_boxes_are_still_pixels(tmp_path: Path) -> None:
    file = glip(tmp_path / "p.json", [*BOXES, [0, 0, 1, 1]], [0.5] * 3)
    assert len(load_proposals(file, DATASET)[7].boxes) == 3
    broken = glip(tmp_path / "q.json", [[float("nan")] * 4, [3, 3, 3, 3]], [0.5] * 2)
    assert len(load_proposals(broken, DATASET)[7].boxes) == 0


@pytest.mark.parametrize("scores", [[-0.5, 0.5], [0.5, 3.25], [-1e9, 80.0]])
def test_scores_that_are_no_probabilities_are_refused_or_converted(scores: list, tmp_path: Path) -> None:
    file = glip(tmp_path / "p.json", BOXES, scores)
    outside = sum(not 0 <= score <= 1 for score in scores)
    with pytest.raises(
        InputError, match=rf"{outside} of 2 scores lie outside \[0, 1\]; they range"
    ) as caught:
        load_proposals(file, DATASET)
    assert "--set proposal_scores=logits" in caught.value.remedy
    proposals = load_proposals(file, DATASET, scores_as="logits")
    with np.errstate(over="ignore"):
        expected = 1 / (1 + np.exp(-np.array(scores)))
    np.testing.assert_allclose(np.sort(proposals[7].scores), np.sort(expected), rtol=1e-6)
    assert "sigmoid of the logits" in proposals.identity


def test_logits_of_detectron2_are_converted_once(tmp_path: Path) -> None:
    write_pickle(tmp_path / "p.pkl")
    for unit in ("probabilities", "logits"):
        scores = load_proposals(tmp_path / "p.pkl", DATASET, scores_as=unit)[7].scores
        np.testing.assert_allclose(scores, SCORES[::-1], rtol=1e-6)


def test_an_id_written_both_ways_is_refused(tmp_path: Path) -> None:
    entries = [{"image_id": i, "bbox": [1, 1, 5, 5], "score": 0.5} for i in (7, "7")]
    (tmp_path / "p.json").write_text(json.dumps(entries))
    with pytest.raises(InputError, match="image id 7 as a number and as the text '7'"):
        load_proposals(tmp_path / "p.json", DATASET)
    with pytest.raises(InputError, match="image id 7 as a number and as the text '7'"):
        Proposals.from_images("x", [(i, np.array(BOXES), np.array(SCORES)) for i in (7, "7")])


class Malicious:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("owned",)


@pytest.mark.parametrize(
    "payload",
    [
        b"Nr\xff\xff\xff\xff.",
        b"Np4000000000\n.",
        b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f.",
        b"\x80\x05\x96" + (1 << 29).to_bytes(8, "little") + b"abc.",
    ],
)
def test_the_size_of_a_pickle_bounds_what_it_takes(tmp_path: Path, payload: bytes) -> None:
    """Two give a value the number 4 billion, for which the unpickler in C makes a table of 64 GiB."""
    (tmp_path / "p.pkl").write_bytes(payload)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), limits[1]))
    try:
        if payload.startswith(b"N"):
            assert load_arrays(tmp_path / "p.pkl") is None
        else:
            with pytest.raises(InputError, match="not a readable pickle"):
                load_arrays(tmp_path / "p.pkl")
            assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 200_000  # kB really touched
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def test_a_pickle_that_is_no_file_is_missing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "p.pkl")
    with pytest.raises(MissingFileError):
        load_arrays(tmp_path / "p.pkl")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_is_not_executed(tmp_path: Path, protocol: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("p.pkl").write_bytes(pickle.dumps(detectron2(boxes=[Malicious()]), protocol))
    with pytest.raises(InputError, match=r"mkdir, which was not executed"):
        load_proposals(Path("p.pkl"), DATASET)
    assert not Path("owned").exists()


@pytest.mark.parametrize(
    "payload",
    [
        np.array([{}], dtype=object),
        np.array(["a"]),
        np.zeros(2, [("a", "f4")]),
        np.array(["2020-01-01"], "M8[D]"),
        Path("a"),
        {1, 2}.__class__,
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"c_codecs\nencode\n(Vx\nVrot13\ntR.",
        b"cnumpy\ndtype\n(cnumpy\ndtype\ntR.",
        b"cnumpy.core.multiarray\nscalar\n(I1\nI2\ntR.",
    ],
)
def test_only_plain_arrays_are_admitted(tmp_path: Path, payload: object) -> None:
    path = tmp_path / "p.pkl"
    path.write_bytes(payload if isinstance(payload, bytes) else pickle.dumps(payload))
    with pytest.raises(InputError):
        load_arrays(path)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_every_protocol(tmp_path: Path, protocol: int) -> None:
    content = {
        "a": np.arange(6, dtype=">f4").reshape(2, 3),
        "f": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "s": [np.float32(1.5), np.int64(3), (1, "x", None, True, b"raw")],
        "e": np.zeros((0, 4), np.float32),
    }
    (tmp_path / "p.pkl").write_bytes(pickle.dumps(content, protocol))
    read = load_arrays(tmp_path / "p.pkl")
    for key in ("a", "f", "e"):
        np.testing.assert_array_equal(read[key], content[key])
        assert read[key].dtype == content[key].dtype
    assert read["s"] == [1.5, 3, (1, "x", None, True, b"raw")]


def test_pickles_of_older_numpy(tmp_path: Path) -> None:
    """Before numpy 2 the functions lived in numpy.core."""
    old = pickle.dumps(np.arange(3.0), 2).replace(b"numpy._core", b"numpy.core")
    (tmp_path / "p.pkl").write_bytes(old)
    assert load_arrays(tmp_path / "p.pkl").tolist() == [0, 1, 2]


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        load_proposals(tmp_path / "p.json", DATASET)


def test_an_empty_list_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text("[]")
    proposals = load_proposals(tmp_path / "p.json", DATASET)
    assert proposals.dropped == {"image without proposals": 3}
