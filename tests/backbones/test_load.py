"""Presets, own YAML files, and loading by them."""

from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from regionspot_cache.backbones import Array, ClipBackbone, hf_sam_load, load
from regionspot_cache.backbones.assets import FOLDER
from regionspot_cache.backbones.clip_tags import check_names
from regionspot_cache.backbones.load import Backbone, load_backbone, load_part, load_proposer, load_sam
from regionspot_cache.backbones.presets import (
    PRESETS,
    BackboneSpec,
    ClipSpec,
    HeadInputs,
    OwnSpec,
    ProposerSpec,
    SamSpec,
    load_preset,
)
from regionspot_cache.backbones.sam import SamBackbone
from regionspot_cache.backbones.sam_build import random_sam
from regionspot_cache.errors import InputError, MissingFileError, RegionSpotError, UsageError
from tests.backbones.small import SAM_CONFIG, small_sam

CONFIGS = Path(__file__).parents[2] / "configs" / "backbones"
packaged = pytest.mark.skipif(not (FOLDER / "clip.safetensors").is_file(), reason="no packaged weights")


@pytest.fixture
def small_published(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes vit_b small, so that loading it is quick."""
    monkeypatch.setitem(load.PUBLISHED, "vit_b", SAM_CONFIG)


def test_presets_pair_sam_and_clip_as_the_paper_does() -> None:
    paired = {name: (spec.first(SamSpec), spec.first(ClipSpec)) for name, spec in PRESETS.items()}
    models = {name: (sam.model, clip.model) for name, (sam, clip) in paired.items() if name != "tiny"}
    assert models == {
        "bb": ("vit_b", "ViT-B-16-quickgelu"),
        "bl": ("vit_b", "ViT-L-14-quickgelu"),
        "bl336": ("vit_b", "ViT-L-14-336-quickgelu"),
    }
    assert all(load_preset(name) is spec for name, spec in PRESETS.items())


def test_an_own_preset_is_read_from_yaml(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "name: mine\n"
        "parts:\n"
        "  sam: {network: sam, model: vit_l, store: [transformer, mlp]}\n"
        "  clip: {network: clip, model: ViT-B-32, layers: [-1, -2]}\n"
        "  mine: {network: 'a.b:C', options: {depth: 3}}\n"
        "head: {query: sam/mlp, memory: [clip/map, mine/map]}\n"
    )
    spec = load_preset(path)
    assert spec.parts == {
        "sam": SamSpec(model="vit_l", store=("transformer", "mlp")),
        "clip": ClipSpec(model="ViT-B-32", layers=(-1, -2)),
        "mine": OwnSpec(network="a.b:C", options={"depth": 3}),
    }
    assert spec.head == HeadInputs(query="sam/mlp", memory=("clip/map", "mine/map"))
    assert spec.proposer == ProposerSpec()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("parts: {sam: {network: sam, modle: vit_b}}", "modle"),
        ("parts: {sam: {network: sam, model: 8}}", "model"),
        ("parts: {sam: {network: sam}, clip: {network: clip, resize: nearest}}", "resize"),
        ("parts: {sam: {network: sam}, clip: {network: clip, layers: [last]}}", "layers"),
        ("parts: {sam: {network: sam}, clip: {network: clip, layers: []}}", "layers = []"),
        ("parts: {sam: {network: sam}, clip: {network: clip, layers: [1, 1]}}", "layers = [1, 1]"),
        ("parts: {sam: {network: sam, store: [middle]}}", "store"),
        ("parts: {sam: {network: sam, store: []}}", "store = []"),
        ("parts: {sam: {model: vit_b}}", "network = None"),
        ("parts: {sam: {network: sam}}", "head.memory = clip/map"),
        ("head: {query: sam}", "head.query = sam"),
        ("head: {memory: [clip/map, dino/map]}", "head.memory = clip/map, dino/map"),
        ("sam: {network: sam}", "sam"),
        ("- a list", "holds a list"),
    ],
)
def test_mistakes_in_a_preset_file_are_named(tmp_path: Path, text: str, found: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        load_preset(path)
    assert found in caught.value.found


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_backbone_files_name_what_exists(path: Path) -> None:
    spec = load_preset(path)
    assert spec.name == path.stem
    sam, clip = spec.first(SamSpec), spec.first(ClipSpec)
    if sam.model == "packaged":
        assert clip.weights == "included"
        return
    assert sam.model in {*load.SAM_FILES, *hf_sam_load.PUBLISHED}
    assert sam.weights == "official"
    assert open_clip.get_pretrained_cfg(clip.model, clip.weights)
    check_names(clip)  # a tag of the other GELU is refused here


def test_unknown_presets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="tiny, bb, bl, bl336"):
        load_preset("bx")
    with pytest.raises(MissingFileError):
        load_preset(tmp_path / "none.yaml")


@pytest.mark.usefixtures("small_published")
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_sam_weights_come_from_a_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"sam{suffix}"
    state = random_sam(SAM_CONFIG, 7).state_dict()
    torch.save(state, path) if suffix == ".pth" else save_file(state, path)
    assert load_sam(SamSpec(weights=str(path))).weights_sha256 == small_sam(7).weights_sha256
    assert load_sam(SamSpec(weights="random:7")).weights_sha256 == small_sam(7).weights_sha256


@pytest.mark.usefixtures("small_published")
def test_official_sam_weights_are_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(random_sam(SAM_CONFIG, 2).state_dict(), tmp_path / "sam.pth")
    asked = []
    monkeypatch.setattr(load, "fetch", lambda file, progress: asked.append(file) or tmp_path / "sam.pth")
    assert load_sam(SamSpec()).weights_sha256 == small_sam(2).weights_sha256
    assert asked[0].url.endswith("sam_vit_b_01ec64.pth")


@pytest.mark.usefixtures("small_published")
@pytest.mark.parametrize(
    ("weights", "error"), [("packaged", UsageError), ("none.pth", MissingFileError), ("random:", UsageError)]
)
def test_sam_weights_that_are_not_there(weights: str, error: type[RegionSpotError]) -> None:
    with pytest.raises(error):
        load_sam(SamSpec(weights=weights))


@pytest.mark.usefixtures("small_published")
def test_sam_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"sam.weights = .*other.pth does not fit"):
        load_sam(SamSpec(weights=str(tmp_path / "other.pth")))


def own_sam(spec: OwnSpec, device: str) -> SamBackbone:
    return small_sam(store=tuple(spec.options["store"]))


def unfinished_sam(spec: OwnSpec, device: str) -> object:
    return object()


def test_a_sam_of_ones_own_goes_by_its_import_path() -> None:
    spec = OwnSpec(network=f"{__name__}:own_sam", options={"store": ["mlp"]})
    assert load_part(spec).arrays == {"mlp": Array(shape=(8,), per_box=True)}
    with pytest.raises(UsageError, match="without arrays, device, encode, fingerprint, preprocess"):
        load_part(OwnSpec(network=f"{__name__}:unfinished_sam"))


def test_the_packaged_proposer_needs_its_own_sam() -> None:
    spec = BackboneSpec(
        name="mine",
        parts={"sam": SamSpec(), "clip": ClipSpec()},
        proposer=ProposerSpec(model="packaged", weights="packaged"),
    )
    with pytest.raises(UsageError, match="reads the packaged SAM, and mine has none"):
        load_proposer(Backbone({"sam": small_sam(model="vit_b")}, spec))


@packaged
def test_the_tiny_preset_loads_without_a_network() -> None:
    backbone = load_backbone(load_preset("tiny"))
    clip = backbone.parts["clip"]
    assert backbone.text is clip
    assert backbone.masks is backbone.parts["sam"]
    assert isinstance(clip, ClipBackbone)
    assert clip.encode_text(["red star"]).shape == (1, 128)
    assert {part.fingerprint()["model"] for part in backbone.parts.values()} == {"packaged"}
    other = load.load_clip(ClipSpec(model="packaged", weights="random:0"))
    assert other.fingerprint()["weights_sha256"] != clip.fingerprint()["weights_sha256"]
    with pytest.raises(UsageError, match="packaged model"):
        load.load_clip(ClipSpec(model="packaged", weights="openai"))


@pytest.mark.skipif(not (FOLDER / "rpn.safetensors").is_file(), reason="no packaged weights")
def test_the_tiny_proposer_loads_without_a_network() -> None:
    proposer = load_proposer(load_backbone(load_preset("tiny"), parts=["sam"]))
    assert proposer.identity()["weights"] == "packaged"
