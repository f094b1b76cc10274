"""Train the small CLIP.

The network is open_clip's CLIP. Image and phrase embeddings are compared as in CLIP, for the whole image
(class token) and for its best patches (after FILIP, Yao et al. 2022), and the words of the caption are
predicted (after SuperClass, Huang et al. 2024). Supervision is captions only.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from regionspot_cache.backbones.assets import FOLDER as ASSETS
from regionspot_cache.backbones.assets import packaged_config
from regionspot_cache.datasets.shapes_classes import CLASS_NAMES, CLASSES, COLOURS, SHAPES, TEXTURES
from tools.tiny import clip_data as data
from tools.tiny.training import LOG_EVERY, Stage, fast_autocast, fit, log, publish, record

CONFIG = packaged_config("clip")
VISION = CONFIG["model_cfg"]["vision_cfg"]
PATCH, WIDTH = VISION["patch_size"], VISION["width"]
STAGES = (
    Stage(1600, 1.2e-3, warmup=150, horizon=5000),
    Stage(1400, 1e-3, warmup=20, horizon=5400),
    Stage(3000, 8e-4, warmup=20),
    Stage(1000, 6e-4, warmup=20),
)
WORDS = (*TEXTURES, *COLOURS, *SHAPES)


def sin_cos(side: int, width: int) -> Tensor:
    """Two-dimensional sine and cosine positions of a side x side grid: [side * side, width]."""
    rates = 100.0 ** -(torch.arange(width // 4) / (width // 4))
    angles = torch.arange(side)[:, None] * rates
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)
    rows, columns = waves[:, None].expand(-1, side, -1), waves[None].expand(side, -1, -1)
    return torch.cat([rows, columns], dim=-1).flatten(0, 1)


def build_clip() -> CLIP:
    """open_clip's CLIP, with sine-cosine positions to start from."""
    model = CLIP(**CONFIG["model_cfg"])
    visual = vision_tower(model)
    with torch.no_grad():
        visual.positional_embedding[1:] = 0.3 * sin_cos(visual.grid_size[0], WIDTH)
    return model


def vision_tower(model: CLIP) -> VisionTransformer:
    return cast(VisionTransformer, model.visual)


def image_tokens(
    visual: VisionTransformer, images: Tensor, offset: tuple[int, int], keep: Tensor | None
) -> Tensor:
    """Tokens [B,1+P,W] of the last block, before ln_post; images may cover part of the grid, at an offset."""
    x = visual.conv1(images)
    rows, columns = x.shape[-2:]
    side = visual.grid_size[0]
    positions = visual.positional_embedding[1:].view(side, side, -1)
    positions = positions[offset[0] : offset[0] + rows, offset[1] : offset[1] + columns].flatten(0, 1)
    x = x.flatten(2).transpose(1, 2) + positions
    if keep is not None:
        x = x[:, keep]
    first = visual.class_embedding + visual.positional_embedding[0]
    x = visual.ln_pre(torch.cat([first.expand(len(x), 1, -1), x], dim=1))
    return visual.transformer(x)


def text_embeddings(model: CLIP, ids: Tensor) -> Tensor:
    """encode_text of ids [T,L], cut to the longest text (exact: attention is causal), unit length [T,E]."""
    ids = ids[:, : int((ids != 0).sum(1).max())]
    length = ids.shape[1]
    text: Any = model  # open_clip's classes carry no types
    x = text.token_embedding(ids) + text.positional_embedding[:length]
    x = text.transformer(x, attn_mask=text.attn_mask[:length, :length])
    x = text.ln_final(x)[torch.arange(len(ids)), ids.argmax(-1)] @ text.text_projection
    return F.normalize(x.float(), dim=-1)


class Trainer(nn.Module):
    """CLIP with the readers that only training needs."""

    def __init__(self) -> None:
        super().__init__()
        self.clip = build_clip()
        self.words = nn.Linear(WIDTH, len(WORDS))
        self.place = nn.Linear(WIDTH, 64)
        self.background = nn.Parameter(torch.zeros(()))
        grid = data.INPUT // PATCH
        self.register_buffer("code", sin_cos(grid, 64).view(grid, grid, 64), persistent=False)
        words = torch.tensor([[float(word in name.split()) for word in WORDS] for name in CLASS_NAMES])
        self.register_buffer("words_of", words, persistent=False)

    def forward(
        self, batch: data.Batch, ids: Tensor, offset: tuple[int, int], keep: Tensor | None
    ) -> dict[str, Tensor]:
        clip, visual = self.clip, vision_tower(self.clip)
        with fast_autocast():
            texts = text_embeddings(clip, ids[batch.classes])
            tokens = image_tokens(visual, batch.images, offset, keep)
            normal = visual.ln_post(tokens)
            projected = normal @ visual.proj
            words = self.words(normal)
            place = self.place(tokens[:, 1:])
        scale = clip.logit_scale.exp().clamp(max=100)
        logits = scale * (F.normalize(projected.float(), dim=-1) @ texts.T)
        return {
            "image": _contrast(logits[:, 0], batch),
            "patch": self._patch_loss(logits[:, 1:], batch),
            "words": self._word_loss(words.float(), batch),
            "place": F.mse_loss(place.float(), self._codes(batch, offset, keep).expand_as(place)),
        }

    def _codes(self, batch: data.Batch, offset: tuple[int, int], keep: Tensor | None) -> Tensor:
        rows, columns = (side // PATCH for side in batch.images.shape[-2:])
        code = self.code[offset[0] : offset[0] + rows, offset[1] : offset[1] + columns].flatten(0, 1)
        return code if keep is None else code[keep]

    def _patch_loss(self, logits: Tensor, batch: data.Batch) -> Tensor:
        """Each patch names one phrase or none; a phrase is in the caption if its best two patches name it."""
        nothing = (self.background * 10).expand(*logits.shape[:2], 1)
        named = torch.cat([logits, nothing], dim=-1).log_softmax(-1)[..., :-1]
        best = named.topk(2, dim=1).values.mean(1).clamp(max=-1e-4)  # log probability [B,C]
        present, known = batch.present[:, batch.classes], batch.known[:, batch.classes]
        absent = torch.log1p(-best.exp()) * (1 - present) * known
        found = (best * present).sum(1) / present.sum(1)
        return -(found + absent.sum(1)).mean()

    def _word_loss(self, words: Tensor, batch: data.Batch) -> Tensor:
        """Caption words from the class token and from the best patches, cross-entropy on the set of words."""
        target = (batch.present @ self.words_of).clamp(max=1)
        target = target / target.sum(1, keepdim=True)
        whole, best = words[:, 0], words[:, 1:].topk(2, dim=1).values.mean(1)
        return -((whole.log_softmax(-1) + best.log_softmax(-1)) * target).sum(1).mean()


def _contrast(logits: Tensor, batch: data.Batch) -> Tensor:
    """Image against all phrases [B,C]; several may be right."""
    present, known = batch.present[:, batch.classes], batch.known[:, batch.classes]
    logs = logits.masked_fill(~known, -1e4).log_softmax(-1)
    return -((logs * present).sum(1) / present.sum(1)).mean()


class Phase(NamedTuple):
    """Until a step, repeat a cycle of kinds; images of each kind in a step, and phrases to tell apart."""

    until: int
    cycle: tuple[str, ...]
    pieces: int
    photos: int
    scenes: int = 20
    phrases: int = len(CLASSES)
    words: float = 1.0  # weight of the word loss

    def images(self, kind: str) -> int:
        """How many pictures of a kind a step has."""
        return {"photo": self.photos, "scene": self.scenes}.get(kind, self.pieces)


# Pieces teach textures at the least cost, many small steps of large pieces teach shapes, scenes make the
# map dense, photos are what crops look like. Each phase lasts until its step and repeats its cycle.
PHASES = (
    Phase(1000, ("piece", "scene", "photo", "scene", "piece", "scene"), 96, 40, words=0.5),
    Phase(1600, ("piece", "piece", "photo", "piece", "piece", "scene"), 192, 64, words=0.5),
    Phase(3000, ("large", "large", "large", "large", "piece", "photo"), 64, 24, phrases=96),
    Phase(6000, ("large", "photo", "scene", "piece", "photo", "scene"), 64, 32, scenes=12, phrases=96),
    Phase(7000, ("scene", "scene", "photo", "scene", "scene", "piece"), 64, 32, scenes=16, phrases=96),
)


def phase_at(step: int) -> Phase:
    return next(phase for phase in PHASES if step < phase.until)


def images_seen(steps: int) -> int:
    """Pictures in the first steps, repeated ones included."""
    return sum(phase_at(step).images(kind_at(step)) for step in range(steps))


def kind_at(step: int) -> str:
    cycle = phase_at(step).cycle
    return cycle[step % len(cycle)]


class Sampler:
    """What each step trains on, a function of the step alone."""

    def __init__(self, tokenizer: SimpleTokenizer) -> None:
        prompts = data.templates()
        texts = [prompt.format(name) for prompt in prompts for name in CLASS_NAMES]
        self.ids = tokenizer(texts).view(len(prompts), len(CLASSES), -1)
        self.pools = {
            "piece": data.Pool(data.piece, data.PIECES, data.PIECE),
            "large": data.Pool(data.large_piece, data.PIECES, data.PIECE),
            "photo": data.Pool(data.photo, data.PHOTOS, data.INPUT),
            "scene": data.Pool(data.scene, data.SCENES, data.INPUT),
        }

    def __call__(self, step: int) -> tuple[data.Batch, Tensor, tuple[int, int], Tensor | None]:
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((7, step))))
        phase, kind = phase_at(step), kind_at(step)
        grid, part = data.INPUT // PATCH, data.PIECE // PATCH
        offset, keep = (0, 0), None
        batch = self.pools[kind].batch(rng, phase.images(kind), phase.phrases)
        if kind in ("piece", "large"):
            row, column = rng.integers(grid - part + 1, size=2)
            offset = (int(row), int(column))
        elif kind == "photo":
            keep = torch.from_numpy(np.sort(rng.permutation(grid * grid)[: grid * grid * 2 // 5]))
        # One template for a step in two, another one for each name otherwise.
        chosen = rng.integers(len(self.ids), size=len(CLASSES) if step % 2 else 1)
        ids = self.ids[torch.from_numpy(chosen), torch.arange(len(CLASSES))]
        return batch, ids, offset, keep


def weigh(kind: str, losses: dict[str, Tensor], words: float) -> Tensor:
    image = 0.3 if kind == "scene" else 1.0
    patch = 0.0 if kind == "photo" else 1.0
    return image * losses["image"] + patch * losses["patch"] + words * losses["words"] + 0.3 * losses["place"]


def train(work: Path, assets: Path = ASSETS, stages: Sequence[Stage] = STAGES) -> None:
    """Writes the vocabulary, trains and stores."""
    vocabulary = assets / CONFIG["tokenizer"]["bpe_file"]
    data.write_vocabulary(vocabulary, [*CLASS_NAMES, *(template.format("") for template in data.templates())])
    trainer = Trainer()
    sampler = Sampler(SimpleTokenizer(str(vocabulary), context_length=CONFIG["tokenizer"]["context_length"]))

    def loss_of(step: int) -> Tensor:
        kind, losses = kind_at(step), trainer(*sampler(step))
        if step % LOG_EVERY == 0:
            log.info("%s: %s", kind, " ".join(f"{name} {loss.item():.2f}" for name, loss in losses.items()))
        return weigh(kind, losses, phase_at(step).words)

    with sdpa_kernel(SDPBackend.MATH):
        cost = fit(trainer, stages, loss_of, work, decay=0.05)
    publish(trainer.clip, assets / "clip.safetensors")
    record(assets, "clip", {**cost, "images_seen": images_seen(int(cost["steps"]))})
