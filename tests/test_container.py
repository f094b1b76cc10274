"""The Dockerfile, as far as it can be read without Docker; building it is for a machine that has it."""

import re
import shlex
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")
STEPS = [
    (line.partition(" ")[0], line.partition(" ")[2].strip())
    for line in re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", TEXT, flags=re.MULTILINE)).splitlines()
    if line.strip()
]
IGNORED = [
    line
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]
COPIED = [source for step, rest in STEPS if step == "COPY" for source in shlex.split(rest)[:-1]]


def in_context(path: str) -> bool:
    """Whether a path at the top is sent to the builder: the last rule that fits decides."""
    sent = True
    for rule in IGNORED:
        if fnmatch(path, rule.removeprefix("!")):
            sent = rule.startswith("!")
    return sent


def test_every_step_is_one_that_docker_knows() -> None:
    assert {step for step, _ in STEPS} <= {"ARG", "FROM", "ENV", "RUN", "WORKDIR", "COPY", "USER", "CMD"}
    assert next(step for step, _ in STEPS if step != "ARG") == "FROM"


@pytest.mark.parametrize("source", COPIED)
def test_what_is_copied_is_there_and_sent(source: str) -> None:
    assert (ROOT / source).exists()
    assert in_context(source)


def test_what_is_not_copied_is_not_sent() -> None:
    for name in (".git", ".venv", "rs-cache-data", "docs", "tests"):
        assert not in_context(name)
    assert {rule.removeprefix("!") for rule in IGNORED if rule.startswith("!")} == set(COPIED)


def test_everything_of_the_package_is_copied() -> None:
    """What the build of the wheel reads, and the pins."""
    needed = {"pyproject.toml", "README.md", "LICENSE", "configs", "regionspot_cache", "pipeline"}
    assert set(COPIED) == needed | {"requirements.txt"}


def test_it_runs_the_demo_as_no_superuser() -> None:
    assert STEPS[-1] == ("CMD", '["rs-cache", "demo"]')
    assert [rest for step, rest in STEPS if step == "USER"] == ["cache"]


def test_the_base_is_a_python_of_the_project_and_can_be_another() -> None:
    assert ("FROM", "${BASE}") in STEPS
    [base] = [rest for step, rest in STEPS if step == "ARG" and rest.startswith("BASE=")]
    assert re.fullmatch(r"BASE=python:3\.1[123]-slim", base)


def test_uv_is_that_of_the_makefile() -> None:
    versions = set(re.findall(r"uv==([\d.]+)", TEXT + (ROOT / "Makefile").read_text(encoding="utf-8")))
    assert len(versions) == 1
