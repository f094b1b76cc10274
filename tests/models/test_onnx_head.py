"""A head as ONNX gives in onnxruntime what it gives in PyTorch, whatever the number of boxes and names."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from regionspot_cache.errors import UsageError
from regionspot_cache.models.onnx_head import export_onnx
from regionspot_cache.training.head import HeadConfig, RegionHead

SIZES: dict[str, Any] = {
    "token_dim": 12,
    "map_dim": 16,
    "text_dim": 10,
    "depth": 1,
    "num_heads": 2,
    "ffn_dim": 8,
    "maps": ((1, 3, 4), (0, 2, 2)),
    "map_positions": 0.5,
    "map_norm": True,
    "self_attention": False,
    "class_token": False,
    "offset": True,
}


def session_of(path: Path) -> Any:
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def require_same(head: RegionHead, session: Any, batch: int, boxes: int, names: int, map_tokens: int) -> None:
    """That both give the same embeddings and probabilities for random features."""
    config = head.config
    tokens, text = torch.randn(batch, boxes, config.token_dim), torch.randn(names, config.text_dim)
    feature_map, text = torch.randn(batch, map_tokens, config.map_dim), normalize(text, dim=1)
    with torch.no_grad():
        if map_tokens == config.map_tokens:
            expected = head(tokens, feature_map)
        else:  # a map of another size, which the head itself refuses
            expected = head.projector(head.decoder(head.to_clip(tokens), feature_map, None)[0])
        probabilities = head.logits(expected, text).softmax(-1)
    given = {"tokens": tokens, "feature_map": feature_map, "text": text}
    found = session.run(None, {name: value.numpy() for name, value in given.items()})
    np.testing.assert_allclose(found[0], normalize(expected, dim=-1), atol=2e-5)
    np.testing.assert_allclose(found[1], probabilities, atol=5e-4)


def test_onnxruntime_agrees_on_a_head_with_every_option(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    head = RegionHead(HeadConfig(**SIZES)).eval()
    export_onnx(head, tmp_path / "head.onnx", {"inputs": {"query": "sam/transformer"}})
    assert [path.name for path in tmp_path.iterdir()] == ["head.onnx"]  # weights are inside
    session = session_of(tmp_path / "head.onnx")
    about = json.loads(session.get_modelmeta().custom_metadata_map["regionspot-cache"])
    assert HeadConfig.from_dict(about["head"]) == head.config
    assert about["inputs"] == {"query": "sam/transformer"}
    for batch, boxes, names in ((1, 1, 1), (1, 3, 7), (3, 40, 2)):
        require_same(head, session, batch, boxes, names, head.config.map_tokens)


def test_packages_that_are_missing_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnx" else sys)
    with pytest.raises(UsageError) as caught:
        export_onnx(RegionHead(HeadConfig(**SIZES)), tmp_path / "head.onnx")
    assert "onnx is not installed" in caught.value.found
    assert "regionspot-cache[onnx]" in caught.value.remedy
    assert not (tmp_path / "head.onnx").exists()
