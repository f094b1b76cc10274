"""`rs-cache backbones`: what is listed, and the bytes of each."""

import re
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from pipeline import backbones
from regionspot_cache.backbones import NetworkSpec, registry
from regionspot_cache.errors import UsageError
from tests.backbones.small import small_clip
from tests.running import rs_cache


def build(spec: object, device: object) -> object:
    return small_clip()


def networks(*names: object) -> dict[str, dict]:
    """The rows by model."""
    return {row["model"]: row for row in rs_cache("backbones", *names, "--json").json["networks"]}


def test_presets_files_and_single_networks_by_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "parts:\n"
        "  sam: {network: sam, model: vit_b}\n"
        "  clip: {network: clip, model: ViT-B-32-quickgelu, layers: [5, -1]}\n"
        "  second: {network: clip, model: ViT-B-16-quickgelu}\n"
    )
    found = networks("bb", path, "ViT-B-16-quickgelu", "mobile_sam")
    assert {model: row["named_by"] for model, row in found.items()} == {
        "vit_b": ["bb", str(path)],
        "ViT-B-16-quickgelu": ["bb", str(path), "ViT-B-16-quickgelu"],
        "ViT-B-32-quickgelu": [str(path)],
        "mobile_sam": ["mobile_sam"],
    }
    assert list(found["ViT-B-32-quickgelu"]["arrays"]) == ["map", "map_11"]
    assert found["ViT-B-16-quickgelu"]["image_gflops"] == pytest.approx(35.13, rel=2e-3)
    assert found["ViT-B-16-quickgelu"]["box_gflops"] == 0
    assert found["vit_b"]["box_gflops"] > 0


def test_a_shipped_file_is_found_by_its_name() -> None:
    [[model, row]] = [pair for pair in networks("hq-sam.yaml").items() if pair[0].startswith("sam")]
    assert (model, row["named_by"]) == ("sam-hq-vit-b", ["hq-sam.yaml"])
    ran = rs_cache("backbones", "hq-sm.yaml")
    assert (ran.code, "Did you mean backbones/hq-sam.yaml?" in ran.err) == (1, True)


def test_bytes_are_those_of_int8_values_and_float16_scales(tmp_path: Path) -> None:
    found = networks("bb")
    tokens, width = 197, 768
    clip, sam = found["ViT-B-16-quickgelu"], found["vit_b"]
    assert (clip["image_bytes"], clip["box_bytes"]) == (tokens * width + 2 * tokens, 0)
    assert (sam["image_bytes"], sam["box_bytes"]) == (0, 256 + 2)
    path = tmp_path / "all.yaml"
    path.write_text(
        "parts:\n"
        "  sam: {network: sam, model: vit_b, store: [transformer, prompt, embedding]}\n"
        "  clip: {network: clip, model: ViT-B-16-quickgelu}\n"
    )
    sam = networks(path)["vit_b"]
    assert (sam["image_bytes"], sam["box_bytes"]) == (64 * 64 * (256 + 2), 256 + 2 + 512 + 2)


def test_the_table_has_a_line_for_each() -> None:
    ran = rs_cache("backbones", "tiny", "bl")
    assert ran.code == 0
    head, *rows = ran.out.split("\n\n")[0].splitlines()
    assert head.split()[:2] == ["network", "pixels"]
    assert [re.split(r"  +", line)[0] for line in rows] == [
        *("sam packaged", "clip packaged", "sam vit_b", "clip ViT-L-14-quickgelu"),
    ]
    assert "map 1 + 16 x 16 of 1024" in ran.out
    assert "transformer 256" in ran.out


def test_without_names_all_that_is_known_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    def counted(spec: NetworkSpec) -> dict:
        if spec.model == "sam3":
            raise UsageError("It needs another library.")
        return {}

    def points(*, group: str) -> list[EntryPoint]:
        return [EntryPoint("their-network", "no.such:module", group)]

    monkeypatch.setattr(backbones, "facts_of", counted)
    monkeypatch.setattr(registry, "entry_points", points)
    values = rs_cache("backbones", "--json").json
    found = {row["model"]: row for row in values["networks"]}
    assert {"vit_h", "mobile_sam", "sam-hq-vit-b", "sam2.1-hiera-large", "packaged"} <= set(found)
    assert found["sam3"]["error"] == "It needs another library."
    assert {"EVA02-L-14-336", "ViT-SO400M-16-SigLIP2-384", "PE-Core-L-14-336"} <= set(found)
    assert "bl" in found["ViT-L-14-quickgelu"]["named_by"]
    assert "laion-h.yaml" in found["ViT-H-14"]["named_by"]
    assert values["registered"] == ["their-network"]  # named, not imported


def test_a_registered_network_is_counted_when_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def points(*, group: str) -> list[EntryPoint]:
        return [EntryPoint("mine", f"{__name__}:build", group)]

    monkeypatch.setattr(registry, "entry_points", points)
    (row,) = rs_cache("backbones", "mine", "--json").json["networks"]
    assert (row["network"], row["named_by"]) == ("mine", ["mine"])
    assert (row["arrays"]["map"]["grid"], row["arrays"]["map"]["shape"]) == ([3, 3], [10, 32])
    assert row["image_bytes"] == 10 * (32 + 2)
    path = tmp_path / "own.yaml"
    path.write_text("parts: {a: {network: mine}}\nhead: {query: box/position, memory: a/map}\n")
    (row,) = rs_cache("backbones", path, "--json").json["networks"]
    assert row["named_by"] == [str(path)]


def test_an_unknown_name_is_exit_2_and_says_what_is_near() -> None:
    ran = rs_cache("backbones", "ViT-B-33")
    assert ran.code == 2
    assert "ViT-B-32" in ran.error["expected"]
