"""Records whose checksum is right and whose content is not: one clear error, never another exception."""

import copy
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.inspection import info, status
from regionspot_cache.errors import DamageError, RegionSpotError
from regionspot_cache.store import create_cache, open_cache, open_writer, verify
from regionspot_cache.store.records import CHECKSUM_KEY, to_record
from tests.store.small_world import clip_part, make_cache, make_dataset, sam_part

RECORDS = ("cache.json", "parts/sam.json", "parts/clip.json", "markers/sam/000000.json", "manifest.json")
DELETED = object()
VALUES = (DELETED, None, True, -1, 0, 2**31, 2**70, 1.5, "", "x", [], [None], {}, {"x": 1})


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("good") / "cache"
    make_cache(path, make_dataset(6), failing={"train/000001.jpg": "missing"})
    return path


@pytest.fixture
def spoilt(good: Path, tmp_path: Path) -> Path:
    shutil.copytree(good, tmp_path / "cache")
    return tmp_path / "cache"


def value_of(path: Path, record: str) -> dict[str, Any]:
    value = json.loads((path / record).read_bytes())
    del value[CHECKSUM_KEY]
    return value


def places(value: Any, at: tuple = ()) -> Iterator[tuple]:
    """The path of everything in a JSON value; of lists only the first item."""
    items = (
        value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    )
    for key, item in items:
        yield (*at, key)
        yield from places(item, (*at, key))


def changed(value: Any, at: tuple, new: object) -> Any:
    result = copy.deepcopy(value)
    inner = result
    for key in at[:-1]:
        inner = inner[key]
    if new is DELETED:
        del inner[at[-1]]
    else:
        inner[at[-1]] = new
    return result


def ask(path: Path, capsys: pytest.CaptureFixture) -> list[str]:
    """Everything that a cache is asked; what was found wrong."""

    def records() -> None:
        cache = open_cache(path)
        for i in range(cache.num_images):
            cache.image(i), cache.boxes(i), cache.size(i)
            for part, array in (("clip", "map"), ("sam", "transformer"), ("sam", "prompt")):
                if cache.ok(i, part):
                    cache.read(f"{part}/{array}", i)

    def write() -> None:
        writer = open_writer(path)
        for part in writer.parts:
            writer.pending(part), writer.failed(part)

    def checked(level: str) -> None:
        if problems := verify(path, level):
            raise RegionSpotError(problems[0].detail)

    def plan() -> None:
        create_cache(path, make_dataset(6), partition_size=4, parts=[sam_part(), clip_part()])

    refused = []
    for question in (
        records,
        write,
        lambda: checked("fast"),
        lambda: checked("full"),
        lambda: status(str(path)),
        lambda: info(str(path), as_json=True),
        plan,
    ):
        try:
            question()
        except RegionSpotError as error:
            refused.append(error.found)
    capsys.readouterr()
    return refused


@pytest.mark.parametrize("record", RECORDS)
def test_any_other_content_is_refused(
    record: str, good: Path, spoilt: Path, capsys: pytest.CaptureFixture
) -> None:
    value = value_of(good, record)
    tried = 0
    for number, at in enumerate(places(value)):
        for new in VALUES[number % 13 :: 13]:  # every value in some places, one or two in each
            other = changed(value, at, new)
            if other == value:
                continue
            (spoilt / record).write_bytes(to_record(other))
            refused = ask(spoilt, capsys)
            # What the record says of itself alone, such as a host's name, is for people and may be any text.
            free = at[0] in ("host", "time", "image_root", "dropped", "timings", "failures")
            assert refused or free, (record, at, new)
            shutil.rmtree(spoilt)
            shutil.copytree(good, spoilt)
            tried += 1
    assert tried > 10


@pytest.mark.parametrize(
    ("record", "change", "message"),
    [
        ("cache.json", (("shape", "num_images"), "six"), "shape.num_images"),
        ("cache.json", (("shape", "num_images"), 2**31 - 1), "shape.num_images = 2147483647"),
        ("cache.json", (("shape", "partition_size"), 0), "shape.partition_size"),
        ("cache.json", (("identity", "exif"), "cat"), "identity"),
        ("cache.json", (("identity", "colour"), 1), "identity.*does not write"),
        ("cache.json", (("id_kind",), "float"), "id_kind"),
        ("parts/clip.json", (("spec", "arrays", 0, "item_shape", 0), -5), "item_shape"),
        ("parts/clip.json", (("spec", "arrays", 0, "item_shape", 0), 2**30), "spec"),
        ("parts/clip.json", (("spec", "arrays", 0, "dtype"), "int2"), "dtype"),
        ("manifest.json", (("parts", "clip", "markers"), []), "lists 0 partitions"),
        ("manifest.json", (("parts", "clip", "failed"), [[99, 2]]), "lists failed images"),
        ("manifest.json", (("parts", "clip", "failed"), [[0, 1]]), "the code of no failure"),
    ],
)
def test_the_error_names_record_and_field(spoilt: Path, record: str, change: tuple, message: str) -> None:
    (spoilt / record).write_bytes(to_record(changed(value_of(spoilt, record), *change)))
    with pytest.raises(DamageError, match=rf"{record}(.|\n)*{message}"):
        open_cache(spoilt)


@pytest.mark.parametrize("record", [*RECORDS, "plan/offsets/c.0.0", "clip/map/c.0.0.0.0", "markers", "plan"])
@pytest.mark.parametrize("instead", ["folder", "loop", "pipe", "file", "link to a folder"])
def test_no_file_where_a_file_belongs(
    record: str, instead: str, spoilt: Path, capsys: pytest.CaptureFixture
) -> None:
    path = spoilt / record
    (shutil.rmtree if path.is_dir() else Path.unlink)(path)
    if instead == "folder":
        (path / "x").mkdir(parents=True)
    elif instead == "loop":
        path.symlink_to(path)
    elif instead == "pipe":
        os.mkfifo(path)
    elif instead == "file":
        path.write_bytes(b"")
    else:
        path.symlink_to(spoilt)
    assert ask(spoilt, capsys)
