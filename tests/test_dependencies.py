"""Every package that the code imports is declared, where users install from."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

ROOT = Path(__file__).parents[1]
OWN = {"regionspot_cache", "pipeline"}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported() -> dict[str, Path]:
    """Top-level modules by name, and a file that imports each."""
    found: dict[str, Path] = {}
    for package in OWN:
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                else:
                    names = [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
                for name in names:
                    found[name.partition(".")[0]] = file
    return {name: file for name, file in found.items() if name not in OWN | sys.stdlib_module_names}


def test_every_import_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    texts = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    declared = {canonical(re.split(r"[ \[<>=!~;]", text)[0]) for text in texts}
    providers = packages_distributions()
    wrong = {
        name: str(file.relative_to(ROOT))
        for name, file in imported().items()
        if not declared & {canonical(provider) for provider in providers.get(name, [name])}
    }
    assert not wrong


def test_everything_declared_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pinned = {
        canonical(line.partition("==")[0].partition("[")[0])
        for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line
    }
    assert {canonical(re.split(r"[ \[<>=!~;]", text)[0]) for text in project["dependencies"]} <= pinned
