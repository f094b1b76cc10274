"""`status`, `info` and `verify`."""

import re
import shutil
from pathlib import Path

import pytest

from regionspot_cache.store import open_writer
from tests.running import features, rs_cache

CACHE = Path("rs-cache-data/caches/shapes-train-small")
EXTRACT = ("extract", "--backbone", "small.yaml", "--set", "partition_size=4")


@pytest.fixture
def copied(workplace: Path, finished: Path) -> Path:
    """A cache of one's own, of 24 images in 6 partitions."""
    shutil.copytree(finished / CACHE, workplace / CACHE)
    return workplace / CACHE


def test_status_counts_partitions_images_bytes_and_seconds(finished: Path) -> None:
    facts = rs_cache("status", CACHE, "--json", cwd=finished).json
    assert facts["images"] == 24
    for part in facts["parts"].values():
        assert (part["partitions"], part["committed"]) == (6, 6)
        assert part["images"]["ok"] == 24
        assert part["failures"] == []
        assert part["bytes"] > 0
        assert {"read", "decode", "prepare"} <= set(part["seconds"])
    text = rs_cache("status", CACHE, cwd=finished).out
    assert text.count("6/6 partitions (100%)") == 2
    assert text.count("network: segment_anything packaged") == text.count("network: open_clip packaged") == 1


def test_info_names_dataset_arrays_and_networks(finished: Path) -> None:
    facts = rs_cache("info", CACHE, "--json", cwd=finished).json
    assert facts["annotations"]["dataset"] == "shapes"
    assert facts["partition_size"] == 4
    arrays = {a["name"]: a for part in facts["parts"].values() for a in part["arrays"]}
    assert {"transformer", "map"} <= set(arrays)
    assert arrays["map"]["dtype"] == "int8"
    assert all(part["complete"] for part in facts["parts"].values())
    for name, part in facts["parts"].items():
        on_disk = {f"{name}/{array}": sizes(finished / CACHE / name / array) for array in arrays_of(part)}
        assert on_disk.items() <= part["bytes"].items()
    text = rs_cache("info", CACHE, cwd=finished).out
    for word in (
        "annotations shapes",
        "24 in 6 partitions of 4",
        "weights_sha256",
        "sam part, complete",
    ):
        assert word in text


def arrays_of(part: dict) -> list[str]:
    return [array["name"] for array in part["arrays"]]


def sizes(folder: Path) -> int:
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file() and f.name != "zarr.json")


@pytest.mark.parametrize("options", [(), ("--full",)])
def test_a_whole_cache_verifies(finished: Path, options: tuple[str, ...]) -> None:
    ran = rs_cache("verify", CACHE, *options, cwd=finished)
    assert ran.code == 0
    assert "no problem found" in ran.out
    assert rs_cache("verify", CACHE, *options, "--json", cwd=finished).json["problems"] == []


def test_recomputed_features_agree_and_other_networks_are_refused(finished: Path, workplace: Path) -> None:
    recompute = ("verify", CACHE, "--recompute", 2, "--json")
    ran = rs_cache(*recompute, "--backbone", "small.yaml", cwd=finished)
    assert ran.code == 0, ran.err
    assert ran.json["recomputed"]["images"] == 2
    distances = ran.json["recomputed"]["cosine_distance"]
    assert set(distances) == {"sam/transformer", "clip/map"}
    assert 0 < max(distances.values()) < 1e-3
    ran = rs_cache(*recompute, "--backbone", "other.yaml", cwd=finished)
    assert ran.code == 4
    assert "clip.weights_sha256" in ran.error["error"]
    assert "--backbone" in ran.error["next"]


def test_recomputing_finds_images_that_were_exchanged(copied: Path, workplace: Path) -> None:
    images = workplace / "rs-cache-data/datasets/shapes/images/train"
    other = workplace / "other/train"
    shutil.copytree(images, other)
    recompute = ("verify", copied, "--recompute", 3, "--backbone", "small.yaml")
    assert rs_cache(*recompute, "--images", other.parent).code == 0
    files = sorted(other.iterdir())
    contents = [file.read_bytes() for file in files]
    for file, content in zip(files, contents[1:] + contents[:1], strict=True):
        file.write_bytes(content)
    ran = rs_cache(*recompute, "--images", other.parent)
    assert ran.code == 4
    assert "cosine distance" in ran.error["error"]


@pytest.mark.parametrize("part", ["sam", "clip"])
def test_a_cache_of_one_part_and_other_arrays_recomputes(part: str, workplace: Path) -> None:
    of = ("--cache", "one", "--backbone", "everything.yaml")
    ran = rs_cache("extract", *of, "--part", part, "--limit", 4)
    assert ran.code == 0
    ran = rs_cache("verify", "one", "--recompute", 1, "--backbone", "everything.yaml", "--json")
    assert ran.code == 0, ran.err
    of_sam = {"sam/transformer", "sam/prompt", "sam/mlp", "sam/embedding"}
    expected = {"sam": of_sam, "clip": {"clip/map"}}[part]
    assert set(ran.json["recomputed"]["cosine_distance"]) == expected


def one_of_each_kind(cache: Path) -> list[str]:
    """Keys of all files, but one only of those that differ in numbers."""
    keys = sorted(p.relative_to(cache).as_posix() for p in cache.rglob("*") if p.is_file())
    return list({re.sub(r"\d+", "N", key): key for key in keys}.values())


def flip(path: Path, where: float = 0.6) -> None:
    data = bytearray(path.read_bytes())
    data[int(where * len(data))] ^= 0x10
    path.write_bytes(data)


def test_one_flipped_byte_in_any_file_is_found_and_the_file_named(copied: Path) -> None:
    keys = one_of_each_kind(copied)
    assert {"cache.json", "manifest.json", "parts/sam.json", "sam/zarr.json"} < set(keys)
    assert len(keys) > 25
    for key in keys:
        kept = (copied / key).read_bytes()
        flip(copied / key)
        ran = rs_cache("verify", copied, "--full", "--json")
        assert ran.code == 4, key
        assert key in {problem["key"] for problem in ran.json["problems"]}
        assert str(copied) in ran.error["error"]
        assert "rs-cache" in ran.error["next"]
        (copied / key).write_bytes(kept)
    assert rs_cache("verify", copied, "--full").code == 0


@pytest.mark.parametrize(
    "key",
    [
        "sam/transformer/c.2.0.0",
        "clip/map/c.1.0.0.0",
        "clip/status/c.0.0",
        "markers/sam/000003.json",
        "manifest.json",
    ],
)
@pytest.mark.parametrize("harm", ["flipped", "gone"])
def test_repair_then_extract_heals(key: str, harm: str, copied: Path) -> None:
    before = features(copied)
    flip(copied / key) if harm == "flipped" else (copied / key).unlink()
    ran = rs_cache("verify", copied, "--full", "--repair")
    assert ran.code == (3 if (harm, key) == ("gone", "manifest.json") else 4), ran.err
    assert "rs-cache extract" in ran.error["next"]
    writer = open_writer(copied)
    if not key.startswith("clip/status"):  # one object for many partitions
        assert sum(len(writer.pending(part)) for part in writer.parts) <= 1
    ran = rs_cache(*EXTRACT)
    assert ran.code == 0, ran.err
    assert rs_cache("verify", copied, "--full").code == 0
    assert features(copied) == before


def test_unfinished_is_not_damaged(workplace: Path) -> None:
    assert rs_cache(*EXTRACT, "--part", "sam").code == 0
    (CACHE / "markers/sam/000002.json").unlink()
    (CACHE / "manifest.json").unlink()
    ran = rs_cache("verify", CACHE, "--full")
    assert ran.code == 3
    assert "not finished" in ran.error["error"]
    assert "5/6 partitions" in rs_cache("status", CACHE).out
