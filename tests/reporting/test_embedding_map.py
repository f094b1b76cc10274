"""Maps and neighbours of region embeddings."""

import sys

import numpy as np
import pytest

from regionspot_cache.errors import UsageError
from regionspot_cache.reporting.embedding_map import nearest, novelty, project, unit

CLUSTERS, EACH = 4, 15


@pytest.fixture
def embeddings() -> np.ndarray:
    """Four clusters, one after the other."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(CLUSTERS, 16))
    return unit(np.repeat(centres, EACH, axis=0) + 0.1 * random.normal(size=(CLUSTERS * EACH, 16)))


def test_unit_rows() -> None:
    rows = unit(np.array([[3.0, 4.0], [0.0, 0.0]]))
    assert rows.dtype == np.float32
    assert rows.tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [0, 0]]


@pytest.mark.parametrize("block", [7, 16, 1000])
def test_neighbours_are_exact_whatever_the_block(embeddings: np.ndarray, block: int) -> None:
    rows, distances = nearest(embeddings, 5, block=block)
    cosine = 1 - embeddings @ embeddings.T
    np.fill_diagonal(cosine, np.inf)
    expected = np.argsort(cosine, axis=1, kind="stable")[:, :5]
    assert (rows == expected).all()
    np.testing.assert_allclose(distances, np.take_along_axis(cosine, expected, 1), atol=1e-6)
    assert (rows // EACH == np.arange(len(rows))[:, None] // EACH).all()


def test_equal_regions_are_neighbours_and_never_themselves() -> None:
    rows, distances = nearest(np.ones((3, 1), np.float32), 5)
    assert rows.tolist() == [[1, 2], [0, 2], [0, 1]]
    assert (distances == 0).all()
    rows, distances = nearest(np.ones((1, 4), np.float32), 5)
    assert rows.shape == distances.shape == (1, 0)
    assert novelty(distances).tolist() == [0]


def test_novelty_is_the_mean_distance(embeddings: np.ndarray) -> None:
    odd = unit(np.concatenate([embeddings, -embeddings[:1] + 0.5 * embeddings[20:21]]))
    found = novelty(nearest(odd, 5)[1])
    assert found.argmax() == len(odd) - 1
    assert found.dtype == np.float32


def test_pca_keeps_the_greatest_variance_and_one_sign(embeddings: np.ndarray) -> None:
    places = project(embeddings)
    assert places.shape == (len(embeddings), 2)
    centred = embeddings - embeddings.mean(axis=0)
    singular = np.linalg.svd(centred, compute_uv=False)
    np.testing.assert_allclose(np.linalg.norm(places, axis=0), singular[:2], rtol=1e-4)
    turned = project(embeddings[::-1])
    np.testing.assert_allclose(turned[::-1], places, atol=1e-4)  # not mirrored by the order


@pytest.mark.parametrize("shape", [(0, 8), (1, 8), (2, 8), (5, 1)])
def test_few_regions_have_a_map_too(shape: tuple[int, int]) -> None:
    places = project(np.ones(shape, np.float32))
    assert places.shape == (shape[0], 2)
    assert np.isfinite(places).all()


def test_umap_that_is_not_installed_is_named(embeddings: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(UsageError, match="umap-learn is not installed"):
        project(embeddings, "umap")


@pytest.mark.slow  # its compilation takes half a minute
def test_umap_keeps_neighbours_and_repeats_itself(embeddings: np.ndarray) -> None:
    pytest.importorskip("umap")
    places = project(embeddings, "umap", seed=3)
    assert (project(embeddings, "umap", seed=3) == places).all()
    apart = np.linalg.norm(places[:, None] - places, axis=2)
    np.fill_diagonal(apart, np.inf)
    assert (apart.argmin(axis=1) // EACH == np.arange(len(places)) // EACH).all()
