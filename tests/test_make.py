"""`make setup` with a Python that is not right."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FAKE = """#!/bin/sh
case "$1" in --version) echo Python 3.14.0;; -c) exit 1;; *) mkdir -p .venv/bin;; esac
"""


@pytest.mark.parametrize("left_over", [True, False])
@pytest.mark.parametrize("python", ["./fake", "no-such-python"])
def test_a_wrong_python_is_named_and_leaves_nothing(python: str, left_over: bool, tmp_path: Path) -> None:
    for name in ("Makefile", "requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    fake = tmp_path / "fake"
    fake.write_text(FAKE)
    fake.chmod(0o755)
    if left_over:
        (tmp_path / ".venv" / "bin").mkdir(parents=True)
        shutil.copy(fake, tmp_path / ".venv" / "bin" / "python")
    done = subprocess.run(["make", "setup", f"PYTHON={python}"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    assert "Python 3.11, 3.12 or 3.13 is needed" in done.stderr
    assert "PYTHON=python3.12" in done.stderr
    assert not (tmp_path / ".venv").exists()
