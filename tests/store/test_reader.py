"""Reading a sealed cache."""

import dataclasses
import multiprocessing
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regionspot_cache.errors import (
    DamageError,
    IdentityError,
    IncompleteError,
    InputError,
    MissingFileError,
)
from regionspot_cache.store import Cache, StorageName, create_cache, open_cache, open_writer
from regionspot_cache.store.identity import require_fingerprint
from regionspot_cache.store.layout import PartSpec
from regionspot_cache.store.shards import Check
from tests.store.small_world import (
    PROMPT_DIM,
    TOKEN_DIM,
    clip_part,
    extract,
    make_cache,
    make_dataset,
    map_of,
    open_labelled,
    sam_part,
    tokens_of,
)


def test_every_record_is_the_feature_of_its_image(sealed: Path, dataset) -> None:
    labelled = open_labelled(sealed, dataset)
    cache, rows = labelled.cache, {name: row for row, name in enumerate(dataset.file_names)}
    seen = set()
    for i in range(cache.num_images):
        image_id, file_name = cache.image(i)
        row = rows[file_name]
        mine = slice(dataset.offsets[row], dataset.offsets[row + 1])
        assert image_id == dataset.image_ids[row]
        assert file_name == cache.file_names[i]
        assert cache.size(i) == (dataset.widths[row], dataset.heights[row])
        np.testing.assert_array_equal(cache.boxes(i), dataset.boxes[mine])
        np.testing.assert_array_equal(labelled.labels(i), dataset.labels[mine])
        np.testing.assert_array_equal(labelled.rows(i), np.arange(len(cache.boxes(i))))
        seen.add(file_name)
        if cache.ok(i, "clip"):
            np.testing.assert_allclose(cache.read("clip/map", i), map_of(file_name), atol=0.02)
        if cache.ok(i, "sam"):
            for path, dim in (("sam/transformer", TOKEN_DIM), ("sam/prompt", PROMPT_DIM)):
                tokens, made = cache.read(path, i), tokens_of(file_name, cache.boxes(i), dim, path)
                assert tokens.shape == (len(cache.boxes(i)), dim)
                np.testing.assert_allclose(tokens, made, atol=0.02)
                np.testing.assert_array_equal(labelled.queries(path, i), tokens)
    assert seen == set(dataset.file_names)


@pytest.mark.parametrize(("dtype", "exact"), [("float16", torch.float16), ("bfloat16", torch.bfloat16)])
def test_floats_are_kept_to_rounding(tmp_path: Path, dtype: StorageName, exact: torch.dtype) -> None:
    make_cache(tmp_path / "c", dtype=dtype)
    cache = open_cache(tmp_path / "c")
    for i in range(cache.num_images):
        made = torch.from_numpy(map_of(cache.image(i)[1])).to(exact).float().numpy()
        np.testing.assert_array_equal(cache.read("clip/map", i), made)
        assert cache.raw_images("clip/map", [i])[1] is None
        assert cache.raw_boxes("sam/prompt", i)[1] is None


def test_description(sealed: Path, dataset) -> None:
    cache = open_cache(sealed)
    assert (cache.image_root, cache.exif, cache.augmentation) == ("images", "ignore", None)
    assert cache.source is None
    assert set(cache.parts) == {"sam", "clip"}
    assert cache.live.all()
    np.testing.assert_array_equal(cache.segment_starts, [0])
    assert cache.dropped == {"crowd": 2}
    assert (len(cache), cache.num_boxes, cache.num_partitions) == (23, len(dataset.boxes), 6)
    assert cache.counts["sam"] == {"ok": 21, "missing": 1, "undecodable": 1}
    assert cache.offsets[-1] == cache.num_boxes


@given(st.lists(st.integers(0, 22), max_size=40))
def test_maps_in_any_order(sealed: Path, wanted: list[int]) -> None:
    cache = open_cache(sealed, parts=("clip",))
    wanted = [i for i in wanted if cache.ok(i, "clip")]
    values, scales = cache.raw_images("clip/map", wanted)
    assert values.shape == (len(wanted), 5, 12)
    for row, i in enumerate(wanted):
        one, scale = cache.raw_images("clip/map", [i])
        np.testing.assert_array_equal(values[row], one[0])
        np.testing.assert_array_equal(scales[row], scale[0])


def test_neighbours_are_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_cache(tmp_path / "c")
    cache = open_cache(tmp_path / "c")
    cache.raw_images("clip/map", range(8))  # indexes of both partitions
    handle = type(cache.segments[0]._objects.open("clip/map/c.0.0.0.0"))
    calls, read_into = [], handle.read_into
    monkeypatch.setattr(handle, "read_into", lambda self, *args: (calls.append(args), read_into(self, *args)))
    cache.raw_images("clip/map", [3, 1, 2, 0, 5, 4, 7, 6])
    assert len(calls) == 4  # two partitions, maps and scales


def read_everything(cache: Cache) -> list[bytes]:
    found = []
    for i in np.flatnonzero(cache.ok_mask("clip")).tolist():
        image, boxes = cache.raw_images("clip/map", [i]), cache.raw_boxes("sam/transformer", i)
        found.append(image[0].tobytes() + boxes[0].tobytes())
    return found


def test_pickle_threads_and_processes(sealed: Path) -> None:
    cache = open_cache(sealed)
    expected = read_everything(cache)
    assert read_everything(pickle.loads(pickle.dumps(cache))) == expected  # noqa: S301
    with ThreadPoolExecutor(4) as pool:
        assert all(found == expected for found in pool.map(read_everything, [cache] * 8))


def _in_child(cache: Cache, expected: list[bytes]) -> None:
    raise SystemExit(0 if read_everything(cache) == expected else 1)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_reading_in_forked_children(sealed: Path) -> None:
    cache = open_cache(sealed)
    expected = read_everything(cache)
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_in_child, args=(cache, expected)) for _ in range(3)]
    for child in children:
        child.start()
    assert read_everything(cache) == expected
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0, 0, 0]


def test_many_open_files_do_not_run_out(sealed: Path) -> None:
    cache = open_cache(sealed)
    expected = read_everything(cache)
    cache.segments[0]._objects._handles.cache_clear()  # what eviction does
    assert read_everything(cache) == expected


def test_failed_images_are_refused_by_name(sealed: Path) -> None:
    cache = open_cache(sealed)
    failed = {cache.image(int(i))[1]: int(i) for i in np.flatnonzero(~cache.ok_mask("clip"))}
    assert set(failed) == {"train/000003.jpg", "train/000011.jpg"}
    i = failed["train/000011.jpg"]
    for path, indices in (("clip/map", [i]), ("clip/map", [0, i])):
        with pytest.raises(InputError, match=r"train/000011\.jpg.* no clip features: undecodable"):
            cache.raw_images(path, indices)
    for path in ("clip/map", "sam/prompt"):
        with pytest.raises(InputError, match=r"train/000011\.jpg.*undecodable"):
            cache.read(path, i)


@pytest.mark.parametrize("outside", [-1, 23])
def test_positions_outside_are_refused(sealed: Path, outside: int) -> None:
    cache = open_cache(sealed)
    for path in ("clip/map", "sam/transformer"):
        with pytest.raises(InputError, match=f"image {outside}\n0 to 22"):
            cache.read(path, outside)


@pytest.mark.parametrize(
    "path", ["clip/maps", "clip/map_scale", "clip/status", "clip", "depth/map", "/map", ""]
)
def test_unknown_arrays_are_refused(sealed: Path, path: str) -> None:
    cache = open_cache(sealed)
    with pytest.raises(InputError, match=r"no array .*\n.*sam/transformer, .*clip/map|clip/map, .*"):
        cache.array(path)
    with pytest.raises(InputError, match="no array"):
        cache.read(path, 0)


def test_arrays_of_parts_that_were_not_opened_are_refused(sealed: Path) -> None:
    cache = open_cache(sealed, parts=("clip",))
    assert cache.array("clip/map").item_shape == (5, 12)
    for read in (cache.read, cache.raw_boxes):
        with pytest.raises(InputError, match="sam"):
            read("sam/prompt", 0)


def test_text_ids(tmp_path: Path) -> None:
    data = make_dataset(text_ids=True)
    make_cache(tmp_path / "c", data)
    cache = open_cache(tmp_path / "c")
    found = dict(cache.image(i) for i in range(cache.num_images))
    assert found == dict(zip(data.image_ids, data.file_names, strict=True))


# Refusals -------------------------------------------------------------------------------------------------


def test_no_cache(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"no cache at .*\n.*\nrs-cache extract"):
        open_cache(tmp_path / "none")
    with pytest.raises(MissingFileError):
        open_writer(tmp_path)


def test_unsealed_parts_are_refused(tmp_path: Path, dataset) -> None:
    writer = create_cache(tmp_path / "c", dataset, partition_size=4, parts=[sam_part(), clip_part()])
    with pytest.raises(IncompleteError, match="no complete part\n"):
        open_cache(tmp_path / "c")
    extract(writer, parts=("clip",))
    with pytest.raises(IncompleteError, match=r"no complete part sam; complete: clip"):
        open_cache(tmp_path / "c", parts=("sam", "clip"))
    assert set(open_cache(tmp_path / "c").parts) == {"clip"}
    assert open_cache(tmp_path / "c", parts=("clip",)).read("clip/map", 0).shape == (5, 12)


def test_fingerprints_are_compared(sealed: Path) -> None:
    good = {"clip": clip_part().fingerprint, "sam": sam_part().fingerprint}
    open_cache(sealed, expect=good)
    with pytest.raises(IdentityError) as caught:
        open_cache(sealed, expect={**good, "clip": clip_part(model="ViT-B-16").fingerprint})
    assert caught.value.found == f"part clip of {sealed} was made with fingerprint.model.name = 'ViT-L-14'"
    assert caught.value.expected == "fingerprint.model.name = 'ViT-B-16', that of these networks and settings"
    assert (
        caught.value.remedy
        == f"rs-cache extract --cache {sealed} --part clip --rebuild with its --dataset and --backbone"
    )


def test_features_of_another_arithmetic_are_read_and_never_added_to(tmp_path: Path, dataset) -> None:
    """A laptop reads in float32 what a GPU wrote in bfloat16."""

    def part(precision: str) -> PartSpec:
        return dataclasses.replace(clip_part(), fingerprint={"model": "L", "precision": precision})

    with pytest.raises(IncompleteError):  # made, and nothing committed
        create_cache(tmp_path / "c", dataset, parts=[part("bf16")], partition_size=4).seal()
    with pytest.raises(IdentityError, match=r"fingerprint\.precision = 'bf16'"):
        create_cache(tmp_path / "c", dataset, parts=[part("fp32")], partition_size=4)
    require_fingerprint(part("bf16"), part("fp32").fingerprint, "c")
    with pytest.raises(IdentityError, match=r"fingerprint\.model"):
        require_fingerprint(part("bf16"), {**part("bf16").fingerprint, "model": "B"}, "c")


@pytest.fixture
def damaged(tmp_path: Path):
    make_cache(tmp_path / "c")
    return tmp_path / "c"


def test_a_flipped_byte_names_image_partition_and_array(damaged: Path) -> None:
    cache = open_cache(damaged)
    name = cache.image(5)[1]
    file = damaged / "clip/map/c.1.0.0.0"
    data = bytearray(file.read_bytes())
    data[64 + 7] ^= 1  # slot 1 of partition 1: a record is 60 bytes and a checksum of 4
    file.write_bytes(data)
    cache = open_cache(damaged)
    cache.read("clip/map", 4)
    with pytest.raises(DamageError, match=rf"{name}.*crc32c.*clip/map, partition 1"):
        cache.read("clip/map", 5)
    assert open_cache(damaged, check="never").read("clip/map", 5).shape == (5, 12)


@pytest.mark.parametrize(("check", "compared"), [("first", 0), ("always", 2), ("never", 0)])
def test_bytes_are_compared_again_where_it_is_asked(
    damaged: Path, check: Check, compared: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, compare, seen = open_cache(damaged, check=check), google_crc32c.value, []
    first = cache.read("clip/map", 5)
    monkeypatch.setattr(google_crc32c, "value", lambda data: seen.append(len(data)) or compare(data))
    assert np.array_equal(first, cache.read("clip/map", 5))
    assert len(seen) == compared  # of the map and its scales
    cache.read("clip/map", 6)
    assert (len(seen) > compared) == (check != "never")


def test_a_missing_object_is_never_zeros(damaged: Path) -> None:
    (damaged / "sam/transformer/c.2.0.0").unlink()
    cache = open_cache(damaged)
    with pytest.raises(DamageError, match=r"missing.*sam/transformer, partition 2"):
        cache.read("sam/transformer", next(i for i in range(8, 12) if len(cache.boxes(i))))


def test_a_record_that_was_never_written_is_never_zeros(damaged: Path) -> None:
    # An object of stock zarr in which one needed inner chunk is left out.
    import zarr

    array = zarr.open_array(damaged / "clip/map", mode="r+")
    block = np.asarray(array[3])
    block[2] = -128
    array[3] = block
    cache = open_cache(damaged)
    cache.read("clip/map", 3 * 4 + 1)
    with pytest.raises(DamageError, match="never written"):
        cache.read("clip/map", 3 * 4 + 2)


@pytest.mark.parametrize("keep", [0, 3, 40, 123])
def test_truncated_objects(damaged: Path, keep: int) -> None:
    file = damaged / "clip/map_scale/c.0.0.0"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(DamageError, match="clip/map_scale, partition 0"):
        open_cache(damaged).read("clip/map", 0)


@pytest.mark.parametrize("name", ["cache.json", "manifest.json", "parts/sam.json"])
def test_damaged_records_are_refused(damaged: Path, name: str) -> None:
    data = bytearray((damaged / name).read_bytes())
    data[len(data) // 2] ^= 1
    (damaged / name).write_bytes(data)
    with pytest.raises(DamageError, match=name):
        open_cache(damaged)


def test_a_damaged_plan_is_refused(damaged: Path) -> None:
    file = damaged / "plan/boxes/c.0.0.0"
    data = bytearray(file.read_bytes())
    data[2] ^= 1
    file.write_bytes(data)
    with pytest.raises(DamageError, match="plan/boxes"):
        open_cache(damaged).boxes(0)
