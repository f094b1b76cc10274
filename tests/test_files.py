import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from regionspot_cache.errors import InputError, MissingFileError
from regionspot_cache.files import file_sha256, numbered_folder, open_file, read_json, read_text, replacing


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


def test_what_is_no_file_is_missing_and_what_is_no_text_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # opened, it would block
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "folder").mkdir()
    for name in ("none", "pipe", "loop", "folder", "x" * 5000, "a\0b", "none/below"):
        with pytest.raises(MissingFileError, match=r"There is no file|is a folder") as caught:
            read_text(tmp_path / name, "A text.", "Write it.")
        assert (caught.value.expected, caught.value.remedy) == ("A text.", "Write it.")
    with pytest.raises(MissingFileError, match="folder is a folder, not a file"):
        read_text(tmp_path / "folder", "A text.")
    (tmp_path / "names.txt").write_text("a")
    with pytest.raises(MissingFileError, match=r"Did you mean .*names\.txt\? A text"):
        read_text(tmp_path / "nmes.txt", "A text.")
    with pytest.raises(MissingFileError):
        read_text(Path("/dev/zero"), "A text.")
    (tmp_path / "bytes").write_bytes(b"ab\xff")
    with pytest.raises(InputError, match="byte 2 is 0xff"):
        read_text(tmp_path / "bytes", "A text.")
    (tmp_path / "text").write_bytes("\ufeffä".encode())
    assert read_text(tmp_path / "text", "A text.") == "ä"


@pytest.mark.parametrize("text", ["", "[", "[1] 2", "[" * 100_000, "9" * 5000])
def test_what_is_no_json(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InputError, match=r"x\.json is not JSON"):
        read_json(tmp_path / "x.json", "A list.")
    (tmp_path / "x.json").write_text('{"a": [1]}')
    assert read_json(tmp_path / "x.json", "A list.") == {"a": [1]}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "x").touch(mode=0)
    with pytest.raises(InputError, match="cannot be read: Permission denied"):
        open_file(tmp_path / "x", "A file.")


def test_numbered_folders_follow_each_other(tmp_path: Path) -> None:
    parent = tmp_path / "a" / "b"
    names = []
    for name in ("x", "my data: val/gt", "x"):
        with numbered_folder(parent, name) as folder:
            names.append(folder.name)
            (folder / "file").touch()
    assert names == ["0001-x", "0002-my-data-val-gt", "0003-x"]
    (parent / "0041-other").mkdir()
    (parent / "notes").mkdir()
    with numbered_folder(parent, "x") as folder:
        assert folder.name == "0042-x"


def test_a_numbered_folder_of_failed_work_goes_when_it_is_empty(tmp_path: Path) -> None:
    def interrupted(*files: str) -> None:
        with numbered_folder(tmp_path, "work") as folder:
            for file in files:
                (folder / file).touch()
            raise KeyboardInterrupt

    for files, left in (((), []), (("a",), ["0001-work"])):
        with pytest.raises(KeyboardInterrupt):
            interrupted(*files)
        assert [path.name for path in tmp_path.iterdir()] == left


def test_threads_get_different_numbers(tmp_path: Path) -> None:
    def number(i: int) -> str:
        with numbered_folder(tmp_path, f"n{i}") as folder:
            return folder.name[:4]

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(number, range(40)))) == 40
