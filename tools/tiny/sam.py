"""Train the small SAM.

The networks are segment_anything's own classes, prompts are boxes, and pixels go through the normalisation of
SamPredictor. Only the single-mask output (mask token 0) is trained.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from segment_anything.modeling import Sam
from torch import Tensor, nn
from torchvision.transforms.functional import normalize

from regionspot_cache.backbones.assets import FOLDER as ASSETS
from regionspot_cache.backbones.assets import packaged_config
from regionspot_cache.backbones.sam_build import build_sam
from regionspot_cache.datasets.shapes_classes import class_probabilities
from regionspot_cache.datasets.shapes_scene import Scene, draw_scene, image_rng
from tools.tiny.training import SAM_SCENES, Stage, fast_autocast, fit, publish, record

CONFIG = packaged_config("sam")
COARSE = 3400  # steps in which every pixel counts the same; then every object does
STAGES = (Stage(COARSE, 1e-3, warmup=80), Stage(2200, 7e-4, warmup=80), Stage(1200, 5e-4, warmup=20))
IMAGES, BOXES = 8, 4  # per step and per image
PLACE_BANDS = 4
VALIDATION = 1_000_000  # held-out scenes start at this index


def decode(sam: Sam, embeddings: Tensor, boxes: Tensor, image_of: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Decode boxes of several images at once.

    Args:
        embeddings: [B,E,h,w]. boxes: [N,4] xyxy in input pixels. image_of: i64 [N], the image of each box.

    Returns:
        mask logits [N,4h,4w], IoU estimates [N] and mask token 0 after the transformer [N,E].
    """
    decoder = sam.mask_decoder
    sparse, dense = sam.prompt_encoder(points=None, boxes=boxes, masks=None)
    output = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = torch.cat([output.expand(len(boxes), -1, -1), sparse], dim=1)
    source = embeddings[image_of] + dense
    position = sam.prompt_encoder.get_dense_pe().expand(len(boxes), -1, -1, -1)
    hidden, keys = decoder.transformer(source, position, tokens)
    token = hidden[:, 1]
    upscaled = decoder.output_upscaling(keys.transpose(1, 2).reshape(source.shape))
    kernel = decoder.output_hypernetworks_mlps[0](token)
    masks = torch.einsum("nc,nchw->nhw", kernel, upscaled)
    return masks, decoder.iou_prediction_head(hidden[:, 0])[:, 0], token


def place_code(boxes: Tensor, size: float) -> Tensor:
    """Centre and extent of boxes [N,4] as waves and numbers: [N, 4 + 4 * bands]."""
    centre = (boxes[:, :2] + boxes[:, 2:]) / (2 * size)
    extent = (boxes[:, 2:] - boxes[:, :2]) / size
    bands = 2.0 ** torch.arange(PLACE_BANDS) * torch.pi
    waves = (centre[..., None] * bands).flatten(1)
    return torch.cat([centre, extent, waves.sin(), waves.cos()], dim=1)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """images f32 [B,3,S,S]; boxes, disturbed and exact, f32 [N,4]; image_of i64 [N]; masks f32 [N,S,S]."""

    images: Tensor
    boxes: Tensor
    exact: Tensor
    image_of: Tensor
    masks: Tensor


class Trainer(nn.Module):
    """Sam plus a reader that keeps the region's place linearly readable in its token (training only)."""

    def __init__(self) -> None:
        super().__init__()
        self.sam = build_sam(CONFIG)
        self.place = nn.Linear(CONFIG["transformer"]["embedding_dim"], 4 + 4 * PLACE_BANDS)

    def forward(self, batch: Batch, *, fine: bool) -> Tensor:
        """Loss of the boxes; `fine` divides the error of the pixels by the box's area, not the image's."""
        with fast_autocast():
            embeddings = self.sam.image_encoder(batch.images)
            logits, quality, token = decode(self.sam, embeddings, batch.boxes, batch.image_of)
        side = 2 * logits.shape[-1]
        logits = F.interpolate(logits.float()[:, None], (side, side), mode="bilinear", align_corners=False)[
            :, 0
        ]
        target = F.avg_pool2d(batch.masks[:, None], batch.masks.shape[-1] // side)[:, 0]
        errors = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        extent = (batch.exact[:, 2:] - batch.exact[:, :2]) * side / batch.masks.shape[-1]
        pixels = (errors.sum((1, 2)) / extent.prod(1)).mean() if fine else 5 * errors.mean()
        iou = _iou(logits.detach() > 0, target > 0.5)
        place = F.l1_loss(self.place(token.float()), place_code(batch.exact, batch.masks.shape[-1]))
        return pixels + _dice(logits.sigmoid(), target) + F.mse_loss(quality.float(), iou) + 0.5 * place


def _dice(p: Tensor, target: Tensor) -> Tensor:
    overlap = 2 * (p * target).sum((1, 2))
    return (1 - (overlap + 1) / (p.sum((1, 2)) + target.sum((1, 2)) + 1)).mean()


def _iou(a: Tensor, b: Tensor) -> Tensor:
    return (a & b).sum((1, 2)) / (a | b).sum((1, 2)).clamp(min=1)


def jitter(boxes: NDArray[np.float32], rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    """Disturb box edges by about 3 % of the side, one box in three by 12 %, as proposals do."""
    spread = np.where(rng.random((len(boxes), 1)) < 1 / 3, 0.12, 0.03)
    sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    noise = np.clip(rng.standard_normal(boxes.shape), -2, 2) * spread * sides
    return np.clip(boxes + noise, 0, size).astype(np.float32)


def normalise(images: NDArray[np.uint8]) -> Tensor:
    """u8 [B,S,S,3] to f32 [B,3,S,S] with the pixel mean and deviation of SAM."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    return normalize(pixels, CONFIG["pixel_mean"], CONFIG["pixel_std"])


def batch_of(step: int) -> Batch:
    """The fresh scenes of one step."""
    probabilities = class_probabilities("uniform")
    images, boxes, exact, image_of, masks = [], [], [], [], []
    for j in range(IMAGES):
        rng = image_rng(SAM_SCENES, step * IMAGES + j)
        scene = draw_scene(rng, probabilities)
        pick = rng.permutation(len(scene.labels))[:BOXES]
        images.append(scene.image)
        exact.append(scene.boxes[pick])
        boxes.append(jitter(scene.boxes[pick], rng, scene.image.shape[0]))
        masks.append(scene.masks[pick])
        image_of += [j] * len(pick)
    return Batch(
        images=normalise(np.stack(images)),
        boxes=torch.from_numpy(np.concatenate(boxes)),
        exact=torch.from_numpy(np.concatenate(exact)),
        image_of=torch.tensor(image_of),
        masks=torch.from_numpy(np.concatenate(masks)).float(),
    )


@torch.no_grad()
def scene_ious(sam: Sam, scene: Scene, boxes: NDArray[np.float32]) -> Tensor:
    """IoU [N] of the masks decoded from boxes [N,4], at full resolution."""
    embedding = sam.image_encoder(normalise(scene.image[None]))
    logits, _, _ = decode(sam, embedding, torch.from_numpy(boxes), torch.zeros(len(boxes), dtype=torch.long))
    full = F.interpolate(logits[:, None], scene.image.shape[:2], mode="bilinear", align_corners=False)[:, 0]
    return _iou(full > 0, torch.from_numpy(scene.masks))


def evaluate(sam: Sam, scenes: int) -> dict[str, float]:
    """Mean IoU on held-out scenes for exact and for roughly (12 %) placed boxes."""
    exact, rough = [], []
    for i in range(scenes):
        rng = image_rng(SAM_SCENES, VALIDATION + i)
        scene = draw_scene(rng, class_probabilities("uniform"))
        exact.append(scene_ious(sam, scene, scene.boxes))
        rough.append(scene_ious(sam, scene, jitter(scene.boxes, rng, scene.image.shape[0])))
    iou, loose = torch.cat(exact), torch.cat(rough)
    return {
        "scenes": scenes,
        "boxes": len(iou),
        "mean_iou": round(iou.mean().item(), 4),
        "share_above_0.75": round((iou > 0.75).float().mean().item(), 4),
        "mean_iou_disturbed_boxes": round(loose.mean().item(), 4),
    }


def train(work: Path, assets: Path = ASSETS, stages: Sequence[Stage] = STAGES, scenes: int = 300) -> None:
    """Trains, stores and measures on held-out scenes."""
    trainer = Trainer()
    cost = fit(trainer, stages, lambda step: trainer(batch_of(step), fine=step >= COARSE), work)
    sam = trainer.sam.eval()
    publish(sam, assets / "sam.safetensors")
    record(assets, "sam", {**evaluate(sam, scenes), **cost, "images_seen": cost["steps"] * IMAGES})
