"""Training without a cache of maps: the frozen CLIP runs on the pixels of every batch, as the official one.

SAM tokens, head, loss, optimiser, batches and their order are those of `train`.
"""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.random_cache import SIDE
from benchmarks.settings import HeadSize
from regionspot_cache.backbones import ClipBackbone, load_preset
from regionspot_cache.backbones.arithmetic import autocast, choose
from regionspot_cache.backbones.load import load_part
from regionspot_cache.backbones.presets import ClipSpec
from regionspot_cache.datasets.images import find_image, read_image
from regionspot_cache.training import TrainConfig, TrainingSource
from regionspot_cache.training.distributed import FlatGradients, ProcessGroup
from regionspot_cache.training.loader import Batch, Read, SourceReader, make_batch, read_ahead
from regionspot_cache.training.setup import RunData, initial_head

PRESETS: dict[HeadSize, str] = {"tiny": "tiny", "b16": "bb", "l14": "bl", "l14-336": "bl336"}
WARM_UP = 1  # steps


def frozen_clip(size: HeadSize, device: torch.device) -> ClipBackbone:
    """The CLIP that makes the maps of a head's size; random weights, unless packaged."""
    spec = load_preset(PRESETS[size]).first(ClipSpec)
    clip = load_part(spec if size == "tiny" else replace(spec, weights="random:0"), device)
    assert isinstance(clip, ClipBackbone)
    return clip


def draw_images(root: Path, count: int) -> None:
    """Blurred noise as JPEG files of the size that `random_cache` annotates."""
    rng = np.random.default_rng(0)
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (SIDE // 8, SIDE // 8, 3), np.uint8))
        coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(root / f"{i}.jpg", quality=90)


class PixelReader(SourceReader):
    """Reads tokens from the cache, and in the place of maps what CLIP takes, from the image files."""

    def __init__(self, source: TrainingSource, images: NDArray[np.int64], clip: ClipBackbone) -> None:
        super().__init__(source, images)
        self.clip, self.root = clip, source.cache.dataset.image_root
        self.files = [f"{source.cache.cache.image(i)[0]}.jpg" for i in range(source.cache.cache.num_images)]

    def read(self, images: NDArray[np.int64], key: int = 0) -> Read:
        """As of `SourceReader`, `maps` [B, 3, R, R]."""
        seen = [self.source.see(int(image), key) for image in images]
        pixels = [self._pixels(int(image)) for image in images]
        return Read(
            tokens=[self.source.queries(int(i))[one.boxes] for i, one in zip(images, seen, strict=True)],
            maps=torch.from_numpy(np.stack(pixels)),
            scales=None,
            labels=[one.labels for one in seen],
            targets=(),
        )

    def _pixels(self, image: int) -> NDArray[np.uint8]:
        return self.clip.preprocess(read_image(find_image(self.root, self.files[image]))).numpy()


def live_steps(
    source: TrainingSource, config: TrainConfig, clip: ClipBackbone, device: torch.device, steps: int
) -> float:
    """Steps a second after the warm-up."""
    data = RunData.prepare([source], config, device)
    stage = data.stage(0, device)
    reader = PixelReader(source, data.usable[0].images, clip)
    head = initial_head([source], config).to(device).train()
    gradients = FlatGradients(head.parameters())
    optimizer = torch.optim.AdamW(
        head.parameters(), lr=1e-5, weight_decay=config.weight_decay, betas=config.betas, fused=True
    )
    arithmetic = choose(config.precision, device).arithmetic

    def make(step: int) -> Batch:
        index, images = stage.order.batch(step)
        return make_batch(step, index, reader, images, len(images), pin=device.type == "cuda")

    threads, ahead = config.reader_threads, config.batches_ahead
    started = time.perf_counter()
    with read_ahead(make, range(WARM_UP + steps), threads=threads, ahead=ahead) as batches:
        for host in batches:
            batch = host.to(device)
            feature_map = clip.encode(batch.maps)["map"].clone()  # no inference tensor is trained on
            gradients.clear()
            with autocast(arithmetic, device):
                embeddings = head(batch.tokens, feature_map, batch.real)
            real = embeddings.flatten(0, 1)[batch.places]
            loss = stage.objectives[0](head, real, batch, ProcessGroup())
            loss.backward()
            gradients.clip(config.gradient_clip)
            optimizer.step()
            if batch.step == WARM_UP - 1:
                _finish(device)
                started = time.perf_counter()
        _finish(device)
    return steps / (time.perf_counter() - started)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
