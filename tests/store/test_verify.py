"""Every kind of damage is found, and the damaged file is named."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from regionspot_cache.errors import MissingFileError
from regionspot_cache.store import open_writer, verify
from tests.store.small_world import extract, file_hashes, make_cache, make_dataset


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two partitions, one failed image; verifies clean. Tests restore what they change."""
    path = tmp_path_factory.mktemp("small") / "cache"
    make_cache(path, make_dataset(6), failing={"train/000001.jpg": "missing"})
    assert verify(path, "fast") == verify(path, "full") == []
    return path


@pytest.fixture
def copy(small: Path, tmp_path: Path) -> Path:
    shutil.copytree(small, tmp_path / "c")
    return tmp_path / "c"


def named(path: Path, level: str = "full") -> set[str]:
    return {problem.key for problem in verify(path, level)}


def test_every_flipped_byte_in_every_file_is_found(small: Path) -> None:
    rng = np.random.default_rng(0)
    files = sorted(file_hashes(small))
    assert {name.split("/")[0] for name in files} == {
        "cache.json",
        "clip",
        "parts",
        "manifest.json",
        "markers",
        "plan",
        "sam",
    }
    for name in files:
        file = small / name
        data = file.read_bytes()
        for position in {0, len(data) - 1, *rng.integers(0, len(data), 2).tolist()}:
            spoilt = bytearray(data)
            spoilt[position] ^= int(rng.integers(1, 256))
            file.write_bytes(spoilt)
            assert name in named(small), (name, position)
        file.write_bytes(data)
    assert verify(small, "full") == []


@pytest.mark.parametrize("level", ["fast", "full"])
def test_every_truncated_or_deleted_file_is_found(small: Path, level: str) -> None:
    for name in sorted(file_hashes(small)):
        if name == "cache.json":
            continue
        file = small / name
        data = file.read_bytes()
        file.write_bytes(data[:-1])
        assert name in named(small, level), name
        file.unlink()
        if name.startswith("parts/"):
            part = Path(name).stem
            assert any(problem.part == part for problem in verify(small, level)), name
        else:
            assert name in named(small, level), name
        file.write_bytes(data)
    assert verify(small, level) == []


@pytest.mark.parametrize(
    "name",
    [
        "clip/map/c.9.0.0.0",
        "sam/transformer/c.0.0.0.tmp",
        "plan/x",
        "markers/sam/x.json",
        "parts/Depth.json",
        "parts/x/depth.json",
    ],
)
def test_foreign_files_are_reported(copy: Path, name: str) -> None:
    (copy / name).parent.mkdir(exist_ok=True)
    (copy / name).write_bytes(b"?")
    (problem,) = verify(copy, "fast")
    assert (problem.key, problem.kind) == (name, "foreign")


def test_the_damaged_record_of_a_part_is_reported(copy: Path) -> None:
    (copy / "parts/depth.json").write_bytes(b"?")
    (problem,) = verify(copy, "fast")
    assert (problem.part, problem.key, problem.kind) == ("depth", "parts/depth.json", "checksum")


def test_problems_say_where(copy: Path) -> None:
    file = copy / "clip/map/c.1.0.0.0"
    data = bytearray(file.read_bytes())
    data[30] ^= 4
    file.write_bytes(data)
    problems = verify(copy, "full")
    assert {(p.part, p.partition, p.array, p.key) for p in problems} == {
        ("clip", 1, "map", "clip/map/c.1.0.0.0")
    }
    assert {p.kind for p in problems} == {"checksum", "record"}
    assert all(p.is_damage for p in problems)
    assert verify(copy, "fast") == []


def test_unfinished_is_not_damage(tmp_path: Path) -> None:
    writer = make_cache(tmp_path / "c")
    writer.discard("sam", 1)
    problems = verify(tmp_path / "c", "full")
    assert {(p.part, p.partition, p.kind) for p in problems} == {
        ("sam", 1, "uncommitted"),
        ("sam", None, "unsealed"),
    }
    assert not any(problem.is_damage for problem in problems)


def test_objects_of_another_run_are_found(copy: Path, tmp_path: Path) -> None:
    """A swap of two files that are each whole is damage too."""
    first, second = copy / "clip/map/c.0.0.0.0", tmp_path / "other/clip/map/c.0.0.0.0"
    make_cache(tmp_path / "other", make_dataset(6, seed=9))
    shutil.copy(second, first)
    assert {p.key for p in verify(copy, "full")} == {"clip/map/c.0.0.0.0"}


def test_markers_of_another_partition_are_found(copy: Path) -> None:
    shutil.copy(copy / "markers/sam/000000.json", copy / "markers/sam/000001.json")
    kinds = {(p.key, p.kind) for p in verify(copy, "fast")}
    assert ("markers/sam/000001.json", "identity") in kinds
    assert open_writer(copy).pending("sam") == [1]


def test_a_record_left_out_of_an_object_is_found_fast(copy: Path) -> None:
    import zarr

    array = zarr.open_array(copy / "clip/map", mode="r+")
    block = np.asarray(array[0])
    block[np.flatnonzero((block != -128).any((1, 2)))[-1]] = -128
    array[0] = block
    assert {(p.key, p.kind) for p in verify(copy, "fast")} == {("clip/map/c.0.0.0.0", "size")}


def test_what_is_found_can_be_repaired(copy: Path) -> None:
    (copy / "sam/prompt/c.1.0.0").unlink()
    writer = open_writer(copy)
    for problem in verify(copy, "full"):
        writer.discard(problem.part, problem.partition)
    extract(writer, failing={"train/000001.jpg": "missing"})
    assert verify(copy, "full") == []


def test_progress_is_reported(small: Path) -> None:
    calls = []
    verify(small, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(n, 4) for n in (1, 2, 3, 4)]


def test_no_cache(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        verify(tmp_path)
