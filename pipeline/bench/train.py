"""Steps a second of the training loop, beside the same loop around a head of `nn.TransformerDecoder`."""

from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch

from pipeline.bench.result import OURS, Findings, Goal, against, take_turns
from pipeline.bench.settings import BenchSettings, HeadSize, TrainBench
from pipeline.bench.synthetic import random_cache
from pipeline.bench.train_peer import peer_steps_per_second
from pipeline.partition import resolve_device
from regionspot_cache.training import Stage, StepReport, TrainConfig, TrainingSource
from regionspot_cache.training import train as train_head

PEER = "nn.TransformerDecoder head"
H200_GOAL = Goal(of="ours", at_least=500)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What a backbone dictates to its head."""

    grid: tuple[int, int]
    map_dim: int
    token_dim: int
    text_dim: int

    @property
    def map_shape(self) -> tuple[int, int]:
        """(tokens, width) of a map with its class token."""
        return 1 + self.grid[0] * self.grid[1], self.map_dim


SIZES: dict[HeadSize, Sizes] = {
    "tiny": Sizes(grid=(16, 16), map_dim=192, token_dim=128, text_dim=128),
    "b16": Sizes(grid=(14, 14), map_dim=768, token_dim=256, text_dim=512),
    "l14": Sizes(grid=(16, 16), map_dim=1024, token_dim=256, text_dim=768),
    "l14-336": Sizes(grid=(24, 24), map_dim=1024, token_dim=256, text_dim=768),
}


def measure(settings: BenchSettings, folder: Path) -> Findings:
    """Both in turns for every size, on the device at hand."""
    device = torch.device(resolve_device(settings.device))
    cuda = device.type == "cuda"
    chosen = settings.train.sizes or tuple(
        name for name in SIZES if cuda or settings.full or name != "l14-336"
    )
    found = Findings()
    for name in chosen:
        source = _source(name, settings.train, folder / name)
        config = _config(settings.train, cuda)
        contenders = {
            OURS: partial(_ours, source, config, folder, device),
            PEER: partial(peer_steps_per_second, source, config, device),
        }
        runs = take_turns(contenders, settings.repeats)
        what = f"head {name}, map {list(SIZES[name].map_shape)}, batch {config.batch_size}, {device.type}"
        goals = {PEER: H200_GOAL} if name == "l14-336" and _is_h200(device) else {}
        found.rows += against(what, "steps/s", runs, goals=goals)
    found.notes += _notes(settings.train, chosen, cuda)
    return found


def _notes(work: TrainBench, chosen: tuple[HeadSize, ...], cuda: bool) -> list[str]:
    notes = [
        f"{work.boxes} boxes an image, {work.classes} classes. Ours is `train` as it is, with its cache in "
        "memory and collating included; the peer gets collated batches."
    ]
    if left_out := [name for name in SIZES if name not in chosen]:
        notes.append(f"Not measured: {', '.join(left_out)} (--full, or --set train.sizes).")
    return notes if cuda else [*notes, "GPU: none used, not measured."]


def _is_h200(device: torch.device) -> bool:
    return device.type == "cuda" and "H200" in torch.cuda.get_device_name(device)


def _source(name: HeadSize, work: TrainBench, path: Path) -> TrainingSource:
    sizes = SIZES[name]
    cache = random_cache(
        path,
        images=work.images,
        map_shape=sizes.map_shape,
        token_dim=sizes.token_dim,
        boxes=work.boxes,
        classes=work.classes,
    )
    text = np.random.default_rng(0).normal(size=(work.classes, sizes.text_dim)).astype(np.float32)
    return TrainingSource(
        name=name,
        cache=cache,
        class_names=tuple(cache.dataset.class_names),
        text_embeddings=text / np.linalg.norm(text, axis=1, keepdims=True),
        class_map=np.arange(work.classes),
        grid=sizes.grid,
    )


def _config(work: TrainBench, cuda: bool) -> TrainConfig:
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


def _ours(source: TrainingSource, config: TrainConfig, folder: Path, device: torch.device) -> float:
    """Median of the laps that `train` reports, without the first."""
    laps: list[float] = []

    def on_step(report: StepReport) -> None:
        laps.append(report.steps_per_second)
        if report.step == config.total_steps:
            raise _Enough

    with suppress(_Enough), TemporaryDirectory(dir=folder) as out:
        train_head([source], config, out, device=device, on_step=on_step)
    return median(laps[1:])
