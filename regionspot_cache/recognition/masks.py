"""SAM's masks of the boxes of an image: pixels of a few at a time, run lengths of the rest."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from regionspot_cache.evaluation.detections import MaskTable
from regionspot_cache.evaluation.rle import Rle, decode_masks, encode_masks

CHUNK_BYTES = 1 << 25  # of pixels, one byte each


class BoxMasks:
    """Masks by box, decoded when they are first asked for and kept as run lengths.

    Memory: while boxes are decoded, pixels of `CHUNK_BYTES`, or of one mask where that is more, twice; after
    that the run lengths of what was asked for, a few hundred bytes a mask.

    Args:
        decode: masks of some boxes, int [n] to bool [n, H, W] on any device.
        size: (height, width).
    """

    def __init__(self, decode: Callable[[NDArray[np.intp]], Tensor], size: tuple[int, int]) -> None:
        self._decode, self._size = decode, size
        self._codes: dict[int, Rle] = {}

    def take(self, boxes: Sequence[int] | NDArray[np.integer]) -> MaskTable:
        """Run lengths of the masks of some boxes, as of `MaskSource`."""
        return MaskTable.from_rles(self._coded(boxes))

    def decode(self, count: int) -> None:
        """Makes ready what is asked of boxes 0 to `count` later, also by several threads."""
        self._coded(range(count))

    def pixels(self, boxes: Sequence[int] | NDArray[np.integer]) -> NDArray[np.bool_]:
        """Masks of a few boxes, bool [n, H, W]."""
        return decode_masks(self._coded(boxes), self._size)

    def chunks(self, count: int) -> Iterator[NDArray[np.bool_]]:
        """Masks of boxes 0 to `count`, bool [n, H, W] of some at a time."""
        return map(self.pixels, self._lots(np.arange(count)))

    def _coded(self, boxes: Sequence[int] | NDArray[np.integer]) -> list[Rle]:
        wanted = [int(box) for box in boxes]
        lacking = np.array([box for box in dict.fromkeys(wanted) if box not in self._codes], np.intp)
        for lot in self._lots(lacking):
            # Run lengths go down the columns: the device turns the pixels.
            turned = self._decode(lot).transpose(1, 2).contiguous().cpu().numpy()
            self._codes.update(zip(lot.tolist(), encode_masks(turned.transpose(0, 2, 1)), strict=True))
        return [self._codes[box] for box in wanted]

    def _lots(self, boxes: NDArray[np.intp]) -> Iterator[NDArray[np.intp]]:
        at_once = max(1, CHUNK_BYTES // (self._size[0] * self._size[1]))
        return (boxes[start : start + at_once] for start in range(0, len(boxes), at_once))
