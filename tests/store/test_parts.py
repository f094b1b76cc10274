"""Parts are data: any names, any number of arrays, by box and by image beside each other."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from regionspot_cache.errors import IncompleteError, InputError
from regionspot_cache.store import (
    ArraySpec,
    CachePlan,
    PartSpec,
    create_cache,
    estimate,
    open_cache,
    open_writer,
    rebuild_part,
    verify,
)
from tests.store.small_world import (
    box_array,
    clip_part,
    extract,
    features,
    file_hashes,
    make_dataset,
    map_array,
    sam_part,
    status_of,
)

WIDE = PartSpec(
    name="dino_v2",
    arrays=(
        map_array(),
        map_array("map_4", tokens=3, width=7, dtype="float16"),
        box_array("pooled", 6),
        box_array("corners", 4, "float16"),
        box_array("brain", 6, "bfloat16"),
        ArraySpec(name="cls", dtype="int8", item_shape=(9,), ragged=False),
    ),
    fingerprint={"model": "v2"},
)
OTHER = PartSpec(name="x1", arrays=(box_array("a", 3),), fingerprint={})
FAILING = {"train/000003.jpg": "missing"}


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed cache of three parts; tests must not change it."""
    path = tmp_path_factory.mktemp("wide") / "cache"
    writer = create_cache(path, make_dataset(), partition_size=4, parts=[WIDE, OTHER, clip_part()])
    extract(writer, failing=FAILING)
    return path


def test_every_array_of_a_part_comes_back(wide: Path) -> None:
    cache = open_cache(wide)
    assert cache.parts == {"dino_v2": WIDE, "x1": OTHER, "clip": clip_part()}
    for p in range(cache.num_partitions):
        plan = cache.partition(p)
        for part, spec in cache.parts.items():
            made = features(spec, plan)
            for array in spec.arrays:
                path = f"{part}/{array.name}"
                assert cache.array(path) == array
                for slot in range(plan.num_images):
                    if not cache.ok(i := p * 4 + slot, part):
                        continue
                    rows = slice(plan.offsets[slot], plan.offsets[slot + 1]) if array.ragged else slot
                    found = cache.read(path, i)
                    assert found.dtype == np.float32
                    np.testing.assert_allclose(found, made[array.name][rows], atol=0.02, err_msg=path)


def test_the_stored_types_are_those_of_the_arrays(wide: Path) -> None:
    cache = open_cache(wide)
    i = next(i for i in range(len(cache)) if cache.ok(i, "x1") and len(cache.boxes(i)))
    for array in WIDE.arrays:
        read = cache.raw_boxes if array.ragged else lambda path, i: cache.raw_images(path, [i])
        values, scale = read(f"dino_v2/{array.name}", i)
        assert values.dtype == array.storage.dtype
        assert (scale is None) == (array.dtype != "int8")
        assert values.shape[1:] == array.item_shape
        assert scale is None or scale.shape == values.shape[:-1]


def test_such_a_cache_is_whole_and_as_large_as_estimated(wide: Path) -> None:
    assert verify(wide, "full") == []
    sizes = estimate(CachePlan(make_dataset(), partition_size=4), [WIDE])
    for array in WIDE.arrays:
        path = f"dino_v2/{array.name}"
        stored = sum(file.stat().st_size for file in (wide / path).glob("c.*"))
        assert 0.7 * sizes[path] < stored <= sizes[path]  # an image failed


def test_only_the_parts_asked_for_are_opened(wide: Path) -> None:
    cache = open_cache(wide, parts=("x1",))
    assert set(cache.parts) == set(cache.counts) == {"x1"}
    with pytest.raises(InputError, match="no array clip/map"):
        cache.read("clip/map", 0)
    with pytest.raises(IncompleteError, match=r"no complete part sam; complete: .*x1"):
        open_cache(wide, parts=("x1", "sam"))


def test_failed_images_are_tried_again_in_every_array(wide: Path, tmp_path: Path) -> None:
    writer = create_cache(tmp_path / "c", make_dataset(), partition_size=4, parts=[WIDE])
    extract(writer, failing=FAILING)
    ((p, (slot,)),) = writer.failed("dino_v2").items()
    plan = writer.partition(p)
    rows = slice(plan.offsets[slot], plan.offsets[slot + 1])
    arrays = {
        array.name: features(WIDE, plan)[array.name][rows if array.ragged else [slot]]
        for array in WIDE.arrays
    }
    assert writer.recommit("dino_v2", p, [slot], arrays, status_of(plan, {})[[slot]]) == "committed"
    writer.seal()
    assert verify(tmp_path / "c", "full") == []
    cache, others = open_cache(tmp_path / "c"), open_cache(wide)
    assert cache.ok_mask("dino_v2").all()
    for i in np.flatnonzero(others.ok_mask("dino_v2")).tolist():
        for array in WIDE.arrays:
            path = f"dino_v2/{array.name}"
            np.testing.assert_array_equal(cache.read(path, i), others.read(path, i))


def test_a_part_is_added_and_replaced_beside_the_others(tmp_path: Path) -> None:
    path = tmp_path / "c"
    extract(create_cache(path, make_dataset(), partition_size=4, parts=[WIDE]))
    before = file_hashes(path / "dino_v2")
    extract(create_cache(path, make_dataset(), partition_size=4, parts=[OTHER]))
    extract(rebuild_part(path, replace(OTHER, arrays=(box_array("b", 5),))))
    assert file_hashes(path / "dino_v2") == before
    assert not list((path / "x1/a").glob("c.*"))
    assert open_cache(path).array("x1/b").item_shape == (5,)
    assert verify(path, "full") == []


def test_arrays_of_failed_images_hold_nothing(wide: Path) -> None:
    writer = open_writer(wide)
    ((p, (slot,)),) = writer.failed("dino_v2").items()
    rows, plan = writer.read_partition("dino_v2", p), writer.partition(p)
    boxes = slice(plan.offsets[slot], plan.offsets[slot + 1])
    assert boxes.stop > boxes.start
    assert (rows["map"][slot] == -128).all()
    assert np.isnan(rows["map_4"][slot]).all()
    assert (rows["pooled"][boxes] == -128).all()
    assert np.isnan(rows["corners"][boxes]).all()
    assert (rows["file"][slot] == -(2**63)).all()
    assert (open_cache(wide).stamps("dino_v2")[p * 4 + slot] == 0).all()


# Names ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "sam", "siglip2", "x_1", "scale", "file", "status", "a" * 64])
def test_good_names_of_parts(name: str) -> None:
    assert PartSpec(name=name, arrays=(map_array(),), fingerprint={}).name == name


@pytest.mark.parametrize(
    "name",
    [
        *("", "../sam", "sam/x", "Sam", "1a", "_a", "a-b", "a.b", "é", "a\n", "a" * 65),
        *("plan", "parts", "markers", "staging", "updates", "x_scale"),
    ],
)
def test_bad_names_of_parts_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="a part"):
        PartSpec(name=name, arrays=(map_array(),), fingerprint={})


@pytest.mark.parametrize(
    "name", ["", "..", "map/x", "Map", "0", "status", "file", "map_scale", "a-b", "zarr.json", "map\n"]
)
def test_bad_names_of_arrays_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="arrays"):
        replace(sam_part(), arrays=(map_array(name),))


@pytest.mark.parametrize(
    "arrays",
    [
        (),
        (map_array(), map_array(width=3)),
        (map_array(), box_array("map", 3)),
        (map_array(tokens=0),),
        (map_array(width=-1),),
        (map_array(tokens=2**14, width=2**13),),
    ],
)
def test_bad_arrays_are_refused(arrays: tuple[ArraySpec, ...]) -> None:
    with pytest.raises(InputError, match="a part"):
        PartSpec(name="sam", arrays=arrays, fingerprint={})
