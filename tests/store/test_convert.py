"""A cache in another storage type: the same images, boxes and networks; features moved by rounding alone."""

import multiprocessing
from dataclasses import replace
from multiprocessing.context import ForkServerContext
from pathlib import Path

import numpy as np
import pytest

from regionspot_cache.errors import DamageError, IdentityError, InputError
from regionspot_cache.store import StorageName, create_cache, open_cache, open_writer, verify
from regionspot_cache.store.convert import convert
from tests.store import fake_extractor
from tests.store.small_world import clip_part, file_hashes, make_cache, make_dataset, sam_part
from tests.store.test_faults import contents, die_everywhere
from tests.store.updating import bring_up_to_date

FAILING = {"train/000003.jpg": "missing"}


def part_as(dtype: StorageName):
    """How the parts of `make_cache` are stored as `dtype`."""
    box = "int8" if dtype == "int4" else dtype
    return {"sam": {"transformer": box, "prompt": box}, "clip": {"map": dtype}}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("float16", "int4"),
        ("float16", "int8"),
        ("bfloat16", "int4"),
        ("int8", "int4"),
        ("float16", "bfloat16"),
    ],
)
def test_features_are_those_of_the_other_type(
    tmp_path: Path, before: StorageName, after: StorageName
) -> None:
    make_cache(tmp_path / "a", dtype=before, failing=FAILING)
    untouched, steps = file_hashes(tmp_path / "a"), []
    moved = convert(tmp_path / "a", tmp_path / "b", after, progress=lambda *step: steps.append(step))
    assert file_hashes(tmp_path / "a") == untouched
    assert steps == [(n, 6) for n in range(1, 7)]
    assert verify(tmp_path / "b", "full") == []
    a, b = open_cache(tmp_path / "a"), open_cache(tmp_path / "b")
    types = {part: {x.name: x.dtype for x in spec.arrays} for part, spec in b.parts.items()}
    assert types == part_as(after)
    assert {p: s.fingerprint for p, s in b.parts.items()} == {p: s.fingerprint for p, s in a.parts.items()}
    assert (a.file_names, b.counts) == (b.file_names, a.counts)
    np.testing.assert_array_equal(a.all_boxes, b.all_boxes)
    worst = {}
    for part in ("sam", "clip"):
        np.testing.assert_array_equal(a.stamps(part), b.stamps(part))
        for i in np.flatnonzero(a.ok_mask(part)).tolist():
            for array in a.parts[part].arrays:
                path = f"{part}/{array.name}"
                old, new, kind = a.read(path, i), b.read(path, i), b.array(path).storage
                wanted = old if kind is array.storage else kind.decode(*kind.encode(old))
                np.testing.assert_array_equal(new, wanted)
                dots = (old * new).sum(-1) / np.linalg.norm(old, axis=-1) / np.linalg.norm(new, axis=-1)
                worst[path] = min(worst.get(path, 1.0), float(dots.min(initial=1)))
    changed = {f"{p}/{x.name}" for p, s in a.parts.items() for x in s.arrays if types[p][x.name] != x.dtype}
    assert set(moved) == changed
    for path, found in moved.items():
        assert found["cosine_worst"] == pytest.approx(worst[path], abs=1e-5)
        assert found["cosine_worst"] <= found["cosine_mean"] <= 1


def test_details_of_failures_and_segments_go_along(tmp_path: Path) -> None:
    dataset = make_dataset(30)
    parts = [sam_part("float16"), clip_part("float16")]
    writer = create_cache(tmp_path / "a", dataset.select(np.arange(2, 30)), partition_size=4, parts=parts)
    fake_extractor.fill(writer)
    writer.seal()
    bring_up_to_date(tmp_path / "a", dataset.select(np.arange(25)))  # adds two images, gives up five
    convert(tmp_path / "a", tmp_path / "b", "int4")
    assert verify(tmp_path / "b", "full") == []
    a, b = open_cache(tmp_path / "a"), open_cache(tmp_path / "b")
    assert (len(b.segments), b.live.tolist()) == (2, a.live.tolist())
    assert int(b.live.sum()) == 25
    for path in ("sam/transformer", "clip/map"):
        for i in np.flatnonzero(a.ok_mask(path.partition("/")[0])).tolist():
            np.testing.assert_allclose(b.read(path, i), a.read(path, i), atol=0.4)
    before, after = (open_writer(tmp_path / name).markers("clip") for name in ("a", "b"))
    assert [m.failures for m in before.values()] == [m.failures for m in after.values()]
    assert any(m.failures for m in after.values())


@pytest.mark.parametrize(("before", "after"), [("int8", "float16"), ("int8", "bfloat16"), ("int4", "int8")])
def test_a_finer_type_is_refused(tmp_path: Path, before: StorageName, after: StorageName) -> None:
    make_cache(tmp_path / "a", dtype=before)
    with pytest.raises(InputError, match="does not come back") as error:
        convert(tmp_path / "a", tmp_path / "b", after)
    assert f"dtype={after}" in error.value.remedy
    assert not (tmp_path / "b").exists()


def test_what_is_that_already_and_the_cache_itself_are_refused(tmp_path: Path) -> None:
    make_cache(tmp_path / "a")
    with pytest.raises(InputError, match="int8 already"):
        convert(tmp_path / "a", tmp_path / "b", "int8")
    with pytest.raises(InputError, match="twice"):
        convert(tmp_path / "a", tmp_path / "a", "int4")


def test_another_cache_is_never_overwritten(tmp_path: Path) -> None:
    make_cache(tmp_path / "a")
    make_cache(tmp_path / "b", make_dataset(9), dtype="int4")
    before = file_hashes(tmp_path / "b")
    with pytest.raises(IdentityError, match="other images or boxes"):
        convert(tmp_path / "a", tmp_path / "b", "int4")
    make_cache(tmp_path / "c")
    with pytest.raises(IdentityError, match="int4"):  # the same images, stored as int8
        convert(tmp_path / "a", tmp_path / "c", "int4")
    assert file_hashes(tmp_path / "b") == before


def test_damage_is_not_carried_over(tmp_path: Path) -> None:
    make_cache(tmp_path / "a")
    shard = tmp_path / "a" / "clip/map/c.2.0.0.0"
    data = bytearray(shard.read_bytes())
    data[7] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DamageError):
        convert(tmp_path / "a", tmp_path / "b", "int4")
    assert open_writer(tmp_path / "b").pending("clip") == [2, 3, 4, 5]
    assert not (tmp_path / "b" / "manifest.json").exists()


def test_a_partition_of_another_process_is_waited_for(tmp_path: Path) -> None:
    make_cache(tmp_path / "a")
    source, order = open_writer(tmp_path / "a"), []
    with pytest.raises(InterruptedError):
        convert(tmp_path / "a", tmp_path / "b", "int4", progress=lambda *_: interrupt())
    target = open_writer(tmp_path / "b")
    assert target.pending("clip") == [1, 2, 3, 4, 5]
    claim = target.claim(1)
    claim.__enter__()

    def let_go(done: int, _: int) -> None:
        order.append(open_writer(tmp_path / "b").pending("clip"))
        if done == source.num_partitions - 1:
            claim.__exit__(None, None, None)

    convert(tmp_path / "a", tmp_path / "b", "int4", progress=let_go)
    assert order[-2:] == [[1], []]


def interrupt() -> None:
    raise InterruptedError


@pytest.fixture(scope="module")
def children() -> ForkServerContext:
    """Starts children from a clean process that has everything imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.store.fake_extractor"])
    return context


def test_kill_before_any_change_of_a_conversion(tmp_path: Path, children: ForkServerContext) -> None:
    fake_extractor.run_small(tmp_path / "source")
    whole = tmp_path / "whole"
    fake_extractor.convert_beside(whole)
    assert replace(open_cache(whole).parts["clip"].arrays[0], dtype="int8") == clip_part().arrays[0]
    for path in die_everywhere(children, fake_extractor.convert_beside, None, tmp_path, every=13):
        fake_extractor.convert_beside(path)
        open_writer(path).collect_garbage()
        assert verify(path, "full") == []
        assert contents(path) == contents(whole)
