"""Which weights are on this machine, told without loading any."""

from pathlib import Path

import pytest

from regionspot_cache.backbones.at_hand import at_hand
from regionspot_cache.backbones.presets import PRESETS, ClipSpec, OwnSpec, SamSpec


def test_the_networks_of_the_package_are_at_hand() -> None:
    assert all(at_hand(part) for part in PRESETS["tiny"].parts.values())


def test_weights_are_at_hand_where_their_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("regionspot_cache.backbones.at_hand.weights_home", lambda: tmp_path)
    assert not at_hand(SamSpec())
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "sam_vit_b_01ec64.pth").touch()
    assert at_hand(SamSpec())
    for spec in (SamSpec, ClipSpec):
        assert at_hand(spec(weights="random:0"))
        assert not at_hand(spec(weights=str(tmp_path / "mine.safetensors")))
        (tmp_path / "mine.safetensors").touch()
        assert at_hand(spec(weights=str(tmp_path / "mine.safetensors")))
        (tmp_path / "mine.safetensors").unlink()


def test_a_network_of_ones_own_is_taken_to_be_at_hand() -> None:
    assert at_hand(OwnSpec(network="no_such_package:Network", weights="nowhere.pth"))
