"""Pictures of a report: one image as several methods name it, and where the head looks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regionspot_cache.datasets import DetectionDataset
from regionspot_cache.recognition import RegionInputs
from regionspot_cache.reporting.drawing import attention_grid, compare_predictions, draw_regions
from regionspot_cache.reporting.page import Figure

Names = tuple[Sequence[str], NDArray[np.float32]]  # of n boxes, with their scores

FEW = (3, 7)  # boxes of an image: enough to see, not too many to read


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One image as every method names it.

    Attributes:
        title: which image.
        image: uint8 [H, W, 3].
        boxes: float32 [n, 4] xyxy, pixels.
        named: by method; the first is the one whose masks and attention are shown.
        truth: n true names, None for a box without one; None when nothing is known.
        annotated: boxes [m, 4] and names of the annotation, where `boxes` are proposals.
        masks: bool [n, H, W], or None.
        attention: float32 [L, n, gh, gw], or None.
    """

    title: str
    image: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    named: Mapping[str, Names]
    truth: Sequence[str | None] | None = None
    annotated: tuple[NDArray[np.float32], Sequence[str]] | None = None
    masks: NDArray[np.bool_] | None = None
    attention: NDArray[np.float32] | None = None


def top_names(logits: Any, classes: Sequence[str]) -> Names:
    """The most probable class of each box, of logits [N, K], with its probability."""
    probabilities = logits.softmax(-1).float().cpu().numpy()
    best = probabilities.argmax(1) if len(probabilities) else np.zeros(0, np.intp)
    return [classes[int(i)] for i in best], probabilities[np.arange(len(best)), best]


def patch_attention(method: Any, inputs: RegionInputs) -> NDArray[np.float32] | None:
    """Cross-attention over the patches alone, [L, N, rows, columns]; None for methods without attention."""
    if not hasattr(method, "attention") or not len(inputs.boxes):
        return None
    weights = method.attention(inputs)  # [L, N, M], prefix tokens first
    rows, columns = inputs.backbone.clip.grid
    return weights[:, :, -rows * columns :].reshape(*weights.shape[:2], rows, columns)


def figures(seen: Seen, *, attention_of: int) -> list[Figure]:
    """Predictions side by side (paper, Figure 3), masks, attention by box and layer (Figure 4).

    Args:
        attention_of: boxes at most, largest first.
    """
    method, (names, scores) = next(iter(seen.named.items()))
    shown = [_comparison(seen)]
    if seen.masks is not None:
        shown.append(
            Figure(
                image=draw_regions(seen.image, seen.boxes, names, scores, seen.masks),
                caption=f"{seen.title}: names and scores of {method} on SAM's masks",
                alt=f"Masks of {len(names)} boxes: {_listed(names)}",
            )
        )
    if seen.attention is not None:
        sides = seen.boxes[:, 2:] - seen.boxes[:, :2]
        largest = np.argsort(-sides.prod(axis=1), kind="stable")[:attention_of]
        shown += [_attention(seen, seen.attention, int(i), method, names[i], scores[i]) for i in largest]
    return shown


def _comparison(seen: Seen) -> Figure:
    spoken = [f"{method} says {_listed(names)}" for method, (names, _) in seen.named.items()]
    known = [name for name in seen.truth or [] if name is not None]
    truth = [f"truly {_listed(known)}"] if known else []
    beside = ", beside the truth" if seen.truth is not None else ""
    return Figure(
        image=compare_predictions(seen.image, seen.boxes, seen.named, seen.truth, seen.annotated),
        caption=f"{seen.title}: what each method says{beside}",
        alt=f"{len(seen.boxes)} boxes: {'; '.join([*truth, *spoken])}",
    )


def _attention(
    seen: Seen, attention: NDArray[np.float32], i: int, method: str, name: str, score: float
) -> Figure:
    true = None if seen.truth is None else seen.truth[i]
    title = f"{name} {score:.2f}" + ("" if true is None else f" (truth: {true})")
    layers = attention[:, i]
    return Figure(
        image=attention_grid(seen.image, seen.boxes[i], layers, title),
        caption=f"{seen.title}: where {method} looks for box {i + 1}, {name}",
        alt=f"Cross-attention of box {i + 1} as heat over the image, by layer: {_peaks(layers)}",
    )


def _peaks(layers: NDArray[np.float32]) -> str:
    """Where each layer looks most, in words."""
    words = []
    for number, layer in enumerate(layers, 1):
        y, x = np.unravel_index(int(layer.argmax()), layer.shape)
        across, down = 100 * (x + 0.5) / layer.shape[1], 100 * (y + 0.5) / layer.shape[0]
        words.append(f"layer {number} most at {across:.0f} % from the left, {down:.0f} % from the top")
    return "; ".join(words)


def _listed(names: Sequence[str], limit: int = 12) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def pick_images(dataset: DetectionDataset, seed: int) -> NDArray[np.int64]:
    """Indices of the images with boxes in the order in which a report shows them, drawn by `seed`.

    Those with few boxes come first, and of these the ones with a novel class.
    """
    count = np.diff(dataset.offsets)
    novel = np.asarray(dataset.class_novel, bool)[dataset.labels]
    image_of_box = np.repeat(np.arange(len(dataset)), count)
    with_novel = np.bincount(image_of_box[novel], minlength=len(dataset)) > 0
    few = (count >= FEW[0]) & (count <= FEW[1])
    drawn = np.random.default_rng(seed).permutation(len(dataset))
    drawn = drawn[count[drawn] > 0]
    return drawn[np.argsort(-(2 * few[drawn] + (few & with_novel)[drawn]), kind="stable")]
