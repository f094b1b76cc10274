"""Reviews in a COCO file: nothing of the annotations is lost, and what was said is found again."""

import json
import threading
from pathlib import Path

import pytest

from regionspot_cache.datasets import load_dataset
from regionspot_cache.errors import InputError, UsageError
from regionspot_cache.reporting.review import Review, ReviewedFile, review_of, reviewed
from tests.reporting.regions import CLASSES, dataset_in

IDS = list(range(100, 106))


@pytest.fixture
def coco(tmp_path: Path) -> dict:
    dataset_in(tmp_path)
    return json.loads((tmp_path / "labels.json").read_text())


def test_names_change_and_rejected_boxes_stand_apart(coco: dict) -> None:
    before = json.dumps(coco)
    said = {
        100: Review(action="accept", name=CLASSES[0]),
        101: Review(action="rename", name="dog"),
        102: Review(action="rename", name="new name"),
        103: Review(action="reject"),
        104: Review(action="rename", name="new name"),
    }
    found = reviewed(coco, said)
    assert json.dumps(coco) == before
    by_id = {one["id"]: one for one in found["annotations"]}
    assert set(by_id) == set(IDS) - {103}
    assert [one["id"] for one in found["rejected_annotations"]] == [103]
    assert [by_id[i]["category_id"] for i in (100, 101, 102, 104, 105)] == [1, 4, 5, 5, 3]
    assert found["categories"][-1] == {"id": 5, "name": "new name"}
    assert by_id[102]["mine"] == 2
    assert by_id[102]["review"] == "rename"
    assert by_id[105] == coco["annotations"][5]
    assert found["info"] == {"by": "me"}


def test_equal_names_keep_their_numbers(coco: dict) -> None:
    coco["categories"][1]["name"] = coco["categories"][0]["name"]
    found = reviewed(coco, {101: Review(action="accept", name=CLASSES[0])})
    assert found["annotations"][1]["category_id"] == 2


def test_every_review_is_on_disk_and_found_again(coco: dict, tmp_path: Path) -> None:
    path = tmp_path / "out" / "new.json"
    file = ReviewedFile(path, coco, IDS)
    file.set(1, Review(action="rename", name="dog"))
    file.set(3, Review(action="reject"))
    file.set(4, Review(action="accept", name="cat"))
    file.set(4, None)
    again = ReviewedFile(path, coco, IDS)
    expected = {1: {"action": "rename", "name": "dog"}, 3: {"action": "reject", "name": None}}
    assert again.by_row() == file.by_row() == expected
    dataset = load_dataset(str(path), data_root=tmp_path, images=tmp_path)
    assert dataset.num_boxes == 5
    assert [path.name for path in path.parent.iterdir()] == ["new.json"]


def test_many_threads_lose_nothing(coco: dict, tmp_path: Path) -> None:
    file = ReviewedFile(tmp_path / "new.json", coco, IDS)
    names = [f"name {row}" for row in range(6)]

    def work(row: int) -> None:
        for name in ("first", names[row]):
            file.set(row, Review(action="rename", name=name))

    threads = [threading.Thread(target=work, args=(row,)) for row in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    again = ReviewedFile(tmp_path / "new.json", coco, IDS)
    assert [review["name"] for review in again.by_row().values()] == names


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"reviews": [3]}', '{"reviews": [{"action": "accept"}]}']
)
def test_another_file_is_not_replaced(content: str, coco: dict, tmp_path: Path) -> None:
    (tmp_path / "new.json").write_text(content)
    with pytest.raises(InputError) as caught:
        ReviewedFile(tmp_path / "new.json", coco, IDS)
    assert caught.value.remedy == "--save FILE"
    assert (tmp_path / "new.json").read_text() == content


@pytest.mark.parametrize(
    "values",
    [
        3,
        {},
        {"action": "eat", "name": "a"},
        {"action": "accept"},
        {"action": "rename", "name": " "},
        {"action": "reject", "name": "a"},
        {"action": "accept", "name": "a" * 2000},
        {"action": "accept", "name": "a", "more": 1},
    ],
)
def test_what_is_no_review(values: object) -> None:
    with pytest.raises(UsageError):
        review_of(values, "here")
