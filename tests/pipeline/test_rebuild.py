"""Another SAM for a finished cache: one command, nothing of the other part, and what follows from it."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from regionspot_cache.backbones import sam_build
from regionspot_cache.store import open_cache
from tests.backbones.small_hf import model_folder
from tests.backbones.test_mobile_sam import SMALL
from tests.conftest import BACKBONE
from tests.running import rs_cache

CACHE = "rs-cache-data/caches/shapes-train-small"
HEAD = "rs-cache-data/runs/small"
FAMILIES = {
    "vit_l": "vit_l",
    "vit_h": "vit_h",
    "mobile_sam": "mobile_sam",
    "sam": "local-dir:sam",
    "sam_hq": "local-dir:sam_hq",
    "sam2": "local-dir:sam2",
    "sam3": "local-dir:sam3",
}


@pytest.fixture
def place(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `finished` to work in, with a small configuration of every family."""
    root = shutil.copytree(finished, tmp_path / "place")
    for family in ("sam", "sam_hq", "sam2", "sam3"):
        model_folder(root / family, family)
    monkeypatch.setitem(sam_build.PUBLISHED, "mobile_sam", SMALL)
    for model in ("vit_l", "vit_h"):
        monkeypatch.setitem(sam_build.PUBLISHED, model, shrunk(sam_build.PUBLISHED[model]))
    monkeypatch.chdir(root)
    return root


def shrunk(config: dict[str, Any]) -> dict[str, Any]:
    """A published SAM with its own depth and global blocks, but few channels on a small frame."""
    encoder = config["image_encoder"] | {"img_size": 64, "embed_dim": 16, "num_heads": 2, "out_chans": 64}
    prompt = {
        "embed_dim": 64,
        "image_embedding_size": [4, 4],
        "input_image_size": [64, 64],
        "mask_in_chans": 4,
    }
    return config | {
        "image_encoder": encoder,
        "prompt_encoder": prompt,
        "transformer": {"depth": 2, "embedding_dim": 64, "mlp_dim": 64, "num_heads": 2},
        "mask_decoder": config["mask_decoder"] | {"transformer_dim": 64, "iou_head_hidden_dim": 16},
    }


def backbone_file(name: str, model: str) -> Path:
    """As that of `finished`, but for the SAM."""
    path = Path(f"{name}.yaml")
    text = BACKBONE.replace("name: small", f"name: {name}")
    path.write_text(
        text.replace(
            'network: sam, model: packaged, weights: "random:1"',
            f'network: sam, model: "{model}", weights: "random:5"',
        )
    )
    return path


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("family", list(FAMILIES))
def test_another_sam_replaces_the_sam_part_only(family: str) -> None:
    cache = Path(CACHE)
    before, old = hashes(cache), open_cache(cache)
    tokens = old.read("sam/transformer", 0)
    own = backbone_file(family, FAMILIES[family])

    refused = rs_cache(
        "extract", "--backbone", own, "--cache", cache, "--part", "sam", "--set", "partition_size=4"
    )
    assert refused.code == 4
    assert "--part sam --rebuild" in refused.error["next"]
    assert hashes(cache) == before

    again = ("extract", "--backbone", own, "--cache", cache, "--set", "partition_size=4", "--part", "sam")
    ran = rs_cache(*again, "--rebuild")
    assert ran.code == 0, ran.err
    after = hashes(cache)
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert {name for name in changed if not name.startswith(("sam/", "markers/sam/"))} <= {
        "parts/sam.json",
        "manifest.json",
    }
    assert {name for name in before if name.startswith(("clip/", "plan/", "markers/clip/"))} <= set(after)
    found = open_cache(cache).read("sam/transformer", 0)
    assert found.shape == (len(tokens), 64)
    assert np.isfinite(found).all()
    assert found.shape != tokens.shape or np.abs(found - tokens).max() > 0.01
    assert rs_cache("verify", cache, "--full").code == 0

    trained = rs_cache("train", "--config", "train.yaml", "--set", f"backbone={own}", "--out", "runs/new")
    assert trained.code == 0, trained.err
    evaluated = rs_cache("eval", "--checkpoint", HEAD, "--dataset", "shapes:val", "--backbone", own)
    assert evaluated.code == 4
    assert "was made with sam." in evaluated.error["error"]
    assert "--backbone" in evaluated.error["next"]
