"""Train the small region proposal network on the frozen small SAM.

Boxes are those of the training split of `shapes`: objects of novel classes are in the images but never boxed.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou

from regionspot_cache.backbones.assets import FOLDER as ASSETS
from regionspot_cache.backbones.assets import packaged_config
from regionspot_cache.backbones.rpn import SamRpn
from regionspot_cache.backbones.sam_build import build_sam
from regionspot_cache.datasets.shapes import World, draw
from regionspot_cache.datasets.shapes_classes import CLASSES
from regionspot_cache.datasets.shapes_scene import SCENE_SIZE
from tools.tiny.sam import normalise
from tools.tiny.training import Stage, fit, load_half, publish, record

STAGES = (Stage(1200, 1e-3),)
WORLD = World()
IMAGES = 8
THRESHOLDS = torch.arange(10) * 0.05 + 0.5


class Embeddings:
    """SAM embeddings [M,E,h,w] (fp16) and annotated boxes of a split, computed in one go."""

    def __init__(self, split: str, count: int, assets: Path) -> None:
        sam = build_sam(packaged_config("sam"))
        sam.load_state_dict(load_half(assets / "sam.safetensors"))
        encoder = sam.image_encoder.eval()
        world, embeddings = World(), []
        self.boxes: list[Tensor] = []
        self.novel: list[Tensor] = []
        for index in range(count):
            scene, entry = draw(world, split, index)
            with torch.no_grad():
                embeddings.append(encoder(normalise(scene.image[None]))[0].half())
            corners = np.array([a["bbox"] for a in entry["annotations"]], np.float32).reshape(-1, 4)
            corners[:, 2:] += corners[:, :2]
            self.boxes.append(torch.from_numpy(corners))
            kinds = [CLASSES[a["category_id"] - 1].novel for a in entry["annotations"]]
            self.novel.append(torch.tensor(kinds, dtype=torch.bool))
        self.maps = torch.stack(embeddings)


@torch.no_grad()
def evaluate(rpn: SamRpn, data: Embeddings, top: int = 100) -> dict[str, float]:
    """Class-agnostic recall of the best `top` proposals, and its mean over IoU 0.5 to 0.95."""
    rpn.eval()
    best = []
    for image, boxes in zip(data.maps, data.boxes, strict=True):
        proposals, _ = rpn(image[None].float(), [(SCENE_SIZE, SCENE_SIZE)])[0]
        best.append(box_iou(boxes, proposals[:top]).max(1).values)
    overlap, novel = torch.cat(best), torch.cat(data.novel)
    average = (overlap[:, None] >= THRESHOLDS).float()
    return {
        "images": len(data.maps),
        "boxes": len(overlap),
        "recall_at_100_iou_0.5": round((overlap >= 0.5).float().mean().item(), 4),
        "recall_at_100_iou_0.5_novel": round((overlap[novel] >= 0.5).float().mean().item(), 4),
        "average_recall_at_100": round(average.mean().item(), 4),
    }


def train(work: Path, assets: Path = ASSETS, stages: Sequence[Stage] = STAGES, world: World = WORLD) -> None:
    """Trains, stores and measures on the validation split."""
    rpn = SamRpn(**packaged_config("rpn"))
    learn = Embeddings("train", world.train, assets)

    def loss_of(step: int) -> Tensor:
        picked = np.random.Generator(np.random.Philox(step)).integers(len(learn.maps), size=IMAGES)
        losses = rpn.losses(learn.maps[picked].float(), [learn.boxes[i] for i in picked])
        return torch.stack(list(losses.values())).sum()

    cost = fit(rpn, stages, loss_of, work)
    publish(rpn, assets / "rpn.safetensors")
    figures = evaluate(rpn, Embeddings("val", world.val, assets))
    record(assets, "rpn", {**figures, **cost, "images_seen": cost["steps"] * IMAGES})
