"""Is the small CLIP's map good enough? `python -m pipeline.tiny.probe` trains a short head on it.

Compares the head with CLIP on crops, over the same ground-truth boxes of held-out scenes.
"""

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.tiny.common import log, parser, start
from pipeline.tiny.measure import accuracy, crop, embed
from regionspot_cache.backbones.load import Backbone, load_backbone
from regionspot_cache.backbones.presets import load_preset
from regionspot_cache.backbones.vocabulary import text_embeddings
from regionspot_cache.datasets.shapes import World, draw
from regionspot_cache.datasets.shapes_annotations import is_boxed
from regionspot_cache.datasets.shapes_classes import CLASS_NAMES, CLASSES
from regionspot_cache.training.head import HeadConfig, RegionHead
from regionspot_cache.training.losses import sigmoid_focal_loss

IMAGES = 24  # per step


@dataclass(frozen=True, kw_only=True)
class Features:
    """Per image: tokens [n,D] and map [M,C] (fp16), labels i64 [n]; crops [N,E] of all boxes together."""

    tokens: list[Tensor]
    maps: list[Tensor]
    labels: list[Tensor]
    crops: Tensor


@torch.inference_mode()
def extract(backbone: Backbone, split: str, count: int, *, crops: bool) -> Features:
    tokens, maps, labels, embeddings = [], [], [], []
    for index in range(count):
        scene, _ = draw(World(), split, index)
        boxed = np.array([is_boxed(int(label), split) for label in scene.labels], bool)
        boxes = scene.boxes[boxed]
        if len(boxes) == 0:
            continue
        embedding = backbone.sam.embed(backbone.sam.preprocess(scene.image)[None])
        found = backbone.sam.tokens(embedding, [boxes], [scene.image.shape[:2]], ("transformer",))
        tokens.append(found["transformer"][0].half())
        maps.append(backbone.clip.encode_map(backbone.clip.preprocess(scene.image)[None])[0].half())
        labels.append(torch.from_numpy(scene.labels[boxed]))
        if crops:
            embeddings.append(embed(backbone.clip, [crop(scene.image, box, 1.25) for box in boxes]))
    return Features(
        tokens=tokens, maps=maps, labels=labels, crops=torch.cat(embeddings) if crops else torch.empty(0)
    )


def collate(data: Features, picked: np.ndarray) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Padded tokens [B,N,D], maps [B,M,C], mask [B,N] and flat labels [T]."""
    tokens = torch.nn.utils.rnn.pad_sequence([data.tokens[i].float() for i in picked], batch_first=True)
    counts = torch.tensor([len(data.tokens[i]) for i in picked])
    mask = torch.arange(tokens.shape[1]) < counts[:, None]
    maps = torch.stack([data.maps[i] for i in picked]).float()
    return tokens, maps, mask, torch.cat([data.labels[i] for i in picked])


def train(head: RegionHead, data: Features, text: Tensor, seconds: float) -> int:
    """Focal loss over the base classes, one-cycle learning rate over the time given; the steps made."""
    base = torch.tensor([c.index for c in CLASSES if not c.novel])
    position = torch.full((len(CLASSES),), -1).scatter(0, base, torch.arange(len(base)))
    optimiser = torch.optim.AdamW(head.parameters(), lr=1e-3, weight_decay=1e-4)
    began, step, random = time.monotonic(), 0, np.random.default_rng(0)
    while (done := (time.monotonic() - began) / seconds) < 1:
        optimiser.param_groups[0]["lr"] = 1e-3 * min(1.0, (step + 1) / 100) * 0.5 * (1 + np.cos(np.pi * done))
        tokens, maps, mask, labels = collate(data, random.integers(len(data.tokens), size=IMAGES))
        logits = head.logits(head(tokens, maps, mask)[mask], text[base])
        loss = sigmoid_focal_loss(logits, position[labels]).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimiser.step()
        step += 1
        if step % 100 == 0:
            log.info("probe step %d loss %.3f, %.0f %% of the time", step, loss.item(), 100 * done)
    return step


@torch.inference_mode()
def predict(head: RegionHead, data: Features, text: Tensor) -> np.ndarray:
    head.eval()
    rows = [
        head.logits(head(t[None].float(), m[None].float())[0], text)
        for t, m in zip(data.tokens, data.maps, strict=True)
    ]
    return torch.cat(rows).argmax(1).numpy()


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--images", type=int, default=3000)
    options.add_argument("--scenes", type=int, default=600)
    options.add_argument("--seconds", type=float, default=240)
    options.add_argument("--positions", type=float, default=1.0)
    arguments = options.parse_args()
    start("probe", arguments.work, arguments.threads)
    backbone = load_backbone(load_preset("tiny"))
    text = torch.from_numpy(text_embeddings(backbone.clip, CLASS_NAMES))
    held_out = extract(backbone, "val", arguments.scenes, crops=True)
    truth = torch.cat(held_out.labels).tolist()
    log.info("clip-box x1.25: %s", accuracy((held_out.crops @ text.T).argmax(1).numpy(), truth))
    data = extract(backbone, "train", arguments.images, crops=False)
    log.info("extracted %d images", len(data.tokens))
    clip = backbone.clip
    config = HeadConfig(
        token_dim=backbone.sam.token_dims["transformer"],
        map_dim=clip.map_shape[1],
        text_dim=text.shape[1],
        grid=clip.grid,
        ffn_dim=512,
        map_positions=arguments.positions,
    )
    torch.manual_seed(0)
    head = RegionHead(config)
    steps = train(head, data, text, arguments.seconds)
    log.info("head, %d steps: %s", steps, accuracy(predict(head, held_out, text), truth))


if __name__ == "__main__":
    main()
