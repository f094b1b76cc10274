"""`rs-cache reproduce` on a small world with tables of its own."""

import json
import shutil
import time
from pathlib import Path

import pytest

from regionspot_cache.training.distributed import ProcessGroup
from regionspot_cache.training.folder import claim_folder
from tests.conftest import fill_workplace
from tests.running import Ran, rs_cache

PROMPTS = "prompts: {templates: name}\n"
WORLD = """\
world: small
made_on: eight drawn images
backbones: {bl: small.yaml}
no_backbone: one network is enough for a test
training: {first: shapes-s, second: shapes-m, third: shapes-l}
captions:
  source: shapes:train
  limit: 4
  top_n: 3
  min_images: 1
  stage: {name: captions, steps: 2, learning_rate: 1.0e-3, schedule: cosine, warmup_steps: 1}
evaluation: shapes:val
ground_truth_too: true
boxes:
  rpn: {proposals: rpn, called: small RPN, limit: 3, top_n: 4}
  detector: {proposals: rpn, called: small RPN, limit: 3, top_n: 4}
tables: tables
results: results
out: out
seeds: 2
workers: 0
partition_size: 4
train:
  batch_size: 4
  precision: fp32
  head: {depth: 1, num_heads: 4, ffn_dim: 32}
  stages:
    - {name: one, steps: 2, learning_rate: 1.0e-3, schedule: cosine, warmup_steps: 1}
    - {name: two, steps: 3, learning_rate: 1.0e-3, schedule: cosine, warmup_steps: 1}
"""
TABLES = {
    "tablea/table.yaml": "title: Data\nclaims: [{better: 2-three, worse: 1-two}]\n",
    "tablea/1-two.yaml": "row: two datasets\npaper: {AP: 20.1, APr: 16.4}\ndata: [first, second]\n" + PROMPTS,
    "tablea/2-three.yaml": "row: three datasets\npaper: {AP: 23.7}\n" + PROMPTS,
    "tablea/3-bb.yaml": "row: another network\nbackbone: bb\n" + PROMPTS,
    "tablea/4-twin.yaml": "row: the twin\nproposals: rpn\n" + PROMPTS,
    "tableb/table.yaml": "title: Masks and crops\n",
    "tableb/1-mask.yaml": "row: masks\nmeasure: mask\n" + PROMPTS,
    "tableb/2-crop.yaml": "row: crops\nmethod: clip-box\nproposals: gt\n" + PROMPTS,
    "tableb/3-file.yaml": "row: a file\nmethod: results:theirs\nproposals: gt\n",
    "tablec/table.yaml": "title: Hours\nclaims: [{better: 1-ours, worse: 2-theirs, metric: hours}]\n",
    "tablec/1-ours.yaml": "row: ours\nmeasure: hours\npaper: {hours: 200}\n" + PROMPTS,
    "tablec/2-theirs.yaml": "row: theirs\nmeasure: hours\npaper: {hours: 92100}\nmethod: results:theirs\n",
    "tablee/table.yaml": "title: Captions\nclaims: [{better: 2-both, worse: 1-captions, metric: AP novel}]\n",
    "tablee/1-captions.yaml": "row: captions\nlearns: captions\nproposals: gt\n" + PROMPTS,
    "tablee/2-both.yaml": "row: both\nlearns: captions then boxes\nproposals: gt\n" + PROMPTS,
    "tablee/3-teacher.yaml": "row: teacher\nmethod: regionclip\nproposals: gt\n" + PROMPTS,
    "tabled/table.yaml": "title: Broken\n",
    "tabled/1-broken.yaml": "row: seven heads\nhead: {num_heads: 7}\n" + PROMPTS,
    "tabled/2-whole.yaml": "row: three datasets\n" + PROMPTS,
}
WHOLE = ("tablea", "tableb", "tablec")


def reproduce(place: Path, *arguments: object) -> Ran:
    return rs_cache("reproduce", *arguments, "--config", "world.yaml", cwd=place)


def lay_out(place: Path, world: Path) -> Path:
    fill_workplace(place, world)
    (place / "world.yaml").write_text(WORLD)
    for name, text in TABLES.items():
        path = place / "tables" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return place


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, world: Path) -> tuple[Path, Ran]:
    """A folder after the three tables that can run. Tests must not change it."""
    place = lay_out(tmp_path_factory.mktemp("reproduced"), world)
    found = reproduce(place, *WHOLE, "--json")
    assert found.code == 0, found.err
    return place, found


@pytest.fixture
def copied(ran: tuple[Path, Ran], tmp_path: Path) -> Path:
    return Path(shutil.copytree(ran[0], tmp_path / "copy"))


def files(place: Path, pattern: str) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in sorted((place / "out").glob(pattern))}


def test_every_row_has_its_numbers_or_a_reason(ran: tuple[Path, Ran]) -> None:
    found = ran[1]
    tables = {table["table"]: table for table in found.json["tables"]}
    assert list(tables) == list(WHOLE)
    rows = tables["tablea"]["rows"]
    for name in ("1-two", "2-three"):
        own, gt = rows[name]["ours"]
        assert (own["boxes"], gt["boxes"]) == ("small RPN", "GT")
        assert own["figures"]["AP"]["n"] == gt["figures"]["top1"]["n"] == 2
        assert 0 <= gt["figures"]["AP novel"]["mean"] <= 100
        assert "top1" not in own["figures"]
        assert rows[name]["reason"] == ""
    assert rows["3-bb"]["ours"] == rows["4-twin"]["ours"] == []
    assert rows["3-bb"]["reason"] == "one network is enough for a test"
    assert rows["4-twin"]["reason"].startswith("the same run as three datasets")
    rows = tables["tableb"]["rows"]
    assert rows["1-mask"]["ours"][0]["figures"]["AP"]["n"] == 2
    crops = rows["2-crop"]["ours"][0]["figures"]["AP"]
    assert (crops["sd"], crops["n"]) == (None, 1)
    assert "results/theirs.json" in rows["3-file"]["reason"]
    hours = tables["tablec"]["rows"]["1-ours"]["ours"][0]["figures"]["hours"]
    assert 0 < hours["mean"] < 0.1
    assert [t["verdict"] for t in tables["tablec"]["trends"]] == ["not measured"]
    assert {t["verdict"] for t in tables["tablea"]["trends"]} <= {
        "reproduced",
        "not reproduced",
        "within the spread",
    }


def test_heads_are_shared_between_rows_and_tables(ran: tuple[Path, Ran]) -> None:
    assert len(files(ran[0], "heads/*/seed*/trained.json")) == 2 * 2  # two heads of two seeds
    assert len(files(ran[0], "results/*.json")) == 2 * (2 + 2 + 2) + 1  # masks are measured anew
    assert not files(ran[0], "heads/*/seed*/checkpoints")
    assert not files(ran[0], "scratch/*")


def test_stage_one_is_on_the_first_dataset_alone(ran: tuple[Path, Ran]) -> None:
    logs = [path.read_text() for path in (ran[0] / "out" / "heads").glob("*/seed*/metrics.jsonl")]
    steps = [[json.loads(line) for line in log.splitlines()] for log in logs]
    assert all([step["stage"] for step in run][-1] == "two" for run in steps)
    assert all(run[-1]["step"] == run[-1]["total_steps"] == 5 for run in steps)


def test_what_is_written(ran: tuple[Path, Ran]) -> None:
    place, found = ran
    text = (place / "out" / "tables.md").read_text()
    assert "### Table a: Data" in text
    assert "eight drawn images" in text
    assert "2 seeds" in text
    page = (place / "out" / "report.html").read_text()
    assert "three datasets" in page
    assert "23.7" in page
    assert json.loads((place / "out" / "results.json").read_text())["tables"] == found.json["tables"]


def test_a_second_call_does_nothing_again(copied: Path) -> None:
    before = files(copied, "results/*.json") | files(copied, "heads/*/*/trained.json")
    started = time.process_time()
    again = reproduce(copied, *WHOLE)
    assert again.code == 0, again.err
    assert time.process_time() - started < 20
    assert files(copied, "results/*.json") | files(copied, "heads/*/*/trained.json") == before
    assert "5 of 5 units of work are done already." in again.err
    assert "Trends of the paper: " in again.out


def test_a_lost_result_is_made_again_alone(copied: Path) -> None:
    before = files(copied, "results/*.json")
    lost = next(iter(before))
    content = json.loads(lost.read_text())
    lost.unlink()
    again = reproduce(copied, *WHOLE)
    assert again.code == 0, again.err
    after = files(copied, "results/*.json")
    assert [path for path in before if before[path] != after[path]] == [lost]
    assert json.loads(lost.read_text())["metrics"] == content["metrics"]


def test_records_that_a_crash_cut_off_are_made_again(copied: Path) -> None:
    for pattern in ("results/*.json", "heads/*/*/trained.json"):
        for content in ("", '{"metr'):
            lost = next(iter(files(copied, pattern)))
            whole = json.loads(lost.read_text())
            lost.write_text(content)
            again = reproduce(copied, *WHOLE)
            assert again.code == 0, again.err
            assert json.loads(lost.read_text()).keys() == whole.keys()


@pytest.mark.parametrize("pattern", ["results/*.json", "heads/*/*/trained.json", "extraction/*.json"])
@pytest.mark.parametrize("content", ["{}", '{"metrics": {"box": 3, "mask": 3}, "hours": "x"}'])
def test_records_of_something_else_are_damage(pattern: str, content: str, copied: Path) -> None:
    for path in files(copied, pattern):
        path.write_text(content)
    again = reproduce(copied, *WHOLE)
    assert again.code == 4
    assert "is damaged" in again.error["error"]
    assert again.error["next"].startswith("rm -r out/")


def test_two_runs_in_one_folder(copied: Path) -> None:
    with claim_folder(copied / "out", ProcessGroup()):
        found = reproduce(copied, *WHOLE)
    assert found.code == 1
    assert "another run is writing into out" in found.error["error"]
    assert reproduce(copied, *WHOLE).code == 0


def test_other_steps_are_other_heads(copied: Path) -> None:
    before = files(copied, "heads/*/*/trained.json")
    again = reproduce(copied, "tablec", "--seeds", 1, "--set", "train.weight_decay=0.5")
    assert again.code == 0, again.err
    assert len(files(copied, "heads/*/*/trained.json")) == len(before) + 1


def test_other_labels_are_other_heads_on_the_same_features(copied: Path) -> None:
    before = files(copied, "heads/*/*/trained.json")
    caches = {p: p.stat().st_mtime_ns for p in (copied / "rs-cache-data/caches").rglob("c.*")}
    path = copied / "rs-cache-data/datasets/shapes/train.json"
    spaces = [p for p in path.parent.glob("*.json") if p.name not in ("val.json", "train.json")]
    for file in (path, *spaces):
        file.write_text(file.read_text().replace('"plain red', '"my plain red'))
    again = reproduce(copied, "tablec", "--seeds", 1)
    assert again.code == 0, again.err
    assert len(files(copied, "heads/*/*/trained.json")) == len(before) + 1
    assert {p: p.stat().st_mtime_ns for p in (copied / "rs-cache-data/caches").rglob("c.*")} == caches


def test_results_of_another_system(copied: Path) -> None:
    annotations = json.loads((copied / "rs-cache-data/datasets/shapes/val.json").read_text())["annotations"]
    right = [{**{k: a[k] for k in ("image_id", "category_id", "bbox")}, "score": 0.9} for a in annotations]
    (copied / "results").mkdir()
    (copied / "results" / "theirs.json").write_text(json.dumps(right))
    found = reproduce(copied, "tableb", "--json")
    assert found.code == 0, found.err
    (ours,) = found.json["tables"][0]["rows"]["3-file"]["ours"]
    assert ours["figures"]["AP"]["mean"] == pytest.approx(100)


def test_a_row_that_fails_leaves_the_others_alone(copied: Path) -> None:
    found = reproduce(copied, "tabled", "--json")
    assert found.code == 3
    assert "num_heads" in found.error["error"]
    rows = found.json["tables"][0]["rows"]
    assert rows["1-broken"]["ours"] == []
    assert rows["1-broken"]["reason"].startswith("2 of 2 runs: ")
    assert "num_heads" in rows["1-broken"]["reason"]
    assert rows["2-whole"]["ours"][0]["figures"]["AP"]["n"] == 2
    assert any("num_heads" in path.read_text() for path in (copied / "out" / "logs").iterdir())


def test_a_dataset_that_is_not_there(copied: Path) -> None:
    found = reproduce(copied, "tablea", "--json", "--set", "training.second=v3det:train")
    assert found.code == 0, found.err
    rows = found.json["tables"][0]["rows"]
    assert "v3det" in rows["1-two"]["reason"]
    assert rows["1-two"]["ours"] == []


def test_dry_run_does_nothing_and_says_all(tmp_path: Path, world: Path) -> None:
    place = lay_out(tmp_path, world)
    found = reproduce(place, "--dry-run")
    assert found.code == 0, found.err
    assert not (place / "out").exists()
    assert "shapes-s-small: to draw and extract" in found.out
    assert "it goes to results/theirs.json" in found.out
    assert "1-two: two datasets: runs, small RPN, GT" in found.out
    facts = reproduce(place, *WHOLE, "--dry-run", "--json").json
    assert (facts["heads"], facts["units"], facts["units_to_do"], facts["steps"]) == (2, 5, 5, 20)


def test_dry_run_after_a_run_has_nothing_to_do(ran: tuple[Path, Ran]) -> None:
    assert reproduce(ran[0], *WHOLE, "--dry-run", "--json").json["units_to_do"] == 0


def test_unknown_table_and_world(copied: Path) -> None:
    assert reproduce(copied, "table9").code == 2
    found = rs_cache("reproduce", "--world", "mars", cwd=copied)
    assert found.code == 2
    assert "mars" in found.error["error"]


@pytest.mark.slow
def test_worker_processes(tmp_path: Path, world: Path) -> None:
    place = lay_out(tmp_path, world)
    found = reproduce(place, "tabled", "--workers", 2, "--json")
    assert found.code == 3
    assert found.json["tables"][0]["rows"]["2-whole"]["ours"][0]["figures"]["AP"]["n"] == 2


def test_heads_that_learn_from_captions(tmp_path: Path, world: Path) -> None:
    place = lay_out(tmp_path, world)
    planned = reproduce(place, "tablee", "--dry-run", "--json")
    assert "to draw, propose and extract" in planned.json["caches"].values()
    ran = reproduce(place, "tablee", "--json")
    assert ran.code == 0, ran.err
    [table] = ran.json["tables"]
    ours = {row["row"]: row["ours"][0]["figures"] for row in table["rows"].values()}
    assert {name: figures["AP"]["n"] for name, figures in ours.items()} == {
        "captions": 2,
        "both": 2,
        "teacher": 1,
    }
    proposed = place / "rs-cache-data/caches/reproduce/captions/regions.json"
    before = proposed.stat().st_mtime_ns
    again = reproduce(place, "tablee", "--json")
    assert again.code == 0, again.err
    assert proposed.stat().st_mtime_ns == before  # nothing is proposed, extracted or trained again
    assert again.json == ran.json
