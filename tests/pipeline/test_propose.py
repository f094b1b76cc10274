"""`rs-cache propose` and `concepts`: from captions to a file that extract takes, and to a pool."""

import json
import time
from pathlib import Path

import pytest

from regionspot_cache.datasets.concepts import read_pool
from tests.pipeline.launcher import Launcher
from tests.running import rs_cache

SMALL = ("--backbone", "small.yaml", "--top-n", "5")
REGIONS = Path("rs-cache-data/captions/shapes-train-regions.json")
IMAGES = "rs-cache-data/datasets/shapes/images"


def test_regions_go_through_extraction(workplace: Path) -> None:
    ran = rs_cache("propose", *SMALL, "--json")
    assert ran.code == 0, ran.err
    facts = ran.json
    assert facts["file"] == str(REGIONS)
    assert (facts["images"], facts["captions"]) == (24, 24)
    assert 24 < facts["boxes"] <= 24 * 6
    assert facts["proposals"]["top_n"] == 5
    assert "proposing: 24/24" in ran.err
    content = json.loads(REGIONS.read_text())
    assert len(content["annotations"]) == facts["boxes"]
    verb, *arguments = facts["next"].split()[1:]
    done = rs_cache(verb, *arguments, "--cache", "regions", "--limit", "3", "--json")
    assert done.code == 0, done.err
    assert "dropped at reading: none" in done.err
    again = rs_cache("propose", *SMALL, "--json")
    assert (again.code, again.json) == (0, facts)
    assert "proposing" not in again.err


def test_another_run_into_the_same_file_is_an_identity_error(workplace: Path) -> None:
    assert rs_cache("propose", *SMALL, "--limit", "2").code == 0
    ran = rs_cache("propose", *SMALL, "--limit", "3")
    assert ran.code == 4
    assert "images.limit = 2" in ran.error["error"]
    assert "--out FILE" in ran.error["next"]


def test_a_killed_run_is_continued(workplace: Path, launcher: Launcher) -> None:
    assert rs_cache("propose", *SMALL, "--out", "whole.json").code == 0
    child = launcher.start("propose", *SMALL, "--out", "killed.json", cwd=workplace)
    while not Path("killed.json.parts").exists():
        assert child.runs, child.wait()
        time.sleep(0.002)
    child.kill()
    assert not Path("killed.json").exists()
    ran = rs_cache("propose", *SMALL, "--out", "killed.json")
    assert ran.code == 0, ran.err
    assert Path("killed.json").read_bytes() == Path("whole.json").read_bytes()


def test_captions_of_ones_own_without_what_is_excluded(workplace: Path) -> None:
    Path("pairs.tsv").write_text("a star\ttrain/000000.jpg\na ring\ttrain/000001.jpg\na bar\tnone.jpg\n")
    Path("val.json").write_text('{"images": [{"id": 1, "file_name": "000001.jpg"}]}')
    arguments = ("propose", "pairs.tsv", "--images", IMAGES, "--exclude", "val.json", "--out", "r.json")
    refused = rs_cache(*arguments)
    assert refused.code == 2
    assert "No networks are named for pairs.tsv" in refused.error["error"]
    ran = rs_cache(*arguments, *SMALL, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["images"] == 1
    assert ran.json["dropped"] == {"image: excluded": 1, "image: missing": 1}
    assert "could not be read" in ran.err
    assert [one["caption"] for one in json.loads(Path("r.json").read_text())["captions"]] == ["a star"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("propose", "shapes:test"), 2, "test"),
        (("propose", "none.tar"), 1, "none.tar"),
        (("propose", "--top-n", "0"), 2, "top_n = '0'"),
        (("propose", "--set", "nms=0"), 2, "nms = 0"),
        (("propose", "--out", "regions.txt"), 2, "regions.txt"),
        (("propose", "--exclude", "none.json"), 1, "none.json"),
        (("concepts", "--min-images", "0"), 2, "min_images = '0'"),
        (("concepts", "--min-images", "25"), 1, "No noun phrase is in 25"),
        (("concepts", "--overlap", "shape"), 2, "shape"),
        (("concepts", "--out", "pool"), 2, "pool"),
    ],
)
def test_what_cannot_be_done_is_said(
    arguments: tuple[str, ...], code: int, said: str, workplace: Path
) -> None:
    ran = rs_cache(*arguments)
    assert ran.code == code, ran.err
    assert said in ran.error["error"]
    assert ran.error["expected"]
    assert ran.out == ""


def test_a_pool_of_captions_and_the_classes_in_it(workplace: Path) -> None:
    ran = rs_cache("concepts", "--min-images", "1", "--overlap", "shapes:val", "--json")
    assert ran.code == 0, ran.err
    facts = ran.json
    pool = read_pool(Path(facts["file"]))
    assert (facts["concepts"], facts["sha256"]) == (len(pool), pool.sha256)
    found = facts["overlap"]
    assert (found["all"]["classes"], found["novel"]["classes"]) == (320, 64)
    assert 20 < found["all"]["found"] == len(found["all"]["names"]) <= len(pool)
    assert set(found["all"]["names"]) <= set(pool.names)
    assert found["all"]["found"] == sum(found.get(group, {"found": 0})["found"] for group in "rcf")
    ran = rs_cache("concepts", "--min-images", "1", "--overlap", "shapes:val", "--out", "pool.txt")
    assert f"all {found['all']['found']} of 320" in ran.out
    assert Path("pool.txt").read_bytes() == Path(facts["file"]).read_bytes()


def test_a_pool_needs_no_images(workplace: Path) -> None:
    Path("c.json").write_text('{"images": [{"id": 1, "file_name": "a.jpg", "caption": "two dogs"}]}')
    assert rs_cache("concepts", "c.json", "--min-images", "1", "--out", "pool.txt").code == 0
    assert Path("pool.txt").read_text() == "dog,1\n"
