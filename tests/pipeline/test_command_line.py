"""The command line as a process: how fast it answers, what a terminal gets, what a shell completes."""

import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from pipeline import cli
from pipeline.verbs.predict import require_image
from regionspot_cache.errors import MissingFileError
from tests.running import rs_cache

ROOT = Path(__file__).parents[2]
START = [sys.executable, "-c", "from pipeline.cli import main; main()"]
HEAVY = ("torch", "transformers", "dask", "distributed", "zarr", "open_clip", "scipy", "matplotlib")


def process(*arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*START, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
    )


def test_the_end_waits_for_what_has_to_be_done_and_for_nothing_else(tmp_path: Path) -> None:
    program = """
import atexit, threading, time
from pipeline.cli import main

class Large:
    def __del__(self):
        print("cleared")

large = Large()
atexit.register(print, "exit function")
threading.Thread(target=lambda: (time.sleep(0.5), print("thread"))).start()
main(["backbones", "nothing"])
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stdout.splitlines() == ["thread", "exit function"]
    assert done.stderr.startswith("error: ")


def test_output_that_finds_no_room_is_an_error(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        words = [*START, "status", "nowhere", "--json"]
        done = subprocess.run(words, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert "no cache at " in done.stderr
    told = "error: what was printed is not complete: [Errno 28] No space left on device"
    assert done.stderr.splitlines()[-1] == told


CACHE = "rs-cache-data/caches/shapes-train-small"
LIGHT = [
    ["--help"],
    ["train", "--help"],
    ["status", CACHE],
    ["info", CACHE, "--json"],
    ["status", "nowhere"],
    ["extract", "--backbone", "tniy"],
    ["extract", "--dataset", "photographs.json"],
    ["train", "--set", "prompts.templates=clip08"],
    ["train", "--set", "training.stages=[{learningrate: 1e-3}]"],
    ["eval", "--method", "clip-bax"],
    ["eval", "--method", "results:none.json"],
    ["predict", "none.jpg", "--checkpoint", "nowhere"],
    ["predict", "small.yaml", "--checkpoint", "nowhere", "--classes", "none.txt"],
    ["reproduce", "table9"],
]


def test_what_needs_no_network_imports_none(finished: Path) -> None:
    program = f"""
import sys, regionspot_cache.backbones, regionspot_cache.training
from pipeline.cli import run
for words in {LIGHT}:
    run(words)
    print("after", *words, "there are", [name for name in {HEAVY} if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=finished,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in done.stderr
    said = [line for line in done.stdout.splitlines() if line.startswith("after ")]
    assert said == [f"after {' '.join(words)} there are []" for words in LIGHT]


def test_status_and_help_answer_at_once(finished: Path) -> None:
    def seconds(command: list[str]) -> float:
        """Of the processor: those on the clock are also other programs'."""
        before = os.times()
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run(command, cwd=finished, env=environment, capture_output=True)
        after = os.times()
        spent = after.children_user - before.children_user
        return spent + after.children_system - before.children_system

    unavoidable = seconds([sys.executable, "-c", "import numpy, pydantic, typer, rich.progress"])
    for arguments in (["--help"], ["status", CACHE], ["extract", "--backbone", "tniy"]):
        assert seconds([*START, *arguments]) < max(1.5, 4 * unavoidable), arguments


def test_version() -> None:
    ran = rs_cache("--version")
    assert (ran.code, ran.out) == (0, f"rs-cache {version('regionspot-cache')}\n")


def test_bare_it_prints_help() -> None:
    bare, asked = rs_cache(), rs_cache("--help")
    assert bare.code == 0
    assert bare.err == ""
    assert bare.out == asked.out


@pytest.mark.parametrize("verb", cli.VERBS)
@pytest.mark.parametrize("columns", ["40", "80"])
def test_short_help_fits_the_terminal(verb: str, columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    ran = rs_cache(verb, "-h")
    assert ran.code == 0
    words = max(map(len, re.split(r"\s+", ran.out)))
    assert max(map(len, ran.out.splitlines())) <= max(int(columns), words + 30)
    assert ran.out.isascii()
    assert "<" not in ran.out  # types that are Typer's matter


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("extrat",), "extract"),
        (("extract", "--backbon", "tiny"), "--backbone"),
        (("extract", "--backbone", "tniy"), "tiny"),
        (("extract", "--backbone", "backbones/sam-3.yaml"), "backbones/sam3.yaml"),
        (("extract", "--dataset", "lvsi"), "lvis"),
        (("extract", "--part", "smm"), "sam"),
        (("train", "--config", "train/bll.yaml"), "train/bl.yaml"),
        (("train", "--set", "prompts.templates=clip08"), "clip80"),
        (("train", "--set", "prompts.cleaning=vidl"), "vild"),
        (("train", "--set", "training.stages=[{learningrate: 1e-3}]"), "training.stages.0.learning_rate"),
        (("eval", "--method", "clip-bax"), "clip-box"),
        (("eval", "--ap", "fixd"), "fixed"),
        (("eval", "--proposals", "rnp"), "rpn"),
        (("eval", "--set", "score_rule=geomtric"), "geometric"),
        (("reproduce", "tabel1"), "table1"),
        (("reproduce", "--world", "shpaes"), "shapes"),
        (("evl",), "eval"),
        (("extract", "--bakbone", "tiny"), "--backbone"),
        (("extract", "--dtype", "int4"), "--set dtype=VALUE"),
        (("train", "--batch-size", "4"), "--set training.batch_size=VALUE"),
        (("train", "--set", "batch_siz=4"), "training.batch_size"),
        (("extract", "--dataset", "shapes:vall"), "val"),
        (("extract", "--backbone", "tinny"), "tiny"),
    ],
)
def test_a_misspelt_name_comes_with_the_right_one(
    arguments: tuple[str, ...], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = rs_cache(*arguments)
    assert ran.code in (1, 2)
    assert f"Did you mean {expected}?" in ran.error["expected"], ran.err
    assert list(tmp_path.iterdir()) == []  # nothing was drawn


@pytest.mark.parametrize(
    "arguments",
    [
        ("info", "runs/my-cach"),
        ("train", "--cache", "runs/my-cach"),
        ("eval", "--checkpoint", "runs/my-cach"),
    ],
)
def test_a_misspelt_folder_comes_with_the_one_beside_it(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "my-cache").mkdir(parents=True)
    ran = rs_cache(*arguments)
    assert ran.code == 1
    assert re.search(r"Did you mean \S*runs/my-cache\?", ran.error["expected"]), ran.err


@pytest.mark.parametrize(
    ("arguments", "code", "found"),
    [
        (("status", "nowhere", "--json"), 1, "no cache at"),
        (("status", "--json"), 2, "cache is not given"),
        (("extract", "--json", "--no-such"), 2, "No such option: --no-such"),
        (("nonsense", "--json"), 2, "nonsense"),
        (("extract", "--json", "--limit", "many"), 2, "limit = 'many'"),
    ],
)
def test_errors_as_json(arguments: tuple[str, ...], code: int, found: str, workplace: Path) -> None:
    ran = rs_cache(*arguments)
    assert ran.code == code
    error = ran.json["error"]
    assert error["exit_code"] == code
    assert found in error["found"]
    assert error["next"]
    assert found in ran.error["error"]


def test_a_result_and_its_error_are_one_document(finished: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    subprocess.run(["cp", "-r", finished / CACHE, cache], check=True)
    victim = next(path for path in sorted((cache / "clip").rglob("*")) if path.is_file())
    victim.unlink()
    ran = rs_cache("verify", cache, "--json")
    assert ran.code == 4
    assert ran.json["problems"]
    assert ran.json["error"]["exit_code"] == 4


def test_an_unexpected_error_is_json_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(**_: object) -> None:
        raise ZeroDivisionError("of mine")

    monkeypatch.delenv("RS_DEBUG", raising=False)
    monkeypatch.setattr("pipeline.verbs.about.facts", fails)
    assert "ZeroDivisionError: of mine" in rs_cache("env", "--json").json["error"]["found"]


def test_a_reader_that_leaves_does_no_harm(finished: Path) -> None:
    for command in (f"info {CACHE}", f"info {CACHE} --json", "--help"):
        shell = f"'{sys.executable}' -c '{START[2]}' {command} | true; echo ${{PIPESTATUS[0]}}"
        done = subprocess.run(
            ["bash", "-c", shell],
            cwd=finished,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert done.stdout.strip() == "0", (command, done.stderr)
        assert done.stderr == ""


@pytest.mark.parametrize("columns", ["20", "80"])
def test_an_ascii_terminal_does_no_harm(columns: str, tmp_path: Path) -> None:
    terminal = {"LANG": "C", "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "COLUMNS": columns}
    odd = tmp_path / "bäume-\N{CJK UNIFIED IDEOGRAPH-732B}"
    done = process("status", odd, cwd=tmp_path, **terminal)
    assert done.returncode == 1
    assert "b\\xe4ume-\\u732b" in done.stderr
    assert done.stdout == ""
    program = """
import sys
from pipeline import console
sys.stdout = console.LastingStream.of(sys.stdout)
console.result({}, "b\\xe4ume \\xf6")
console.say("\\xfc")
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, **terminal},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "\\xf6" in done.stdout


def test_escape_sequences_never_reach_the_terminal(tmp_path: Path) -> None:
    odd = tmp_path / "a\x1b[31mred\x07\u202egnp\nerror: faked"
    ran = rs_cache("status", odd)
    assert ran.code == 1
    assert not re.search("[\x00-\x09\x0b-\x1f\u202e]", ran.err + ran.out)
    assert "\\x1b[31mred\\x07\\u202e" in ran.err
    assert sum(line.startswith("error: ") for line in ran.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("rs-cache ex", {"extract", "export"}),
        ("rs-cache extract --backbone b", {"bb", "bl", "bl336", "backbones/sam3.yaml"}),
        ("rs-cache extract --part ", {"sam", "clip"}),
        ("rs-cache extract --dataset lvis", {"lvis", "lvis:val", "lvis:minival"}),
        ("rs-cache eval --method cl", {"clip-box", "clip-mask"}),
        ("rs-cache reproduce table4", {"table4a", "table4b"}),
        ("rs-cache reproduce --world ", {"shapes", "paper"}),
        ("rs-cache train --config train/", {"train/bl.yaml", "train/shapes.yaml"}),
        ("rs-cache train --set training.b", {"training.batch_size=", "training.betas="}),
    ],
)
def test_the_shell_completes(
    words: str, offered: set[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_RS_CACHE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
    with pytest.raises(SystemExit):
        cli.run([])
    assert set(capsys.readouterr().out.split()) >= offered


def test_a_picture_that_is_not_there_has_a_neighbour(tmp_path: Path) -> None:
    (tmp_path / "street.jpg").touch()
    with pytest.raises(MissingFileError, match=r"Did you mean \S*/street\.jpg\?"):
        require_image(tmp_path / "stret.jpg")


@pytest.mark.parametrize("name", ["train/bl.yaml", "configs/train/bl.yaml", "./configs/train/bl.yaml"])
def test_shipped_configs_are_found_from_any_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = rs_cache("train", "--config", name)
    assert "o365-train-bl" in ran.error["error"] or "weights" in ran.err, ran.err
    own = tmp_path / "train" / "bl.yaml"
    own.parent.mkdir()
    own.write_text("mine: true")
    assert json.dumps(rs_cache("train", "--config", "train/bl.yaml").error).count("Unknown key mine") == 1
