"""Compressed run lengths: which fill their image, and how many pixels they hold."""

import numpy as np
import pytest

from regionspot_cache.evaluation import MaskTable, encode_mask, rle
from regionspot_cache.evaluation.rle import checked_areas, mask_areas

CODES = [encode_mask(np.random.default_rng(n).random((7, 9)) < n / 12)["counts"] for n in range(12)]


def area(counts: bytes, size: tuple[int, int]) -> int:
    """Number by number, as maskApi.c writes them; -1 for what is no mask of this size."""
    runs, at = [], 0
    while at < len(counts):
        value, digits, more = 0, 0, True
        while more:
            if at == len(counts) or digits == 7 or not 48 <= counts[at] <= 111:
                return -1
            digit = counts[at] - 48
            value |= (digit & 31) << (5 * digits)
            at, digits, more = at + 1, digits + 1, digit >= 32
        value -= (digit >> 4 & 1) << (5 * digits)
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
    fills = runs and min(runs) >= 0 and min(size) >= 0 and sum(runs) == size[0] * size[1]
    return sum(runs[1::2]) if fills else -1


def damaged(rng: np.random.Generator) -> bytes:
    """A mask of 7 x 9 with a byte changed, bytes cut off or put in, or as it is; or any digits."""
    counts = bytearray(CODES[rng.integers(len(CODES))])
    at = rng.integers(len(counts))
    match rng.integers(5):
        case 0:
            counts[at] = rng.integers(256)
        case 1:
            del counts[at:]
        case 2:
            counts[at:at] = rng.integers(48, 112, rng.integers(9)).astype(np.uint8).tobytes()
        case 3:
            counts[:] = rng.integers(48, 112, rng.integers(3)).astype(np.uint8).tobytes()
    return bytes(counts)


@pytest.mark.parametrize("at_once", [5, 1 << 17])
def test_any_bytes_are_read_as_number_by_number(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rle, "_BYTES_AT_ONCE", at_once)
    rng = np.random.default_rng(0)
    sizes = np.array([(7, 9), (1, 1), (0, 4), (-1, 3), (1 << 30, 1 << 30)])[rng.integers(5, size=2000)]
    sizes[:1500] = 7, 9
    counts = [damaged(rng) for _ in sizes]
    offsets = np.cumsum([0, *map(len, counts)])
    expected = [area(one, size) for one, size in zip(counts, sizes.tolist(), strict=True)]
    assert 300 < np.count_nonzero(np.array(expected) >= 0) < 1500
    assert checked_areas(b"".join(counts), offsets, sizes).tolist() == expected


def test_run_lengths_of_every_kind_fill_their_images() -> None:
    rng = np.random.default_rng(0)
    masks = [
        rng.random(size) < share for size in ((1, 1), (7, 300), (200, 33)) for share in (0, 0.02, 0.5, 1)
    ]
    masks += [np.ones((3000, 2000), bool), np.zeros((3000, 2000), bool)]
    table = MaskTable.from_rles([encode_mask(mask) for mask in masks] * 3)
    areas = [np.count_nonzero(mask) for mask in masks] * 3
    assert table.areas.tolist() == checked_areas(table.data, table.offsets, table.sizes).tolist() == areas
    assert (checked_areas(table.data, table.offsets, table.sizes + 1) == -1).all()


def test_areas_beyond_255() -> None:
    """pycocotools takes at most 255 masks in one call of area."""
    masks = [np.random.default_rng(n).random((7, 5)) < 0.5 for n in range(600)]
    assert mask_areas(list(map(encode_mask, masks))).tolist() == [mask.sum() for mask in masks]
