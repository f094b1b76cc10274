"""What the three training scripts of the tiny world share: schedule, checkpoints, assets, logging."""

import argparse
import json
import logging
import math
import os
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import regionspot_cache
from regionspot_cache.backbones.arithmetic import autocast, choose

ASSETS = Path(regionspot_cache.__file__).parent / "assets" / "tiny"
# First entry of the generator keys here; those of the dataset `shapes` begin with its seed, 0.
SAM_SCENES, CLIP_SCENES, CLIP_SINGLES = 101, 102, 103

log = logging.getLogger("pipeline.tiny")


def fast_autocast() -> AbstractContextManager:
    """bfloat16 where this CPU multiplies it fast, else float32."""
    return autocast(choose("auto", "cpu").arithmetic, torch.device("cpu"))


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Linear warm-up and a cosine decay that would end after `horizon` steps (0: after `steps`)."""

    steps: int
    rate: float
    horizon: int = 0
    warmup: int = 100

    def rate_at(self, step: int) -> float:
        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, (self.horizon or self.steps) - self.warmup)
        return self.rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """AdamW, stage after stage."""

    stages: tuple[Stage, ...]
    decay: float = 0.02
    clip: float = 1.0

    @property
    def steps(self) -> int:
        return sum(stage.steps for stage in self.stages)

    def rate_at(self, step: int) -> float:
        for stage in self.stages:
            if step < stage.steps:
                return stage.rate_at(step)
            step -= stage.steps
        return self.stages[-1].rate_at(self.stages[-1].steps)


class Run:
    """Optimiser, schedule and checkpoint of one training; iterate over it for the steps that are left."""

    def __init__(self, module: nn.Module, schedule: Schedule, folder: Path, *, every: int = 200) -> None:
        self.module, self.schedule, self.every = module, schedule, every
        self.path = folder / "checkpoint.pt"
        folder.mkdir(parents=True, exist_ok=True)
        matrices = [p for p in module.parameters() if p.ndim > 1 and p.requires_grad]
        others = [p for p in module.parameters() if p.ndim <= 1 and p.requires_grad]
        groups = [
            {"params": matrices, "weight_decay": schedule.decay},
            {"params": others, "weight_decay": 0.0},
        ]
        self.optimiser = torch.optim.AdamW(groups, lr=schedule.rate_at(0), betas=(0.9, 0.98))
        self.step = 0
        self.seconds = 0.0
        if self.path.exists():
            self._resume()

    def _resume(self) -> None:
        state = torch.load(self.path, weights_only=True)
        self.module.load_state_dict(state["module"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.seconds = state["step"], state["seconds"]
        log.info("resumed at step %d", self.step)

    def save(self) -> None:
        state = {
            "module": self.module.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        temporary = self.path.with_suffix(".tmp")
        torch.save(state, temporary)
        os.replace(temporary, self.path)

    def __iter__(self) -> Iterator[int]:
        while self.step < self.schedule.steps:
            started = time.perf_counter()
            # Dropout and sampling depend on the step alone, so that a resumed run equals an undisturbed one.
            torch.manual_seed(self.step)
            yield self.step
            self.step += 1
            self.seconds += time.perf_counter() - started
            if self.step % self.every == 0 or self.step == self.schedule.steps:
                self.save()

    def update(self, loss: Tensor) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = self.schedule.rate_at(self.step)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.module.parameters(), self.schedule.clip)
        self.optimiser.step()


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options of every training script."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--work", type=Path, default=Path("rs-cache-data/tiny"), help="logs and checkpoints")
    options.add_argument("--threads", type=int, default=1)
    return options


def start(name: str, work: Path, threads: int) -> Path:
    """Set threads, seed and logging (standard error and a log file); return the folder of this training."""
    folder = work / name
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    handlers = [logging.StreamHandler(sys.stderr), logging.FileHandler(folder / "log.txt")]
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", handlers=handlers, force=True)
    return folder


def save_half(tensors: dict[str, Tensor], path: Path) -> None:
    """Write weights as fp16 safetensors, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = {key: t.detach().to(torch.float16).contiguous() for key, t in tensors.items()}
    temporary = path.with_suffix(".tmp")
    save_file(half, temporary)
    temporary.chmod(0o644)  # safetensors writes files that only their owner can read
    os.replace(temporary, path)


def load_half(path: Path) -> dict[str, Tensor]:
    return {key: tensor.float() for key, tensor in load_file(path).items()}


def read_config() -> dict[str, Any]:
    path = ASSETS / "config.json"
    return json.loads(path.read_text()) if path.exists() else {}


def update_config(key: str, value: Any) -> None:
    """Replace one section of the assets' config.json."""
    config = read_config() | {key: value}
    ASSETS.mkdir(parents=True, exist_ok=True)
    temporary = ASSETS / f"config.{key}.tmp"
    temporary.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    os.replace(temporary, ASSETS / "config.json")


def record(section: str, figures: dict[str, Any], run: Run) -> None:
    """Keep measured figures and the cost of a training in config.json, under "measured"."""
    measured = dict(read_config().get("measured", {}))
    cost = {"steps": run.step, "minutes": round(run.seconds / 60, 1)}
    measured[section] = measured.get(section, {}) | figures | cost
    update_config("measured", measured)
