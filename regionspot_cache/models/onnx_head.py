"""A trained head as ONNX, for programs without PyTorch: box tokens, map and texts to embeddings and names."""

import importlib.util
import json
import logging
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn.functional import normalize

from regionspot_cache.errors import UsageError
from regionspot_cache.files import replacing
from regionspot_cache.training.head import RegionHead

PACKAGES = ("onnx", "onnxruntime", "onnxscript")
INPUTS, OUTPUTS = ("tokens", "feature_map", "text"), ("embeddings", "probabilities")
OPSET = 18
METADATA_KEY = "regionspot-cache"


def export_onnx(head: RegionHead, path: Path, metadata: Mapping[str, Any] | None = None) -> None:
    """Writes a head as one ONNX file, float32, which appears whole or not at all.

    Inputs: `tokens` [B, N, token_dim], `feature_map` [B, M, map_dim], `text` [K, text_dim] of length 1.
    Outputs: `embeddings` [B, N, text_dim] of length 1, `probabilities` [B, N, K]. B, N and K are free, and M
    too unless the head adds positions or leaves out the class token. All boxes are real: nothing is padded.

    Args:
        head: in evaluation mode.
        path: the file.
        metadata: kept in the file beside the head's config, json-able.

    Raises:
        UsageError: a package that is needed is not installed.
    """
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        raise UsageError(
            f"--out {path}, and {', '.join(missing)} is not installed.",
            "The packages that write and check ONNX.",
            "pip install 'regionspot-cache[onnx]'",
        )
    config = head.config
    free_map = head.positions is None and config.class_token
    # More boxes than a head of attention is wide: with fewer, the decoder takes the way for few boxes alone.
    boxes = config.map_dim // config.num_heads + 3
    example = (
        torch.randn(2, boxes, config.token_dim),
        torch.randn(2, config.map_tokens, config.map_dim),
        normalize(torch.randn(5, config.text_dim), dim=1),
    )
    free = {
        "tokens": {0: Dim.DYNAMIC, 1: Dim.DYNAMIC},
        "feature_map": {0: Dim.DYNAMIC, **({1: Dim.DYNAMIC} if free_map else {})},
        "text": {0: Dim.DYNAMIC},
    }
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            _Recognition(head).eval(),
            example,
            input_names=list(INPUTS),
            output_names=list(OUTPUTS),
            dynamic_shapes=free,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    about = {"head": config.to_dict(), **(metadata or {})}
    program.model.metadata_props[METADATA_KEY] = json.dumps(about)
    with replacing(path) as staging:
        program.save(staging, external_data=False)


@contextmanager
def _quiet() -> Generator[None]:
    """Without what the exporter says of its own parts, and of graphs that it leaves as they are."""
    logger = logging.getLogger("onnxscript")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


class _Recognition(nn.Module):
    """The head with the comparison that follows it."""

    def __init__(self, head: RegionHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, tokens: Tensor, feature_map: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        head = self.head
        # Without the check of `RegionHead.forward`, which would fix the number of map tokens.
        boxes, _ = head.decoder(head.to_clip(tokens), head._memory(feature_map), None)
        embeddings = head.projector(boxes)
        return normalize(embeddings, dim=-1), head.logits(embeddings, text).softmax(-1)
