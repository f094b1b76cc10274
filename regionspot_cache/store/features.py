"""The features of one partition, checked and quantised: the rows that are stored."""

from collections.abc import Mapping

import numpy as np

from regionspot_cache.errors import InputError
from regionspot_cache.store.layout import FILL_VALUES, STAMP, STATUS_OK, STATUS_REASONS, ArraySpec, PartSpec
from regionspot_cache.store.plan import PartitionPlan
from regionspot_cache.store.quantise import Quantised, quantise, to_half_precision

Features = np.ndarray | Quantised


def stored_rows(
    spec: PartSpec,
    partition: PartitionPlan,
    features: Mapping[str, Features],
    status: np.ndarray,
    files: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Quantised rows of every stored array of a partition; rows of failed images hold the fill value.

    Args:
        spec: the part.
        partition: s images, b boxes.
        features: by array name, float [b, D] (ragged) or [s, N, C], or the same as `Quantised`.
        status: uint8 [s], codes of `layout.STATUS_CODES`.
        files: int64 [s, 3]; zeros when left out.

    Raises:
        InputError: names, shapes or values that do not fit.
    """
    _check_status(status, partition)
    names = {array.name for array in spec.arrays}
    if set(features) != names:
        raise InputError(f"features {sorted(features)}", f"{sorted(names)}", "report this as a bug")
    stamps = np.zeros((len(status), STAMP), np.int64) if files is None else np.asarray(files, np.int64)
    rows = {"status": status, "file": _spread(stamps[status == STATUS_OK], status == STATUS_OK)}
    for array in spec.arrays:
        ok = row_mask(array.ragged, partition, status)
        rows |= _array_rows(array, features[array.name], ok)
    return rows


def row_mask(ragged: bool, partition: PartitionPlan, status: np.ndarray) -> np.ndarray:
    """Boolean mask of the rows of images that succeeded: [b] of ragged arrays, [s] of others."""
    ok = status == STATUS_OK
    return np.repeat(ok, np.diff(partition.offsets)) if ragged else ok


def _array_rows(array: ArraySpec, values: Features, ok: np.ndarray) -> dict[str, np.ndarray]:
    main = values.values if isinstance(values, Quantised) else values
    if main.shape != (len(ok), *array.item_shape):
        raise InputError(
            f"{array.name} features of shape {list(main.shape)}",
            f"{[len(ok), *array.item_shape]}",
            "report this as a bug",
        )
    if array.dtype == "float16":
        if isinstance(values, Quantised):
            raise InputError(f"quantised {array.name} features", "float features", "report this as a bug")
        return {array.name: _spread(to_half_precision(values[ok]), ok)}
    quantised = values if isinstance(values, Quantised) else quantise(values if ok.all() else values[ok])
    if isinstance(values, Quantised) and not ok.all():
        quantised = Quantised(values.values[ok], values.scale[ok])
    _check_quantised(array.name, quantised)
    return {
        array.name: _spread(quantised.values, ok),
        f"{array.name}_scale": _spread(quantised.scale, ok),
    }


def _spread(rows: np.ndarray, ok: np.ndarray) -> np.ndarray:
    """Put the rows of successful images back at their places, the fill value elsewhere."""
    if ok.all():
        return rows
    spread = np.full((len(ok), *rows.shape[1:]), FILL_VALUES[rows.dtype.name], rows.dtype)
    spread[ok] = rows
    return spread


def _check_quantised(name: str, quantised: Quantised) -> None:
    values, scale = quantised
    good = values.dtype == np.int8 and scale.dtype == np.float16 and scale.shape == values.shape[:-1]
    if not good or (values == -128).any() or not (np.isfinite(scale) & (scale > 0)).all():
        raise InputError(
            f"quantised {name} features are out of range",
            "int8 values in -127..127 and finite float16 scales above 0",
            "report this as a bug",
        )


def _check_status(status: np.ndarray, partition: PartitionPlan) -> None:
    known = status.dtype == np.uint8 and status.shape == (partition.num_images,)
    if not known or not np.isin(status, [code for code in STATUS_REASONS if code]).all():
        raise InputError(
            f"status of partition {partition.index}: {status.dtype} {list(status.shape)}",
            f"uint8 [{partition.num_images}] with known codes, none of them 0",
            "report this as a bug",
        )
