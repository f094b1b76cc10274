"""Committing, retrying, identity, sealing."""

import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from regionspot_cache.errors import IncompleteError, InputError
from regionspot_cache.store import (
    STATUS_CODES,
    STORAGE,
    CacheWriter,
    StorageName,
    Stored,
    create_cache,
    open_cache,
    open_writer,
    quantise,
    verify,
)
from tests.store.small_world import (
    clip_part,
    extract,
    features,
    file_hashes,
    make_cache,
    make_dataset,
    sam_part,
    status_of,
)


@pytest.fixture
def writer(tmp_path: Path) -> CacheWriter:
    return create_cache(tmp_path / "c", make_dataset(), partition_size=4, parts=[sam_part(), clip_part()])


def commit(writer: CacheWriter, part: str, partition: int, failing: dict[str, str] | None = None) -> str:
    plan = writer.partition(partition)
    return writer.commit(part, partition, features(part, plan), status_of(plan, failing or {}))


def test_pending_shrinks_partition_by_partition(writer: CacheWriter) -> None:
    assert writer.pending("sam") == writer.pending("clip") == [0, 1, 2, 3, 4, 5]
    assert commit(writer, "sam", 3) == "committed"
    assert writer.pending("sam") == [0, 1, 2, 4, 5]
    assert writer.pending("clip") == [0, 1, 2, 3, 4, 5]
    with pytest.raises(IncompleteError, match="clip 0 of 6, sam 1 of 6"):
        writer.seal()


def test_writers_can_be_pickled(writer: CacheWriter) -> None:
    commit(writer, "sam", 3)
    assert pickle.loads(pickle.dumps(writer)).pending("sam") == [0, 1, 2, 4, 5]  # noqa: S301


def test_the_second_commit_of_a_partition_changes_nothing(writer: CacheWriter) -> None:
    commit(writer, "clip", 0)
    before = file_hashes(Path(writer.objects.url))
    assert commit(writer, "clip", 0, failing={writer.partition(0).file_names[1]: "missing"}) == "lost race"
    assert file_hashes(Path(writer.objects.url)) == before


def test_marker_records_what_happened(writer: CacheWriter) -> None:
    plan = writer.partition(2)
    failing = {plan.file_names[1]: "size mismatch"}
    writer.commit(
        "sam", 2, features("sam", plan), status_of(plan, failing), timings={"read": 0.5, "sam": np.float32(2)}
    )
    marker = writer.markers("sam")[2]
    assert marker.counts == {"ok": 3, "size mismatch": 1}
    assert marker.failed == ((1, STATUS_CODES["size mismatch"]),)
    assert marker.failures == (
        {"image_id": plan.image_ids[1], "file_name": plan.file_names[1], "reason": "size mismatch"},
    )
    assert marker.timings == {"read": 0.5, "sam": 2.0, "write": marker.timings["write"]}
    assert marker.timings["write"] > 0
    for key, entry in marker.objects.items():
        assert (Path(writer.objects.url) / key).stat().st_size == entry.bytes
    assert writer.failed("sam") == {2: [1]}


def test_values_of_failed_images_are_ignored(writer: CacheWriter) -> None:
    plan = writer.partition(0)
    arrays = features("clip", plan)
    arrays["map"][2] = np.nan
    with pytest.raises(InputError, match="NaN"):
        writer.commit("clip", 0, arrays, status_of(plan, {}))
    status = status_of(plan, {plan.file_names[2]: "non-finite features"})
    assert writer.commit("clip", 0, arrays, status) == "committed"
    assert np.isnan(writer.read_partition("clip", 0)["map_scale"][2]).all()


def test_features_may_come_quantised(writer: CacheWriter, tmp_path: Path) -> None:
    for part in ("sam", "clip"):
        plan = writer.partition(0)
        ready = {name: quantise(values) for name, values in features(part, plan).items()}
        status = status_of(plan, {plan.file_names[0]: "missing"})
        writer.commit(part, 0, ready, status)
        other = create_cache(
            tmp_path / "o", make_dataset(), partition_size=4, parts=[sam_part(), clip_part()]
        )
        other.commit(part, 0, features(part, plan), status)
        ours, theirs = writer.read_partition(part, 0), other.read_partition(part, 0)
        for name in ours:
            np.testing.assert_array_equal(ours[name], theirs[name])


@pytest.mark.parametrize(
    "spoil",
    [
        lambda q: Stored(q.values, np.zeros_like(q.scale)),
        lambda q: Stored(q.values, q.scale.astype(np.float32)),
        lambda q: Stored(np.full_like(q.values, -128), q.scale),
        lambda q: Stored(q.values.astype(np.int16), q.scale),
        lambda q: Stored(q.values[:-1], q.scale[:-1]),
        lambda q: Stored(q.values),
    ],
)
def test_bad_quantised_features_are_refused(writer: CacheWriter, spoil) -> None:
    plan = writer.partition(0)
    with pytest.raises(InputError):
        writer.commit("clip", 0, {"map": spoil(quantise(features("clip", plan)["map"]))}, status_of(plan, {}))
    assert writer.pending("clip") == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("dtype", "bad"),
    [
        ("float16", np.float16("nan")),
        ("float16", np.float32(1)),
        ("bfloat16", np.uint16(0x7F80)),
        ("bfloat16", np.uint16(0xFFFF)),
    ],
)
def test_bad_stored_features_are_refused(tmp_path: Path, dtype: StorageName, bad: Any) -> None:
    writer = create_cache(tmp_path / "o", make_dataset(), partition_size=4, parts=[clip_part(dtype)])
    plan = writer.partition(0)
    good = STORAGE[dtype].encode(features("clip", plan)["map"])
    spoilt = np.where(np.arange(12) == 3, bad, good.values)
    for stored in (Stored(spoilt), Stored(good.values, np.ones(good.values.shape[:-1], np.float16))):
        with pytest.raises(InputError, match="out of range"):
            writer.commit("clip", 0, {"map": stored}, status_of(plan, {}))
    assert writer.commit("clip", 0, {"map": good}, status_of(plan, {})) == "committed"


def test_features_that_do_not_fit_are_refused(writer: CacheWriter) -> None:
    plan = writer.partition(0)
    good, status = features("sam", plan), status_of(plan, {})
    with pytest.raises(InputError, match="shape"):
        writer.commit("sam", 0, {**good, "prompt": good["prompt"][:-1]}, status)
    with pytest.raises(InputError, match="transformer"):
        writer.commit("sam", 0, {"prompt": good["prompt"]}, status)
    for wrong in (status[:-1], status.astype(int), np.zeros_like(status), np.full_like(status, 99)):
        with pytest.raises(InputError, match="status"):
            writer.commit("sam", 0, good, wrong)
    with pytest.raises(InputError, match="no part depth"):
        writer.commit("depth", 0, good, status)


def test_images_and_partitions_without_boxes(tmp_path: Path) -> None:
    make_cache(tmp_path / "c", make_dataset(9, max_boxes=1))
    cache = open_cache(tmp_path / "c")
    assert cache.num_boxes == 0
    assert cache.read("sam/transformer", 3).shape == (0, 8)
    assert cache.read("clip/map", 3).shape == (5, 12)
    assert verify(tmp_path / "c", "full") == []


def test_a_part_in_which_everything_failed(tmp_path: Path) -> None:
    data = make_dataset(6)
    make_cache(tmp_path / "c", data, failing=dict.fromkeys(data.file_names, "missing"))
    assert open_cache(tmp_path / "c").counts["clip"] == Counter(missing=6)
    assert verify(tmp_path / "c", "full") == []


# Retrying -------------------------------------------------------------------------------------------------


def test_retry_replaces_failed_slots_only(tmp_path: Path) -> None:
    data = make_dataset()
    failing = dict.fromkeys(data.file_names[::3], "missing")
    make_cache(tmp_path / "whole", data)
    writer = make_cache(tmp_path / "c", data, failing=failing)
    still = {data.file_names[0]: "too large"}
    for part in ("sam", "clip"):
        for partition, slots in writer.failed(part).items():
            before = writer.read_partition(part, partition)
            plan = writer.partition(partition)
            boxes = [r for s in slots for r in range(plan.offsets[s], plan.offsets[s + 1])]
            chosen = boxes if part == "sam" else slots
            arrays = {name: values[chosen] for name, values in features(part, plan).items()}
            status = status_of(plan, still)
            assert writer.recommit(part, partition, slots, arrays, status[slots]) == "committed"
            after = writer.read_partition(part, partition)
            others = [s for s in range(plan.num_images) if s not in slots]
            rows = [r for s in others for r in range(plan.offsets[s], plan.offsets[s + 1])]
            kept = rows if part == "sam" else others
            for name in set(after) - {"status", "file"}:
                np.testing.assert_array_equal(after[name][kept], before[name][kept])
            np.testing.assert_array_equal(after["file"][others], before["file"][others])
            np.testing.assert_array_equal(after["status"], status)
    with pytest.raises(IncompleteError):
        open_cache(tmp_path / "c")
    writer.seal()
    assert verify(tmp_path / "c", "full") == []
    cache, whole = open_cache(tmp_path / "c"), open_cache(tmp_path / "whole")
    assert cache.counts == {part: {"ok": 22, "too large": 1} for part in ("sam", "clip")}
    for i in np.flatnonzero(cache.ok_mask("clip")):
        ours, theirs = (c.raw_images("clip/map", [int(i)])[0] for c in (cache, whole))
        np.testing.assert_array_equal(ours, theirs)
        ours, theirs = (c.raw_boxes("sam/transformer", int(i))[0] for c in (cache, whole))
        np.testing.assert_array_equal(ours, theirs)


def test_a_crash_in_a_retry_leaves_an_uncommitted_partition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_dataset()
    writer = make_cache(tmp_path / "c", data, failing={data.file_names[5]: "missing"})
    ((partition, slots),) = writer.failed("clip").items()
    plan = writer.partition(partition)
    arrays = {"map": features("clip", plan)["map"][slots]}
    from regionspot_cache.store.local import LocalStage

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    for step in ("publish", "put_if_absent"):
        with monkeypatch.context() as patch:
            patch.setattr(LocalStage, step, crash)
            with pytest.raises(KeyboardInterrupt):
                writer.recommit("clip", partition, slots, arrays, np.array([1], np.uint8))
        kinds = {problem.kind for problem in verify(tmp_path / "c", "full")}
        assert kinds <= {"uncommitted", "unsealed"}
    assert writer.pending("clip") == [partition]
    extract(writer)
    assert verify(tmp_path / "c", "full") == []


def test_only_failed_slots_can_be_retried(tmp_path: Path) -> None:
    data = make_dataset()
    writer = make_cache(tmp_path / "c", data, failing={data.file_names[5]: "missing"})
    ((partition, slots),) = writer.failed("clip").items()
    one = {"map": np.zeros((1, 5, 12), np.float32)}
    with pytest.raises(InputError, match="retry of images"):
        writer.recommit("clip", partition, [(slots[0] + 1) % 3], one, np.array([1], np.uint8))
    writer.discard("clip", partition)
    with pytest.raises(InputError, match="retry of images"):
        writer.recommit("clip", partition, slots, one, np.array([1], np.uint8))


def test_discarding_unseals_and_makes_pending(tmp_path: Path) -> None:
    writer = make_cache(tmp_path / "c")
    writer.discard("sam", 4)
    assert writer.pending("sam") == [4]
    with pytest.raises(IncompleteError, match="no complete part sam"):
        open_cache(tmp_path / "c", parts=("sam", "clip"))
    assert set(open_cache(tmp_path / "c").parts) == {"clip"}
    extract(writer)
    assert set(open_cache(tmp_path / "c").parts) == {"sam", "clip"}


def test_a_damaged_marker_makes_its_partition_pending_again(tmp_path: Path) -> None:
    writer = make_cache(tmp_path / "c")
    (tmp_path / "c/markers/sam/000002.json").write_bytes(b"{}")
    assert open_writer(tmp_path / "c").pending("sam") == [2]
    extract(writer)
    assert verify(tmp_path / "c", "full") == []
