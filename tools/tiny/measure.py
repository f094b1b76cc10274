"""Measures the small CLIPs on held-out pictures, as production runs them, and writes the model card."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.functional import normalize

from regionspot_cache.backbones.assets import FOLDER as ASSETS
from regionspot_cache.backbones.encoder import TextEncoder
from regionspot_cache.backbones.load import load_clip
from regionspot_cache.backbones.presets import ClipSpec, load_preset
from regionspot_cache.backbones.regionclip import RegionClip
from regionspot_cache.backbones.regionclip_load import load_regionclip
from regionspot_cache.backbones.vocabulary import text_embeddings
from regionspot_cache.datasets.shapes import World, draw
from regionspot_cache.datasets.shapes_classes import CLASS_NAMES, CLASSES
from regionspot_cache.datasets.shapes_scene import SCENE_SIZE, draw_single, image_rng
from regionspot_cache.recognition.embedding import PACKAGED, crop_window
from tools.tiny.clip_data import INPUT, MEAN, STD, VALIDATION, squash
from tools.tiny.training import CLIP_SINGLES, load_half, record

CARD = Path(__file__).with_name("card.md")
NETWORKS = {
    "sam": "ViT of 4 blocks, width 128, patch 16, input 256; two-way decoder, width 128",
    "clip": "ViT of 4 blocks, width 192, patch 8, input 128; text of 2 blocks, width 128",
    "resnet": "ModifiedResNet of 2-2-2-2 blocks, width 16, input 128; the text tower of `clip`",
    "rpn": "neck at stride 8, 15 anchors a cell, on the SAM embedding",
}
COLUMNS = ("images", "top1", "base", "novel", "texture", "colour", "shape")
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


def crops(scenes: int, context: float) -> tuple[list[Picture], list[int]]:
    """Every annotated object of the first scenes of the validation split of `shapes`."""
    pictures, labels = [], []
    for index in range(scenes):
        scene, _ = draw(World(), "val", index)
        for box in scene.boxes:
            x0, y0, x1, y1 = crop_window(box, (SCENE_SIZE, SCENE_SIZE), context)
            pictures.append(scene.image[y0:y1, x0:x1])
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
    squashed = torch.from_numpy(np.stack([squash(picture, INPUT) for picture in images]))
    inputs = normalize(squashed.permute(0, 3, 1, 2).float() / 255, MEAN, STD)
    with torch.inference_mode():
        whole = torch.cat([clip.visual(part) for part in inputs.split(64)])
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


def render(assets: Path = ASSETS) -> str:
    """The card of the weights and figures in a folder."""
    measured = json.loads((assets / "config.json").read_text())["measured"]
    clip = {kind: f for kind, f in measured["clip"].items() if isinstance(f, dict)}
    resnet = {kind: f for kind, f in measured["resnet"].items() if isinstance(f, dict)}
    prompts = list(next(iter(clip.values()))["top1_by_templates"])
    return CARD.read_text().format(
        files="\n".join(_file(assets / f"{part}.safetensors", text) for part, text in NETWORKS.items()),
        sam=measured["sam"],
        rpn=measured["rpn"],
        clip="\n".join(_row(kind, *(f[c] for c in COLUMNS)) for kind, f in clip.items()),
        resnet="\n".join(_row(kind, *(f[c] for c in COLUMNS)) for kind, f in resnet.items()),
        prompts=" | ".join(prompts),
        rule="---|" * len(prompts),
        by_prompt="\n".join(_row(kind, *f["top1_by_templates"].values()) for kind, f in clip.items()),
        training="\n".join(
            _row(part, cost["steps"], cost["images_seen"], round(cost["minutes"]))
            for part, cost in ((part, measured[part]) for part in NETWORKS)
        ),
    )


def _file(path: Path, network: str) -> str:
    parameters = sum(tensor.numel() for tensor in load_half(path).values())
    return _row(path.name, network, f"{parameters:,}", f"{path.stat().st_size / 1e6:.1f}")


def _row(*cells: Any) -> str:
    return "| " + " | ".join(f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in cells) + " |"


def write_card(_work: Path, assets: Path = ASSETS) -> None:
    """MODEL_CARD.md beside the weights."""
    (assets / "MODEL_CARD.md").write_text(render(assets))
