"""Opening a cache again: what continues it, what is another one, and what may be added."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from regionspot_cache.datasets.regions import BoxPolicy
from regionspot_cache.errors import IdentityError
from regionspot_cache.store import (
    CacheWriter,
    create_cache,
    open_cache,
)
from tests.store.small_world import (
    clip_part,
    extract,
    features,
    file_hashes,
    make_dataset,
    sam_part,
    status_of,
)


def reopen(path: Path, data, **kwargs) -> CacheWriter:
    parts = kwargs.pop("parts", [sam_part(), clip_part()])
    return create_cache(path, data, parts=parts, **{"partition_size": 4, **kwargs})


@pytest.fixture
def writer(tmp_path: Path) -> CacheWriter:
    return create_cache(tmp_path / "c", make_dataset(), partition_size=4, parts=[sam_part(), clip_part()])


def commit(writer: CacheWriter, part: str, partition: int, failing: dict[str, str] | None = None) -> str:
    plan = writer.partition(partition)
    return writer.commit(part, partition, features(part, plan), status_of(plan, failing or {}))


def test_opening_with_the_same_identity_resumes(writer: CacheWriter) -> None:
    commit(writer, "sam", 0)
    data = replace(make_dataset(), image_root=Path("moved"))
    assert reopen(Path(writer.objects.url), data).pending("sam") == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("key", "found", "wanted", "change"),
    [
        ("partition_size", "4", "5", {"partition_size": 5}),
        ("seed", "0", "1", {"seed": 1}),
        ("exif", "'ignore'", "'apply'", lambda d: replace(d, exif="apply")),
        ("content_sha256", "'", "'", lambda d: replace(d, boxes=d.boxes + np.float32(1))),
        ("content_sha256", "'", "'", lambda d: replace(d, widths=d.widths + 1)),
        ("content_sha256", "'", "'", lambda d: replace(d, file_names=[f"x/{n}" for n in d.file_names])),
        ("num_images", "23", "22", lambda d: d.select(np.arange(22))),
    ],
)
def test_other_images_boxes_or_settings_are_refused(
    writer: CacheWriter, key: str, found: str, wanted: str, change
) -> None:
    data = change(make_dataset()) if callable(change) else make_dataset()
    with pytest.raises(IdentityError, match=rf"made with {key} = {found}(.|\n)*{key} = {wanted}") as caught:
        reopen(Path(writer.objects.url), data, **({} if callable(change) else change))
    assert "choose another --cache" in caught.value.remedy


@pytest.mark.parametrize(
    "change",
    [
        lambda d: replace(d, name="other", split="val", annotation_sha256="cd" * 32),
        lambda d: replace(d, labels=(d.labels + 1) % 3),
        lambda d: replace(d, class_names=("cow", "dog", "owl"), category_ids=np.array([2, 3, 4])),
        lambda d: replace(d, policy=BoxPolicy(min_size=2.0), dropped=Counter()),
        lambda d: replace(d, annotation_ids=d.annotation_ids + 1, image_ids=[i + 9 for i in d.image_ids]),
    ],
)
def test_what_changes_no_feature_changes_no_cache(writer: CacheWriter, change) -> None:
    extract(writer)
    before = file_hashes(Path(writer.objects.url))
    again = reopen(Path(writer.objects.url), change(make_dataset()))
    assert [again.pending(part) for part in ("sam", "clip")] == [[], []]
    assert file_hashes(Path(writer.objects.url)) == before


@pytest.mark.parametrize(
    ("part", "key"),
    [
        (clip_part(model="ViT-B-16"), "fingerprint.model.name"),
        (sam_part(model="vit_h"), "fingerprint.model.name"),
        (clip_part("float16"), "arrays.0.dtype"),
    ],
)
def test_another_backbone_is_refused_with_the_command_that_repairs(
    writer: CacheWriter, part, key: str
) -> None:
    url = writer.objects.url
    before = file_hashes(Path(url))
    with pytest.raises(IdentityError, match=rf"part {part.name} of {url} was made with {key} = ") as caught:
        reopen(Path(url), make_dataset(), parts=[part])
    assert (
        caught.value.remedy
        == f"rs-cache extract --cache {url} --part {part.name} --rebuild with its --dataset and --backbone"
    )
    assert file_hashes(Path(url)) == before


def test_a_part_can_be_added_later(tmp_path: Path) -> None:
    extract(reopen(tmp_path / "c", make_dataset(), parts=[sam_part()]))
    before = file_hashes(tmp_path / "c/sam")
    writer = reopen(tmp_path / "c", make_dataset(), parts=[clip_part()])
    assert set(writer.parts) == {"sam", "clip"}
    extract(writer)
    assert file_hashes(tmp_path / "c/sam") == before
    assert open_cache(tmp_path / "c").read("clip/map", 0).shape == (5, 12)
