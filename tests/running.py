"""Runs the command line in this process, where everything is imported already."""

import contextlib
import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Ran:
    """What a command left: exit code, stdout and stderr."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> dict[str, str]:
        """The three lines of an error by their labels."""
        assert "Traceback" not in self.err
        labels = ("error", "expected", "next")
        lines = [line.partition(": ") for line in self.err.splitlines()]
        return {label: text for label, _, text in lines if label in labels}


def rs_cache(*arguments: object, cwd: Path | None = None) -> Ran:
    """`rs-cache ARGUMENTS` in the folder `cwd`, the current one by default."""
    from pipeline.cli import run

    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(cwd or "."),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        code = run([str(argument) for argument in arguments])
    return Ran(code, out.getvalue(), err.getvalue())


def features(cache: Path) -> dict[str, str]:
    """SHA-256 of every object that must not depend on how, when and where a cache was made."""
    return {
        path.relative_to(cache).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in ("plan", "sam", "clip", "parts")
        for path in sorted((cache / folder).rglob("*"))
        if path.is_file()
    }
