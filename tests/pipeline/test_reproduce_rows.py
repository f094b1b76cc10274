"""The paper's tables as configs: every number, and what becomes of every row in a world."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.places import shipped
from pipeline.reproduce.plan import Plan, make_plan, units_of
from pipeline.reproduce.rows import PAPER, Row, load_table, table_names
from pipeline.verbs.reproduce import ReproduceSettings
from pipeline.verbs.train import PromptSettings
from regionspot_cache.backbones.vocabulary import CLEANING, TEMPLATES
from regionspot_cache.config import load_config
from regionspot_cache.errors import UsageError
from tests.running import rs_cache

TABLES = ["regionclip", "table1", "table2", "table3", "table3b", "table4a", "table4b", "table4c", "table4d"]
TABLES += ["table5", "table5b", "table6"]
TEXT = Path(__file__).parents[2].parent / "shared" / "papers" / "regionspot.txt"

# AP, APr, APc, APf of the paper's table 1, of Tokenize-Anything, and of the official code's README.
TABLE_1 = [
    (48.7, 40.6, 53.1, 59.2),
    (49.2, 40.8, 53.5, 59.6),
    (),
    (),
    (50.7, 50.1, 50.1, 51.7),
    (53.0, 42.0, 45.9, 65.6),
    (56.6, 50.6, 50.2, 68.8),
    (),
    (57.4,),
    (59.1,),
    (59.6,),
    (11.3, 13.8, 12.1, 9.4),
    (11.8, 10.9, 10.2, 13.6),
    (14.1, 12.7, 13.1, 15.7),
    (),
    (12.3, 6.0, 8.0, 19.4),
    (11.3, 4.2, 7.6, 18.6),
    (16.5, 7.5, 11.6, 26.1),
    (17.2, 10.1, 12.5, 25.5),
    (14.1, 12.7, 13.1, 15.7),
    (21.1, 20.0, 18.7, 24.2),
    (23.7, 24.9, 21.6, 25.5),
    (25.0, 26.3),
]
ONE_COLUMN = {
    "table2": ("hours", [4600, 92100, 200]),
    "table3": ("AP", [15.9, 20.1, 23.7]),
    "table4a": ("AP", [8.0, 22.1, 23.7]),
    "table4b": ("AP", [18.6, 23.7, 20.4]),
    "table4c": ("AP", [23.2, 23.7, 22.8]),
    "table5": ("AP", [18.5, 22.1, 23.7]),
    "table6": ("AP", [9.4, 19.6, 17.8, 23.5, 21.3]),
}


def world(name: str = "shapes", **changes: object) -> ReproduceSettings:
    return replace(load_config(ReproduceSettings, shipped(f"reproduce/worlds/{name}.yaml")), **changes)


def rows(name: str) -> dict[str, Row]:
    return dict(load_table(name).rows)


def results(plan: Plan, table: str, row: str) -> list[Path]:
    return [unit.records[-1] for run in plan[table, row].runs.values() for unit in run]


def test_every_table_loads() -> None:
    assert table_names() == TABLES
    for name in TABLES:
        table = load_table(name)
        assert table.title
        assert table.claims
        assert len(table.rows) >= 3
        ours = ("table3b", "table4d", "table5b")
        claimed_by = "RegionCLIP" if name == "regionclip" else "this package" if name in ours else "the paper"
        assert table.claimed_by == claimed_by


def test_numbers_of_table_1() -> None:
    found = [tuple(row.paper.values()) for row in rows("table1").values()]
    assert found == TABLE_1
    assert all(
        list(row.paper) == ["AP", "APr", "APc", "APf"][: len(row.paper)] for row in rows("table1").values()
    )


@pytest.mark.parametrize("name", ONE_COLUMN)
def test_numbers_of_the_other_tables(name: str) -> None:
    figure, values = ONE_COLUMN[name]
    assert [row.paper[figure] for row in rows(name).values()] == values


def test_numbers_that_are_not_the_papers_say_whose_they_are() -> None:
    other = {(t, n) for t in TABLES for n, row in rows(t).items() if row.paper and row.source != PAPER}
    assert other == {
        ("table1", "06b-tokenize-anything-b-gt"),
        ("table1", "06c-tokenize-anything-l-gt"),
        ("table1", "06d-tokenize-anything-h-gt"),
        ("table1", "18-regionspot-bl336-detector"),
        ("table6", "03-regionspot-bb"),
        ("table6", "05-regionspot-bl336"),
    }


@pytest.mark.skipif(not TEXT.exists(), reason="the paper's text is not at hand")
@pytest.mark.parametrize("name", ["table1", "table3", "table5"])
def test_numbers_are_those_of_the_text(name: str) -> None:
    lines = TEXT.read_text(encoding="utf-8").splitlines()
    found = {
        tuple(cell.strip() for cell in line.rstrip("| ").split("|"))[-4:] for line in lines if "|" in line
    }
    for row in rows(name).values():
        if row.source == PAPER and row.paper:
            assert tuple(str(row.paper[key]) for key in ("APr", "APc", "APf", "AP")) in found, row.row


def test_rows_vary_what_their_table_is_about() -> None:
    assert [row.data for row in rows("table3").values()] == [
        ("first",),
        ("first", "second"),
        ("first", "second", "third"),
    ]
    assert [row.stages for row in rows("table3b").values()] == [1, 2, 1, 2, 1, 2]
    assert [row.head for row in rows("table4a").values()] == [{"use_map": False}, {"class_token": False}, {}]
    assert [row.query for row in rows("table4b").values()] == ["sam/prompt", None, "sam/mlp"]
    assert [row.head.get("depth", 3) for row in rows("table4c").values()] == [1, 3, 6]
    assert [row.head["map_positions"] for row in rows("table4d").values()] == [0, 0, 2]
    assert rows("table5")["01-baseline"].head == {"self_attention": False}
    sets = [row.prompts.templates for row in rows("table5b").values()]
    assert sets == ["name", "scene", "clip80+name", "vild63"]
    for name in TABLES:
        for row in rows(name).values():
            assert row.prompts.templates in TEMPLATES
            assert row.prompts.cleaning in CLEANING
    assert {row.measure for row in rows("table6").values()} == {"mask"}


def test_every_claim_is_what_the_published_numbers_say() -> None:
    for name in TABLES:
        table = load_table(name)
        for claim in table.claims:
            better, worse = table.rows[claim.better].paper, table.rows[claim.worse].paper
            if table.claimed_by == "the paper" and claim.metric in better and claim.metric in worse:
                ahead = better[claim.metric] - worse[claim.metric]
                assert (ahead < 0) if claim.metric == "hours" else (ahead > 0), (name, claim)


def test_the_built_in_world_trains_every_head_once() -> None:
    settings = world()
    plan = make_plan([load_table(name) for name in TABLES], settings, {})
    units = units_of(plan)
    seeds = [settings.train.seed + i for i in range(3)]
    assert [unit.seed for unit in units] == [-1] * 6 + [seed for seed in seeds for _ in range(18)]
    heads = {unit.training.out.parent for unit in units if unit.training}
    assert len(heads) == 18
    # methods without a head; each head on two kinds of boxes, those of captions on one; masks
    assert sum(len(unit.evaluations) for unit in units) == 6 + 3 * (2 * 16 + 2 + 2)
    usual = plan["table3", "03-o365-oi-v3det"].runs
    assert list(usual) == ["small RPN", "GT"]
    assert results(plan, "table4b", "02-transformer") == results(plan, "table3", "03-o365-oi-v3det")
    absent = plan["table1", "04-regionspot-bb-gt"]
    assert (absent.runs, absent.reason) == ({}, settings.no_backbone)
    (hours,) = plan["table2", "03-regionspot"].runs.values()
    assert [unit.training for unit in hours] == [unit.training for unit in usual["GT"]]


def test_no_number_twice_in_a_table() -> None:
    for name in TABLES:
        plan = make_plan([load_table(name)], world(), {})
        shown = [file for row in plan for file in results(plan, *row)]
        assert len(shown) == len(set(shown))
    plan = make_plan([load_table("table1")], world(), {})
    twin = plan["table1", "17-regionspot-bl-detector"]
    assert twin.same_as == "09-regionspot-bl-rpn"
    assert "the same run as RegionSpot-BL" in twin.reason
    assert len(plan["table1", "09-regionspot-bl-rpn"].runs) == 1  # ground truth is a row of its own


def test_the_papers_world_says_which_files_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = world("paper")
    tables = [load_table("table1"), load_table("table6")]
    plan = make_plan(tables, settings, {})
    assert (
        "rs-cache-data/proposals/glip-t-lvis-val.json" in plan["table1", "17-regionspot-bl-detector"].reason
    )
    assert "rs-cache-data/results/glip-t.json" in plan["table1", "14-glip-t"].reason
    assert plan["table1", "04-regionspot-bb-gt"].reason == ""
    for file in (settings.results / "x-decoder.json", Path(settings.boxes["detector"].proposals)):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    plan = make_plan(tables, settings, {})
    ((unit,),) = plan["table6", "01-x-decoder"].runs.values()
    (settings,) = unit.evaluations.values()
    assert settings.methods == ("results:rs-cache-data/results/x-decoder.json",)
    assert list(plan["table1", "17-regionspot-bl-detector"].runs) == ["GLIP-T"]


def test_a_dry_run_says_once_where_missing_data_goes(workplace: Path) -> None:
    ran = rs_cache("reproduce", "table1", "--world", "paper", "--dry-run")
    assert ran.code == 0, ran.err
    assert "first is o365:train" in ran.out
    assert ran.out.count("objects365_train.json") == 1
    assert ran.out.count("o365 (train) is not in ") == 3
    assert rs_cache("reproduce", "--world", "mars").error["expected"] == "One of paper, shapes."


def test_arrays_that_the_caches_leave_out() -> None:
    plan = make_plan([load_table("table4b")], world(store=("transformer",)), {})
    assert [bool(planned.reason) for planned in plan.values()] == [True, False, True]


@pytest.mark.parametrize(
    "values",
    [
        {"method": "yolo"},
        {"data": ("first", "first")},
        {"data": ()},
        {"head": {"depht": 3}},
        {"head": {"depth": "deep"}},
    ],
)
def test_rows_that_make_no_sense(values: dict) -> None:
    with pytest.raises(UsageError):
        Row(row="a", **values)


def test_tables_that_make_no_sense(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="table1"):
        load_table("table9")
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "table.yaml").write_text("title: t\nclaims: [{better: 1-a, worse: 2-b}]\n")
    (folder / "1-a.yaml").write_text("row: a\n")
    with pytest.raises(UsageError, match="2-b"):
        load_table("own", tmp_path)


def test_worlds_that_make_no_sense() -> None:
    settings = world()
    for wrong in ({"seeds": 0}, {"workers": -1}, {"training": {"first": "shapes-s"}}):
        with pytest.raises(UsageError):
            replace(settings, **wrong)
    with pytest.raises(UsageError, match="stages"):
        replace(settings, train=replace(settings.train, stages=settings.train.stages[:1]))


def test_prompt_settings_of_rows_are_the_usual_ones() -> None:
    assert Row(row="a").prompts == PromptSettings()
