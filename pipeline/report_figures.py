"""Pictures of a report: one image as several methods name it, and where the head looks."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regionspot_cache.datasets import DetectionDataset
from regionspot_cache.recognition import Recogniser, RegionInputs, RegionSpot
from regionspot_cache.reporting import drawing
from regionspot_cache.reporting.drawing import comparison, regions
from regionspot_cache.reporting.page import Picture, ReportSection, Table
from regionspot_cache.reporting.scene import Names, Scene

FEW = (3, 7)  # boxes of an image: enough to see, not too many to read


def see(
    title: str,
    inputs: RegionInputs,
    scores: Mapping[str, NDArray[np.float32]],
    classes: Sequence[str],
    shown: Recogniser,
    *,
    kept: NDArray[np.intp] | None = None,
    masks: bool = True,
    **known: Any,
) -> Scene:
    """An image as methods name its boxes, the highest score of [N, K] naming each.

    Args:
        shown: the method whose attention is shown, if it has any.
        kept: the boxes to show; all when not given.
        known: the scene's truth.
    """
    kept = np.arange(len(inputs.boxes)) if kept is None else kept
    named = {}
    for method, found in scores.items():
        best = found[kept].argmax(axis=1) if len(kept) else np.zeros(0, np.intp)
        named[method] = Names([classes[int(k)] for k in best], found[kept, best])
    attention = None
    if isinstance(shown, RegionSpot) and shown.head.config.use_map and len(kept):
        attention = patch_attention(shown, inputs)[:, kept]
    return Scene(
        title=title,
        image=inputs.image,
        boxes=inputs.boxes[kept],
        named=named,
        masks=inputs.masks.pixels(kept) if masks and len(kept) else None,
        attention=attention,
        **known,
    )


def patch_attention(method: RegionSpot, inputs: RegionInputs) -> NDArray[np.float32]:
    """Cross-attention over the patches of the first map, [L, N, rows, columns]."""
    weights, config = method.attention(inputs), method.head.config  # [L, N, M]
    (rows, columns), first = config.grid, config.prefix_tokens if config.class_token else 0
    patches = weights[:, :, first : first + rows * columns]
    return patches.reshape(*weights.shape[:2], rows, columns)


def figures(
    scene: Scene, *, attention_of: int, more: Mapping[str, Sequence[str]] | None = None
) -> list[ReportSection]:
    """What each method says as picture and table, and attention by box and layer.

    Args:
        attention_of: boxes at most, largest first.
        more: columns for the table.
    """
    beside = ", beside the truth" if scene.truth is not None else ""
    panels = [*comparison(scene), *([regions(scene)] if scene.masks is not None else [])]
    caption = f"{scene.title}: what each method says{beside}"
    sections: list[ReportSection] = [Picture(caption=caption, panels=panels), _names(scene, more or {})]
    if scene.attention is None:
        return sections
    method = next(iter(scene.named))
    sides = scene.boxes[:, 2:] - scene.boxes[:, :2]
    for i in np.argsort(-sides.prod(axis=1), kind="stable")[:attention_of].tolist():
        true = scene.truth[i] if scene.truth is not None else None
        caption = f"{scene.title}: where {method} looks for box {i + 1}, {scene.says(method, i)}"
        caption += "" if true is None else f" (truth: {true})"
        sections.append(Picture(caption=caption, panels=drawing.attention(scene, i)))
    return sections


def _names(scene: Scene, more: Mapping[str, Sequence[str]]) -> Table:
    """Every name in full: pictures have no room for long ones, nor letters for every script."""
    columns: dict[str, Sequence[str | None]] = {"box": [str(i + 1) for i in range(len(scene.boxes))]}
    if scene.truth is not None:
        columns["truth"] = scene.truth
    for method in scene.named:
        columns[method] = [scene.says(method, i) for i in range(len(scene.boxes))]
    columns |= more
    return Table(
        caption=f"{scene.title}: {len(scene.boxes)} regions",
        columns=list(columns),
        rows=list(zip(*columns.values(), strict=True)),
    )


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
