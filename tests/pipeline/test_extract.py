"""`rs-cache extract`: complete, resume, add, replace, refuse, retry."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline import console
from regionspot_cache.extraction import partition
from regionspot_cache.store import STORAGE, StorageName, open_cache, open_writer
from tests.running import Ran, features, rs_cache

SMALL = ("--backbone", "small.yaml", "--set", "partition_size=4", "--json")
CACHE = Path("rs-cache-data/caches/shapes-train-small")
IMAGES = Path("rs-cache-data/datasets/shapes/images")


def extract(*arguments: object, code: int = 0) -> Ran:
    ran = rs_cache("extract", *SMALL, *arguments)
    assert ran.code == code, ran.err
    return ran


def verified(cache: Path = CACHE) -> None:
    ran = rs_cache("verify", cache, "--full")
    assert ran.code == 0, ran.out + ran.err


def test_a_cache_from_nothing_then_nothing_to_do(workplace: Path) -> None:
    first = extract().json
    assert first["cache"] == str(CACHE)
    assert (first["images"], first["partitions"], first["failed_images"]) == (24, 6, 0)
    verified()
    before = {path: path.stat().st_mtime_ns for path in CACHE.rglob("*") if path.is_file()}
    again = extract()
    assert "; 0 to do" in again.err
    own = {"images_per_second": 0, "computed_images": 0}
    assert again.json | own == first | own
    assert (first["computed_images"], again.json["computed_images"]) == (24, 0)
    assert {path: path.stat().st_mtime_ns for path in CACHE.rglob("*") if path.is_file()} == before


def test_whether_networks_are_compiled_is_said_and_no_part_of_a_cache(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    refused = extract("--set", "compile=always", code=2)
    assert "there is no no-such-compiler here" in refused.json["error"]["found"]
    assert "not compiled: that pays on a GPU alone" in extract("--limit", "4").err
    assert "not compiled, as asked for" in extract("--limit", "4", "--set", "compile=never").err


def test_a_cache_says_what_decoded_its_images_and_takes_no_others(workplace: Path) -> None:
    extract("--limit", "4", "--set", "decoder=torchvision")
    fingerprints = [part.fingerprint for part in open_cache(CACHE).parts.values()]
    assert [fingerprint["decoder"] for fingerprint in fingerprints] == ["torchvision"] * 2
    refused = extract("--limit", "4", code=4).json["error"]
    assert "fingerprint.decoder = 'torchvision'" in refused["found"]
    assert rs_cache("verify", CACHE, "--recompute", 2, "--backbone", "small.yaml").code == 0


def test_one_part_after_the_other_equals_both_at_once(workplace: Path, finished: Path) -> None:
    extract("--part", "clip")
    assert set(open_writer(CACHE).parts) == {"clip"}
    assert not (CACHE / "sam").exists()
    verified()
    extract("--part", "sam")
    verified()
    assert features(CACHE) == features(finished / CACHE)


def test_what_a_run_lacks_is_all_that_the_next_one_does(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, done = partition._encode_partition, []

    def stops_at_three(job: partition.ExtractJob, p: int, on_images: object = None) -> object:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(p)
        return real(job, p, None)

    monkeypatch.setattr(partition, "_encode_partition", stops_at_three)
    ran = extract(code=130)
    assert "the same command continues" in ran.err
    status = rs_cache("status", CACHE, "--json").json
    assert [part["committed"] for part in status["parts"].values()] == [3, 3]
    assert rs_cache("verify", CACHE).code == 3
    monkeypatch.setattr(partition, "_encode_partition", real)
    assert "; 3 to do" in extract().err
    verified()


def test_another_backbone_is_refused_and_rebuild_replaces_its_part_only(workplace: Path) -> None:
    extract()
    before = features(CACHE)
    other = ("extract", "--backbone", "other.yaml", "--set", "partition_size=4", "--cache", CACHE)
    ran = rs_cache(*other)
    assert ran.code == 4
    assert "weights_sha256" in ran.error["error"]
    assert f"--cache {CACHE.absolute()} --part clip --rebuild" in ran.error["next"]
    assert features(CACHE) == before
    ran = rs_cache(*other, "--rebuild")
    assert ran.code == 0
    assert "Replaced the clip part" in ran.err
    assert "Replaced the sam part" not in ran.err
    verified()
    after = features(CACHE)
    changed = {key for key in before if before[key] != after[key]}
    assert {key.split("/")[1] for key in changed} >= {"map", "map_scale"}
    assert {key for key in changed if not key.startswith(("clip/map", "parts/clip"))} == set()
    assert rs_cache("extract", *SMALL, "--cache", CACHE).code == 4


def test_another_dataset_in_the_same_folder_is_refused(workplace: Path) -> None:
    extract("--limit", 8)
    ran = extract("--limit", 9, code=4)
    assert ran.error["error"]
    assert ran.error["expected"]
    assert str(CACHE) in ran.error["error"]
    ran = extract("--limit", 8, "--set", "partition_size=5", code=4)
    assert "partition_size" in ran.error["error"]


def test_a_sample_is_of_its_seed(workplace: Path) -> None:
    for cache, seed in (("a", 0), ("b", 0), ("c", 1)):
        extract("--limit", 8, "--cache", cache, "--set", f"seed={seed}")
    ids = [sorted(open_cache(name).file_names) for name in "abc"]
    assert len(ids[0]) == 8
    assert ids[0] == ids[1] != ids[2]


def test_failed_images_alone_are_tried_again_once_they_are_mended(workplace: Path) -> None:
    whole = extract("--cache", "whole").json
    names = ["000002.jpg", "000003.jpg", "000011.jpg"]
    kept = {name: (IMAGES / "train" / name).read_bytes() for name in names}
    truncated, missing, mismatched = (IMAGES / "train" / name for name in names)
    truncated.write_bytes(kept["000002.jpg"][:900])
    missing.unlink()
    shutil.copy(IMAGES.parent / "images/train/000001.jpg", mismatched)
    resize(mismatched)
    ran = extract(code=3)
    assert (ran.json["failed_images"], ran.json["failures"]) == (
        3,
        {"missing": 1, "undecodable": 1, "size mismatch": 1},
    )
    told = "21 of 24 images; 3 failed: 1 missing, 1 size mismatch, 1 undecodable"
    assert told in ran.error["error"]
    assert "once the files are there" in ran.error["next"]
    assert told in rs_cache("status", CACHE).out
    assert rs_cache("status", CACHE, "--json").json["failures"] == ran.json["failures"]
    assert "warning: not in the cache: train/000003.jpg: missing" in ran.err
    verified()
    listed = rs_cache("status", CACHE, "--json").json["parts"]
    for part in ("sam", "clip"):
        reasons = {f["file_name"]: f["reason"] for f in listed[part]["failures"]}
        assert reasons == {
            "train/000002.jpg": "undecodable",
            "train/000003.jpg": "missing",
            "train/000011.jpg": "size mismatch",
        }
    assert "failed: train/000011.jpg: size mismatch" in rs_cache("status", CACHE).out
    stored = records(CACHE)
    assert len(stored) == 21

    missing.write_bytes(kept["000003.jpg"])
    ran = extract("--set", "max_failed=0.1")  # 2 of 24 are fewer than a tenth
    assert ran.json["failed_images"] == 2
    now = records(CACHE)
    assert len(now) == 22
    assert {name: now[name] for name in stored} == stored  # bit for bit
    for path, name in ((truncated, "000002.jpg"), (mismatched, "000011.jpg")):
        path.write_bytes(kept[name])
    assert extract().json["failed_images"] == 0
    verified()
    assert extract().json["bytes"] == whole["bytes"]
    a, b = open_cache(CACHE), open_cache("whole")
    assert a.file_names == b.file_names
    for i in range(a.num_images):
        np.testing.assert_allclose(a.read("clip/map", i), b.read("clip/map", i), rtol=0.02, atol=0.02)


def test_status_and_a_later_seal_after_every_image_of_a_partition_failed(workplace: Path) -> None:
    for path in (IMAGES / "train").iterdir():
        path.write_bytes(b"not an image")
    ran = extract("--limit", 4, code=3)
    assert ran.json["failed_images"] == 4
    assert "0 of 4 images; 4 failed: 4 undecodable" in ran.error["error"]
    text = rs_cache("extract", "--backbone", "small.yaml", *SMALL[2:4], "--limit", 4, "--set", "max_failed=1")
    assert text.code == 0
    assert "is complete: 0 of 4 images; 4 failed: 4 undecodable" in text.out
    verified()
    cache = open_cache(CACHE)
    assert +cache.counts["sam"] == {"undecodable": 4}
    assert not cache.ok_mask("clip").any()


def resize(path: Path) -> None:
    from PIL import Image

    image = Image.open(path)
    image.resize((image.width + 1, image.height)).save(path)


def records(path: Path) -> dict[str, tuple]:
    """Stored tokens and maps of every image that has them, by file name."""
    cache, found = open_cache(path), {}
    size = cache.partition_size
    for i in np.flatnonzero(cache.ok_mask("clip")).tolist():
        name = cache.partition(i // size).file_names[i % size]
        values, scale = cache.raw_images("clip/map", [i])
        found[name] = (cache.read("sam/transformer", i).tobytes(), values.tobytes(), scale.tobytes())
    return found


@pytest.mark.parametrize("dtype", STORAGE)
def test_every_storage_type_is_counted_verified_and_trained_on(workplace: Path, dtype: StorageName) -> None:
    found = extract("--set", f"dtype={dtype}", "--limit", 6).json
    on_disk = sum(
        path.stat().st_size
        for part in ("sam", "clip")
        for path in (CACHE / part).rglob("*")
        if path.is_file() and path.name != "zarr.json"
    )
    assert found["bytes"] == on_disk
    assert json.loads((CACHE / "parts/clip.json").read_text())["spec"]["arrays"][0]["dtype"] == dtype
    verified()
    ran = rs_cache("verify", CACHE, "--recompute", 3, "--backbone", "small.yaml", "--json")
    assert ran.code == 0, ran.err
    assert max(ran.json["recomputed"]["cosine_distance"].values()) < 1e-4
    ran = rs_cache("train", "--config", "train.yaml", "--cache", CACHE)
    assert ran.code == 0, ran.err


def test_a_cache_that_was_planned_anew_is_refused(workplace: Path) -> None:
    extract()
    before = features(CACHE)
    (CACHE / "cache.json").unlink()
    ran = extract("--set", "seed=1", code=4)
    assert "another plan" in ran.error["error"]
    assert "--rebuild" not in ran.error["next"]
    extract("--set", "seed=1", "--rebuild", code=4)
    assert "; 0 to do" in extract().err  # the same plan again
    assert features(CACHE) == before
    verified()


def test_swapped_maps_stop_training_and_a_fast_verification(workplace: Path) -> None:
    extract()
    a, b = (CACHE / f"clip/map/c.{p}.0.0.0" for p in (0, 1))
    a.rename("spare")
    b.rename(a)
    Path("spare").rename(b)
    ran = rs_cache("train", "--config", "train.yaml")
    assert ran.code == 4
    assert "not the one that was committed here" in ran.error["error"]
    assert rs_cache("verify", CACHE).code == 4


def test_each_part_is_given_its_own_seconds(workplace: Path) -> None:
    extract()
    parts = rs_cache("status", CACHE, "--json").json["parts"]
    shared = {"read", "decode", "prepare", "wait", "encode", "store", "write"}
    assert set(parts["sam"]["seconds"]) == shared | {"sam"}
    assert set(parts["clip"]["seconds"]) == shared | {"clip"}
    assert parts["sam"]["seconds"]["decode"] == parts["clip"]["seconds"]["decode"]


def test_the_room_that_is_needed_is_that_of_what_is_missing(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract("--part", "clip")  # nearly all of the bytes
    needed = sum(open_writer(CACHE).markers("clip")[p].stored_bytes for p in range(6))
    monkeypatch.setattr("pipeline.extract.free_space", lambda path: needed // 4)
    extract()


def test_a_run_that_stops_says_why(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: object, batch: object) -> None:
        raise ZeroDivisionError("in the network")

    monkeypatch.setattr("regionspot_cache.extraction.partition.PartitionFeatures.add", broken)
    ran = extract(code=3)
    assert "stopped after 3 failed in a row. ZeroDivisionError: in the network (line" in ran.error["error"]
    assert f"{Path(__file__).name}, in broken)" in ran.error["error"]
    assert "RS_DEBUG=1" in ran.error["next"]
    monkeypatch.setenv("RS_DEBUG", "1")
    with pytest.raises(Exception, match="is not complete") as caught:
        rs_cache("extract", *SMALL)
    causes = [caught.value]
    while causes[-1].__cause__:
        causes.append(causes[-1].__cause__)
    assert "in broken" in str(causes[-1])
    assert "Traceback (most recent call last)" in str(causes[-1])


def test_weights_that_are_fetched_are_told(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, told = partition.load_backbone, []

    def load(spec: object, device: object, progress: object, parts: object) -> object:
        told.append(progress)
        return real(spec, device, progress, parts)

    monkeypatch.setattr(partition, "load_backbone", load)
    partition.specs_of.cache_clear()
    partition.backbone_of.cache_clear()
    extract("--limit", 2)
    assert told == [console.fetching]
