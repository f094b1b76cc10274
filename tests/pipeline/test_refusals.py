"""What the file system or others put in the way ends in three lines: found, expected, next command."""

from pathlib import Path

import pytest

from tests.running import rs_cache


def refused(*arguments: object, code: int = 1) -> dict[str, str]:
    """The three lines of a command that must fail."""
    ran = rs_cache(*arguments)
    assert ran.code == code, ran.err
    assert set(ran.error) == {"error", "expected", "next"}, ran.err
    assert "RS_DEBUG" not in ran.err
    return ran.error


@pytest.mark.parametrize("name", ["metrics.json", "per_class.csv", "report.html", ""])
def test_a_folder_or_a_file_where_an_evaluation_writes(name: str, workplace: Path) -> None:
    Path("theirs.json").write_text("[]")
    if name:
        Path("out", name).mkdir(parents=True)
    else:
        Path("out").write_text("a file")
    error = refused("eval", "--method", "results:theirs.json", "--out", "out")
    assert name in error["error"]
    assert "out" in error["error"]


def test_an_error_without_remedy_has_one(workplace: Path) -> None:
    assert refused("extract", "--backbone", "none", code=2)["next"] == "rs-cache extract --help"
