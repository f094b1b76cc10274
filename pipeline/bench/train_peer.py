"""The head as torch has it: `nn.TransformerDecoder`, AdamW, and the same loss on ready batches."""

import time
from itertools import cycle, islice
from statistics import median

import numpy as np
import torch
from torch import Tensor, nn

from regionspot_cache.backbones.arithmetic import autocast, choose
from regionspot_cache.training import TrainConfig, TrainingSource
from regionspot_cache.training.head import HeadConfig
from regionspot_cache.training.loader import Batch, SourceReader, make_batch
from regionspot_cache.training.losses import region_loss
from regionspot_cache.training.sources import build_head_config

BATCHES = 4


class TorchHead(nn.Module):
    """The sizes of a `HeadConfig`, built from torch's own layers."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        layer = nn.TransformerDecoderLayer(
            config.map_dim,
            config.num_heads,
            dim_feedforward=config.ffn_dim,
            dropout=config.dropout,
            batch_first=True,
        )
        self.to_clip = nn.Linear(config.token_dim, config.map_dim)
        self.decoder = nn.TransformerDecoder(layer, config.depth, norm=nn.LayerNorm(config.map_dim))
        self.projector = nn.Linear(config.map_dim, config.text_dim)
        self.logit_scale = config.logit_scale

    def forward(self, tokens: Tensor, feature_map: Tensor, real: Tensor) -> Tensor:
        """[B, N, T], [B, M, C], bool [B, N] -> [B, N, E]."""
        boxes = self.decoder(self.to_clip(tokens), feature_map, tgt_key_padding_mask=~real)
        return self.projector(boxes)

    def logits(self, embeddings: Tensor, text: Tensor) -> Tensor:
        """Scaled cosines, [T, E] and [K, E] -> [T, K]."""
        return self.logit_scale * nn.functional.normalize(embeddings.float(), dim=-1) @ text.T


def peer_steps_per_second(source: TrainingSource, config: TrainConfig, device: torch.device) -> float:
    """Median over laps as long as those of our loop, without the first."""
    head = TorchHead(build_head_config([source], config.head)).to(device).train()
    optimizer = torch.optim.AdamW(
        head.parameters(), lr=1e-5, weight_decay=config.weight_decay, betas=config.betas, fused=True
    )
    text = torch.from_numpy(source.text_embeddings).to(device)
    arithmetic = choose(config.precision, device).arithmetic
    batches = cycle([batch.to(device) for batch in _batches(source, config.batch_size)])

    def step(batch: Batch) -> None:
        optimizer.zero_grad()
        with autocast(arithmetic, device):
            embeddings = head(batch.tokens, batch.feature_map(), batch.real)
        real = embeddings.flatten(0, 1)[batch.places]
        loss = region_loss(head.logits(real, text), batch.labels, batch.weights)
        loss.backward()
        nn.utils.clip_grad_norm_(head.parameters(), config.gradient_clip)
        optimizer.step()

    laps = []
    for _ in range(config.total_steps // config.log_every):
        start = time.perf_counter()
        for batch in islice(batches, config.log_every):
            step(batch)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        laps.append(config.log_every / (time.perf_counter() - start))
    return median(laps[1:])


def _batches(source: TrainingSource, size: int) -> list[Batch]:
    images = np.arange(source.cache.num_images)
    reader = SourceReader(source, images)
    rng = np.random.default_rng(0)
    return [
        make_batch(step, 0, reader, np.sort(rng.choice(images, size)), size, pin=False)
        for step in range(BATCHES)
    ]
