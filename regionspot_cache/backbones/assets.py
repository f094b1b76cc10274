"""The small networks that ship with the package: `regionspot_cache/assets/tiny`."""

from pathlib import Path
from typing import Any

from torch import Tensor

from regionspot_cache.backbones.weights import read_state
from regionspot_cache.files import read_json

FOLDER = Path(__file__).parent.parent / "assets" / "tiny"
PACKAGED_TOKENIZER = FOLDER / "bpe_simple_vocab.txt.gz"


def packaged_config(part: str) -> dict[str, Any]:
    """How a part ("sam", "clip" or "rpn") is built: keyword arguments of its classes."""
    path = FOLDER / "config.json"
    return read_json(path, "A complete installation.", "make setup")[part]


def packaged_state(part: str) -> dict[str, Tensor]:
    """Its weights, float16 as stored."""
    return read_state(FOLDER / f"{part}.safetensors")
