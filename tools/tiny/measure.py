"""Measure the small CLIP and the CLIP ResNet on held-out pictures, as production runs them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regionspot_cache.backbones.assets import FOLDER as ASSETS
from regionspot_cache.backbones.encoder import TextEncoder
from regionspot_cache.backbones.load import load_clip
from regionspot_cache.backbones.presets import ClipSpec, load_preset
from regionspot_cache.backbones.regionclip import RegionClip
from regionspot_cache.backbones.regionclip_load import load_regionclip
from regionspot_cache.backbones.vocabulary import text_embeddings
from regionspot_cache.datasets.shapes import World, draw
from regionspot_cache.datasets.shapes_classes import CLASS_NAMES, CLASSES
from regionspot_cache.datasets.shapes_scene import draw_single, image_rng
from regionspot_cache.recognition.embedding import PACKAGED
from tools.tiny.clip_data import INPUT, VALIDATION, normalise, squash
from tools.tiny.training import CLIP_SINGLES, record

TEMPLATE_SETS: dict[str, str | Sequence[str]] = {
    "name": ("{}",),
    "photo": ("a photo of a {}.",),
    "scene": "scene",
    "clip80+name": "clip80+name",
}
ATTRIBUTES = ("texture", "colour", "shape")
CONTEXT = (1.0, 1.25)  # side of the crop over the side of the box

Picture = NDArray[np.uint8]


def singles(count: int) -> tuple[list[Picture], list[int]]:
    """Held-out pictures of one object each, 64 to 192 pixels wide, classes in turn."""
    pictures, labels = [], []
    for index in range(count):
        rng = image_rng(CLIP_SINGLES, 0, 1, VALIDATION + index)
        label = index % len(CLASSES)
        pictures.append(draw_single(rng, label, int(rng.integers(64, 193)), (0.33, 0.48)))
        labels.append(label)
    return pictures, labels


def crop(image: Picture, box: NDArray[np.float32], context: float) -> Picture:
    """The box with its surroundings, cut off at the border of the image."""
    centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2 * context
    x1, y1 = np.floor(np.maximum(centre - half, 0)).astype(int)
    x2, y2 = np.ceil(np.minimum(centre + half, image.shape[1::-1])).astype(int)
    return image[y1:y2, x1:x2]


def crops(scenes: int, context: float) -> tuple[list[Picture], list[int]]:
    """Every annotated object of the first scenes of the validation split of `shapes`."""
    pictures, labels = [], []
    for index in range(scenes):
        scene, _ = draw(World(), "val", index)
        pictures += [crop(scene.image, box, context) for box in scene.boxes]
        labels += scene.labels.tolist()
    return pictures, labels


def embed(clip: TextEncoder, pictures: Sequence[Picture]) -> Tensor:
    """Unit image embeddings [N,E]."""
    parts = []
    for first in range(0, len(pictures), 64):
        batch = torch.stack([clip.preprocess(p) for p in pictures[first : first + 64]])
        parts.append(clip.encode_image(batch))
    return torch.nn.functional.normalize(torch.cat(parts), dim=-1)


def accuracy(predicted: NDArray[np.int64], labels: Sequence[int]) -> dict[str, float]:
    """Top-1 over all classes, of base and novel classes, and of each attribute."""
    truth = np.array(labels)
    hit, novel = predicted == truth, np.array([CLASSES[label].novel for label in labels])
    figures = {"top1": hit.mean(), "base": hit[~novel].mean(), "novel": hit[novel].mean()}
    for name in ATTRIBUTES:
        values = np.array([getattr(c, name) for c in CLASSES])
        figures[name] = (values[predicted] == values[truth]).mean()
    return {key: round(float(value), 4) for key, value in figures.items()}


def evaluate(clip: TextEncoder, *, pictures: int, scenes: int) -> dict[str, Any]:
    texts = {
        name: torch.from_numpy(text_embeddings(clip, CLASS_NAMES, t)) for name, t in TEMPLATE_SETS.items()
    }
    kinds = {"singles": singles(pictures)} | {f"crops x{c}": crops(scenes, c) for c in CONTEXT}
    figures: dict[str, Any] = {}
    for kind, (images, labels) in kinds.items():
        embeddings = embed(clip, images)
        results = {n: accuracy((embeddings @ t.T).argmax(1).numpy(), labels) for n, t in texts.items()}
        figures[kind] = {"images": len(labels), **results["clip80+name"]}
        figures[kind]["top1_by_templates"] = {name: result["top1"] for name, result in results.items()}
    return figures


def evaluate_resnet(clip: RegionClip, *, pictures: int, scenes: int) -> dict[str, Any]:
    """Whole pictures at the size that it was trained on; and boxes cut out of the map of a scene."""
    texts = torch.from_numpy(text_embeddings(clip, CLASS_NAMES))
    images, labels = singles(pictures)
    with torch.inference_mode():
        whole = torch.cat([clip.visual(normalise(squash(p, INPUT)[None])) for p in images])
    regions, true = [], []
    for index in range(scenes):
        scene, _ = draw(World(), "val", index)
        inputs = clip.preprocess(scene.image)[None]
        regions += clip.encode(inputs, [scene.boxes], [scene.image.shape[:2]])["region"]
        true += scene.labels.tolist()
    return {
        kind: {"images": len(known), **accuracy((found @ texts.T).argmax(1).numpy(), known)}
        for kind, found, known in (("singles", whole, labels), ("boxes", torch.cat(regions), true))
    }


def measure(_work: Path, assets: Path = ASSETS, *, pictures: int = 1280, scenes: int = 600) -> None:
    """Measures the CLIPs in the package."""
    clip = load_clip(load_preset("tiny").first(ClipSpec))
    record(assets, "clip", evaluate(clip, pictures=pictures, scenes=scenes))
    measure_resnet(assets, pictures=pictures, scenes=scenes)


def measure_resnet(assets: Path = ASSETS, *, pictures: int = 1280, scenes: int = 600) -> None:
    """Measures the CLIP ResNet alone."""
    record(assets, "resnet", evaluate_resnet(load_regionclip(PACKAGED), pictures=pictures, scenes=scenes))
