"""What the README tells people to type exists: verbs, options, make targets, files."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from pipeline.cli import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = sorted(set(re.findall(r"(?<![\w-])rs-cache (?!VERB)([a-z]+[^`\n;#]*)", README)))


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_name_real_verbs_and_options(command: str) -> None:
    verb, *arguments = shlex.split(command.replace("...", ""))
    verbs = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert verb in verbs
    known = {option for parameter in verbs[verb].params for option in parameter.opts}
    assert {a.partition("=")[0] for a in arguments if a.startswith("--")} <= known


def test_the_readme_has_commands() -> None:
    assert {command.split()[0] for command in COMMANDS} >= {"extract", "train", "eval", "predict", "verify"}


@pytest.mark.parametrize("target", sorted(set(re.findall(r"^make (\w+)", README, re.MULTILINE))))
def test_make_targets_exist(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
