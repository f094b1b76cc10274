"""What the trainings of the tiny world share: a loop that continues where it was, and what it leaves."""

import json
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from regionspot_cache.backbones.arithmetic import autocast, choose
from regionspot_cache.files import replacing

# First entry of the generator keys here; those of the dataset `shapes` begin with its seed, 0.
SAM_SCENES, CLIP_SCENES, CLIP_SINGLES = 101, 102, 103
SAVE_EVERY, LOG_EVERY = 200, 50  # steps

log = logging.getLogger("tools.tiny")


class Stage(NamedTuple):
    """Linear warm-up and a cosine decay that would end after `horizon` steps (None: after `steps`)."""

    steps: int
    rate: float
    warmup: int = 100
    horizon: int | None = None


def learning_rate(stages: Sequence[Stage], step: int) -> float:
    """The rate of a step, counted from the start of the first stage."""
    for stage in stages:
        if step < stage.steps:
            break
        step -= stage.steps
    if step < stage.warmup:
        return stage.rate * (step + 1) / stage.warmup
    progress = (step - stage.warmup) / max(1, (stage.horizon or stage.steps) - stage.warmup)
    return stage.rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def fit(
    module: nn.Module,
    stages: Sequence[Stage],
    loss_of: Callable[[int], Tensor],
    folder: Path,
    *,
    decay: float = 0.02,
) -> dict[str, float]:
    """Trains with AdamW to the end of the stages, from `folder`/checkpoint.pt if it is there.

    `decay` is that of matrices. Returns what it took: "steps" and "minutes".
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.98))
    checkpoint, steps = folder / "checkpoint.pt", sum(stage.steps for stage in stages)
    first, seconds = 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        module.load_state_dict(state["module"])
        optimiser.load_state_dict(state["optimiser"])
        first, seconds = state["step"], state["seconds"]
        log.info("resumed at step %d", first)
    for step in range(first, steps):
        started = time.perf_counter()
        # Dropout and sampling depend on the step alone, so that a resumed run equals an undisturbed one.
        torch.manual_seed(step)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(stages, step)
        loss = loss_of(step)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimiser.step()
        seconds += time.perf_counter() - started
        if step % LOG_EVERY == 0:
            log.info("step %d loss %.3f, %.0f s", step, loss.item(), seconds)
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
            state = {"module": module.state_dict(), "optimiser": optimiser.state_dict()}
            with replacing(checkpoint) as staging:
                torch.save({**state, "step": step + 1, "seconds": seconds}, staging)
    return {"steps": steps, "minutes": round(seconds / 60, 1)}


def fast_autocast() -> AbstractContextManager:
    """bfloat16 where this CPU multiplies it fast, else float32."""
    return autocast(choose("auto", "cpu").arithmetic, torch.device("cpu"))


def start(name: str, work: Path, threads: int) -> Path:
    """Sets threads, seed and logging (standard error and a file); returns the folder of this training."""
    folder = work / name
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    handlers = [logging.StreamHandler(sys.stderr), logging.FileHandler(folder / "log.txt")]
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", handlers=handlers, force=True)
    return folder


def publish(network: nn.Module, path: Path) -> None:
    """Writes the weights as fp16 safetensors and gives the network what is stored."""
    state = {key: t for key, t in network.state_dict().items() if t.is_floating_point()}
    half = {key: t.detach().to(torch.float16).contiguous() for key, t in state.items()}
    with replacing(path) as staging:
        save_file(half, staging)
        os.chmod(staging, 0o644)  # safetensors writes files that only their owner can read
    network.load_state_dict(network.state_dict() | load_half(path))


def load_half(path: Path) -> dict[str, Tensor]:
    return {key: tensor.float() for key, tensor in load_file(path).items()}


def record(assets: Path, part: str, figures: dict[str, Any]) -> None:
    """Adds measured figures and costs to config.json, under "measured"."""
    path = assets / "config.json"
    config = json.loads(path.read_text())
    config["measured"].setdefault(part, {}).update(figures)
    with replacing(path) as staging:
        staging.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    log.info("%s: %s", part, figures)
