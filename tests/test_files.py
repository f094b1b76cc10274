import hashlib
from pathlib import Path

import pytest

from regionspot_cache.files import file_sha256, replacing


def test_a_file_is_replaced_only_when_its_writer_ends_well(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    path.write_text("old")
    with pytest.raises(TypeError), replacing(path) as staging, staging.open("w") as file:
        file.writelines(["ne", None])
    assert path.read_text() == "old"
    with replacing(path) as staging:
        staging.write_text("new")
        assert staging.suffix == ".npy"  # numpy adds the suffix to names without it
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc" * 100_000)
    assert file_sha256(tmp_path / "a") == hashlib.sha256(b"abc" * 100_000).hexdigest()
