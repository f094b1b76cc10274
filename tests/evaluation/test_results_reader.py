"""Results files of other systems: what is read, what is left out and counted, what is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from regionspot_cache.errors import InputError
from regionspot_cache.evaluation import encode_mask, evaluate, read_results, write_results
from regionspot_cache.evaluation.ground_truth import ground_truth
from regionspot_cache.evaluation.results_reader import NOT_EVALUATED
from tests.evaluation.synthetic import Problem, annotations, detections

SIZE = (8, 10)
TRUTH = ground_truth(
    {
        "images": [{"id": i, "height": SIZE[0], "width": SIZE[1]} for i in (7, 9)],
        "annotations": [],
        "categories": [{"id": number} for number in (1, 2, 5)],
    }
)
SCOPE = (TRUTH, frozenset({"7", "9", "11"}))
MASK = np.zeros(SIZE, bool)
MASK[2:5, 3:7] = True


def entry(image_id: int = 7, category: int = 1, **changes: Any) -> dict[str, Any]:
    return {"image_id": image_id, "category_id": category, "bbox": [1, 2, 3, 4], "score": 0.5} | changes


def write(folder: Path, content: Any) -> Path:
    path = folder / "dt.json"
    path.write_text(json.dumps(content))
    return path


def rle(mask: np.ndarray) -> dict[str, Any]:
    code = encode_mask(mask)
    return {**code, "counts": code["counts"].decode()}


def test_glip_dictionary_and_coco_list_hold_the_same(tmp_path: Path) -> None:
    truth = annotations(np.random.default_rng(0), Problem(masks=False))
    found = detections(np.random.default_rng(1), Problem(masks=False, classes=6), truth)
    boxes = found.boxes[found.box_index]
    columns = {"scores": found.scores, "labels": found.category_ids, "boxes": boxes}
    glip = {
        str(image_id): {name: values[found.rows(i)].tolist() for name, values in columns.items()}
        for i, image_id in enumerate(found.image_ids)
    }
    write_results(tmp_path / "coco.json", found)
    scope = (ground_truth(truth), frozenset())
    from_glip = read_results(write(tmp_path, glip), *scope)
    from_coco = read_results(tmp_path / "coco.json", *scope)
    assert (from_glip.form, from_coco.form) == ("GLIP dictionary", "COCO results")
    assert from_glip.dropped == from_coco.dropped == {}
    expected = evaluate(found, truth, iou_types=["bbox"])["bbox"].metrics
    for read in (from_glip, from_coco):
        assert evaluate(read.detections, truth, iou_types=["bbox"])["bbox"].metrics == pytest.approx(
            expected, abs=1e-12
        )


def test_several_processes_check_masks_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = annotations(np.random.default_rng(0), Problem())
    write_results(
        tmp_path / "dt.json", detections(np.random.default_rng(1), Problem(classes=6), truth), "segm"
    )
    scope = (ground_truth(truth), frozenset())
    alone = read_results(tmp_path / "dt.json", *scope).detections.masks
    monkeypatch.setattr("regionspot_cache.evaluation.result_columns._BYTES_AT_ONCE", 500)
    together = read_results(tmp_path / "dt.json", *scope, processes=3).detections.masks
    assert alone is not None
    assert together is not None
    assert len(alone.data) > 12 * 500
    np.testing.assert_array_equal(together.areas, alone.areas)
    assert len(np.unique(alone.areas)) > 50
    entries = [{**one, "bbox": [1, 2, 3, 4]} for one in json.loads((tmp_path / "dt.json").read_text())]
    for number in (100, -1):
        entries[number]["segmentation"]["counts"] += "1"
    with pytest.raises(InputError, match="2 of 480 masks have run lengths that do not fill"):
        read_results(write(tmp_path, entries), processes=3)


def test_images_that_are_not_evaluated_are_left_out_and_counted(tmp_path: Path) -> None:
    entries = [entry(11), entry(9), entry(11), entry(7)]
    read = read_results(write(tmp_path, entries), *SCOPE)
    assert read.dropped == {NOT_EVALUATED: 2}
    assert read.detections.image_ids == (7, 9)
    assert np.diff(read.detections.offsets).tolist() == [1, 1]
    images = {"11": {"scores": [1, 2], "labels": [1, 1], "boxes": [[1, 2, 3, 4]] * 2}}
    images["7"] = {"scores": [1], "labels": [5], "boxes": [[1, 2, 3, 4]]}
    read = read_results(write(tmp_path, images), *SCOPE)
    assert read.dropped == {NOT_EVALUATED: 2}
    assert read.detections.category_ids.tolist() == [5]


def test_an_image_without_detections_and_an_empty_file(tmp_path: Path) -> None:
    images = {"7": {"scores": [], "labels": [], "boxes": []}}
    for content in (images, [], {}):
        assert len(read_results(write(tmp_path, content), *SCOPE).detections) == 0


def test_ids_as_text_are_the_same_images(tmp_path: Path) -> None:
    for image_id in (7, "7"):
        read = read_results(write(tmp_path, [entry(image_id), entry("9")]), *SCOPE)
        assert np.diff(read.detections.offsets).tolist() == [1, 1]


@pytest.mark.parametrize("scope", [SCOPE, ()])
def test_a_file_that_writes_an_id_both_ways_is_refused(scope: tuple, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="image id 7 as a number and as the text '7'"):
        read_results(write(tmp_path, [entry(7), entry("7")]), *scope)


@pytest.mark.parametrize("category", [2**31 + 5, -(2**63), 2**63 - 1])
def test_category_ids_of_64_bits(category: int, tmp_path: Path) -> None:
    truth = replace(TRUTH, category_ids=np.array(sorted([1, category])))
    glip = {"7": {"scores": [1], "labels": [category], "boxes": [[1, 2, 3, 4]]}}
    for content in ([entry(category=category)], glip):
        assert read_results(write(tmp_path, content), truth).detections.category_ids.tolist() == [category]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (
            [entry(), entry(12), entry(13), entry(13)],
            "3 detections of 2 images that the annotation file lacks",
        ),
        ([entry(11)], "none of its 1 images is evaluated"),
        ([entry(), entry(category=0)], "1 of 2 detections .* no category id: 1 labels, such as 0 .*from 0"),
        ([entry(category=3), entry(category=4)], "2 of 2 detections .* 2 labels, such as 3, 4"),
        ([entry(segmentation=rle(MASK)), entry()], "1 of 2 entries have masks"),
        ([entry(segmentation=rle(MASK.T))], "1 of 1 masks are not of their image's size"),
        ([entry(segmentation=[[1, 2, 3]])], "entry 0 is no detection|without a usable mask"),
        ([entry(bbox=[1, 2, float("inf"), 4])], "1 of 1 detections have a box that is not finite"),
        (["detection"], "entry 0 is no detection"),
        ([entry(category=1.5)], "entry 0 is no detection .*category_id 1.5 is no integer"),
        ([entry(category=2**63)], "entry 0 is no detection .*no integer of 64 bits"),
        ([entry(category=-(10**30))], "entry 0 is no detection .*no integer of 64 bits"),
        ([entry(7.0)], "entry 0 is no detection .*image id 7.0"),
        ([entry(True)], "entry 0 is no detection .*image id True"),
        ([entry(score="0.5")], "entry 0 is no detection"),
        ([entry(score=None)], "entry 0 is no detection"),
        ([entry(bbox=["1", "2", "3", "4"])], "entry 0 is no detection"),
        ([entry(bbox=[1, 2, 1e300, 4])], "1 of 1 detections have a box that is not finite"),
        ({"7": {"scores": [[1, 2]], "labels": [1], "boxes": [[1, 2, 3, 4]]}}, "image '7' .*shape"),
        ({"7": {"scores": ["1"], "labels": [1], "boxes": [[1, 2, 3, 4]]}}, "image '7' .*no numbers"),
        ({"7": {"scores": [1], "labels": [2**63], "boxes": [[1, 2, 3, 4]]}}, "image '7' .*64 bits"),
        ({"7": {"scores": [1], "labels": [10**30], "boxes": [[1, 2, 3, 4]]}}, "image '7' .*64 bits"),
        ({"7": {"scores": [1], "labels": [float("nan")], "boxes": [[1, 2, 3, 4]]}}, "image '7' .*64 bits"),
        ({"7": {"scores": [1], "labels": [1.5], "boxes": [[1, 2, 3, 4]]}}, "image '7' .*64 bits"),
        ({"7": {"scores": [1], "labels": ["1"], "boxes": [[1, 2, 3, 4]]}}, "image '7' .*64 bits"),
        ({"7": {"scores": [1], "labels": [1], "boxes": [["1", 2, 3, 4]]}}, "image '7' .*no numbers"),
        ([entry(category=True)], "entry 0 is no detection .*category_id True"),
        ([entry(segmentation={"size": SIZE, "counts": ""})], "empty run lengths"),
        ([entry(segmentation={"size": SIZE, "counts": [5, 7]})], "do not fill"),
        ([entry(segmentation={"size": SIZE, "counts": [0, 2**31]})], "do not fill"),
        ([entry(segmentation={"size": SIZE, "counts": [-1, 81]})], "do not fill"),
        ([entry(), entry(segmentation=[[1, 2, 9, 2, 9, float("nan")]])], "entry 1 .* far behind"),
        ([entry(segmentation=[[0, 0, 1e9, 0, 1e9, 1e9]])], "far behind"),
        ([entry(image_id=[7])], "entry 0 is no detection"),
        ([entry(), entry(), entry(category=2**63)], "entry 2 is no detection .*no integer of 64 bits"),
        ([entry(), entry(), entry(2**63)], "entry 2 is no detection .*image id"),
        ([entry(), entry(segmentation={"size": SIZE, "counts": "é"})], "entry 1 is no detection"),
        ([entry(), entry(segmentation={"size": [8, 2**40], "counts": "0"})], "entry 1 is no detection"),
        ({"7": {"scores": [1], "labels": [[1]], "boxes": [[1, 2, 3]]}}, "image '7'"),
        ({"7": [1]}, "image '7'"),
        ({"7": {"scores": [1], "labels": [1], "boxes": [[1, 2], [3, 4]]}}, "an array of shape"),
        ({"7": {"scores": [1], "labels": [0], "boxes": [[1, 2, 3, 4]]}}, "labels, such as 0"),
        ("text", r"'\[' or '{'"),
    ],
)
def test_what_is_no_results_file_of_this_dataset(content: Any, found: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=found) as caught:
        read_results(write(tmp_path, content), *SCOPE)
    assert caught.value.expected


@pytest.mark.parametrize("with_box", [True, False])
@pytest.mark.parametrize(
    "counts", ["P", "b0", "zzz", "Zn0l0", "~~~~", "0" * 40, "P1P1", "c000000000000", "o"]
)
def test_run_lengths_that_pycocotools_would_hang_or_crash_on(
    counts: str, with_box: bool, tmp_path: Path
) -> None:
    broken = entry(segmentation={"size": SIZE, "counts": counts})
    if not with_box:
        del broken["bbox"]
    path = write(tmp_path, [entry(segmentation=rle(MASK)), broken, entry(segmentation=rle(~MASK))])
    with pytest.raises(InputError, match=r"1 of 3 masks|entry 1 is no detection"):
        read_results(path, *SCOPE)


def test_an_image_twice_in_a_dictionary(tmp_path: Path) -> None:
    once = '"7": {"scores": [1], "labels": [1], "boxes": [[1, 2, 3, 4]]}'
    path = tmp_path / "twice.json"
    path.write_text(f"{{{once}, {once}}}")
    with pytest.raises(InputError, match=r"image '7' .* earlier entry"):
        read_results(path, *SCOPE)


def test_masks_in_every_form_of_coco(tmp_path: Path) -> None:
    corners = [3, 2, 7, 2, 7, 5, 3, 5]  # of MASK; not of the box beside it
    triangle = [[3, 2, 7, 2, 7, 5]]
    plain = {
        "size": list(SIZE),
        "counts": np.diff(np.flatnonzero(np.diff(np.r_[0, MASK.T.ravel(), 0])), prepend=0),
    }
    plain["counts"] = [*plain["counts"].tolist(), SIZE[0] * SIZE[1] - int(plain["counts"].sum())]
    entries = [entry(segmentation=s) for s in (rle(MASK), plain, [corners], triangle)]
    masks = read_results(write(tmp_path, entries), *SCOPE).detections.masks
    assert masks.rles(np.arange(3)) == [encode_mask(MASK)] * 3
    assert 0 < masks.areas[3] < MASK.sum()
    del entries[0]["bbox"]
    read = read_results(write(tmp_path, entries), *SCOPE).detections
    assert read.boxes[0].tolist() == [3, 2, 7, 5]


def test_masks_that_nothing_depends_on_are_not_kept(tmp_path: Path) -> None:
    problem = Problem(classes=6)
    truth = annotations(np.random.default_rng(0), problem)
    found = detections(np.random.default_rng(1), Problem(classes=5), truth)
    write_results(tmp_path / "dt.json", found, "segm")
    judging = ground_truth(truth)
    truths = replace(judging, federated=False), judging
    whole, part = (read_results(tmp_path / "dt.json", one, frozenset()) for one in truths)
    assert 0 < len(part.detections.masks.data) < 0.9 * len(whole.detections.masks.data)
    for fast in (True, False):
        assert evaluate(part.detections, truth, fast=fast)["segm"].metrics == pytest.approx(
            evaluate(whole.detections, truth, fast=fast)["segm"].metrics
        )


def test_entries_written_in_other_ways_are_the_same(tmp_path: Path) -> None:
    """What most systems write is decoded without dictionaries; a class as text is not."""
    rng = np.random.default_rng(0)
    entries = [
        entry([7, 9, 11][i % 3], bbox=rng.random(4).tolist(), score=rng.random(), segmentation=rle(MASK))
        for i in range(40)
    ]
    plain = read_results(write(tmp_path, entries), *SCOPE).detections
    others = [{**one, "category_id": str(one["category_id"]), "id": i} for i, one in enumerate(entries)]
    for content in (others, entries[:20] + others[20:]):
        read = read_results(write(tmp_path, content), *SCOPE).detections
        for columns, expected in ((read, plain), (read.masks, plain.masks)):
            np.testing.assert_equal({**vars(columns), "masks": None}, {**vars(expected), "masks": None})


def test_polygons_that_repeat_their_boxes_are_no_masks(tmp_path: Path) -> None:
    x, y, w, h = entry()["bbox"]
    around = [[x, y, x, y + h, x + w, y + h, x + w, y]]  # as pycocotools adds them
    assert read_results(write(tmp_path, [entry(segmentation=around)] * 2), *SCOPE).detections.masks is None
    both = [entry(segmentation=around), entry(segmentation=rle(MASK))]
    assert len(read_results(write(tmp_path, both), *SCOPE).detections.masks) == 2
    assert read_results(write(tmp_path, [entry(segmentation=[])]), *SCOPE).detections.masks is None


def test_the_digest_is_that_of_the_file(tmp_path: Path) -> None:
    from regionspot_cache.files import file_sha256

    path = write(tmp_path, [entry()])
    assert read_results(path, *SCOPE).sha256 == file_sha256(path)
