"""`rs-cache backbones`: what is listed, and the bytes of each."""

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from pipeline import backbones
from regionspot_cache.backbones import registry
from regionspot_cache.errors import UsageError
from tests.backbones.small import small_clip
from tests.running import rs_cache


def build(spec: object, device: object) -> object:
    return small_clip()


def test_presets_files_and_single_networks_by_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("sam: {model: vit_b}\nclip: {model: ViT-B-32-quickgelu, layer: 5}\n")
    found = rs_cache("backbones", "bb", path, "ViT-B-16-quickgelu", "mobile_sam", "--json").json
    assert {row["model"]: row["named_by"] for row in found["sam"]} == {
        "vit_b": ["bb", str(path)],
        "mobile_sam": ["mobile_sam"],
    }
    clips = {row["model"]: row for row in found["clip"]}
    assert clips["ViT-B-16-quickgelu"]["named_by"] == ["bb", "ViT-B-16-quickgelu"]
    assert clips["ViT-B-32-quickgelu"]["layer"] == 5
    assert clips["ViT-B-16-quickgelu"]["image_gflops"] == pytest.approx(35.13, rel=2e-3)


def test_bytes_are_those_of_int8_values_and_float16_scales() -> None:
    found = rs_cache("backbones", "bb", "--json").json
    tokens, width = 197, 768
    assert found["clip"][0]["image_bytes"] == tokens * width + 2 * tokens
    assert found["sam"][0]["box_bytes"] == 256 + 2


def test_the_table_has_a_line_for_each() -> None:
    ran = rs_cache("backbones", "tiny", "bl")
    assert ran.code == 0
    head, *sams = ran.out.split("\n\n")[0].splitlines()
    assert head.split()[:2] == ["SAM", "side"]
    assert [line.split()[0] for line in sams] == ["packaged", "vit_b"]
    assert "1 + 16 x 16" in ran.out


def test_without_names_all_that_is_known_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    def counted(spec: object) -> dict:
        if spec.model == "sam3":
            raise UsageError("It needs another library.")
        return {"layer": -1, "model": spec.model}

    def points(*, group: str) -> list[EntryPoint]:
        return [EntryPoint("their-clip", "no.such:module", group)] if group.endswith("clip") else []

    monkeypatch.setattr(backbones, "sam_facts", counted)
    monkeypatch.setattr(backbones, "clip_facts", counted)
    monkeypatch.setattr(registry, "entry_points", points)
    found = rs_cache("backbones", "--json").json
    sams, clips = ({row["model"]: row for row in found[part]} for part in ("sam", "clip"))
    assert {"vit_h", "mobile_sam", "sam-hq-vit-b", "sam2.1-hiera-large", "packaged"} <= set(sams)
    assert sams["sam3"]["error"] == "It needs another library."
    assert {"EVA02-L-14-336", "ViT-SO400M-16-SigLIP2-384", "PE-Core-L-14-336"} <= set(clips)
    assert "bl" in clips["ViT-L-14-quickgelu"]["named_by"]
    assert "laion-h.yaml" in clips["ViT-H-14"]["named_by"]
    assert found["registered"] == {"sam": [], "clip": ["their-clip"]}  # named, not imported


def test_a_registered_network_is_counted_when_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def points(*, group: str) -> list[EntryPoint]:
        return [EntryPoint("mine", f"{__name__}:build", group)] if group.endswith("clip") else []

    monkeypatch.setattr(registry, "entry_points", points)
    row = rs_cache("backbones", "mine", "--json").json["clip"][0]
    assert (row["model"], row["grid"], row["width"]) == ("mine", [3, 3], 32)


def test_an_unknown_name_is_exit_2_and_says_what_is_near() -> None:
    ran = rs_cache("backbones", "ViT-B-33")
    assert ran.code == 2
    assert "ViT-B-32" in ran.error["expected"]
