"""Objects, markers, parts, manifest and plan belong together: nothing swapped or planned anew is read."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from regionspot_cache.errors import DamageError, IdentityError
from regionspot_cache.store import Cache, create_cache, open_cache, open_writer, verify
from regionspot_cache.store.records import to_record
from regionspot_cache.store.shards import Check
from tests.store.small_world import clip_part, extract, file_hashes, make_cache, make_dataset, sam_part

PARTS = (sam_part(), clip_part())


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Six partitions of 4 images, none failed, with at least one box in each."""
    make_cache(tmp_path / "c", make_dataset(24))
    return tmp_path / "c"


def swap(path: Path, first: str, second: str) -> None:
    spare = path.parent / "spare"
    (path / first).rename(spare)
    (path / second).rename(path / first)
    spare.rename(path / second)


def read_all(path: Path, *, check: Check = "first") -> None:
    """Every record of every array."""
    cache = open_cache(path, check=check)
    for i in range(cache.num_images):
        cache.raw_images("clip/map", [i])
        for path in ("sam/transformer", "sam/prompt"):
            cache.raw_boxes(path, i)


def plan(path: Path, *, seed: int = 0, images: int = 24, rebuild: bool = False):
    data = make_dataset(images)
    return create_cache(path, data, partition_size=4, seed=seed, parts=PARTS, rebuild=rebuild)


# Objects of the wrong partition ---------------------------------------------------------------------------


@pytest.mark.parametrize("check", ["first", "never"])
@pytest.mark.parametrize(
    "array", ["clip/map", "clip/map_scale", "sam/transformer", "sam/transformer_scale", "sam/prompt"]
)
def test_two_swapped_objects_of_one_array(cache: Path, array: str, check: Check) -> None:
    end = ".0" * (len(next((cache / array).glob("c.0*")).name.split(".")) - 2)
    names = [f"{array}/c.{p}{end}" for p in (1, 4)]
    a, b = ((cache / name).stat().st_size for name in names)
    swap(cache, *names)
    with pytest.raises(DamageError, match=rf"committed here|never written|too short.*{array}|{array}"):
        read_all(cache, check=check)
    kinds = {(p.key, p.kind) for p in verify(cache, "fast")}
    assert kinds == {(name, "record" if a == b else "size") for name in names}
    assert {p.key for p in verify(cache, "full")} == set(names)


def partition_files(path: Path, part: str, partition: int) -> list[str]:
    found = [f.relative_to(path).as_posix() for f in (path / part).rglob(f"c.{partition}.*")]
    found += [f.relative_to(path).as_posix() for f in (path / part).glob(f"status/c.{partition}.0")]
    return sorted({*found, f"markers/{part}/{partition:06d}.json"})


@pytest.mark.parametrize("part", ["sam", "clip"])
def test_two_swapped_partitions_with_their_markers(cache: Path, part: str) -> None:
    pairs = list(zip(partition_files(cache, part, 2), partition_files(cache, part, 3), strict=True))
    assert len(pairs) >= 4
    for pair in pairs:
        swap(cache, *pair)
    with pytest.raises(DamageError, match=rf"markers/{part}/00000[23].json.*not the one that was sealed"):
        read_all(cache)
    kinds = {(p.partition, p.kind) for p in verify(cache, "fast") if p.key.startswith("markers")}
    assert kinds == {(2, "identity"), (3, "identity")}
    assert open_writer(cache).pending(part) == [2, 3]


def test_two_swapped_objects_of_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("regionspot_cache.store.layout._PLAN_SHARD_BYTES", 1)  # an object a partition
    make_cache(tmp_path / "c", make_dataset(24))
    swap(tmp_path / "c", "plan/sizes/c.0.0.0", "plan/sizes/c.1.0.0")
    with pytest.raises(DamageError, match=r"committed here.*plan/sizes"):
        open_cache(tmp_path / "c").all_sizes  # noqa: B018
    found = {(p.key, p.kind) for p in verify(tmp_path / "c", "fast")}
    assert found >= {(f"plan/sizes/c.{p}.0.0", "record") for p in (0, 1)}


def test_an_object_of_a_cache_of_other_images(cache: Path, tmp_path: Path) -> None:
    extract(plan(tmp_path / "other", seed=9))
    shutil.copy(tmp_path / "other/clip/map/c.0.0.0.0", cache / "clip/map/c.0.0.0.0")
    with pytest.raises(DamageError, match="committed here"):
        read_all(cache)


def test_a_retry_of_failed_images_never_takes_a_swapped_object_along(tmp_path: Path) -> None:
    writer = make_cache(tmp_path / "c", make_dataset(24), failing={"train/000003.jpg": "missing"})
    ((partition, _),) = writer.failed("clip").items()
    swap(tmp_path / "c", f"clip/map/c.{partition}.0.0.0", f"clip/map/c.{(partition + 1) % 6}.0.0.0")
    with pytest.raises(DamageError):
        writer.read_partition("clip", partition)


def test_a_cache_that_is_open_notices_another_marker(cache: Path) -> None:
    opened = open_cache(cache)
    opened.raw_images("clip/map", [0])
    marker = cache / "markers/clip/000001.json"
    value = json.loads(marker.read_bytes())
    del value["record_sha256"]
    marker.write_bytes(to_record({**value, "host": "elsewhere"}))
    with pytest.raises(DamageError, match=r"000001\.json.*not the one that was sealed"):
        opened.raw_images("clip/map", [4])
    marker.unlink()
    with pytest.raises(DamageError, match=r"000001\.json.*missing"):
        opened.raw_images("clip/map", [4])


# Another plan ---------------------------------------------------------------------------------------------


def test_features_of_another_plan_are_neither_adopted_nor_lost(cache: Path) -> None:
    before = file_hashes(cache)
    (cache / "cache.json").unlink()
    for change in ({"seed": 1}, {"images": 20}, {"seed": 1, "rebuild": True}):
        with pytest.raises(IdentityError, match=r"part \w+ of .* was extracted for another plan"):
            plan(cache, **change)
    again = file_hashes(cache)
    assert again == {name: sha for name, sha in before.items() if name != "cache.json"}
    writer = plan(cache)  # the same plan made again
    assert [writer.pending(part) for part in ("sam", "clip")] == [[], []]
    assert file_hashes(cache) == before
    read_all(cache)
    assert verify(cache, "full") == []


def test_the_place_of_the_images_is_no_part_of_the_plan(cache: Path) -> None:
    (cache / "cache.json").unlink()
    data = replace(make_dataset(24), image_root=Path("elsewhere"))
    writer = create_cache(cache, data, partition_size=4, parts=PARTS)
    assert writer.pending("clip") == []
    read_all(cache)


@pytest.mark.parametrize("keep_parts", [False, True])
def test_markers_of_another_plan_count_as_absent(cache: Path, tmp_path: Path, keep_parts: bool) -> None:
    """Everything of another plan put around the old markers: nothing of them is used."""
    extract(plan(tmp_path / "other", seed=1))
    for name in ("cache.json", "plan", *(() if keep_parts else ("parts",))):
        source, target = tmp_path / "other" / name, cache / name
        shutil.rmtree(target, ignore_errors=True)
        target.unlink(missing_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    for metadata in (tmp_path / "other").glob("sam/*/zarr.json"):
        shutil.copy(metadata, cache / metadata.relative_to(tmp_path / "other"))
    with pytest.raises((IdentityError, DamageError)):
        open_cache(cache)
    kinds = {(p.key.split("/")[0], p.kind) for p in verify(cache, "fast")}
    if keep_parts:
        assert ("parts", "identity") in kinds
        with pytest.raises(IdentityError, match="another plan"):
            open_writer(cache)
        with pytest.raises(IdentityError, match="another plan"):
            plan(cache, seed=1, rebuild=True)
        return
    assert ("manifest.json", "identity") in kinds
    writer = plan(cache, seed=1)
    assert [writer.pending(part) for part in ("sam", "clip")] == [[*range(6)]] * 2
    extract(writer)
    assert verify(cache, "full") == []
    ours, theirs = (open_cache(path) for path in (cache, tmp_path / "other"))
    assert_same_maps(ours, theirs)


def assert_same_maps(ours: Cache, theirs: Cache) -> None:
    for i in range(ours.num_images):
        first, second = (cache.raw_images("clip/map", [i])[0] for cache in (ours, theirs))
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    "remove", [("cache.json", "parts"), ("cache.json", "manifest.json", "parts"), ("cache.json", "plan")]
)
def test_what_is_left_of_a_cache_is_not_adopted_by_another_plan(cache: Path, remove: tuple[str, ...]) -> None:
    for name in remove:
        drop: Callable = shutil.rmtree if (cache / name).is_dir() else Path.unlink
        drop(cache / name)
    if "parts" not in remove:
        with pytest.raises(IdentityError):
            plan(cache, seed=1)
        return
    writer = plan(cache, seed=1)
    assert [writer.pending(part) for part in ("sam", "clip")] == [[*range(6)]] * 2
    with pytest.raises(Exception, match=r"no complete part\n|not the one|another plan|does not belong"):
        open_cache(cache)
    extract(writer)
    assert verify(cache, "full") == []


def test_rebuild_replaces_the_parts_that_differ(cache: Path) -> None:
    other = (sam_part(), clip_part(model="other"))
    with pytest.raises(IdentityError, match=r"part clip .*model\.name"):
        create_cache(cache, make_dataset(24), partition_size=4, parts=other)
    with pytest.raises(IdentityError, match="num_images"):  # never the plan
        create_cache(cache, make_dataset(20), partition_size=4, parts=other, rebuild=True)
    writer = create_cache(cache, make_dataset(24), partition_size=4, parts=other, rebuild=True)
    assert [writer.pending(part) for part in ("sam", "clip")] == [[], [*range(6)]]
