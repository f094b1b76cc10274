"""The features of one partition, checked and encoded: the rows that are stored."""

from collections.abc import Mapping

import numpy as np

from regionspot_cache.errors import InputError
from regionspot_cache.store.layout import STAMP, STATUS_OK, STATUS_REASONS, ArraySpec, PartSpec
from regionspot_cache.store.plan import PartitionPlan
from regionspot_cache.store.storage import FILL_VALUES, Stored

Features = np.ndarray | Stored


def stored_rows(
    spec: PartSpec,
    partition: PartitionPlan,
    features: Mapping[str, Features],
    status: np.ndarray,
    files: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Rows of every stored array of a partition; those of failed images hold the fill value.

    Args:
        spec: the part.
        partition: s images, b boxes.
        features: by array name, float [b, D] (ragged) or [s, N, C], or the same as `Stored`.
        status: uint8 [s], codes of `layout.STATUS_CODES`.
        files: int64 [s, 3]; zeros when left out.

    Raises:
        InputError: names, shapes or values that do not fit.
    """
    known = status.dtype == np.uint8 and status.shape == (partition.num_images,)
    if not known or not np.isin(status, [code for code in STATUS_REASONS if code]).all():
        found = f"status of partition {partition.index}: {status.dtype} {list(status.shape)}"
        raise _bug(found, f"uint8 [{partition.num_images}] with known codes, none of them 0")
    names = sorted(array.name for array in spec.arrays)
    if sorted(features) != names:
        raise _bug(f"features {sorted(features)}", f"{names}")
    ok = status == STATUS_OK
    stamps = np.zeros((len(status), STAMP), np.int64) if files is None else np.asarray(files, np.int64)
    rows = {"status": status, "file": _spread(stamps[ok], ok)}
    for array in spec.arrays:
        rows |= _array_rows(array, features[array.name], row_mask(array.ragged, partition, status))
    return rows


def row_mask(ragged: bool, partition: PartitionPlan, status: np.ndarray) -> np.ndarray:
    """Boolean mask of the rows of images that succeeded: [b] of ragged arrays, [s] of others."""
    ok = status == STATUS_OK
    return np.repeat(ok, np.diff(partition.offsets)) if ragged else ok


def _array_rows(array: ArraySpec, features: Features, ok: np.ndarray) -> dict[str, np.ndarray]:
    given = features if isinstance(features, Stored) else Stored(features)
    if given.values.shape != (len(ok), *array.item_shape):
        found = f"{array.name} features of shape {list(given.values.shape)}"
        raise _bug(found, f"{[len(ok), *array.item_shape]}")
    given = given if ok.all() else given.take(ok)
    if isinstance(features, Stored):
        array.storage.require(array.name, given)
    else:
        given = array.storage.encode(given.values)
    return {
        name: _spread(rows, ok) for name, rows in zip(array.stored, given, strict=False) if rows is not None
    }


def _spread(rows: np.ndarray, ok: np.ndarray) -> np.ndarray:
    """Put the rows of successful images back at their places, the fill value elsewhere."""
    if ok.all():
        return rows
    spread = np.full((len(ok), *rows.shape[1:]), FILL_VALUES[rows.dtype.name], rows.dtype)
    spread[ok] = rows
    return spread


def _bug(found: str, expected: str) -> InputError:
    return InputError(found, expected, "report this as a bug")
