"""Replacing one part of a cache."""

from pathlib import Path

import pytest

from regionspot_cache.errors import IdentityError, IncompleteError
from regionspot_cache.store import create_cache, open_cache, open_writer, rebuild_part, verify
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


def test_rebuilding_one_part_touches_nothing_of_the_other(tmp_path: Path) -> None:
    make_cache(tmp_path / "c")
    before = file_hashes(tmp_path / "c")
    writer = rebuild_part(tmp_path / "c", clip_part(model="ViT-B-16"))
    assert writer.pending("clip") == [0, 1, 2, 3, 4, 5]
    assert writer.pending("sam") == []
    with pytest.raises(IncompleteError, match="no complete part clip; complete: sam"):
        open_cache(tmp_path / "c", parts=("sam", "clip"))
    assert set(open_cache(tmp_path / "c").parts) == {"sam"}
    extract(writer)
    assert verify(tmp_path / "c", "full") == []
    after = file_hashes(tmp_path / "c")
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert changed <= {n for n in before if n.startswith(("clip/", "markers/clip/"))} | {
        "parts/clip.json",
        "manifest.json",
    }
    expect = {"clip": clip_part(model="ViT-B-16").fingerprint}
    open_cache(tmp_path / "c", expect=expect)


def test_a_writer_of_the_old_part_cannot_commit_to_the_new_one(tmp_path: Path) -> None:
    writer = create_cache(tmp_path / "c", make_dataset(), partition_size=4, parts=[sam_part(), clip_part()])
    rebuild_part(writer.objects.url, clip_part(model="ViT-B-16"))
    plan = writer.partition(0)
    with pytest.raises(IdentityError, match="rebuilt by another run"):
        writer.commit("clip", 0, features("clip", plan), status_of(plan, {}))
    assert open_writer(writer.objects.url).pending("clip") == [0, 1, 2, 3, 4, 5]
