"""`rs-cache label`: names for the boxes of a set."""

import csv
import io
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.label_journal import Journal, journal_path
from regionspot_cache.errors import UsageError
from tests.pipeline.launcher import Launcher
from tests.running import Ran, rs_cache

RUN = "rs-cache-data/runs/small"
DATA = Path("rs-cache-data/datasets/shapes/val.json")
CACHE = "rs-cache-data/caches/shapes-val-small"


def options(out: Path, classes: Path, *more: object) -> list[object]:
    return [DATA, "--checkpoint", RUN, "--classes", classes, "--out", out, "--set", "batch_size=2", *more]


def label(place: Path, out: Path, classes: Path, *more: object) -> Ran:
    return rs_cache("label", *options(out, classes, *more), "--json", cwd=place)


@pytest.fixture(scope="module")
def classes(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The classes of the world, a line each."""
    names = [c["name"] for c in json.loads((finished / DATA).read_text())["categories"]]
    path = tmp_path_factory.mktemp("classes") / "names.txt"
    path.write_text("".join(f"{name}\n" for name in names))
    return path


@pytest.fixture(scope="module")
def undisturbed(finished: Path, classes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("label") / "new.json"
    ran = label(finished, out, classes)
    assert ran.code == 0, ran.err
    return out


def annotations(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text())["annotations"]


def named(path: Path) -> list[str]:
    values = json.loads(path.read_text())
    names = {c["id"]: c["name"] for c in values["categories"]}
    return [names[a["category_id"]] for a in values["annotations"]]


def test_every_box_has_names_scores_and_margin(undisturbed: Path, finished: Path) -> None:
    old = annotations(finished / DATA)
    for before, found in zip(old, annotations(undisturbed), strict=True):
        assert {key: found[key] for key in before if key != "category_id"} == {
            key: before[key] for key in before if key != "category_id"
        }
        assert len(found["names"]) == len(found["scores"]) == 5
        assert found["scores"] == sorted(found["scores"], reverse=True)
        assert found["score"] == found["scores"][0]
        assert found["margin"] == pytest.approx(found["scores"][0] - found["scores"][1], abs=1e-5)
    assert named(undisturbed) == [found["names"][0] for found in annotations(undisturbed)]
    assert not journal_path(undisturbed).exists()


def test_a_cache_is_used_where_it_fits(
    undisturbed: Path, finished: Path, classes: Path, tmp_path: Path
) -> None:
    ran = label(
        finished, tmp_path / "a.json", classes, "--set", f"cache={CACHE}", "--images", DATA.parent / "images"
    )
    assert ran.json["from_cache"] == {"clip/map": 8, "sam/transformer": 8}
    pairs = zip(annotations(tmp_path / "a.json"), annotations(undisturbed), strict=True)
    assert max(abs(a["score"] - b["score"]) for a, b in pairs) < 0.02  # int8


@pytest.mark.parametrize("tail", [0, 1, 40, 100_000])
def test_what_was_cut_off_is_done_again(
    tail: int,
    undisturbed: Path,
    finished: Path,
    classes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "new.json"
    add, batches = Journal.add, list[int]()

    def stops(journal: Journal, batch: list[dict[str, Any]]) -> None:
        add(journal, batch)
        batches.append(len(batch))
        if len(batches) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "add", stops)
        assert label(finished, out, classes).code == 130
    journal = journal_path(out)
    data = journal.read_bytes()
    journal.write_bytes(data[: max(len(data) - tail, 0)])
    ran = label(finished, out, classes)
    assert ran.code == 0, ran.err
    assert ran.json["images_labelled_now"] == {0: 2, 1: 4, 40: 4}.get(tail, 8)
    assert out.read_bytes() == undisturbed.read_bytes()


def test_killed_at_any_moment_it_goes_on(
    undisturbed: Path, finished: Path, classes: Path, tmp_path: Path, launcher: Launcher
) -> None:
    out = tmp_path / "new.json"
    for size in (1, 6000, 9000):  # bytes of the journal at which it is killed
        child = launcher.start("label", *map(str, options(out, classes)), cwd=finished)
        while child.runs and not (journal_path(out).exists() and journal_path(out).stat().st_size >= size):
            time.sleep(0.002)
        child.kill()
    assert label(finished, out, classes).code == 0
    assert out.read_bytes() == undisturbed.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["new.json"]


def test_another_identity_is_refused_with_what_to_do(finished: Path, classes: Path, tmp_path: Path) -> None:
    out = tmp_path / "new.json"
    journal_path(out).write_text(json.dumps({"method": "clip-box"}) + "\n")
    ran = label(finished, out, classes)
    assert ran.code == 4
    assert f"rm {journal_path(out)}" in ran.json["error"]["next"]
    assert not out.exists()


def test_a_file_that_is_no_journal_is_left_alone(finished: Path, classes: Path, tmp_path: Path) -> None:
    out = tmp_path / "new.json"
    journal_path(out).write_text("notes\n")
    ran = label(finished, out, classes)
    assert (ran.code, ran.json["error"]["next"]) == (4, f"rm {journal_path(out)}")
    assert journal_path(out).read_text() == "notes\n"


def test_without_any_picture_nothing_is_written(finished: Path, classes: Path, tmp_path: Path) -> None:
    out = tmp_path / "new.json"
    ran = label(finished, out, classes, "--images", tmp_path)
    assert (ran.code, ran.json["error"]["next"]) == (1, "--images DIR, where they are in another folder")
    assert list(tmp_path.iterdir()) == []


def test_boxes_of_a_file_of_proposals(finished: Path, classes: Path, tmp_path: Path) -> None:
    image = json.loads((finished / DATA).read_text())["images"][2]["id"]
    box = {"image_id": image, "bbox": [3, 4, 30, 20], "score": 0.5, "category_id": 1}
    (tmp_path / "boxes.json").write_text(json.dumps([box]))
    out = tmp_path / "new.json"
    ran = label(finished, out, classes, "--proposals", tmp_path / "boxes.json", "--top", 2)
    assert ran.code == 0, ran.err
    [found] = annotations(out)
    assert (found["image_id"], found["bbox"]) == (image, [3, 4, 30, 20])
    assert len(found["names"]) == 2


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with Journal(tmp_path / "a.json", {}), pytest.raises(UsageError, match="Another process"):
        Journal(tmp_path / "a.json", {})


def test_planted_wrong_labels_are_found(
    undisturbed: Path, finished: Path, classes: Path, tmp_path: Path
) -> None:
    """Labels are made right by the answers themselves, but for a few."""
    values = json.loads(undisturbed.read_text())
    names = {c["id"]: c["name"] for c in values["categories"]}
    planted = {4: None, 11: None, 17: None}
    for row in planted:
        answer = values["annotations"][row]
        wrong = next(c for c in values["categories"] if c["name"] not in answer["names"])
        answer["category_id"] = wrong["id"]
        planted[row] = (names[wrong["id"]], answer["names"][0])
    (tmp_path / "wrong.json").write_text(json.dumps(values))
    ran = rs_cache(
        "label", tmp_path / "wrong.json", "--images", finished / DATA.parent, "--checkpoint", RUN,
        "--classes", classes, "--out", tmp_path / "new.json", "--relabel", "--json", cwd=finished,
    )  # fmt: skip
    assert ran.code == 0, ran.err
    facts = ran.json["relabel"]
    assert facts["doubtful"] == 3
    assert facts["agreement"] == pytest.approx(1 - 3 / facts["judged"], abs=1e-4)
    assert {(p["label"], p["best"]) for p in facts["confusions"]} == set(planted.values())
    rows = list(csv.DictReader(io.StringIO(Path(facts["csv"]).read_text())))
    assert {(row["label"], row["best"]) for row in rows} == set(planted.values())
    doubts = [float(row["doubt"]) for row in rows]
    assert doubts == sorted(doubts, reverse=True)


def test_below_a_score_a_box_shows_none_of_the_classes(
    undisturbed: Path, finished: Path, classes: Path, tmp_path: Path
) -> None:
    scores = [found["score"] for found in annotations(undisturbed)]
    middle = float(np.mean(sorted(scores)[10:12]))
    ran = label(finished, tmp_path / "a.json", classes, "--none-below", middle)
    assert ran.code == 0, ran.err
    none = [name == "none of these" for name in named(tmp_path / "a.json")]
    assert none == [score < middle for score in scores]
    assert ran.json["none_of_these"] == sum(none)


def test_auto_chooses_the_score_that_tells_right_names_from_wrong_ones(
    undisturbed: Path, finished: Path, classes: Path, tmp_path: Path
) -> None:
    """Labels agree with the answers from the 12th score on, and with none below."""
    values = json.loads(undisturbed.read_text())
    bound = sorted(found["score"] for found in values["annotations"])[11]
    first = values["categories"][0]["id"]
    for found in values["annotations"]:
        if found["score"] < bound:
            found["category_id"] = first if found["category_id"] != first else values["categories"][1]["id"]
    (tmp_path / "mixed.json").write_text(json.dumps(values))
    ran = rs_cache(
        "label", tmp_path / "mixed.json", "--images", finished / DATA.parent, "--checkpoint", RUN,
        "--classes", classes, "--out", tmp_path / "b.json", "--none-below", "auto", "--json", cwd=finished,
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert ran.json["none_below"] == pytest.approx(bound, abs=1e-5)
    assert ran.json["none_of_these"] == 11


def test_synonyms_name_their_class(undisturbed: Path, finished: Path, classes: Path, tmp_path: Path) -> None:
    """With the old name as a synonym, each box that had it gets the new first word."""
    names = classes.read_text().split("\n")[:-1]
    common = max(set(named(undisturbed)), key=named(undisturbed).count)
    (tmp_path / "names.txt").write_text("\n".join(f"zq, {n}" if n == common else n for n in names))
    assert label(finished, tmp_path / "a.json", tmp_path / "names.txt").code == 0
    found = named(tmp_path / "a.json")
    assert all(new == "zq" for new, old in zip(found, named(undisturbed), strict=True) if old == common)


def test_images_that_cannot_be_read_are_counted_and_kept(
    finished: Path, classes: Path, undisturbed: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished / DATA.parent, tmp_path / "shapes")
    values = json.loads((tmp_path / "shapes" / "val.json").read_text())
    gone, broken = values["images"][1], values["images"][4]
    folder = next(
        path.parent
        for path in (tmp_path / "shapes").rglob(Path(gone["file_name"]).name)
        if "val" in path.parts
    )
    (folder / Path(gone["file_name"]).name).unlink()
    (folder / Path(broken["file_name"]).name).write_bytes(b"no picture")
    ran = rs_cache(
        "label", tmp_path / "shapes" / "val.json", "--checkpoint", RUN, "--classes", classes,
        "--out", tmp_path / "new.json", "--set", "batch_size=2", "--json", cwd=finished,
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert ran.json["unreadable_images"] == {"missing": 1, "undecodable": 1}
    assert f"1 missing ({folder / Path(gone['file_name']).name}: not a file)" in ran.err
    for old, new, other in zip(
        values["annotations"], annotations(tmp_path / "new.json"), annotations(undisturbed), strict=True
    ):
        if old["image_id"] in (gone["id"], broken["id"]):
            assert new == old
        else:  # in batches of other sizes
            assert new["score"] == pytest.approx(other["score"], abs=0.01)


def test_a_folder_of_pictures_with_proposed_boxes(finished: Path, classes: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for path in sorted((finished / DATA.parent / "images" / "val").iterdir())[:2]:
        shutil.copy(path, tmp_path / "photos")
    arguments = [tmp_path / "photos", "--checkpoint", RUN, "--classes", classes, "--json"]
    out = tmp_path / "boxes.csv"
    refused = rs_cache("label", *arguments, "--out", tmp_path / "new", cwd=finished)  # of YOLO, one may think
    assert (refused.code, refused.json["error"]["next"]) == (2, "--proposals rpn")
    ran = rs_cache("label", *arguments, "--out", out, "--proposals", "rpn", "--set", "top_n=3", cwd=finished)
    assert ran.code == 0, ran.err
    rows = list(csv.DictReader(io.StringIO(out.read_text())))
    assert 0 < len(rows) == ran.json["boxes"] <= 6
    assert all(row["name"] == json.loads(row["names"])[0] for row in rows)


def test_data_without_a_box_is_said_to_have_none(finished: Path, classes: Path, tmp_path: Path) -> None:
    (tmp_path / "none.csv").write_text("image,x0,y0,x1,y1\n")
    options = ("--checkpoint", RUN, "--classes", classes, "--out", tmp_path / "new.csv")
    ran = rs_cache("label", tmp_path / "none.csv", *options, cwd=finished)
    assert (ran.code, "there is no box to name" in ran.err) == (0, True)


def test_examples_stand_beside_words(
    undisturbed: Path, finished: Path, classes: Path, tmp_path: Path
) -> None:
    first = classes.read_text().splitlines()[0]
    (tmp_path / "examples" / first).mkdir(parents=True)
    Image.new("RGB", (40, 40), (255, 0, 0)).save(tmp_path / "examples" / first / "a.png")
    ran = label(finished, tmp_path / "a.json", classes, "--examples", tmp_path / "examples")
    assert ran.code == 0, ran.err
    assert (tmp_path / "a.json").read_bytes() != undisturbed.read_bytes()


def test_refusals(finished: Path, classes: Path, tmp_path: Path) -> None:
    (tmp_path / "twice.txt").write_text("a, b\nB\n")
    (tmp_path / "other.txt").write_text("something else\n")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine").touch()
    for code, more in (
        (1, ("--classes", tmp_path / "twice.txt")),
        (1, ("--classes", tmp_path / "none.txt")),
        (1, ("--classes", tmp_path / "other.txt", "--relabel")),
        (1, ("--out", tmp_path / "a.txt")),
        (2, ("--out", DATA)),
        (2, ("--out", tmp_path / "there", "--format", "voc")),
        (2, ("--none-below", "2")),
        (2, ("--set", "device=cud")),
        (2, ("--method", "clip-bax")),
    ):
        given = {"--classes": classes, "--out": tmp_path / "a.json"} | dict(
            zip(more[::2], more[1::2], strict=False)
        )
        flags = [value for key, value in given.items() if value is not None for value in (key, value)]
        flags += ["--relabel"] if "--relabel" in more else []
        ran = rs_cache("label", DATA, "--checkpoint", RUN, *flags, cwd=finished)
        assert (ran.code, bool(ran.error)) == (code, True), (more, ran.err)
