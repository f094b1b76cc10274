"""Train the small CLIP ResNet that RegionCLIP's method runs on.

The network is open_clip's ModifiedResNet. It learns whole pictures alone, into the text space of the small
CLIP, whose text tower is locked (LiT, Zhai et al., 2022); it never sees a region, as the paper's CLIP.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.modified_resnet import ModifiedResNet
from torch import Tensor, nn

from regionspot_cache.backbones.assets import FOLDER as ASSETS
from regionspot_cache.backbones.assets import packaged_config
from regionspot_cache.backbones.load import load_clip
from regionspot_cache.backbones.presets import ClipSpec, load_preset
from regionspot_cache.backbones.vocabulary import text_embeddings
from regionspot_cache.datasets.shapes_classes import CLASS_NAMES, CLASSES
from tools.tiny import clip_data as data
from tools.tiny.training import LOG_EVERY, Stage, fast_autocast, fit, log, publish, record

CONFIG = packaged_config("resnet")
STAGES = (Stage(2000, 1.5e-3, warmup=200, horizon=4000), Stage(600, 7.5e-4, warmup=1))
PHOTOS, SCENES = 64, 32  # pictures of a step
SCENE_EVERY = 4  # steps
LOGIT_SCALE = 100.0  # RegionCLIP's temperature, 0.01


def build_resnet() -> ModifiedResNet:
    """The image tower, with random weights."""
    vision, width = CONFIG["vision_cfg"], CONFIG["vision_cfg"]["width"]
    return ModifiedResNet(
        layers=vision["layers"],
        output_dim=CONFIG["embed_dim"],
        heads=width * 32 // vision["head_width"],
        image_size=vision["image_size"],
        width=width,
    )


class Trainer(nn.Module):
    """The tower, compared with the phrases of captions."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = build_resnet()
        texts = text_embeddings(load_clip(load_preset("tiny").first(ClipSpec)), CLASS_NAMES)
        self.register_buffer("texts", torch.from_numpy(texts), persistent=False)

    def forward(self, batch: data.Batch) -> Tensor:
        """Cross entropy of images against phrases, of which several may be right."""
        with fast_autocast():
            images = self.visual(batch.images.contiguous(memory_format=torch.channels_last))
        texts = self.texts[batch.classes]
        logits = LOGIT_SCALE * F.normalize(images.float(), dim=-1) @ texts.T
        present, known = batch.present[:, batch.classes], batch.known[:, batch.classes]
        logs = logits.masked_fill(~known, -1e4).log_softmax(-1)
        return -((logs * present).sum(1) / present.sum(1)).mean()


class Sampler:
    """What each step trains on, a function of the step alone."""

    def __init__(self) -> None:
        self.photos = data.Pool(data.photo, data.PHOTOS, data.INPUT)
        self.scenes = data.Pool(data.scene, data.SCENES, data.INPUT)

    def __call__(self, step: int) -> data.Batch:
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((8, step))))
        if step % SCENE_EVERY == SCENE_EVERY - 1:
            return self.scenes.batch(rng, SCENES, len(CLASSES))
        return self.photos.batch(rng, PHOTOS, len(CLASSES))


def images_seen(steps: int) -> int:
    """Pictures in the first steps, repeated ones included."""
    scenes = steps // SCENE_EVERY
    return scenes * SCENES + (steps - scenes) * PHOTOS


def train(work: Path, assets: Path = ASSETS, stages: Sequence[Stage] = STAGES) -> None:
    """Trains and stores."""
    trainer, sampler = Trainer(), Sampler()
    trainer.visual.to(memory_format=torch.channels_last)

    def loss_of(step: int) -> Tensor:
        loss = trainer(sampler(step))
        if step % LOG_EVERY == LOG_EVERY - 1:
            log.info("%s %.3f", "scene" if step % SCENE_EVERY == SCENE_EVERY - 1 else "photo", loss.item())
        return loss

    cost = fit(trainer, stages, loss_of, work, decay=0.05)
    publish(trainer.visual.eval(), assets / "resnet.safetensors")
    record(assets, "resnet", {**cost, "images_seen": images_seen(int(cost["steps"]))})
