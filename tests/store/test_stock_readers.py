"""zarr-python and tensorstore read every array, with the values that our reader returns."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorstore
import zarr

from regionspot_cache.store import Cache, StorageName, open_cache, open_writer
from regionspot_cache.store.layout import part_arrays, plan_arrays
from tests.store.small_world import make_cache


def with_zarr(path: Path, array: str) -> np.ndarray:
    return np.asarray(zarr.open_array(path / array, mode="r")[...])


def with_tensorstore(path: Path, array: str) -> np.ndarray:
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path / array)}}
    return tensorstore.open(spec, read=True).result().read().result()


STOCK = pytest.mark.parametrize("read", [with_zarr, with_tensorstore])


def check_features(path: Path, cache: Cache, read) -> None:
    for part, spec in cache.parts.items():
        stored = {name: read(path, array.path) for name, array in part_arrays(spec, shape_of(path)).items()}
        for partition in range(cache.num_partitions):
            ours = open_writer(path).read_partition(part, partition)
            for name, rows in ours.items():
                np.testing.assert_array_equal(stored[name][partition, : len(rows)], rows, err_msg=name)
    maps, scales = read(path, "clip/map"), None
    if cache.parts["clip"].arrays[0].storage.scaled:
        scales = read(path, "clip/map_scale")
    for i in np.flatnonzero(cache.ok_mask("clip")):
        place = divmod(int(i), cache.partition_size)
        values, scale = cache.raw_images("clip/map", [int(i)])
        np.testing.assert_array_equal(values[0], maps[place])
        assert (scale is None) == (scales is None)
        if scales is not None:
            np.testing.assert_array_equal(scale[0], scales[place])


def shape_of(path: Path):
    return open_writer(path).record.shape


@STOCK
def test_int8_features(sealed: Path, read) -> None:
    check_features(sealed, open_cache(sealed), read)


@STOCK
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int4"])
def test_features_of_other_types(tmp_path: Path, read, dtype: StorageName) -> None:
    make_cache(tmp_path / "c", dtype=dtype, failing={"train/000000.jpg": "too large"})
    check_features(tmp_path / "c", open_cache(tmp_path / "c"), read)


@STOCK
def test_absent_records_never_look_like_zeros(sealed: Path, read) -> None:
    cache = open_cache(sealed)
    lost = np.flatnonzero(~cache.ok_mask("clip"))
    assert len(lost) == 2
    for i in [*lost, cache.num_images]:  # the last one is the padding of the last, shorter partition
        place = divmod(int(i), cache.partition_size)
        assert (read(sealed, "clip/map")[place] == -128).all()
        assert np.isnan(read(sealed, "clip/map_scale")[place]).all()
    assert read(sealed, "clip/status").ravel()[cache.num_images :].tolist() == [0]


@STOCK
def test_plan(sealed: Path, read) -> None:
    cache = open_cache(sealed)
    stored = {name: read(sealed, array.path) for name, array in plan_arrays(shape_of(sealed)).items()}
    for partition in range(cache.num_partitions):
        plan = cache.partition(partition)
        boxes, images = plan.num_boxes, plan.num_images
        for name, count in {
            "boxes": boxes,
            "sizes": images,
        }.items():
            np.testing.assert_array_equal(stored[name][partition, :count], getattr(plan, name))
        np.testing.assert_array_equal(stored["offsets"][partition, : images + 1], plan.offsets)
        ends = stored["text_offsets"][partition, : 2 * images + 1]
        text = stored["text"][partition].tobytes()[: ends[-1]]
        names = [text[a:b].decode() for a, b in zip(ends[1:-1:2], ends[2::2], strict=True)]
        assert names == plan.file_names


def test_one_object_per_array_and_partition(sealed: Path) -> None:
    for spec in open_cache(sealed).parts.values():
        for array in part_arrays(spec, shape_of(sealed)).values():
            objects = {file.name for file in (sealed / array.path).glob("c.*")}
            assert objects == {array.key(p).rsplit("/", 1)[1] for p in range(6)}
            codecs = json.loads((sealed / array.path / "zarr.json").read_text())["codecs"]
            assert [codec["name"] for codec in codecs] == ["sharding_indexed"]
            inner = [codec["name"] for codec in codecs[0]["configuration"]["codecs"]]
            assert inner == ["bytes", "crc32c"]


@pytest.mark.parametrize("name", ["plan", "sam", "clip"])
def test_plan_and_parts_are_zarr_groups(sealed: Path, name: str) -> None:
    group = zarr.open_group(sealed / name, mode="r")
    folders = {item.name for item in (sealed / name).iterdir() if item.is_dir()}
    assert {array for array, _ in group.arrays()} == folders
