"""The command line itself: its options, its exit codes, its errors of three lines."""

from pathlib import Path

import pytest
import typer

from pipeline import cli
from regionspot_cache import errors
from tests.pipeline.launcher import Launcher
from tests.running import rs_cache

OPTIONS = {
    "extract": (
        "backbone cache config dataset dry-run part images json limit rebuild scheduler set update workers"
    ),
    "status": "config json set",
    "info": "config json set",
    "verify": "backbone config full images json recompute repair set",
    "convert": "config dtype json out set",
    "train": "backbone cache config dataset images init json out reviewed set",
    "propose": "backbone config exclude images json limit out set top-n",
    "concepts": "config json min-images out overlap set",
    "import": "backbone config json out set",
    "export": "backbone checkpoint classes config images json limit map method out set",
    "push": "config json metrics private set",
    "eval": "ap backbone checkpoint config dataset images json limit method out proposals set",
    "label": (
        "backbone checkpoint classes config examples format images json method none-below out proposals "
        "relabel set top"
    ),
    "predict": "backbone boxes checkpoint classes compare config examples json out report set top",
    "explore": "backbone checkpoint classes config images json limit map method out save serve set",
    "reproduce": "config dry-run json out seeds set workers world",
    "demo": "config out set",
    "backbones": "config json set",
    "env": "json",
}
ARGUMENTS = {
    "status": ["cache"],
    "info": ["cache"],
    "verify": ["cache"],
    "convert": ["cache"],
    "label": ["source"],
    "predict": ["image"],
    "reproduce": ["names"],
    "backbones": ["names"],
    "propose": ["source"],
    "concepts": ["source"],
    "import": ["checkpoint"],
    "export": ["source"],
    "explore": ["source"],
    "push": ["run", "repository"],
}


def parameters(verb: str) -> tuple[set[str], list[str]]:
    """Names of the options, without dashes, and of the arguments of a verb."""
    command = typer.main.get_command(cli.app).commands[verb]
    options = {name.lstrip("-") for p in command.params for name in p.opts if name.startswith("--")}
    arguments = [p.name for p in command.params if p.param_type_name == "argument"]
    return options - {"help"}, arguments


@pytest.mark.parametrize("verb", OPTIONS)
def test_options_of_every_verb_are_locked(verb: str) -> None:
    options, arguments = parameters(verb)
    assert options == set(OPTIONS[verb].split())
    assert arguments == ARGUMENTS.get(verb, [])


@pytest.mark.parametrize("verb", OPTIONS)
def test_help_says_what_the_verb_does_and_lists_its_options(
    verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "150")
    ran = rs_cache(verb, "--help")
    assert ran.code == 0
    assert ran.err == ""
    assert f"rs-cache {verb}" in ran.out or f" {verb} " in ran.out
    for option in OPTIONS[verb].split():
        assert f"--{option}" in ran.out


def test_help_lists_every_verb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "150")
    ran = rs_cache("--help")
    assert ran.code == 0
    assert "130 interrupted" in " ".join(ran.out.split())
    for verb in typer.main.get_command(cli.app).commands:
        assert f" {verb} " in ran.out
    assert set(OPTIONS) <= set(typer.main.get_command(cli.app).commands)


@pytest.mark.parametrize(
    ("arguments", "in_error"),
    [
        (("extrakt",), "extrakt"),
        (("extract", "--backbon", "tiny"), "--backbon"),
        (("extract", "--limit", "many"), "--limit"),
        (("status",), "cache"),
        (("extract", "--limit", "0"), "limit = '0'"),
        (("extract", "--workers", "-1"), "workers = '-1'"),
        (("extract", "--workers", "2", "--scheduler", "tcp://a:1"), "--workers and --scheduler"),
        (("extract", "--part", "both"), "both"),
        (("extract", "--backbone", "huge"), "huge"),
        (("extract", "--dataset", "shape"), "shape"),
        (("extract", "--dataset", "shapes:test"), "test"),
        (("extract", "--set", "batchsize=3"), "batchsize"),
        (("extract", "--set", "batch_size"), "KEY=VALUE"),
        (("extract", "--set", "batch_size=0"), "batch_size = 0"),
        (("extract", "--set", "batch_size=many"), "batch_size"),
        (("extract", "--set", "policy.min_sise=3"), "policy.min_sise"),
        (("extract", "--set", "dtype=int2"), "dtype"),
        (("eval", "--proposals", "magic", "--method", "clip-box", "--set", "backbone=small.yaml"), "magic"),
        (("eval", "--method", "clip"), "--method clip."),
        (("train", "--set", "training.stages=[]"), "steps"),
    ],
)
def test_wrong_usage_is_exit_2_and_says_why(
    arguments: tuple[str, ...], in_error: str, workplace: Path
) -> None:
    ran = rs_cache(*arguments)
    assert ran.code == 2, ran.err
    assert ran.out == ""
    assert in_error in ran.error["error"]
    assert "{" not in ran.err  # the wrong value, not all settings
    assert ran.error.get("expected") or ran.error.get("next")


@pytest.mark.parametrize(
    ("arguments", "help_of"),
    [
        (("info",), "rs-cache info --help"),
        (("train", "--steps", "3"), "rs-cache train --help"),
        (("extract", "--limit"), "rs-cache extract --help"),
        (("train", "--set", "training.seed=many"), "rs-cache train --help"),
    ],
)
def test_a_wrong_command_line_points_at_the_help_of_its_verb(
    arguments: tuple[str, ...], help_of: str
) -> None:
    assert rs_cache(*arguments).error["next"] == help_of
    assert rs_cache("nonsense").error["next"] == "rs-cache --help"


def test_an_unknown_key_comes_with_the_near_one(workplace: Path) -> None:
    assert "Did you mean batch_size?" in rs_cache("extract", "--set", "batchsize=3").error["expected"]
    ran = rs_cache("extract", "--set", "policy.min_sise=3")
    assert "Did you mean policy.min_size?" in ran.error["expected"]
    assert "Did you mean shapes?" in rs_cache("extract", "--dataset", "shape").error["expected"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InputError("f", "e", "n"), 1),
        (errors.MissingFileError("f", "e", "n"), 1),
        (errors.UsageError("f", "e", "n"), 2),
        (errors.IncompleteError("f", "e", "n"), 3),
        (errors.IdentityError("f", "e", "n"), 4),
        (errors.DamageError("f", "e", "n"), 4),
        (ZeroDivisionError("f"), 1),
        (EOFError("f"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_every_kind_of_error_has_its_exit_code(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(**_: object) -> None:
        raise error

    monkeypatch.delenv("RS_DEBUG", raising=False)
    monkeypatch.setattr("pipeline.verbs.about.facts", fails)
    ran = rs_cache("env")
    assert ran.code == code
    assert ran.out == ""
    if isinstance(error, errors.RegionSpotError):
        assert ran.err == "error: f\nexpected: e\nnext: n\n"
    elif isinstance(error, Exception):
        assert f"{type(error).__name__}: f" in ran.error["error"]
        assert "RS_DEBUG=1" in ran.error["next"]
    else:
        assert "the same command continues" in ran.err


def test_debugging_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RS_DEBUG", "1")
    with pytest.raises(errors.MissingFileError):
        rs_cache("status", tmp_path)


@pytest.mark.parametrize("verb", ["status", "info", "verify"])
def test_a_folder_without_a_cache(verb: str, tmp_path: Path) -> None:
    ran = rs_cache(verb, tmp_path / "nothing")
    assert ran.code == 1
    assert "nothing" in ran.error["error"]
    assert "rs-cache extract" in ran.error["next"]
    assert not (tmp_path / "nothing").exists()


def test_env_names_versions_and_devices() -> None:
    facts = rs_cache("env", "--json").json
    assert {"python", "torch", "zarr", "cores", "cuda devices", "platform"} <= set(facts)
    ran = rs_cache("env")
    assert facts["torch"] in ran.out
    assert ran.err == ""


def test_as_a_process_results_and_progress_part_ways(finished: Path, launcher: Launcher) -> None:
    done = launcher.run("verify", "rs-cache-data/caches/shapes-train-small", "--json", cwd=finished)
    assert done.code == 0, done.err
    assert done.json["problems"] == []
    assert "verifying: 12/12" in done.err
