"""The wheel: what is in it, and that it works in an empty environment, outside the checkout."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONTENT = (
    ("regionspot_cache", "*.py"),
    ("pipeline", "*.py"),
    ("pipeline/configs", "*.yaml"),  # a link here, files in the wheel
    ("regionspot_cache", "*.yaml"),  # tables that the code reads
    ("regionspot_cache/assets", "*"),
    ("regionspot_cache/reporting/templates", "*"),
)


def run(*arguments: object, cwd: Path) -> str:
    """Stdout of a command that must end well, without any path of this checkout in its surroundings."""
    surroundings = {
        key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")
    }
    command = [str(argument) for argument in arguments]
    done = subprocess.run(command, cwd=cwd, env=surroundings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built by way of the source archive from a copy, where nothing that was built before can leak in."""
    place = tmp_path_factory.mktemp("wheel")
    tree = place / "tree"
    for folder in ("regionspot_cache", "pipeline", "configs", "tests", "benchmarks", "tools"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, tree / folder, symlinks=True, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    build = "from setuptools import build_meta; build_meta.build_{}({!r})"
    run(sys.executable, "-c", build.format("sdist", str(place)), cwd=tree)
    [archive] = place.glob("*.tar.gz")
    shutil.unpack_archive(archive, place, filter="data")
    run(sys.executable, "-c", build.format("wheel", str(place)), cwd=place / archive.name[: -len(".tar.gz")])
    [built] = place.glob("*.whl")
    return built


def test_the_wheel_holds_the_packages_their_data_and_nothing_else(wheel: Path) -> None:
    expected = {"regionspot_cache/py.typed"}
    for folder, pattern in CONTENT:
        expected |= {
            path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob(pattern) if path.is_file()
        }
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == expected
    assert {"regionspot_cache/assets/tiny/sam.safetensors", "pipeline/configs/demo.yaml"} <= names


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_wheel_runs_from_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    """Needs uv beside this Python, and the packages of requirements.txt from its cache or the registry."""
    uv = Path(sys.executable).parent / "uv"
    python = tmp_path / "env" / "bin" / "python"
    run(uv, "venv", "--python", sys.executable, tmp_path / "env", cwd=tmp_path)
    pins = ROOT / "requirements.txt"
    run(uv, "pip", "install", "--python", python, "--constraint", pins, wheel, cwd=tmp_path)
    place = tmp_path / "elsewhere"
    place.mkdir()
    program = python.parent / "rs-cache"
    assert str(python) in run(program, "env", cwd=place)
    run(program, "extract", "--limit", "8", cwd=place)
    [cache] = (place / "rs-cache-data" / "caches").iterdir()
    assert "no problem found" in run(program, "verify", cache, "--full", cwd=place)
