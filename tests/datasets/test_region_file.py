"""The region file: what is in it, what the reader sees of it, and what a killed process leaves."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from regionspot_cache.datasets.captions import CaptionedImage
from regionspot_cache.datasets.coco_style import read_coco_style
from regionspot_cache.datasets.region_file import RegionWork, regions_of, write_region_file
from regionspot_cache.errors import IdentityError, InputError, MissingFileError
from tests.datasets.builders import image_file

SIZE = (64, 48)  # width, height


class Drawn:
    """Boxes drawn by the pixels of the image; also bad ones."""

    def __init__(self, seconds: float = 0) -> None:
        self.seconds, self.images = seconds, 0

    def propose(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.images += 1
        time.sleep(self.seconds)
        rng = np.random.default_rng(int(image.sum()))
        corners = rng.uniform(-4, 70, size=(40, 2, 2)).astype(np.float32)
        boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
        boxes[3] = [0, 0, image.shape[1], image.shape[0]]
        boxes[4] = boxes[5]
        return boxes, rng.uniform(0, 1, 40).astype(np.float32)

    def identity(self) -> dict[str, Any]:
        return {"proposals": "drawn"}


def work(folder: Path, count: int = 11, **fields: Any) -> RegionWork:
    """Images of which one is missing and one is broken."""
    records = [CaptionedImage(i, f"in/{i}.png", ("a dog",) * (i % 3)) for i in range(count)]
    for i in range(count):
        if not (folder / f"in/{i}.png").exists() and i not in (3, 6):
            image_file(folder / f"in/{i}.png", (SIZE[0] + i, SIZE[1]))
    (folder / "in/6.png").write_bytes(b"no image")
    options = {"proposer": Drawn(), "identity": {"sha256": "x"}, "chunk": 4, "top_n": 20, **fields}
    return RegionWork(records=records, root=folder, **options)


def test_the_projects_reader_sees_every_box_in_its_order(tmp_path: Path) -> None:
    job = work(tmp_path)
    told: list[tuple[int, int]] = []
    counts = write_region_file(tmp_path / "regions.json", job, lambda *done: told.append(done))
    assert told == [(i, 11) for i in range(1, 12)]
    dataset = read_coco_style(tmp_path / "regions.json")
    assert dataset.dropped == Counter()
    assert dataset.class_names == ("region",)
    assert dataset.image_ids == [0, 1, 2, 4, 5, 7, 8, 9, 10]
    assert dataset.annotation_ids.tolist() == [*range(1, dataset.num_boxes + 1)]
    for record in dataset:
        assert (record.width, record.height) == (SIZE[0] + record.image_id, SIZE[1])
        image = np.full((record.height, record.width, 3), (200, 30, 60), np.uint8)
        boxes, scores = Drawn().propose(image)
        wanted, logits = regions_of(boxes, scores, (record.width, record.height), 20)
        np.testing.assert_array_equal(record.boxes, wanted)
        assert len(wanted) == len(logits) == 21
    assert counts == {
        "images": 9,
        "boxes": 9 * 21,
        "captions": 10,
        "image: missing": 1,
        "image: undecodable": 1,
    }


def test_the_sections_of_the_file(tmp_path: Path) -> None:
    write_region_file(tmp_path / "regions.json", work(tmp_path, count=3))
    content = json.loads((tmp_path / "regions.json").read_text())
    assert content["categories"] == [{"id": 1, "name": "region"}]
    assert content["captions"] == [{"image_id": i, "caption": "a dog"} for i in (1, 2, 2)]
    assert content["info"]["made_from"]["proposals"] == {"proposals": "drawn", "top_n": 20}
    by_image: dict[int, list[dict]] = {}
    for one in content["annotations"]:
        by_image.setdefault(one["image_id"], []).append(one)
    for image in content["images"]:
        *others, whole = by_image[image["id"]]
        assert (whole["bbox"], whole["score"]) == ([0, 0, image["width"], image["height"]], None)
        scores = [one["score"] for one in others]
        assert scores == sorted(scores, reverse=True)
        assert whole["bbox"] not in [one["bbox"] for one in others]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "regions.json"]


def test_regions_of_an_image() -> None:
    boxes = np.array(
        [
            [1.03, 2.06, 30, 40],
            [0, 0, 64, 48],
            [-5, -5, 80.2, 60],  # the whole image, once it is cut
            [10, 10, 10.4, 30],  # less than a pixel
            [70, 10, 90, 30],
            [np.nan, 0, 5, 5],
            [1, 2.0, 30.01, 40.02],  # the first one, once it is rounded
            [5, 5, 9, 9],
            [6, 6, 9, 9],
        ],
        np.float32,
    )
    scores = np.array([0.5, 1, 0.9, 0.9, 0.9, 0.9, 0.4, 1, 0], np.float32)
    found, logits = regions_of(boxes, scores, SIZE, top_n=3)
    assert found.tolist() == [[5, 5, 9, 9], [1, 2, 30, 40], [6, 6, 9, 9], [0, 0, *SIZE]]
    assert logits == [16.6355, 0.0, -16.6355, None]
    none, logits = regions_of(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), SIZE)
    assert (none.tolist(), logits) == ([[0, 0, *SIZE]], [None])


def test_logits_give_back_the_scores() -> None:
    scores = np.linspace(0.99, 0.01, 99).astype(np.float32)
    left = np.arange(99, dtype=np.float32)
    boxes = np.stack([left, left, left + 9, left + 9], axis=1)
    _, logits = regions_of(boxes, scores, (500, 500))
    np.testing.assert_allclose(1 / (1 + np.exp(-np.array(logits[:-1], float))), scores, atol=3e-5)


def test_a_finished_file_is_left_alone_and_another_one_refused(tmp_path: Path) -> None:
    out, job = tmp_path / "regions.json", work(tmp_path)
    counts, before = write_region_file(out, job), out.stat().st_mtime_ns
    again = Drawn()
    assert write_region_file(out, replace(job, proposer=again)) == counts
    assert (again.images, out.stat().st_mtime_ns) == (0, before)
    for other in (replace(job, top_n=3), replace(job, identity={"sha256": "y"})):
        with pytest.raises(IdentityError, match="--out FILE"):
            write_region_file(out, other)
    out.write_text('{"images": []}')
    with pytest.raises(InputError, match="no region file"):
        write_region_file(out, job)


def test_unfinished_work_of_another_kind_is_refused(tmp_path: Path) -> None:
    class Fails(Drawn):
        def propose(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            if self.images == 5:
                raise OSError("the machine goes down")
            return super().propose(image)

    out, job = tmp_path / "regions.json", work(tmp_path, proposer=Fails())
    with pytest.raises(OSError, match="goes down"):
        write_region_file(out, job)
    assert not out.exists()
    with pytest.raises(IdentityError, match=r"regions\.json\.parts"):
        write_region_file(out, replace(job, top_n=3))
    rest = Drawn()
    write_region_file(out, replace(job, proposer=rest))
    assert rest.images == 9 - 3  # the first chunk was kept: three images and a missing one


def test_no_image_at_all_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"None of the 11 images(.|\n)*--images DIR"):
        write_region_file(tmp_path / "r.json", replace(work(tmp_path), root=tmp_path / "elsewhere"))
    assert not (tmp_path / "r.json").exists()


CHILD = """
import sys
from pathlib import Path
from tests.datasets.test_region_file import Drawn, work, write_region_file
folder = Path(sys.argv[1])
write_region_file(folder / "regions.json", work(folder, 40, proposer=Drawn(float(sys.argv[2]))))
"""


def child(folder: Path, seconds: float) -> subprocess.Popen:
    code = [sys.executable, "-c", CHILD, str(folder), str(seconds)]
    return subprocess.Popen(code, cwd=Path(__file__).parents[2], stderr=subprocess.PIPE, text=True)


def test_a_killed_process_is_continued_and_nothing_differs(tmp_path: Path) -> None:
    undisturbed = tmp_path / "undisturbed"
    write_region_file(undisturbed / "regions.json", work(undisturbed, 40))
    folder = tmp_path / "killed"
    work(folder, 40)
    for number in (2, 5):
        process = child(folder, 0.05)
        while not (folder / f"regions.json.parts/{number:06}.jsonl").exists():
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert not (folder / "regions.json").exists()
    rest = Drawn()
    write_region_file(folder / "regions.json", work(folder, 40, proposer=rest))
    assert 0 < rest.images <= 4 * 4
    assert (folder / "regions.json").read_bytes() == (undisturbed / "regions.json").read_bytes()
    assert sorted(path.name for path in folder.iterdir()) == ["in", "regions.json"]


def test_two_processes_do_not_write_one_file(tmp_path: Path) -> None:
    work(tmp_path, 40)
    process = child(tmp_path, 0.2)
    while not (tmp_path / "regions.json.parts/made_from.json").exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.002)
    with pytest.raises(InputError, match="Another process"):
        write_region_file(tmp_path / "regions.json", work(tmp_path, 40))
    process.kill()
    process.communicate()
