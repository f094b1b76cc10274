"""Steps a second of the training loop, beside a head of `nn.TransformerDecoder`, CLIP in every step, and the
loop itself without CUDA graphs."""

import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.harness import OURS, Findings, Row, against, take_turns
from benchmarks.live import draw_images, frozen_clip, live_steps
from benchmarks.random_cache import MAP, QUERY, random_cache
from benchmarks.settings import HeadSize, Settings, Train
from regionspot_cache.backbones.arithmetic import autocast, choose
from regionspot_cache.backbones.presets import HeadInputs
from regionspot_cache.extraction.devices import resolve_device
from regionspot_cache.training import Stage, StepReport, TrainConfig, TrainingSource
from regionspot_cache.training import train as train_head
from regionspot_cache.training.losses import region_loss

PEER = "nn.TransformerDecoder head"
LIVE = "CLIP run live in every step"
EAGER = "without CUDA graphs"
BATCHES = 4  # ready ones, of the peer


class Sizes(NamedTuple):
    """What a backbone dictates to its head."""

    side: int
    map_dim: int
    token_dim: int
    text_dim: int

    @property
    def map_shape(self) -> tuple[int, int]:
        """(tokens, width) of a map with its class token."""
        return 1 + self.side**2, self.map_dim


SIZES: dict[HeadSize, Sizes] = {
    "tiny": Sizes(16, 192, 128, 128),
    "b16": Sizes(14, 768, 256, 512),
    "l14": Sizes(16, 1024, 256, 768),
    "l14-336": Sizes(24, 1024, 256, 768),
}
SMALL: tuple[HeadSize, ...] = ("tiny", "b16")  # whose CLIP takes no minutes on a CPU


def measure(settings: Settings, folder: Path) -> Findings:
    """Both in turns for every size, on the device at hand."""
    work, device = settings.train, torch.device(resolve_device(settings.device))
    cuda = device.type == "cuda"
    chosen = work.sizes or [name for name in SIZES if cuda or settings.full or name != "l14-336"]
    config = _config(work, cuda)
    sources = {name: _source(name, work, folder / name) for name in chosen}
    found: Findings = []
    for name, source in sources.items():
        contenders = {
            OURS: partial(_rate, source, config, folder, device),
            PEER: partial(_theirs, SIZES[name], work, config, device),
        }
        runs = take_turns(contenders, settings.repeats)
        found += against(_what(name, config, device), "steps/s", runs)
    found += _beside_eager(settings, sources, config, folder, device)
    found += _beside_live(settings, sources, config, folder, device)
    found.append(
        f"{work.boxes} boxes an image, {work.classes} classes. Ours is `train` as it is, with its cache in "
        "memory and collating included; the peer gets collated batches."
    )
    if left_out := [name for name in SIZES if name not in chosen]:
        found.append(f"Not measured: {', '.join(left_out)} (--full, or --set train.sizes).")
    return found


def _what(name: HeadSize, config: TrainConfig, device: torch.device) -> str:
    shape = list(SIZES[name].map_shape)
    return f"head {name}, map {shape}, batch {config.batch_size}, {device.type}"


def _beside_eager(
    settings: Settings,
    sources: dict[HeadSize, TrainingSource],
    config: TrainConfig,
    folder: Path,
    device: torch.device,
) -> Findings:
    """Each step as one CUDA graph, and the same steps kernel by kernel; maps on the GPU, then from disk."""
    if device.type != "cuda":
        return ["Steps as CUDA graphs, maps on the GPU or from disk: not measured, no GPU."]
    found: Findings = []
    on_h200 = "H200" in torch.cuda.get_device_name(device)
    for name, source in sources.items():
        goals = {EAGER: ">= 500"} if name == "l14-336" and on_h200 else {}
        for where, room in {"maps on the GPU": None, "from disk": 0}.items():
            how = replace(config, memory_bytes=room)
            contenders = {
                side: partial(_rate, source, replace(how, graphs=graphs), folder, device)
                for side, graphs in {OURS: True, EAGER: False}.items()
            }
            runs = take_turns(contenders, settings.repeats)
            found += against(f"{_what(name, config, device)}, {where}", "steps/s", runs, goals=goals)
    return found


def _beside_live(
    settings: Settings,
    sources: dict[HeadSize, TrainingSource],
    config: TrainConfig,
    folder: Path,
    device: torch.device,
) -> Findings:
    """Ours reads the maps from disk, the peer computes them; both read the same tokens and labels."""
    work, cuda = settings.train, device.type == "cuda"
    everywhere = settings.full or cuda
    live = work.live if work.live is not None else tuple(n for n in sources if everywhere or n in SMALL)
    from_disk = replace(config, memory_bytes=0)
    draw_images(folder, work.images)
    found: Findings = []
    for name in (name for name in live if name in sources):
        source, clip, waiting = sources[name], frozen_clip(name, device), []

        def ours(source: TrainingSource = source, waiting: list[float] = waiting) -> float:
            speed = _ours(source, from_disk, folder, device)
            waiting.append(speed.waiting)
            return speed.rate

        steps = work.live_steps or (50 if cuda else 2)
        theirs = partial(live_steps, source, from_disk, clip, device, steps)
        runs = take_turns({OURS: ours, LIVE: theirs}, settings.repeats)
        what = f"{_what(name, config, device)}, from disk"
        found += against(what, "steps/s", runs, goals={LIVE: ">= 15x"} if name == "l14" and not cuda else {})
        found.append(
            Row(what=f"{what}: waiting for batches", unit="", ours=waiting, goal="<= 0.02", lower=True)
        )
    if left_out := [name for name in sources if name not in live]:
        found.append(f"{LIVE}: not measured for {', '.join(left_out)} (--full, or --set train.live).")
    return found


def _source(name: HeadSize, work: Train, path: Path) -> TrainingSource:
    sizes = SIZES[name]
    cache = random_cache(
        path,
        images=work.images,
        map_shape=sizes.map_shape,
        token_dim=sizes.token_dim,
        boxes=work.boxes,
        classes=work.classes,
        grid=(sizes.side, sizes.side),
    )
    text = torch.nn.functional.normalize(torch.randn(work.classes, sizes.text_dim), dim=1)
    return TrainingSource(
        name=name,
        cache=cache,
        inputs=HeadInputs(query=QUERY, memory=(MAP,)),
        class_names=cache.class_names,
        text_embeddings=text.numpy(),
        class_map=np.arange(work.classes),
    )


def _config(work: Train, cuda: bool) -> TrainConfig:
    """A stage one lap longer than what counts; laps of many steps on CUDA, which runs ahead of the host."""
    steps = work.steps or (500 if cuda else 4)
    every = max(1, steps // 5)
    return TrainConfig(
        stages=(Stage(steps=steps + every),),
        batch_size=work.batch_size,
        log_every=every,
        checkpoint_seconds=float("inf"),
    )


class _Enough(Exception):  # noqa: N818 - no error: stops `train` before it writes a checkpoint
    pass


class Speed(NamedTuple):
    """Steps a second, and the share of the time spent waiting for batches."""

    rate: float
    waiting: float


def _ours(source: TrainingSource, config: TrainConfig, folder: Path, device: torch.device) -> Speed:
    """Medians of the laps that `train` reports, without the first."""
    laps: list[Speed] = []

    def on_step(report: StepReport) -> None:
        laps.append(Speed(report.steps_per_second, report.waiting))
        if report.step == config.total_steps:
            raise _Enough

    with suppress(_Enough), TemporaryDirectory(dir=folder) as out:
        train_head([source], config, out, device=device, on_step=on_step)
    return Speed(*map(median, zip(*laps[1:], strict=True)))


def _rate(source: TrainingSource, config: TrainConfig, folder: Path, device: torch.device) -> float:
    return _ours(source, config, folder, device).rate


class TorchHead(nn.Module):
    """A head as torch has it, of the same sizes."""

    def __init__(self, sizes: Sizes, config: TrainConfig) -> None:
        super().__init__()
        options, width = config.head, sizes.map_dim
        layer = nn.TransformerDecoderLayer(
            width, options.num_heads, options.ffn_dim, options.dropout, batch_first=True
        )
        self.to_clip = nn.Linear(sizes.token_dim, width)
        self.decoder = nn.TransformerDecoder(layer, options.depth, norm=nn.LayerNorm(width))
        self.projector = nn.Linear(width, sizes.text_dim)

    def forward(self, tokens: Tensor, feature_map: Tensor) -> Tensor:
        """[B, N, T], [B, M, C] -> unit length [B, N, E]."""
        boxes = self.projector(self.decoder(self.to_clip(tokens), feature_map))
        return nn.functional.normalize(boxes.float(), dim=-1)


def _theirs(sizes: Sizes, work: Train, config: TrainConfig, device: torch.device) -> float:
    """Median over laps as long as those of our loop, without the first; same loss, same optimiser."""
    head = TorchHead(sizes, config).to(device).train()
    optimizer = torch.optim.AdamW(
        head.parameters(), lr=1e-5, weight_decay=config.weight_decay, betas=config.betas, fused=True
    )
    text = nn.functional.normalize(torch.randn(sizes.text_dim, work.classes, device=device), dim=0)
    arithmetic = choose(config.precision, device).arithmetic
    boxes = config.batch_size * work.boxes
    batches = [
        (
            torch.randn(config.batch_size, work.boxes, sizes.token_dim, device=device),
            torch.randn(config.batch_size, *sizes.map_shape, device=device),
            torch.randint(work.classes, (boxes,), device=device),
        )
        for _ in range(BATCHES)
    ]
    weights = torch.full((boxes,), 1 / boxes, device=device)
    laps, ready = [], cycle(batches)
    for _ in range(config.total_steps // config.log_every):
        start = time.perf_counter()
        for tokens, feature_map, labels in islice(ready, config.log_every):
            optimizer.zero_grad()
            with autocast(arithmetic, device):
                embeddings = head(tokens, feature_map)
            loss = region_loss(20 * embeddings.flatten(0, 1) @ text, labels, weights)
            loss.backward()
            nn.utils.clip_grad_norm_(head.parameters(), config.gradient_clip)
            optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        laps.append(config.log_every / (time.perf_counter() - start))
    return median(laps[1:])
