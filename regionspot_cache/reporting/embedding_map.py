"""Region embeddings as people look at them: a map in two dimensions, the nearest regions, what is unlike all.

Embeddings are unit vectors, float32 [N, E]. Nothing here is drawn at random but what a seed decides.
"""

import importlib
import warnings
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from regionspot_cache.errors import InputError, UsageError

MapKind = Literal["pca", "umap"]
BLOCK = 2048  # regions that are compared with as many at a time: 16 MB of similarities
_FIT_ROWS = 200_000  # regions of which the axes of a PCA are computed, drawn by the seed


def unit(embeddings: NDArray[np.floating]) -> NDArray[np.float32]:
    """Rows of length 1, float32 [N, E]; rows of zeros stay."""
    found = np.asarray(embeddings, np.float32)
    return np.divide(found, np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12), dtype=np.float32)


def project(embeddings: NDArray[np.float32], kind: MapKind = "pca", seed: int = 0) -> NDArray[np.float32]:
    """Coordinates of regions in a plane, float32 [N, 2].

    Args:
        embeddings: unit vectors, float32 [N, E].
        kind: `pca`, the two directions of greatest variance, the same on every machine but for rounding;
            `umap` keeps neighbours together.
        seed: of UMAP, and of the sample that the axes of a PCA of very many regions come from.

    Raises:
        UsageError: `umap` where umap-learn is not installed.
    """
    return _umap(embeddings, seed) if kind == "umap" else _pca(embeddings, seed)


def nearest(
    embeddings: NDArray[np.float32], count: int, *, block: int = BLOCK, device: str | torch.device = "cpu"
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The most similar other regions of every region, exactly; best first.

    Two regions are compared once, for both of them: work is N squared times E, half of what the products of
    all rows with all rows take. Memory beside embeddings and result is `block` squared similarities, twice.

    Args:
        embeddings: unit vectors, float32 [N, E].
        count: neighbours of each; fewer where there are fewer regions.
        block: rows that are compared at a time.
        device: where the products are computed.

    Returns:
        rows int64 [N, k] and cosine distances float32 [N, k], rising.
    """
    total, k = len(embeddings), min(count, max(len(embeddings) - 1, 0))
    every = torch.from_numpy(np.ascontiguousarray(embeddings))
    best = torch.full((total, k), -torch.inf, device=device)
    rows = torch.zeros((total, k), dtype=torch.int64, device=device)
    for start in range(0, total, block) if k else ():
        mine = every[start : start + block].to(device)
        for first in range(start, total, block):
            similar = mine @ every[first : first + block].to(device).T
            if first == start:
                similar.fill_diagonal_(-torch.inf)
            else:
                _keep_best(best, rows, first, similar.T.contiguous(), start)
            _keep_best(best, rows, start, similar, first)
    distances, numbers = (1 - best).clamp(min=0).cpu().numpy(), rows.cpu().numpy()
    order = np.lexsort((numbers, distances), axis=1)
    return np.take_along_axis(numbers, order, 1), np.take_along_axis(distances, order, 1)


def novelty(distances: NDArray[np.float32]) -> NDArray[np.float32]:
    """How unlike all others a region is: its mean distance to its neighbours, float32 [N]; 0 without."""
    return distances.mean(axis=1) if distances.shape[1] else np.zeros(len(distances), np.float32)


def _keep_best(best: torch.Tensor, rows: torch.Tensor, start: int, similar: torch.Tensor, first: int) -> None:
    """Of regions from `start` on, the best among those known [N, k] and the regions from `first` on."""
    own, k = slice(start, start + len(similar)), best.shape[1]
    values, columns = similar.topk(min(k, similar.shape[1]), dim=1)
    known = torch.cat([rows[own], columns + first], dim=1)
    best[own], chosen = torch.cat([best[own], values], dim=1).topk(k, dim=1)
    rows[own] = known.gather(1, chosen)


def _pca(embeddings: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    if not len(embeddings):
        return np.zeros((0, 2), np.float32)
    fitted = embeddings
    if len(embeddings) > _FIT_ROWS:
        fitted = embeddings[np.random.default_rng(seed).choice(len(embeddings), _FIT_ROWS, replace=False)]
    mean = fitted.mean(axis=0, dtype=np.float64)
    centred = fitted - mean
    _, vectors = np.linalg.eigh(centred.T @ centred)  # rising; [E, E] whatever the number of regions
    axes = vectors[:, ::-1][:, :2]
    # An axis may point either way: its greatest component points up.
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    places = np.zeros((len(embeddings), 2), np.float32)
    places[:, : axes.shape[1]] = (embeddings - mean.astype(np.float32)) @ axes.astype(np.float32)
    return places


def _umap(embeddings: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    if len(embeddings) < 5:  # no neighbourhoods to keep
        return _pca(embeddings, seed)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a part that needs TensorFlow
            umap = importlib.import_module("umap")
    except ImportError:
        raise UsageError(
            "--map umap, and umap-learn is not installed.",
            "umap-learn, or the map pca, which needs nothing more.",
            "pip install 'regionspot-cache[umap]'",
        ) from None
    reducer = umap.UMAP(
        n_components=2,
        metric="cosine",
        n_neighbors=min(15, len(embeddings) - 1),
        random_state=seed,
        n_jobs=1,  # what a seed asks for
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        places = np.asarray(reducer.fit_transform(embeddings), np.float32)
    if not np.isfinite(places).all():
        raise InputError("UMAP gave no finite coordinates.", "Embeddings that differ.", "--map pca")
    return places
