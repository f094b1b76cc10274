"""Files with the names and shapes of RegionCLIP's published checkpoints, and random values."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

BLOCKS = (3, 4, 6, 3)


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    fan_in = max(1, int(torch.tensor(shape[1:]).prod()))
    return torch.randn(*shape, generator=generator) * (2 / fan_in) ** 0.5


def _norm(generator: torch.Generator, name: str, width: int, scale: float = 1.0) -> dict[str, Tensor]:
    return {
        f"{name}.weight": torch.full((width,), scale),
        f"{name}.bias": torch.randn(width, generator=generator) * 0.1,
        f"{name}.running_mean": torch.randn(width, generator=generator) * 0.1,
        f"{name}.running_var": torch.rand(width, generator=generator) + 0.5,
    }


def rpn_state(backbone: str, generator_prefix: str, seed: int = 0) -> dict[str, Tensor]:
    """Detectron2's RPN on ResNet-50 with FPN, by its own names."""
    random = torch.Generator().manual_seed(seed)
    stem = f"{backbone}bottom_up.stem.conv1"
    state = {f"{stem}.weight": _normal(random, 64, 3, 7, 7) / 64, **_norm(random, f"{stem}.norm", 64)}
    before = 64
    for stage, blocks in enumerate(BLOCKS):
        width, out = 64 << stage, 256 << stage
        for i in range(blocks):
            block = f"{backbone}bottom_up.res{stage + 2}.{i}"
            convs = {
                "conv1": (width, before, 1, 1),
                "conv2": (width, width, 3, 3),
                "conv3": (out, width, 1, 1),
            }
            if i == 0:
                convs["shortcut"] = (out, before, 1, 1)
            for name, shape in convs.items():
                state[f"{block}.{name}.weight"] = _normal(random, *shape)
                scale = 0.3 if name == "conv3" else 0.7
                state |= _norm(random, f"{block}.{name}.norm", shape[0], scale)
            before = out
        for kind, shape in {"lateral": (256, out, 1, 1), "output": (256, 256, 3, 3)}.items():
            state[f"{backbone}fpn_{kind}{stage + 2}.weight"] = _normal(random, *shape) / 2
            state[f"{backbone}fpn_{kind}{stage + 2}.bias"] = torch.randn(256, generator=random) * 0.1
    head = f"{generator_prefix}rpn_head."
    for name, shape in {
        "conv": (256, 256, 3, 3),
        "objectness_logits": (3, 256, 1, 1),
        "anchor_deltas": (12, 256, 1, 1),
    }.items():
        state[f"{head}{name}.weight"] = _normal(random, *shape) * (1 if name == "conv" else 0.5)
        state[f"{head}{name}.bias"] = torch.randn(shape[0], generator=random) * 0.1
    return state


def published(
    clip: Mapping[str, Tensor], *, rpn: Mapping[str, Tensor] | None = None, teacher: bool = True
) -> dict[str, Tensor]:
    """A pretrained RegionCLIP file of an open_clip model's tensors, and the networks that lie beside."""
    state = {}
    for key, value in clip.items():
        if key.startswith("visual."):
            name = key.removeprefix("visual.")
            state[f"backbone.{name}"] = value
            if teacher:
                state[f"teacher_backbone.{name}"] = value + 1
        elif not key.startswith("logit_"):
            state[f"lang_encoder.{key}"] = value
    state = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    return {**state, **(rpn or {})}


def save(file: Path, state: Mapping[str, Tensor]) -> Path:
    """The file, as a training of Detectron2 leaves it."""
    torch.save({"model": dict(state), "iteration": 599999}, file)
    return file
