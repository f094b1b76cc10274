"""Which weights are on this machine, told without loading any."""

from pathlib import Path

import pytest

from regionspot_cache.backbones.at_hand import clip_at_hand, sam_at_hand
from regionspot_cache.backbones.presets import PRESETS, ClipSpec, SamSpec


def test_the_networks_of_the_package_are_at_hand() -> None:
    tiny = PRESETS["tiny"]
    assert sam_at_hand(tiny.sam)
    assert clip_at_hand(tiny.clip)


def test_weights_are_at_hand_where_their_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("regionspot_cache.backbones.at_hand.weights_home", lambda: tmp_path)
    assert not sam_at_hand(SamSpec())
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "sam_vit_b_01ec64.pth").touch()
    assert sam_at_hand(SamSpec())
    for spec, at_hand in ((SamSpec, sam_at_hand), (ClipSpec, clip_at_hand)):
        assert at_hand(spec(weights="random:0"))
        assert not at_hand(spec(weights=str(tmp_path / "mine.safetensors")))
        (tmp_path / "mine.safetensors").touch()
        assert at_hand(spec(weights=str(tmp_path / "mine.safetensors")))
        (tmp_path / "mine.safetensors").unlink()
