"""What the losses on captions compare with: the teacher's concepts of every box, and embedded captions.

Both are derived from a sealed cache without a look at an image, so another pool of concepts, temperature or
number of concepts costs minutes. Both are made partition by partition, in memory that does not grow with the
cache, and a run that was stopped goes on where it was.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize

from regionspot_cache.backbones.clip_values import pool_boxes
from regionspot_cache.backbones.encoder import TextEncoder
from regionspot_cache.errors import DamageError, InputError
from regionspot_cache.store import Cache
from regionspot_cache.training.derived import DerivedFolder, PartitionedRows

IMAGES_AT_ONCE = 16
LOGITS_AT_ONCE = 1 << 25
NOTHING = -1  # the concept of a box of which there are no features

Progress = Callable[[int, int], None]


class Teaching(NamedTuple):
    """What the teacher says of n boxes.

    Attributes:
        ids: int64 [n, k], the likeliest concepts, falling.
        probs: float32 [n, k], their probabilities; column 0 has the largest of the whole pool.
        rest: float32 [n], the probability of all other concepts together.
        frame: bool [n], whether a box is the whole picture.
    """

    ids: NDArray[np.int64]
    probs: NDArray[np.float32]
    rest: NDArray[np.float32]
    frame: NDArray[np.bool_]

    def at(self, rows: NDArray[np.int64]) -> "Teaching":
        """That of some of the boxes."""
        return Teaching(self.ids[rows], self.probs[rows], self.rest[rows], self.frame[rows])


class ConceptTargets:
    """`Teaching` of every box of a cache, by its row in the cache's order.

    Args:
        rows: structured, fields of the names of `Teaching`.
        concepts: P, size of the pool.
        identity: JSON-able; what they were derived by.
    """

    def __init__(self, rows: PartitionedRows, concepts: int, identity: Mapping[str, Any]) -> None:
        self._rows, self._concepts, self.identity = rows, concepts, identity

    def __len__(self) -> int:
        return len(self._rows)

    def of(self, rows: NDArray[np.int64]) -> Teaching:
        """What the teacher says of some boxes. Raises DamageError where it said nothing."""
        found = self._rows.take(rows)
        ids = found["ids"].astype(np.int64)
        if wrong := ((ids < 0) | (ids >= self._concepts)).any(1).sum():
            raise DamageError(
                f"{wrong} of {len(rows)} boxes have no concept of the pool",
                "boxes of images with features of the teacher",
                "delete the folder derived of the cache; the next run makes it again",
            )
        probs, rest = found["probs"].astype(np.float32), found["rest"].astype(np.float32)
        return Teaching(ids, probs, rest, found["frame"])


def concept_targets(
    cache: Cache,
    teacher: str,
    pool: NDArray[np.float32],
    pool_identity: Mapping[str, Any],
    root: Path,
    *,
    top_k: int = 32,
    temperature: float = 0.01,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> ConceptTargets:
    """Softmax of the cosines of the teacher's embeddings and a pool of concepts, the k likeliest of each box.

    Args:
        cache: with the array of the teacher.
        teacher: PART/ARRAY, one vector [E] a box, or a map of such whose cells are pooled in the boxes.
        pool: float32 [P, E], text embeddings of the concepts by the teacher's own text encoder.
        pool_identity: JSON-able; the concepts, templates and text encoder that `pool` was made from.
        root: `derived.derived_root` of the cache.
        top_k: k, at most P.
        temperature: of the cosines.
        device: where they are computed.
        progress: called with (partitions done, partitions in all).

    Raises:
        InputError: the array is not by box, or of another width than the pool.
        IdentityError: `root` holds something else under this identity.
        DamageError: a record of the cache is damaged.
    """
    array, part = cache.array(teacher), teacher.partition("/")[0]
    usable = array.ragged or (array.grid is not None and math.prod(array.grid) == array.item_shape[0])
    if not usable or array.item_shape[-1:] != pool.shape[1:]:
        raise InputError(
            f"{teacher} with {list(array.item_shape)} {'a box' if array.ragged else 'an image'} as teacher",
            f"{list(pool.shape[1:])} a box or a cell of a map, as its text encoder gives for the pool",
            f"rs-cache info {cache.url} lists the arrays",
        )
    k = min(top_k, len(pool))
    identity = {
        "kind": "concepts",
        "teacher": {"array": teacher, "network": dict(cache.parts[part].fingerprint)},
        "pool": dict(pool_identity),
        "top_k": k,
        "temperature": temperature,
    }
    folder = DerivedFolder(root, identity)
    like = np.empty(0, [("ids", "<i4", (k,)), ("probs", "<f2", (k,)), ("rest", "<f2"), ("frame", "?")])
    concepts = normalize(torch.from_numpy(pool).to(device), dim=1).T / temperature  # [E, P]

    def make(number: int, images: range) -> NDArray[Any]:
        out = _teaching(cache, teacher, images, concepts, like)
        plan = cache.partition(number)
        whole = np.pad(plan.sizes, ((0, 0), (2, 0))).astype(np.float32)  # [s, 4]
        out["frame"] = (plan.boxes == np.repeat(whole, np.diff(plan.offsets), axis=0)).all(axis=1)
        return out

    files = []
    for number, images in enumerate(_partitions(cache)):
        rows = int(cache.offsets[images.stop] - cache.offsets[images.start])
        key, derive = cache.revision(part, number), partial(make, number, images)
        files.append(folder.partition(number, key, like, rows, derive))
        if progress:
            progress(number + 1, cache.num_partitions)
    return ConceptTargets(PartitionedRows(files), len(pool), identity)


def _teaching(
    cache: Cache, teacher: str, images: range, concepts: torch.Tensor, like: NDArray[Any]
) -> NDArray[Any]:
    """The rows of some images in their order; those of images without features hold NOTHING and NaN."""
    first = int(cache.offsets[images.start])
    out = np.empty(int(cache.offsets[images.stop]) - first, like.dtype)
    out["ids"], out["probs"], out["rest"] = NOTHING, np.nan, np.nan
    good = [i for i in images if cache.ok(i, teacher.partition("/")[0])]
    for start in range(0, len(good), IMAGES_AT_ONCE):
        some = good[start : start + IMAGES_AT_ONCE]
        rows = np.concatenate([np.arange(cache.offsets[i], cache.offsets[i + 1]) for i in some]) - first
        vectors = torch.from_numpy(np.concatenate([_of_boxes(cache, teacher, i) for i in some]))
        step = max(1, LOGITS_AT_ONCE // concepts.shape[1])
        for here, part in zip(np.split(rows, range(step, len(rows), step)), vectors.split(step), strict=True):
            ids, probs, rest = _likeliest(part, concepts, like["ids"].shape[1])
            out["ids"][here], out["probs"][here], out["rest"][here] = ids, probs, rest
    return out


def _of_boxes(cache: Cache, teacher: str, i: int) -> NDArray[np.float32]:
    """The teacher's embeddings [n, E] of the boxes of an image; of a map those that lie in them."""
    array, found = cache.array(teacher), cache.read(teacher, i)
    if array.grid is None:
        return found
    width, height = cache.size(i)
    return pool_boxes(torch.from_numpy(found), array.grid, cache.boxes(i), (height, width)).numpy()


@torch.inference_mode()
def _likeliest(vectors: torch.Tensor, concepts: torch.Tensor, k: int) -> tuple[NDArray[Any], ...]:
    """Concepts [n, k], their probabilities [n, k] and that of the others [n]; `concepts` is [E, P]."""
    unit = normalize(vectors.to(concepts.device), dim=1)
    probs, ids = (unit @ concepts).softmax(1).topk(k, dim=1)
    rest = (1 - probs.double().sum(1)).clamp(min=0)
    return ids.cpu().numpy(), probs.cpu().numpy(), rest.cpu().numpy()


class CaptionEmbeddings:
    """The embedded captions of every image of a cache, by position.

    Args:
        rows: float16 [captions, E] of all images in turn, unit length.
        counts: int64 [M], captions of each image.
        identity: JSON-able; the captions and what embedded them.
    """

    def __init__(self, rows: PartitionedRows, counts: NDArray[np.int64], identity: Mapping[str, Any]) -> None:
        self._rows, self.counts, self.identity = rows, counts, identity
        self._offsets = np.concatenate([[0], np.cumsum(counts)])

    def of(self, images: NDArray[np.int64], which: NDArray[np.int64]) -> NDArray[np.float32]:
        """float32 [n, E]: caption `which` [n] of each of n images."""
        return self._rows.take(self._offsets[images] + which).astype(np.float32)


def caption_embeddings(
    cache: Cache,
    captions: Callable[[int], Sequence[str]],
    encoder: TextEncoder,
    root: Path,
    *,
    progress: Progress | None = None,
) -> CaptionEmbeddings:
    """Embeds the captions of the images of a cache.

    Args:
        cache: whose images these are.
        captions: those of the image at a position; none is possible.
        encoder: the text encoder of the student's space.
        root: `derived.derived_root` of the cache.
        progress: called with (partitions done, partitions in all).

    Raises:
        IdentityError: `root` holds something else under this identity.
    """
    identity: dict[str, Any] = {"kind": "captions", "text": encoder.text_fingerprint()}
    folder, digest = DerivedFolder(root, identity), hashlib.sha256()
    width = encoder.encode_text(["a picture"]).shape[1]
    like = np.empty((0, width), "<f2")
    files, counts = [], np.zeros(cache.num_images, np.int64)

    def make(texts: Sequence[str]) -> NDArray[Any]:
        if not texts:
            return like
        return normalize(encoder.encode_text(texts).float(), dim=1).cpu().numpy().astype(like.dtype)

    for number, images in enumerate(_partitions(cache)):
        of_images = [list(captions(i)) for i in images]
        counts[images.start : images.stop] = [len(texts) for texts in of_images]
        flat = [text for texts in of_images for text in texts]
        key = hashlib.sha256(json.dumps(of_images).encode()).hexdigest()
        digest.update(key.encode())
        files.append(folder.partition(number, key, like, len(flat), partial(make, flat)))
        if progress:
            progress(number + 1, cache.num_partitions)
    identity["captions_sha256"] = digest.hexdigest()
    return CaptionEmbeddings(PartitionedRows(files), counts, identity)


def _partitions(cache: Cache) -> list[range]:
    """Positions of the images of each partition, those that hold none left out at the end."""
    size = cache.partition_size
    return [
        range(start, min(start + size, cache.num_images))
        for start in range(0, cache.num_partitions * size, size)
    ]
