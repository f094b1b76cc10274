"""The notebooks of docs/notebooks, cell by cell; the build of the pages runs them as well."""

import re
import shlex
from pathlib import Path
from typing import Any

import matplotlib
import pytest

from tests.running import rs_cache

NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs" / "notebooks").glob("*.md"))
CELL = re.compile(r"```\{code-cell\} \w+\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def run_cell(code: str, names: dict[str, Any]) -> None:
    """Python in `names`; `!rs-cache` in this process."""
    if not code.startswith("!"):
        exec(compile(code, "notebook", "exec"), names)
        return
    for line in code.splitlines():
        program, *arguments = shlex.split(line.removeprefix("!").partition(" 2>")[0])
        assert program == "rs-cache"
        ran = rs_cache(*arguments)
        assert ran.code == 0, ran.err


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("IPython")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))  # restores what a notebook does to the path
    matplotlib.use("Agg")
    cells = CELL.findall(notebook.read_text(encoding="utf-8"))
    assert len(cells) > 1
    names: dict[str, Any] = {}
    for cell in cells:
        run_cell(cell, names)


def test_there_are_notebooks() -> None:
    assert len(NOTEBOOKS) == 3
