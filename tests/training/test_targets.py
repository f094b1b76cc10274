"""What is derived from a cache: against the whole computed at once, resumed, and made anew when it must."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize
from torchvision.ops import roi_align

from regionspot_cache.datasets import DetectionDataset
from regionspot_cache.errors import DamageError, IdentityError, InputError
from regionspot_cache.store import ArraySpec, Cache, PartSpec, create_cache, open_cache, open_writer
from regionspot_cache.training import targets
from regionspot_cache.training.derived import derived_root
from regionspot_cache.training.targets import caption_embeddings, concept_targets
from tests.store.small_world import box_array, clip_part, extract, features, make_dataset, sam_part, status_of

WIDTH, CONCEPTS, K, T = 8, 11, 4, 0.5
TEACHER = "teacher/region"
FAILING = {"train/000003.jpg": "missing"}
POOL = np.random.default_rng(5).normal(size=(CONCEPTS, WIDTH)).astype(np.float32)
NAMED = {"pool": "twelve", "templates": "name"}


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """Six partitions, one image without features of the teacher."""
    return open_cache(make_cache(tmp_path / "cache"))


def make_cache(path: Path, data: DetectionDataset | None = None) -> Path:
    teacher = PartSpec(name="teacher", arrays=(box_array("region", WIDTH),), fingerprint={"model": "resnet"})
    parts = [sam_part(), clip_part(), teacher]
    extract(create_cache(path, data or make_dataset(), partition_size=4, parts=parts), failing=FAILING)
    return path


def derive(cache: Cache, **changes: Any) -> targets.ConceptTargets:
    values: dict[str, Any] = {
        "pool": POOL,
        "pool_identity": NAMED,
        "root": derived_root(cache.url, Path("unused")),
    }
    return concept_targets(cache, TEACHER, **(values | {"top_k": K, "temperature": T} | changes))


def distribution(cache: Cache, image: int) -> np.ndarray:
    """float64 [n, P], what the teacher thinks of the boxes of an image."""
    vectors = cache.read(TEACHER, image).astype(np.float64)
    cosines = vectors @ POOL.T / np.linalg.norm(vectors, axis=1)[:, None] / np.linalg.norm(POOL, axis=1)
    odds = np.exp(cosines / T)
    return odds / odds.sum(1, keepdims=True)


def rows_of(cache: Cache, image: int) -> np.ndarray:
    return np.arange(cache.offsets[image], cache.offsets[image + 1])


def good_rows(cache: Cache) -> np.ndarray:
    good = [rows_of(cache, i) for i in range(cache.num_images) if cache.ok(i, "teacher")]
    return np.concatenate(good)


def files(cache: Cache) -> list[Path]:
    return sorted((Path(cache.url) / "derived").rglob("*.npy"))


def test_every_box_has_the_likeliest_concepts_of_the_whole_pool(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets, "IMAGES_AT_ONCE", 3)
    monkeypatch.setattr(targets, "LOGITS_AT_ONCE", 5 * CONCEPTS)
    found, seen = derive(cache), 0
    assert len(found) == cache.num_boxes
    assert len(files(cache)) == cache.num_partitions
    for image in range(cache.num_images):
        if not cache.ok(image, "teacher"):
            continue
        whole, said = distribution(cache, image), found.of(rows_of(cache, image))
        likeliest = np.argsort(-whole, axis=1)[:, :K]
        np.testing.assert_array_equal(said.ids, likeliest)
        np.testing.assert_allclose(said.probs, np.take_along_axis(whole, likeliest, 1), rtol=1e-3)
        np.testing.assert_allclose(said.rest, 1 - said.probs.sum(1), atol=2e-3)
        seen += len(whole)
    assert seen > 60


def test_boxes_are_found_in_any_order(cache: Cache) -> None:
    targets_of, rows = derive(cache), good_rows(cache)
    order = np.random.default_rng(0).permutation(len(rows))
    in_order, shuffled = targets_of.of(rows), targets_of.of(rows[order])
    for expected, found in zip(in_order, shuffled, strict=True):
        np.testing.assert_array_equal(found, expected[order])
    assert len(targets_of.of(rows[:0]).ids) == 0


def test_the_box_that_is_the_whole_picture_is_known(tmp_path: Path) -> None:
    data = make_dataset()
    ends = data.offsets[1:][np.diff(data.offsets) > 0] - 1  # the last box of every image that has one
    owner = np.repeat(np.arange(len(data)), np.diff(data.offsets))
    data.boxes[ends] = [[0, 0, data.widths[i], data.heights[i]] for i in owner[ends]]
    cache = open_cache(make_cache(tmp_path / "cache", data))
    said = derive(cache)
    for image in range(cache.num_images):
        rows = rows_of(cache, image)
        if cache.ok(image, "teacher") and len(rows):
            assert said.of(rows).frame.tolist() == [False] * (len(rows) - 1) + [True]


def test_a_box_without_features_is_never_a_plausible_one(cache: Cache) -> None:
    failed = next(i for i in range(cache.num_images) if cache.image(i)[1] in FAILING)
    assert len(rows_of(cache, failed))
    with pytest.raises(DamageError, match="no concept of the pool"):
        derive(cache).of(rows_of(cache, failed))


def test_a_pool_smaller_than_k_is_known_whole(cache: Cache) -> None:
    said = derive(cache, top_k=32).of(good_rows(cache))
    assert said.ids.shape[1] == CONCEPTS
    np.testing.assert_allclose(said.probs.sum(1), 1, atol=1e-2)


def test_a_stopped_run_goes_on_and_a_torn_file_is_made_again(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    derive(cache)
    whole = {path: path.read_bytes() for path in files(cache)}
    kept, torn, gone, *_ = files(cache)
    torn.write_bytes(torn.read_bytes()[:-7])
    gone.unlink()
    made: list[int] = []
    original = targets._teaching
    monkeypatch.setattr(
        targets, "_teaching", lambda *args: made.append(args[2].start // 4) or original(*args)
    )
    before = kept.stat().st_mtime_ns
    derive(cache)
    assert made == [1, 2]
    assert kept.stat().st_mtime_ns == before
    assert {path: path.read_bytes() for path in files(cache)} == whole


@pytest.mark.parametrize(
    "change", [{"top_k": 3}, {"temperature": 0.25}, {"pool_identity": {"pool": "other"}}]
)
def test_another_setting_has_another_folder(cache: Cache, change: dict[str, object]) -> None:
    derive(cache)
    derive(cache, **change)
    assert len({path.parent for path in files(cache)}) == 2


def test_a_folder_of_something_else_is_refused(cache: Cache) -> None:
    derive(cache)
    (file,) = (Path(cache.url) / "derived").rglob("identity.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"temperature": 2.0}))
    with pytest.raises(IdentityError, match=r"temperature = 2\.0"):
        derive(cache)


def test_partitions_extracted_anew_are_derived_anew(cache: Cache) -> None:
    derive(cache)
    old = set(files(cache))
    writer = open_writer(cache.url)
    assert sum(len(slots) for slots in writer.failed("teacher").values()) == 1
    # The failed image of the teacher is tried again: only its partition gets another marker.
    (partition,) = writer.failed("teacher")
    plan = writer.partition(partition)
    (slot,) = writer.failed("teacher")[partition]
    arrays = features(writer.parts["teacher"], plan)
    rows = slice(plan.offsets[slot], plan.offsets[slot + 1])
    writer.recommit(
        "teacher", partition, [slot], {"region": arrays["region"][rows]}, status_of(plan, {})[[slot]]
    )
    writer.seal()
    again = open_cache(cache.url)
    image = partition * 4 + slot
    whole = distribution(again, image)
    np.testing.assert_array_equal(derive(again).of(rows_of(again, image)).ids[:, 0], whole.argmax(1))
    assert len(set(files(again)) - old) == 1


def test_an_array_that_cannot_teach_is_refused(cache: Cache) -> None:
    with pytest.raises(InputError, match="an image as teacher"):
        concept_targets(cache, "clip/map", POOL, NAMED, Path(cache.url) / "derived")
    with pytest.raises(InputError, match=r"\[5\] a box"):
        derive(cache, pool=POOL[:, :5])


def test_a_map_teaches_by_what_lies_in_the_boxes(tmp_path: Path) -> None:
    values = ArraySpec(name="values", dtype="float16", item_shape=(6, WIDTH), ragged=False, grid=(2, 3))
    part = PartSpec(name="dense", arrays=(values,), fingerprint={"model": "vit"})
    extract(create_cache(tmp_path / "c", make_dataset(), partition_size=4, parts=[part]), failing={})
    cache = open_cache(tmp_path / "c")
    root = derived_root(cache.url, Path("unused"))
    said = concept_targets(cache, "dense/values", POOL, NAMED, root, top_k=CONCEPTS, temperature=T)
    pool = normalize(torch.from_numpy(POOL), dim=1)
    seen = 0
    for image in range(cache.num_images):
        width, height = cache.size(image)
        corners = torch.from_numpy(cache.boxes(image)) * torch.tensor([3 / width, 2 / height] * 2)
        cells = torch.from_numpy(cache.read("dense/values", image)).T.reshape(1, -1, 2, 3)
        pooled = roi_align(cells, [corners], (1, 1), aligned=True).flatten(1)
        whole = (normalize(pooled, dim=1) @ pool.T / T).softmax(1)
        found = said.of(rows_of(cache, image))
        np.testing.assert_allclose(found.probs, whole.gather(1, torch.from_numpy(found.ids)), rtol=2e-3)
        seen += len(corners)
    assert seen == cache.num_boxes


class Words:
    """Embeds a text as the number of its characters and of its words."""

    def encode_text(self, texts: Sequence[str]) -> torch.Tensor:
        self.asked = getattr(self, "asked", 0) + len(texts)
        return torch.tensor([[len(text), len(text.split())] for text in texts], dtype=torch.float32)

    def text_fingerprint(self) -> dict[str, object]:
        return {"model": "words"}


def test_captions_are_found_by_image_and_number(cache: Cache) -> None:
    texts = [[f"{'very ' * j}big thing {i}" for j in range(i % 4)] for i in range(cache.num_images)]
    encoder: Any = Words()
    root = Path(cache.url) / "derived"
    found = caption_embeddings(cache, texts.__getitem__, encoder, root)
    np.testing.assert_array_equal(found.counts, [len(captions) for captions in texts])
    images = np.array([7, 22, 2, 7])
    which = np.array([2, 0, 1, 0])
    for vector, image, number in zip(found.of(images, which), images, which, strict=True):
        text = texts[image][number]
        expected = np.array([len(text), len(text.split())]) / np.hypot(len(text), len(text.split()))
        np.testing.assert_allclose(vector, expected, atol=1e-3)
    asked, texts[5] = encoder.asked, ["another caption"]
    again = caption_embeddings(cache, texts.__getitem__, encoder, root)
    assert encoder.asked - asked <= 1 + sum(len(texts[i]) for i in range(4, 8))
    np.testing.assert_array_equal(again.of(images, which), found.of(images, which))


def test_where_derived_files_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = tmp_path / "mine"
    assert derived_root(str(tmp_path), mine) == tmp_path / "derived"
    remote = {derived_root(f"s3://bucket/{name}", mine) for name in "ab"}
    assert len(remote) == 2
    assert {path.parent for path in remote} == {mine}
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert derived_root(str(tmp_path), mine).parent == mine
