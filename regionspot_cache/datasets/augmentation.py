"""Views of an image: the picture, its mirror image, seeded crops. Boxes move with the pixels.

A view is described by its *frame*, int32 [6]: width and height of the file, then where the left top and the
right bottom corner of the view lie in it, in whole pixels. A mirrored view has its left corner to the right.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regionspot_cache.datasets.regions import Boxes
from regionspot_cache.datasets.tables import Table
from regionspot_cache.errors import UsageError
from regionspot_cache.hashing import uniform

Frames = NDArray[np.int32]  # [M, 6]

# What the draws of one view are for.
_SCALE, _LEFT, _TOP, _BOX = range(4)


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Which views of an image there are beside the picture itself, view 0. Part of a cache's identity."""

    flip: bool = False  # the mirror image, view 1
    crops: int = 0  # number of seeded crops, the views after it. Both sides of a crop have the same share.
    min_scale: float = 0.5  # least share of each side that a crop keeps; shares are uniform up to 1
    # corners of boxes in extra views move by up to this share of the box's sides; view 0 is exact
    jitter: float = 0.0
    seed: int = 0  # of crops and jitter

    def __post_init__(self) -> None:
        # Ranks among views are uint8; from half a side on, the corners of a jittered box could change places.
        good = (
            0 <= self.crops <= 200 and 0 < self.min_scale <= 1 and 0 <= self.jitter < 0.5 and self.seed >= 0
        )
        if not good:
            raise UsageError(
                f"augment = {self.to_dict()}.",
                "0 <= crops <= 200, 0 < min_scale <= 1, 0 <= jitter < 0.5, seed >= 0.",
            )
        if self.jitter and self.num_views == 1:
            raise UsageError(
                f"augment.jitter = {self.jitter} without extra views, whose boxes it would move.",
                "Extra views too; the picture itself keeps its boxes.",
                "--set augment.flip=true",
            )

    @property
    def num_views(self) -> int:
        """V, the picture itself included."""
        return 1 + self.flip + self.crops

    @property
    def names(self) -> tuple[str, ...]:
        """ "original", "flip", "crop 1" and so on, by view."""
        flip = ("flip",) if self.flip else ()
        return ("original", *flip, *(f"crop {number + 1}" for number in range(self.crops)))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def frames(self, view: int, sizes: NDArray[np.int32], keys: NDArray[np.uint64]) -> Frames:
        """Frames int32 [M, 6] of one view of files of these sizes [M, 2]; uint64 [M] of `image_keys`."""
        frames = np.zeros((len(sizes), 6), np.int32)
        frames[:, :2] = frames[:, 4:] = sizes
        name = self.names[view]
        if name == "flip":
            frames[:, [2, 4]] = frames[:, [4, 2]]
        elif name != "original":
            share = self.min_scale + (1 - self.min_scale) * uniform(keys, view, _SCALE)
            sides = np.maximum(np.round(sizes * share[:, None]), 1)
            place = np.stack([uniform(keys, view, _LEFT), uniform(keys, view, _TOP)], axis=1)
            frames[:, 2:4] = np.floor(place * (sizes - sides + 1))
            frames[:, 4:] = frames[:, 2:4] + sides
        return frames

    def jittered(
        self,
        boxes: Boxes,
        sizes: NDArray[np.int32],
        keys: NDArray[np.uint64],
        view: int,
        numbers: NDArray[np.int64],
        min_size: float,
    ) -> Boxes:
        """Boxes of one view with every corner moved, within the view; a box that became too small stays.

        Args:
            boxes: float32 [N, 4] xyxy within their views, of `sizes` int [N, 2], width and height.
            keys: uint64 [N], `image_keys` of the image of each box.
            numbers: int64 [N], place of the box among those of its image.
            min_size: least width and height in pixels.
        """
        sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)  # [N, 4]
        draws = np.stack([uniform(keys, view, _BOX, numbers, corner) for corner in range(4)], axis=1)
        moved = boxes + self.jitter * (2 * draws - 1) * sides
        moved = np.clip(moved, 0, np.tile(sizes, 2)).astype(np.float32)
        small = np.any(moved[:, 2:] - moved[:, :2] < max(min_size, 1e-3), axis=1)
        moved[small] = boxes[small]
        return moved


@dataclass(frozen=True, kw_only=True, eq=False)
class ViewTable(Table):
    """The views of M records; the views of one image share its number."""

    numbers: NDArray[np.int32]  # int32 [M], the view
    origins: NDArray[np.int32]  # int32 [M], number of the image
    frames: Frames  # int32 [M, 6]

    def __len__(self) -> int:
        return len(self.numbers)


def image_keys(image_ids: Iterable[int | str], seed: int) -> NDArray[np.uint64]:
    """uint64 [M], the stream of random numbers of each image."""
    texts = (f"{seed}\0{image_id}".encode(errors="surrogateescape") for image_id in image_ids)
    digests = b"".join(hashlib.blake2b(text, digest_size=8).digest() for text in texts)
    return np.frombuffer(digests, "<u8").astype(np.uint64)


def view_sizes(frames: Frames) -> NDArray[np.int32]:
    """int32 [M, 2], width and height of views with these frames [M, 6]."""
    return np.abs(frames[:, 4:] - frames[:, 2:4])


def view_of(image: NDArray[np.uint8], frame: NDArray[np.int32]) -> NDArray[np.uint8]:
    """The pixels of a view, uint8 [h, w, 3], of an image as large as the frame's file."""
    left, top, right, bottom = (int(corner) for corner in frame[2:])
    rows = image[top:bottom, min(left, right) : max(left, right)]
    return np.ascontiguousarray(rows[:, ::-1] if left > right else rows)


def to_view(boxes: Boxes, frames: Frames) -> Boxes:
    """Boxes of the file, float32 [N, 4] xyxy, in the pixels of views with `frames` [N, 6]; not clipped."""
    moved = boxes - np.tile(frames[:, 2:4], 2)
    mirrored = frames[:, 2] > frames[:, 4]
    moved[mirrored, 0::2] = -moved[mirrored, 2::-2]
    return moved.astype(np.float32)
