"""Several segments are read as one cache, and nothing that does not belong together is."""

import base64
import json
import pickle
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regionspot_cache.errors import DamageError, IdentityError, IncompleteError, InputError, RegionSpotError
from regionspot_cache.store import Cache, open_cache, open_writer, rebuild_part, verify
from regionspot_cache.store.create import add_parts
from regionspot_cache.store.records import CHECKSUM_KEY, to_record
from regionspot_cache.store.segments import SegmentEntry, packed, segment_places
from tests.store.small_world import (
    box_array,
    clip_part,
    extract,
    file_hashes,
    make_cache,
    make_dataset,
    map_of,
    sam_part,
)
from tests.store.test_update import shifted, without
from tests.store.updating import begin, bring_up_to_date

ALL = make_dataset(30)
FAILING = {"train/000012.jpg": "missing"}


@pytest.fixture(scope="module")
def updated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three segments: 23 images of which 3 were given up, 7 of which one was, 1. Tests must not change it."""
    path = tmp_path_factory.mktemp("updated") / "cache"
    make_cache(path, ALL.select(np.arange(23)), failing=FAILING)
    bring_up_to_date(path, without(ALL, 0, 5))
    bring_up_to_date(path, without(shifted(ALL, 24), 0, 5, 9))
    return path


@pytest.fixture
def copy(updated: Path, tmp_path: Path) -> Path:
    shutil.copytree(updated, tmp_path / "c")
    return tmp_path / "c"


# Positions ------------------------------------------------------------------------------------------------


def test_positions_begin_a_partition_in_each_segment(updated: Path) -> None:
    cache = open_cache(updated)
    assert cache.segment_starts.tolist() == [0, 24, 32]
    assert (cache.num_images, len(cache), cache.num_partitions) == (33, 33, 9)
    assert cache.live.sum() == 27
    assert cache.offsets.shape == (34,)
    assert cache.num_boxes == len(cache.all_boxes) == cache.offsets[-1]
    assert cache.all_sizes.shape == (33, 2)
    assert len(cache.file_names) == 33


def test_a_position_without_an_image_has_nothing(updated: Path) -> None:
    cache = open_cache(updated)
    for i in (23, 31):
        assert not cache.live[i]
        assert not cache.ok(i, "sam")
        assert cache.file_names[i] == ""
        assert cache.boxes(i).shape == (0, 4)
        assert cache.size(i) == (0, 0)
        with pytest.raises(InputError, match="image"):
            cache.image(i)
        for path in ("clip/map", "sam/prompt"):
            with pytest.raises(InputError, match="image"):
                cache.read(path, i)
    for i in (-1, 33):
        with pytest.raises(InputError, match="image"):
            cache.image(i)
        with pytest.raises(InputError, match="image"):
            cache.read("clip/map", i)


def test_partitions_of_the_whole_are_those_of_the_segments(updated: Path) -> None:
    cache = open_cache(updated)
    for p in range(cache.num_partitions):
        plan = cache.partition(p)
        for slot, name in enumerate(plan.file_names):
            i = p * cache.partition_size + slot
            assert cache.image(i) == (plan.image_ids[slot], name)
            assert cache.file_names[i] == name
            rows = slice(plan.offsets[slot], plan.offsets[slot + 1])
            np.testing.assert_array_equal(cache.boxes(i), plan.boxes[rows])
            assert list(cache.size(i)) == plan.sizes[slot].tolist()


@given(st.lists(st.integers(0, 32), max_size=30))
def test_maps_of_any_segments_in_any_order(updated: Path, wanted: list[int]) -> None:
    cache = open_cache(updated, parts=("clip",))
    wanted = [i for i in wanted if cache.ok(i, "clip")]
    values, scales = cache.raw_images("clip/map", wanted)
    assert values.shape == (len(wanted), 5, 12)
    assert scales is not None
    for row, i in enumerate(wanted):
        found = values[row].astype(np.float32) * scales[row, :, None].astype(np.float32)
        np.testing.assert_allclose(found, map_of(cache.file_names[i]), atol=0.02)


def test_counts_and_stamps_of_all_segments(updated: Path) -> None:
    cache = open_cache(updated)
    assert cache.counts == {part: Counter(ok=30, missing=1) for part in ("sam", "clip")}
    assert cache.ok_mask("sam").sum() == 26
    stamps = cache.stamps("sam")
    assert stamps.shape == (33, 3)
    (failed,) = np.flatnonzero(cache.live & ~cache.ok_mask("sam"))
    assert set(np.flatnonzero(stamps[:, 0] == 0).tolist()) == {23, 31, failed}


def read_everything(cache: Cache) -> list[bytes]:
    ok = np.flatnonzero(cache.ok_mask("clip")).tolist()
    return [cache.read(path, i).tobytes() for i in ok for path in ("clip/map", "sam/transformer")]


def test_a_pickled_cache_opens_all_segments_again(updated: Path) -> None:
    cache = open_cache(updated)
    assert read_everything(pickle.loads(pickle.dumps(cache))) == read_everything(cache)  # noqa: S301


def test_updates_work_on_object_stores(tmp_path: Path, updated: Path) -> None:
    (tmp_path / "bucket").mkdir()
    url = f"file://{tmp_path}/bucket"
    make_cache(url, ALL.select(np.arange(23)), failing=FAILING)
    bring_up_to_date(url, without(ALL, 0, 5))
    bring_up_to_date(url, without(shifted(ALL, 24), 0, 5, 9))
    assert verify(url, "full") == []
    assert read_everything(open_cache(url)) == read_everything(open_cache(updated))
    assert set(file_hashes(tmp_path / "bucket")) == set(file_hashes(updated))


# Parts over segments --------------------------------------------------------------------------------------


DEPTH = type(clip_part())(name="depth", arrays=(box_array("mean", 3),), fingerprint={"v": 1})


def test_a_part_counts_once_all_segments_have_it(copy: Path) -> None:
    before = read_everything(open_cache(copy))
    for place in segment_places(copy):
        assert set(open_cache(copy).parts) == {"sam", "clip"}
        with pytest.raises(IncompleteError, match="no complete part depth"):
            open_cache(copy, parts=("depth",))
        extract(add_parts(place, [DEPTH]))
    cache = open_cache(copy)
    assert set(cache.parts) == {"sam", "clip", "depth"}
    assert cache.read("depth/mean", 32).shape == (len(cache.boxes(32)), 3)
    assert read_everything(cache) == before
    assert verify(copy, "full") == []


def test_segments_of_two_networks_are_not_read_together(copy: Path) -> None:
    extract(rebuild_part(copy, clip_part(model="other")))
    with pytest.raises(IdentityError, match="segments"):
        open_cache(copy)
    with pytest.raises(IdentityError, match=r"model\.name"):
        open_cache(copy, parts=("clip",), expect={"clip": clip_part(model="other").fingerprint})
    assert open_cache(copy, parts=("sam",), expect={"sam": sam_part().fingerprint})


def test_no_part_in_common(copy: Path) -> None:
    last = segment_places(copy)[-1]
    for part in ("sam", "clip"):
        open_writer(last).discard(part, 0)
    with pytest.raises(IncompleteError, match="no complete part"):
        open_cache(copy)


# Damage ---------------------------------------------------------------------------------------------------


def value_of(path: Path, name: str = "segments.json") -> dict[str, Any]:
    value = json.loads((path / name).read_bytes())
    del value[CHECKSUM_KEY]
    return value


def named(path: Path, level: str = "full") -> set[str]:
    return {problem.key for problem in verify(path, level)}


def test_every_changed_or_deleted_file_is_found(copy: Path) -> None:
    rng = np.random.default_rng(0)
    assert verify(copy, "full") == []
    files = sorted(file_hashes(copy))
    chosen = [n for n in files if n.endswith(".json") or "updates" in n]
    for name in [*rng.choice(chosen, 40, replace=False).tolist(), "segments.json"]:
        file = copy / name
        data = file.read_bytes()
        spoilt = bytearray(data)
        spoilt[int(rng.integers(len(data)))] ^= int(rng.integers(1, 256))
        file.write_bytes(spoilt)
        if name != "cache.json":
            assert name in named(copy), name
        file.unlink()
        if name != "cache.json":
            assert verify(copy, "fast"), name
        file.write_bytes(data)
    assert verify(copy, "full") == []


def test_problems_say_in_which_segment(copy: Path) -> None:
    name = value_of(copy)["segments"][1]["name"]
    file = copy / name / "clip/map/c.0.0.0.0"
    data = bytearray(file.read_bytes())
    data[9] ^= 1
    file.write_bytes(data)
    problems = verify(copy, "full")
    assert {(p.segment, p.part, p.partition, p.key) for p in problems} == {
        (name, "clip", 0, f"{name}/clip/map/c.0.0.0.0")
    }
    with pytest.raises(DamageError, match="crc32c"):
        open_cache(copy).read("clip/map", 24)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda v: v.update(segments=[]),
        lambda v: v.update(segments=v["segments"][1:]),
        lambda v: v.update(segments=[*v["segments"], v["segments"][1]]),
        lambda v: v["segments"][1].update(name="../x"),
        lambda v: v["segments"][1].update(name="updates/../.."),
        lambda v: v["segments"][1].update(name="updates/" + "g" * 16),
        lambda v: v["segments"][1].update(plan_digest="ab"),
        lambda v: v["segments"][0].update(removed="???"),
        lambda v: v["segments"][0].update(removed=base64.b64encode(b"1").decode()),
        lambda v: v["segments"][2].update(removed=base64.b64encode(b"12").decode()),
        lambda v: v.update(more=1),
        lambda v: v.update(source={"dataset": "x"}),
    ],
)
def test_a_list_of_segments_with_other_content_is_refused(copy: Path, spoil) -> None:
    value = value_of(copy)
    spoil(value)
    (copy / "segments.json").write_bytes(to_record(value))
    with pytest.raises(DamageError, match=r"segments\.json"):
        open_cache(copy)
    assert "segments.json" in named(copy, "fast")


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"\xff"])
@pytest.mark.parametrize("name", ["segments.json", "update.json"])
def test_damaged_records_of_segments_are_refused(copy: Path, name: str, data: bytes) -> None:
    (copy / name).write_bytes(data)
    with pytest.raises(DamageError, match=name):
        open_cache(copy)
    assert named(copy, "fast") == {name}


def test_a_segment_of_another_plan_is_refused(copy: Path) -> None:
    value = value_of(copy)
    value["segments"][1]["plan_digest"] = "ab" * 32
    (copy / "segments.json").write_bytes(to_record(value))
    with pytest.raises(IdentityError, match="another plan"):
        open_cache(copy)
    assert {(p.key, p.kind) for p in verify(copy, "fast")} == {("segments.json", "identity")}


def test_two_swapped_segments_are_refused(copy: Path, tmp_path: Path) -> None:
    first, second = (copy / entry["name"] for entry in value_of(copy)["segments"][1:])
    first.rename(tmp_path / "spare")
    second.rename(first)
    (tmp_path / "spare").rename(second)
    with pytest.raises(IdentityError, match="another plan"):
        open_cache(copy)
    assert "segments.json" in named(copy, "fast")


def test_a_segment_that_is_gone(copy: Path) -> None:
    name = value_of(copy)["segments"][1]["name"]
    shutil.rmtree(copy / name)
    with pytest.raises(RegionSpotError, match=name):
        open_cache(copy)
    assert {(p.segment, p.key, p.kind) for p in verify(copy, "fast")} == {
        (name, f"{name}/cache.json", "missing")
    }


def test_without_the_list_its_segments_are_foreign(copy: Path) -> None:
    (copy / "segments.json").unlink()
    assert {p.kind for p in verify(copy, "fast")} == {"foreign"}
    assert all(key.startswith("updates/") for key in named(copy, "fast"))


def test_files_of_no_segment_are_foreign(copy: Path) -> None:
    (copy / "updates" / "x").write_text("?")
    assert [(p.key, p.kind) for p in verify(copy, "fast")] == [("updates/x", "foreign")]


def test_an_update_under_way_is_unfinished_not_damage(copy: Path) -> None:
    places = segment_places(copy)
    _, writer, _ = begin(copy, ALL)
    assert segment_places(copy) == places
    for _ in range(2):
        assert [(p.key, p.kind) for p in verify(copy, "full")] == [("update.json", "unsealed")]
        (Path(writer.objects.url) / "cache.json").unlink(missing_ok=True)  # as if killed while it was planned


# Removed images -------------------------------------------------------------------------------------------


@given(st.lists(st.booleans(), max_size=40))
def test_removed_positions_are_kept_bit_by_bit(removed: list[bool]) -> None:
    mask = np.array(removed, bool)
    entry = SegmentEntry(name="", plan_digest="ab" * 32, removed=packed(mask))
    np.testing.assert_array_equal(entry.removed_mask(len(mask)), mask)
    assert any(removed) == bool(entry.removed)
