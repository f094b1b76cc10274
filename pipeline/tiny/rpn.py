"""Train the small region proposal network on the frozen small SAM: `python -m pipeline.tiny.rpn`.

Boxes are those of the training split of `shapes`: objects of novel classes are in the images but never boxed.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou

from pipeline.tiny.common import (
    ASSETS,
    Run,
    Schedule,
    Stage,
    load_half,
    log,
    parser,
    read_config,
    record,
    save_half,
    start,
    update_config,
)
from pipeline.tiny.sam import normalise
from regionspot_cache.backbones.rpn import SamRpn
from regionspot_cache.backbones.sam_build import build_sam
from regionspot_cache.datasets.shapes import World, draw
from regionspot_cache.datasets.shapes_classes import CLASSES
from regionspot_cache.datasets.shapes_scene import SCENE_SIZE

CONFIG: dict[str, Any] = {
    "embed_dim": 128,
    "image_size": SCENE_SIZE,
    "anchor_sizes": [16, 28, 44, 68, 108],
    "aspect_ratios": [0.5, 1.0, 2.0],
    "width": 96,
    "upsample": True,
    "fg_iou": 0.6,
    "bg_iou": 0.3,
}
SCHEDULE = Schedule(stages=(Stage(steps=1200, rate=1e-3),))
IMAGES = 8
THRESHOLDS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))


class Embeddings:
    """SAM embeddings [M,E,h,w] (fp16) and annotated boxes of a split, computed in one go."""

    def __init__(self, split: str, count: int) -> None:
        sam = build_sam(read_config()["sam"])
        sam.load_state_dict(load_half(ASSETS / "sam.safetensors"))
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
    rpn.train()
    overlap, novel = torch.cat(best), torch.cat(data.novel)
    average = torch.stack([(overlap >= t).float() for t in THRESHOLDS]).mean(0)
    return {
        "images": len(data.maps),
        "boxes": len(overlap),
        "recall_at_100_iou_0.5": round((overlap >= 0.5).float().mean().item(), 4),
        "recall_at_100_iou_0.5_novel": round((overlap[novel] >= 0.5).float().mean().item(), 4),
        "average_recall_at_100": round(average.mean().item(), 4),
    }


def publish(rpn: SamRpn, run: Run, data: Embeddings) -> None:
    save_half(rpn.state_dict(), ASSETS / "rpn.safetensors")
    update_config("rpn", CONFIG)
    rpn.load_state_dict(load_half(ASSETS / "rpn.safetensors"))  # training is over; measure what is stored
    figures = evaluate(rpn, data)
    record("rpn", figures | {"images_seen": run.step * IMAGES}, run)
    log.info("step %d: %s", run.step, figures)


def train(work: Path, threads: int) -> None:
    folder = start("rpn", work, threads)
    rpn = SamRpn(**CONFIG)
    run = Run(rpn, SCHEDULE, folder)
    world = World()
    learn = Embeddings("train", world.train)
    held_out = Embeddings("val", world.val)
    log.info("embedded %d and %d images", len(learn.maps), len(held_out.maps))
    for step in run:
        picked = np.random.Generator(np.random.Philox(step)).integers(len(learn.maps), size=IMAGES)
        losses = rpn.losses(learn.maps[picked].float(), [learn.boxes[i] for i in picked])
        run.update(sum(losses.values(), torch.zeros(())))
        if step % 100 == 0:
            log.info("step %d %s", step, {key: round(value.item(), 3) for key, value in losses.items()})
    publish(rpn, run, held_out)


def main() -> None:
    options = parser(__doc__).parse_args()
    train(options.work, options.threads)


if __name__ == "__main__":
    main()
