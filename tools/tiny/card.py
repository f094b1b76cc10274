"""Writes the model card of the tiny world from the measured figures."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from regionspot_cache.backbones.assets import FOLDER as ASSETS
from tools.tiny.training import load_half

TEMPLATE = Path(__file__).with_name("card.md")
NETWORKS = {
    "sam": "ViT of 4 blocks, width 128, patch 16, input 256; two-way decoder, width 128",
    "clip": "ViT of 4 blocks, width 192, patch 8, input 128; text of 2 blocks, width 128",
    "resnet": "ModifiedResNet of 2-2-2-2 blocks, width 16, input 128; the text tower of `clip`",
    "rpn": "neck at stride 8, 15 anchors a cell, on the SAM embedding",
}
COLUMNS = ("images", "top1", "base", "novel", "texture", "colour", "shape")


def render(assets: Path = ASSETS) -> str:
    """The card of the weights and figures in a folder."""
    measured = json.loads((assets / "config.json").read_text())["measured"]
    clip = {kind: f for kind, f in measured["clip"].items() if isinstance(f, dict)}
    resnet = {kind: f for kind, f in measured["resnet"].items() if isinstance(f, dict)}
    prompts = list(next(iter(clip.values()))["top1_by_templates"])
    return TEMPLATE.read_text().format(
        files="\n".join(_file(assets / f"{part}.safetensors", text) for part, text in NETWORKS.items()),
        sam=measured["sam"],
        rpn=measured["rpn"],
        clip="\n".join(_row(kind, *(f[c] for c in COLUMNS)) for kind, f in clip.items()),
        resnet="\n".join(_row(kind, *(f[c] for c in COLUMNS)) for kind, f in resnet.items()),
        prompts=" | ".join(prompts),
        rule="---|" * len(prompts),
        by_prompt="\n".join(_row(kind, *f["top1_by_templates"].values()) for kind, f in clip.items()),
        training="\n".join(
            _row(
                part, measured[part]["steps"], measured[part]["images_seen"], round(measured[part]["minutes"])
            )
            for part in NETWORKS
        ),
    )


def _file(path: Path, network: str) -> str:
    parameters = sum(tensor.numel() for tensor in load_half(path).values())
    return _row(path.name, network, f"{parameters:,}", f"{path.stat().st_size / 1e6:.1f}")


def _training(part: str, cost: Mapping[str, Any]) -> str:
    return _row(part, cost["steps"], cost["images_seen"], round(cost["minutes"]))


def _row(*cells: Any) -> str:
    return "| " + " | ".join(f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in cells) + " |"


def write(_work: Path, assets: Path = ASSETS) -> None:
    """MODEL_CARD.md beside the weights."""
    (assets / "MODEL_CARD.md").write_text(render(assets))
