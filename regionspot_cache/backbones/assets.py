"""What ships with the package in `regionspot_cache/assets`: small networks, and what SAMs are published."""

from functools import cache
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from regionspot_cache.backbones.weights import read_state
from regionspot_cache.files import read_json, read_text

FOLDER = Path(__file__).parent.parent / "assets" / "tiny"
PACKAGED_TOKENIZER = FOLDER / "bpe_simple_vocab.txt.gz"
_COMPLETE = ("A complete installation.", "make setup")


def packaged_config(part: str) -> dict[str, Any]:
    """How a part ("sam", "clip" or "rpn") is built: keyword arguments of its classes."""
    return read_json(FOLDER / "config.json", *_COMPLETE)[part]


def packaged_state(part: str) -> dict[str, Tensor]:
    """Its weights, float16 as stored."""
    return read_state(FOLDER / f"{part}.safetensors")


@cache
def published_sams() -> dict[str, Any]:
    """The tables of `sams.yaml`."""
    return yaml.safe_load(read_text(FOLDER.parent / "sams.yaml", *_COMPLETE))
