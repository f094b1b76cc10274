"""The estimate is what lands on the disk."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from regionspot_cache.store import STORAGE, CachePlan, PartSpec, StorageName, create_cache, estimate
from regionspot_cache.store.layout import part_arrays, plan_arrays
from tests.store.small_world import box_array, clip_part, extract, make_dataset, map_array, sam_part


@pytest.mark.parametrize("dtype", STORAGE)
@pytest.mark.parametrize(("images", "size", "boxes"), [(23, 4, 9), (30, 7, 200), (5, 8, 1)])
def test_estimate_is_exact(tmp_path: Path, dtype: StorageName, images: int, size: int, boxes: int) -> None:
    data = make_dataset(images, max_boxes=boxes)
    parts = [sam_part(dtype), clip_part(dtype)]
    extract(create_cache(tmp_path / "c", data, partition_size=size, parts=parts))
    sizes = estimate(CachePlan(data, partition_size=size), parts)
    stored = {
        path: sum(file.stat().st_size for file in (tmp_path / "c" / path).glob("c.*"))
        for path in sizes
        if path != "total"
    }
    assert {path: size for path, size in sizes.items() if path != "total"} == stored
    assert sizes["total"] == sum(stored.values())


def test_bytes_an_image_of_the_big_presets() -> None:
    data = make_dataset(2000, max_boxes=20)
    plan = CachePlan(data)
    clip = PartSpec(name="clip", arrays=(map_array(tokens=257, width=1024),), fingerprint={})
    sam = PartSpec(name="sam", arrays=(box_array("transformer", 256),), fingerprint={})
    sizes = estimate(plan, [clip, sam])
    an_image = (sizes["clip/map"] + sizes["clip/map_scale"]) / 2000
    assert 257 * 1026 < an_image < 264_000
    a_box = (sizes["sam/transformer"] + sizes["sam/transformer_scale"]) / len(data.boxes)
    assert 258 <= a_box < 275


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(1, 50), st.integers(1, 60), st.integers(1, 30))
def test_every_array_is_cut_into_whole_chunks(images: int, size: int, boxes: int) -> None:
    shape = CachePlan(make_dataset(images, max_boxes=boxes), partition_size=size).shape
    for array in [*plan_arrays(shape).values(), *part_arrays(sam_part(), shape).values()]:
        assert all(
            shard % chunk == 0 for shard, chunk in zip(array.shard_shape, array.chunk_shape, strict=True)
        )
        assert array.shard_shape[1] - array.chunk_shape[1] < array.length <= array.shard_shape[1]
        assert array.group * (array.shards - 1) < array.partitions <= array.group * array.shards
