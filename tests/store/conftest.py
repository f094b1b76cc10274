"""Caches shared by the store tests."""

from pathlib import Path

import pytest

from tests.store.small_world import make_cache, make_dataset


@pytest.fixture(scope="session")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed int8 cache with two failed images; tests must not change it."""
    path = tmp_path_factory.mktemp("sealed") / "cache"
    make_cache(path, failing={"train/000003.jpg": "missing", "train/000011.jpg": "undecodable"})
    return path


@pytest.fixture
def dataset():
    """A small dataset."""
    return make_dataset()
