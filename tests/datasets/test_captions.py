"""Captioned images: what the readers take, leave out by reason, and refuse."""

import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from regionspot_cache.datasets.caption_sources import EXCLUDED, check_source, load_captions
from regionspot_cache.datasets.caption_tars import read_webdataset
from regionspot_cache.datasets.captions import (
    AMBIGUOUS,
    BEYOND,
    EMPTY,
    NO_IMAGE,
    read_caption_json,
    read_caption_tsv,
)
from regionspot_cache.datasets.columns import UNSAFE_NAME
from regionspot_cache.errors import InputError, MissingFileError, UsageError
from tests.datasets.builders import image_file


def caption_json(file: Path, images: list, annotations: list, key: str = "annotations") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    captions = [{"image_id": image_id, "caption": text} for image_id, text in annotations]
    listed = [{"id": image_id, "file_name": name} for image_id, name in images]
    file.write_text(json.dumps({"info": {}, key: captions, "images": listed}))
    return file


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """Two images with captions as COCO lays them out."""
    for number in (1, 2):
        image_file(tmp_path / f"train2017/{number}.jpg")
    texts = [(1, f"a  dog\nnumber {i}. ") for i in range(7)] + [(2, "two cats"), (2, " \n"), (9, "a bird")]
    return caption_json(tmp_path / "annotations/captions_train2017.json", [(1, "1.jpg"), (2, "2.jpg")], texts)


@pytest.mark.parametrize("key", ["annotations", "captions"])
def test_coco_captions_come_before_their_images_and_five_are_kept(coco: Path, key: str) -> None:
    coco.write_text(coco.read_text().replace('"annotations"', f'"{key}"'))
    found = read_caption_json(coco)
    assert found.image_root == coco.parents[1]
    assert [record.file_name for record in found.records] == ["train2017/1.jpg", "train2017/2.jpg"]
    assert found.records[0].captions == tuple(f"a dog number {i}." for i in range(5))
    assert found.records[1].captions == ("two cats",)
    assert found.dropped == {BEYOND: 2, EMPTY: 1, NO_IMAGE: 1}
    assert found.num_captions == 6


def test_ids_match_as_numbers_and_as_texts(tmp_path: Path) -> None:
    image_file(tmp_path / "a.jpg")
    file = caption_json(tmp_path / "c.json", [("7", "a.jpg")], [(7, "a dog")])
    assert read_caption_json(file).records[0].captions == ("a dog",)


def test_every_image_missing_is_one_error_and_needs_no_image_where_none_is_wanted(coco: Path) -> None:
    for path in (coco.parents[1] / "train2017").iterdir():
        path.unlink()
    with pytest.raises(MissingFileError, match="--images DIR"):
        read_caption_json(coco)
    assert len(read_caption_json(coco, required=False)) == 2


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"annotations": []}, "no list `images`"),
        ({"images": []}, "no usable image"),
        ({"images": [{"id": 1, "file_name": "../a.jpg"}]}, UNSAFE_NAME),
        ({"images": [{"id": 1, "file_name": "a.jpg"}, {"id": "1", "file_name": "b.jpg"}]}, "more than once"),
        ({"images": [{"id": 1}]}, "no attribute"),
        ({"images": [{"file_name": "a.jpg"}]}, "lacks 'id'"),
        ({"images": [3]}, "`images`"),
        ({"images": [{"id": 1, "file_name": "a.jpg", "caption": 3}]}, "no text"),
        ({"images": [{"id": 1, "file_name": "a.jpg"}], "captions": [{"image_id": 1}]}, "lacks 'caption'"),
        ({"images": [{"id": 1, "file_name": "a.jpg"}], "captions": [{"caption": "a"}]}, "lacks 'image_id'"),
    ],
)
def test_files_that_are_no_captions(tmp_path: Path, content: dict, said: str) -> None:
    file = tmp_path / "c.json"
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=said):
        read_caption_json(file)


def test_tsv_lines_of_one_image_are_its_captions(tmp_path: Path) -> None:
    for name in ("a.jpg", "b c.jpg", "d.jpg"):
        image_file(tmp_path / f"pictures/{name}")
    file = tmp_path / "pairs.tsv"
    rows = [
        'a "dog\thttp://x.org/1/a.jpg?size=2',
        "a cat\thttps://y.org/b%20c.jpg",
        "the dog\thttp://x.org/1/a.jpg?size=2",
        "one\thttp://x.org/d.jpg",
        "other\thttp://y.org/d.jpg",
        "out\t../secret.jpg",
    ]
    file.write_text("\n".join(rows) + "\n")
    found = read_caption_tsv(file, tmp_path / "pictures")
    assert [tuple(record) for record in found.records] == [
        ("a.jpg", "a.jpg", ('a "dog', "the dog")),
        ("b c.jpg", "b c.jpg", ("a cat",)),
    ]
    assert found.dropped == {AMBIGUOUS: 1, UNSAFE_NAME: 1}


def test_tsv_with_a_header_in_another_order(tmp_path: Path) -> None:
    image_file(tmp_path / "a.jpg")
    (tmp_path / "c.tsv").write_text("filepath\tlicence\ttitle\na.jpg\tfree\ta dog\n")
    assert read_caption_tsv(tmp_path / "c.tsv").records == [("a.jpg", "a.jpg", ("a dog",))]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"a dog\ta.jpg\na cat", "line 2: 1 columns, not 2"),
        (b"caption\tfile\tx\na\tb\n", "line 2: 2 columns, not 3"),
        (b"a \xff\ta.jpg\n", "not UTF-8"),
        (b"", "no usable image"),
    ],
)
def test_tsv_that_cannot_be_read(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "c.tsv").write_bytes(data)
    with pytest.raises(InputError, match=said):
        read_caption_tsv(tmp_path / "c.tsv", required=False)


def picture() -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (12, 9), (9, 80, 7)).save(data, "JPEG")
    return data.getvalue()


def tar_file(path: Path, members: dict[str, bytes], *others: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for info in others:
            archive.addfile(info)
    return path


def test_pairs_of_tar_files_are_unpacked_once(tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    members = {
        "000.jpg": picture(),
        "000.txt": b"a dog\n",
        "000.json": b'{"caption": "not this"}',
        "in/001.png": picture(),
        "in/001.json": b'{"caption": ["a cat", "cats"], "url": "x"}',
        "002.txt": b"nothing to see",
    }
    tar_file(shards / "0.tar", members)
    tar_file(shards / "1.tar", {"000.txt": b"a bird", "000.JPG": picture()})
    found = read_webdataset(shards)
    assert [tuple(record) for record in found.records] == [
        ("0/000.jpg", "0/000.jpg", ("a dog",)),
        ("0/in/001.png", "0/in/001.png", ("a cat", "cats")),
        ("1/000.jpg", "1/000.jpg", ("a bird",)),
    ]
    assert found.dropped == {NO_IMAGE: 1}
    written = tmp_path / "shards-images/1/000.jpg"
    assert written.read_bytes() == picture()
    before = written.stat().st_mtime_ns
    assert read_webdataset(shards).records == found.records
    assert written.stat().st_mtime_ns == before


def test_tar_files_write_nothing_outside_the_folder(tmp_path: Path) -> None:
    link = tarfile.TarInfo("leak.jpg")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    names = ("../up.jpg", "/abs.jpg", "a/../../b.jpg", "good.jpg")
    tar = tar_file(tmp_path / "x.tar", dict.fromkeys(names, picture()), link)
    found = read_webdataset(tar, tmp_path / "to/images")
    assert [record.file_name for record in found.records] == ["x/good.jpg"]
    assert found.dropped == {UNSAFE_NAME: 3}
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert files == ["to/images/x/good.jpg", "x.tar"]


def test_a_link_in_the_image_folder_that_leads_out_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "images").mkdir()
    (tmp_path / "images/x").symlink_to(tmp_path / "elsewhere")
    tar = tar_file(tmp_path / "x.tar", {"a.jpg": picture()})
    with pytest.raises(InputError, match="leaves the image folder"):
        read_webdataset(tar, tmp_path / "images")
    assert not [*(tmp_path / "elsewhere").iterdir()]


@pytest.mark.parametrize(
    ("member", "said"),
    [
        (("a.txt", b"\xff\xfe"), "a.txt is no caption"),
        (("a.json", b"{"), "a.json is no caption"),
        (("a.json", b"[1]"), "a.json is no caption"),
        (("a.json", b'{"caption": 3}'), "neither a text"),
        (("a.json", b'{"caption": "\\ud800"}'), "neither a text"),
    ],
)
def test_captions_in_tar_files_that_are_none(tmp_path: Path, member: tuple[str, bytes], said: str) -> None:
    tar = tar_file(tmp_path / "x.tar", {"a.jpg": picture(), member[0]: member[1]})
    with pytest.raises(InputError, match=said):
        read_webdataset(tar)


@pytest.mark.parametrize("length", [0, 100, 700])
def test_broken_tar_files(tmp_path: Path, length: int) -> None:
    whole = tar_file(tmp_path / "x.tar", {"a.jpg": picture(), "a.txt": b"a dog"}).read_bytes()
    (tmp_path / "x.tar").write_bytes(whole[:length])
    with pytest.raises(InputError, match=r"x\.tar"):
        read_webdataset(tmp_path / "x.tar")


def test_the_built_in_world_has_captions(world: Path) -> None:
    found = load_captions("shapes:train", data_root=world.parent)
    entries = json.loads((world / "train.json").read_text())["images"]
    assert [record.captions for record in found.records] == [(entry["caption"],) for entry in entries]
    assert [record.image_id for record in found.records] == [entry["id"] for entry in entries]
    assert all((found.image_root / record.file_name).is_file() for record in found.records)
    by_file = load_captions(str(world / "train.json"), data_root=world.parent, images=world / "images")
    assert by_file.records == found.records


def test_a_sample_is_the_one_of_the_dataset(world: Path) -> None:
    from regionspot_cache.datasets import load_dataset

    found = load_captions("shapes:train", data_root=world.parent).sample(7, seed=3)
    wanted = load_dataset("shapes:train", data_root=world.parent, limit=7, seed=3)
    assert [record.image_id for record in found] == wanted.image_ids


def test_excluded_images_go_by_id_or_by_file_name(coco: Path, tmp_path: Path) -> None:
    (tmp_path / "val.json").write_text(
        json.dumps({"images": [{"id": 2, "coco_url": "http://c/val2017/5.jpg"}]})
    )
    found = load_captions(str(coco), data_root=tmp_path, exclude=tmp_path / "val.json")
    assert [record.image_id for record in found.records] == [1]
    assert found.dropped[EXCLUDED] == 1
    (tmp_path / "c.tsv").write_text("a dog\t2.jpg\na cat\tin/5.jpg\n")
    found = load_captions(
        str(tmp_path / "c.tsv"), data_root=tmp_path, exclude=tmp_path / "val.json", required=False
    )
    assert [record.image_id for record in found.records] == ["2.jpg"]
    with pytest.raises(InputError, match="All 2 images"):
        load_captions(str(coco), data_root=tmp_path, exclude=coco)
    (tmp_path / "val.json").write_text('{"images": []}')
    with pytest.raises(InputError, match="lists no images"):
        load_captions(str(coco), data_root=tmp_path, exclude=tmp_path / "val.json")


def test_the_digest_knows_every_caption(coco: Path) -> None:
    before = read_caption_json(coco).sha256()
    assert read_caption_json(coco).sha256() == before
    coco.write_text(coco.read_text().replace("two cats", "two dogs"))
    assert read_caption_json(coco).sha256() != before


@pytest.mark.parametrize(
    ("source", "error"),
    [("shape:train", UsageError), ("none.tsv", MissingFileError), ("none.json", MissingFileError)],
)
def test_sources_that_are_not_there(source: str, error: type[Exception], tmp_path: Path) -> None:
    with pytest.raises(error):
        check_source(source)
    with pytest.raises(error):
        load_captions(source, data_root=tmp_path)
