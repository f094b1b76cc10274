"""Released checkpoints: synthetic files of their layout, at full and at small size, and what may be wrong."""

import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from regionspot_cache.backbones.presets import PRESETS, BackboneSpec, ClipSpec, HeadInputs, SamSpec
from regionspot_cache.errors import IdentityError, InputError, MissingFileError, UsageError
from regionspot_cache.models.official import (
    export_official,
    import_official,
    read_official,
    released_backbone,
)
from regionspot_cache.training.head import HeadConfig, RegionHead


class OfficialNetwork(nn.Module):
    """The trained part of the official model, made of PyTorch's own layers under the official names."""

    def __init__(self, width: int, text: int, depth: int = 3, token: int = 256) -> None:
        super().__init__()
        layer = nn.TransformerDecoderLayer(width, 8, 2048, dropout=0.1, batch_first=True)
        self.to_clip = nn.Linear(token, width)
        self.decoder = nn.TransformerDecoder(layer, depth, norm=nn.LayerNorm(width))
        self.projector = nn.Linear(width, text)
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():  # biases at zero and layers as copies would hide mistakes
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 2:
                parameter.data = noise / math.sqrt(parameter.shape[1])
            else:
                parameter.data += 0.1 * noise

    def forward(self, tokens: Tensor, feature_map: Tensor) -> Tensor:
        return self.projector(self.decoder(self.to_clip(tokens), feature_map))


@pytest.fixture(scope="module")
def small() -> dict[str, Tensor]:
    """The smallest head of the right layout."""
    return OfficialNetwork(16, 8, depth=2).state_dict()


@pytest.mark.parametrize(
    ("backbone", "width", "text", "grid", "depth"),
    [("bl", 1024, 768, (16, 16), 3), ("bl336", 1024, 768, (24, 24), 1), ("bb", 768, 512, (14, 14), 1)],
)
def test_an_imported_head_is_torchs_decoder(
    backbone: str, width: int, text: int, grid: tuple[int, int], depth: int, tmp_path: Path
) -> None:
    network = OfficialNetwork(width, text, depth).eval()
    state = {f"model.{name}": value for name, value in network.state_dict().items()}
    torch.save({"model": state | {"model.sam.pixel_mean": torch.zeros(3)}}, tmp_path / "release.pth")
    random_state = torch.get_rng_state()
    head = import_official(tmp_path / "release.pth", backbone)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert (head.config.grid, head.config.depth, head.training) == (grid, depth, False)
    assert len(head.state_dict()) == 6 + 18 * depth
    tokens = torch.randn(2, 5, 256)
    feature_map = torch.randn(2, 1 + grid[0] * grid[1], width)
    with torch.inference_mode():
        torch.testing.assert_close(
            head(tokens, feature_map), network(tokens, feature_map), atol=1e-5, rtol=1e-5
        )
    export_official(head, tmp_path / "back.pth")
    again = torch.load(tmp_path / "back.pth", weights_only=True)
    assert list(again) == ["model"]
    assert set(again["model"]) == set(state)
    assert all(torch.equal(again["model"][name], value) for name, value in state.items())
    network.load_state_dict({name[6:]: value for name, value in again["model"].items()})  # strict


@pytest.mark.parametrize(("boxes", "images"), [(1, 1), (3, 4), (70, 2)])
def test_small_heads_are_torchs_decoder(boxes: int, images: int) -> None:
    network = OfficialNetwork(64, 24, depth=3, token=12).eval()
    head = RegionHead(HeadConfig(token_dim=12, map_dim=64, text_dim=24, maps=((1, 3, 4),))).eval()
    head.load_state_dict(network.state_dict())
    tokens, feature_map = torch.randn(images, boxes, 12), torch.randn(images, 13, 64)
    torch.testing.assert_close(head(tokens, feature_map), network(tokens, feature_map), atol=1e-5, rtol=1e-5)


def prefixed(state: dict[str, Tensor]) -> dict[str, Any]:
    return {f"model.{name}": value for name, value in state.items()}


FROZEN = {"clip_model.visual.proj": torch.zeros(2), "sam.mask_decoder.iou_token.weight": torch.zeros(1, 2)}
LAYOUTS: dict[str, Callable[[dict[str, Tensor]], dict[str, Any]]] = {
    "flat": lambda state: dict(state),
    "flat with prefix": prefixed,
    "nested": lambda state: {"model": dict(state)},
    "nested with prefix": lambda state: {"model": prefixed(state)},
    "frozen inside": lambda state: {"model": prefixed(FROZEN | state)},
    "frozen inside, flat": lambda state: FROZEN | state,
    "of a training run": lambda state: {
        "model": prefixed(FROZEN | state),
        "iteration": 7,
        "optimizer": {
            "state": {0: {"step": torch.tensor(3.0)}},
            "param_groups": [{"lr": 1e-4, "params": [0]}],
        },
        "scheduler": {"milestones": [1, 2]},
        "trainer": {"iteration": 7, "hooks": {}},
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("old_format", [False, True])
def test_every_layout_gives_the_same_tensors(
    layout: str, old_format: bool, small: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "a.pth"
    torch.save(LAYOUTS[layout](small), path, _use_new_zipfile_serialization=not old_format)
    found = read_official(path)
    assert set(found) == set(small)
    assert all(torch.equal(found[name], value) for name, value in small.items())


def test_safetensors_and_half_precision(small: dict[str, Tensor], tmp_path: Path) -> None:
    half = {name: value.half() for name, value in small.items()}
    save_file(prefixed(half), tmp_path / "a.safetensors")
    found = read_official(tmp_path / "a.safetensors")
    assert {value.dtype for value in found.values()} == {torch.float32}
    assert all(torch.equal(found[name], value.float()) for name, value in half.items())


NORM, INNER = "decoder.layers.1.norm1.weight", "decoder.layers.0.linear1.weight"


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({7: torch.zeros(2)}, "a.pth: 7 is (2,)"),
        ({"colour.weight": torch.zeros(2)}, "colour.weight"),
        ({"decoder.layers.01.norm1.weight": torch.zeros(16)}, "decoder.layers"),
        ({NORM: None}, NORM),
        ({"to_clip.weight": None}, "to_clip.weight"),
        ({"projector.weight": torch.zeros(3)}, "projector.weight"),
        ({"projector.weight": torch.zeros(8, 24)}, "projector.weight"),
        ({"projector.bias": torch.zeros(9)}, "projector.bias"),
        ({NORM: torch.zeros(17)}, NORM),
        ({INNER: torch.zeros(1024, 16)}, INNER),
        ({NORM: torch.zeros(16, dtype=torch.int64)}, NORM),
        ({NORM: "text"}, NORM),
        ({NORM: torch.zeros(16).to_sparse()}, NORM),
        ({NORM: torch.empty(16, device="meta")}, NORM),
        ({"to_clip.weight": torch.zeros(0, 6)}, "to_clip.weight"),
        ({"to_clip.weight": torch.zeros(15, 6)}, "to_clip.weight"),
        ({"to_clip.weight": torch.zeros(1, 6).expand(10**9, 6)}, "to_clip.weight"),
        ({"model.to_clip.bias": torch.zeros(16)}, "to_clip.bias"),
    ],
)
def test_other_names_and_shapes_are_refused(
    change: dict[Any, Any], name: str, small: dict[str, Tensor], tmp_path: Path
) -> None:
    state = {key: value for key, value in (small | change).items() if value is not None}
    torch.save({"model": state}, tmp_path / "a.pth")
    with pytest.raises(IdentityError) as caught:
        read_official(tmp_path / "a.pth")
    assert name in caught.value.found
    assert "a.pth" in caught.value.found


def test_a_head_without_layers_is_none(small: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({name: value for name, value in small.items() if "layers" not in name}, tmp_path / "a.pth")
    with pytest.raises(IdentityError, match=r"decoder\.layers\.0"):
        read_official(tmp_path / "a.pth")


class Trap:
    """Whose unpickling would leave a mark."""

    sprung = False

    def __reduce__(self) -> tuple:
        return setattr, (Trap, "sprung", True)


def test_files_that_cannot_be_read(small: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    with pytest.raises(MissingFileError, match=r"a\.pth"):
        read_official(path)
    torch.save({"model": small, "trainer": Trap()}, path)
    with pytest.raises(InputError, match="cannot be read"):
        read_official(path)
    path.write_bytes(pickle.dumps({"model": Trap()}, protocol=2))
    with pytest.raises(InputError, match="cannot be read"):
        read_official(path)
    assert not Trap.sprung
    for broken in (b"", b"PK\x03\x04 nothing", b"no checkpoint at all"):
        path.write_bytes(broken)
        with pytest.raises(InputError, match="cannot be read"):
            read_official(path)
    torch.save([1, 2], path)
    with pytest.raises(InputError, match="list"):
        read_official(path)
    torch.save({"model": small, "colour": 1}, path)
    with pytest.raises(IdentityError, match="colour"):
        read_official(path)
    torch.save(small | {NORM: torch.full((16,), math.nan)}, path)
    with pytest.raises(InputError, match="not finite"):
        read_official(path)


def test_the_widths_must_be_those_of_the_backbone(small: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(OfficialNetwork(768, 512, depth=1).state_dict(), tmp_path / "bb.pth")
    with pytest.raises(IdentityError) as caught:
        import_official(tmp_path / "bb.pth", "bl")
    assert "--backbone bb" in caught.value.remedy
    torch.save(small, tmp_path / "small.pth")
    with pytest.raises(IdentityError, match="16 wide maps"):
        import_official(tmp_path / "small.pth", "bb")
    torch.save(OfficialNetwork(768, 512, depth=1, token=32).state_dict(), tmp_path / "mlp.pth")
    with pytest.raises(IdentityError, match="32 wide tokens"):
        import_official(tmp_path / "mlp.pth", "bb")


def test_released_heads_have_squashed_images_and_two_known_networks() -> None:
    clip = released_backbone("bl336").first(ClipSpec)
    assert (clip.resize, clip.model) == ("bilinear-noantialias", PRESETS["bl336"].first(ClipSpec).model)
    own = BackboneSpec(
        name="own",
        parts={"sam": SamSpec(weights="s.pth"), "clip": ClipSpec(weights="clip.pt", resize="bicubic")},
    )
    assert released_backbone(own) == own
    others = [
        "tiny",
        BackboneSpec().with_parts(sam=SamSpec(model="vit_l")),
        BackboneSpec().with_parts(clip=ClipSpec(layers=(-2,))),
        BackboneSpec().with_parts(clip=ClipSpec(image_size=448)),
        BackboneSpec(head=HeadInputs(query="sam/mlp")),
    ]
    for other in others:
        with pytest.raises(UsageError, match="no released head"):
            released_backbone(other)


@pytest.mark.parametrize(
    "option",
    [
        {"map_norm": True},
        {"map_positions": 1.0},
        {"use_map": False},
        {"class_token": False},
        {"self_attention": False},
        {"logit_scale": 50.0},
        {"num_heads": 4},
        {"ffn_dim": 64},
        {"maps": ((0, 2, 2),)},
        {"maps": ((1, 2, 2), (1, 2, 2))},
        {"token_dim": 32},
    ],
)
def test_what_the_official_code_cannot_run_is_not_exported(option: dict[str, Any], tmp_path: Path) -> None:
    values = {"token_dim": 256, "map_dim": 16, "text_dim": 8, "maps": ((1, 2, 2),), "depth": 1}
    with pytest.raises(IdentityError) as caught:
        export_official(RegionHead(HeadConfig(**(values | option))), tmp_path / "a.pth")
    [name] = option
    assert ("prefix_tokens" if option[name] == ((0, 2, 2),) else name) in caught.value.found
    assert not list(tmp_path.iterdir())
    export_official(RegionHead(HeadConfig(**values)), tmp_path / "a.pth")
    assert read_official(tmp_path / "a.pth")["projector.bias"].shape == (8,)
