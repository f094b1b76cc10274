"""The head against PyTorch's own decoder, its invariances, and its files."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from regionspot_cache.errors import IdentityError, InputError, MissingFileError
from regionspot_cache.training.head import HeadConfig, RegionHead, read_model_config, sine_positions

GRID = (3, 4)
MAPS = ((1, *GRID),)
MAP_TOKENS = 1 + GRID[0] * GRID[1]


def make_head(seed: int = 0, **changes: object) -> RegionHead:
    torch.manual_seed(seed)
    values = {"token_dim": 6, "map_dim": 32, "text_dim": 10, "maps": MAPS, "num_heads": 4, "ffn_dim": 48}
    head = RegionHead(HeadConfig(**(values | changes))).eval()
    for parameter in head.parameters():  # biases start at zero and would hide mistakes
        nn.init.normal_(parameter, std=0.3)
    return head


def make_input(boxes: int = 5, images: int = 2, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(images, boxes, 6, generator=generator)
    return tokens, torch.randn(images, MAP_TOKENS, 32, generator=generator)


def torch_decoder(head: RegionHead) -> nn.TransformerDecoder:
    config = head.config
    layer = nn.TransformerDecoderLayer(
        config.map_dim, config.num_heads, config.ffn_dim, config.dropout, batch_first=True, norm_first=False
    )
    decoder = nn.TransformerDecoder(layer, config.depth, norm=nn.LayerNorm(config.map_dim)).eval()
    decoder.load_state_dict(head.decoder.state_dict())  # strict: the names are PyTorch's
    return decoder


def reference(head: RegionHead, tokens: Tensor, feature_map: Tensor, real: Tensor) -> Tensor:
    decoder = torch_decoder(head)
    return head.projector(decoder(head.to_clip(tokens), feature_map, tgt_key_padding_mask=~real))


# Fewer boxes than the width of an attention head (8) take the absorbed path, more the direct one.
@pytest.mark.parametrize("boxes", [3, 11])
def test_equals_torch_transformer_decoder(boxes: int) -> None:
    head = make_head()
    tokens, feature_map = make_input(boxes)
    real = torch.ones(2, boxes, dtype=torch.bool)
    real[1, 2:] = False
    ours, theirs = head(tokens, feature_map, real), reference(head, tokens, feature_map, real)
    torch.testing.assert_close(ours[real], theirs[real], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("boxes", [3, 11])
def test_gradients_equal_torch_transformer_decoder(boxes: int) -> None:
    head = make_head()
    tokens, feature_map = make_input(boxes)
    decoder = torch_decoder(head)
    head(tokens, feature_map).square().sum().backward()
    ours = {name: parameter.grad.clone() for name, parameter in head.decoder.named_parameters()}
    head.projector(decoder(head.to_clip(tokens), feature_map)).square().sum().backward()
    for name, parameter in decoder.named_parameters():
        scale = parameter.grad.abs().max()
        torch.testing.assert_close(ours[name] / scale, parameter.grad / scale, atol=2e-5, rtol=0)


def test_absorbed_attention_has_the_same_dropout_as_direct() -> None:
    head = make_head(dropout=0.0)
    attention = head.decoder.layers[0].multihead_attn.train()
    attention.dropout = 0.5
    query, memory = torch.randn(2, 3, 32), torch.randn(2, MAP_TOKENS, 32)
    torch.manual_seed(0)
    absorbed, _ = attention(query, memory)
    torch.manual_seed(0)
    keep = nn.functional.dropout(torch.ones(2, 4, 3, MAP_TOKENS), 0.5)
    expected = direct_with_mask(attention, query, memory, keep)
    torch.testing.assert_close(absorbed, expected, atol=1e-5, rtol=1e-5)


def direct_with_mask(attention: nn.Module, query: Tensor, memory: Tensor, keep: Tensor) -> Tensor:
    """Textbook attention whose weights are multiplied with a given dropout mask."""

    def heads(x: Tensor) -> Tensor:
        return x.unflatten(2, (4, 8)).transpose(1, 2)

    w, b = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
    q, k, v = (heads(nn.functional.linear(x, w[i], b[i])) for i, x in enumerate((query, memory, memory)))
    weights = (q @ k.transpose(2, 3) / 8**0.5).softmax(-1) * keep
    return attention.out_proj((weights @ v).transpose(1, 2).flatten(2))


def test_tensor_names_are_those_of_the_released_checkpoints() -> None:
    with torch.device("meta"):
        head = RegionHead(HeadConfig(token_dim=256, map_dim=1024, text_dim=768, maps=((1, 16, 16),)))
    state = head.state_dict()
    assert len(state) == 60
    assert sum(value.numel() for value in state.values()) == pytest.approx(38.85e6, rel=1e-3)
    assert state["decoder.layers.2.multihead_attn.in_proj_weight"].shape == (3072, 1024)
    assert state["decoder.layers.0.linear1.weight"].shape == (2048, 1024)
    assert state["to_clip.weight"].shape == (1024, 256)
    assert state["projector.bias"].shape == (768,)


def test_layers_start_different() -> None:
    torch.manual_seed(0)
    layers = RegionHead(HeadConfig(token_dim=4, map_dim=8, text_dim=4, maps=MAPS)).decoder.layers
    assert not torch.equal(layers[0].linear1.weight, layers[1].linear1.weight)
    assert not torch.equal(layers[0].multihead_attn.in_proj_weight, layers[1].multihead_attn.in_proj_weight)


@given(extra=st.integers(0, 6), fill=st.sampled_from([0.0, -3.0, 1e4]))
@settings(max_examples=15, deadline=None)
def test_padding_never_changes_real_boxes(extra: int, fill: float) -> None:
    head = make_head()
    tokens, feature_map = make_input(boxes=4)
    padded = torch.cat([tokens, torch.full((2, extra, 6), fill)], dim=1)
    real = torch.arange(4 + extra).expand(2, -1) < 4
    with torch.no_grad():
        difference = head(padded, feature_map, real)[:, :4] - head(tokens, feature_map)
    assert difference.abs().max() < 1e-4


def test_boxes_can_be_given_in_any_order() -> None:
    head = make_head()
    tokens, feature_map = make_input()
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(
        head(tokens[:, order], feature_map), head(tokens, feature_map)[:, order], atol=1e-5, rtol=1e-5
    )


def test_self_attention_couples_boxes_and_its_switch_parts_them() -> None:
    tokens, feature_map = make_input()
    joint, single = make_head(), make_head(self_attention=False)
    alone = tokens[:, :1]
    assert (joint(tokens, feature_map)[:, :1] - joint(alone, feature_map)).abs().max() > 1e-3
    torch.testing.assert_close(
        single(tokens, feature_map)[:, :1], single(alone, feature_map), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("boxes", [1, 6])
def test_without_self_attention_any_head_recognises_box_by_box(boxes: int) -> None:
    joint, single = make_head(), make_head(self_attention=False)
    single.load_state_dict(joint.state_dict())  # the same 60 tensors for a depth of 3
    tokens, feature_map = make_input(boxes)
    one_by_one = [joint(tokens[:, i : i + 1], feature_map) for i in range(boxes)]
    torch.testing.assert_close(
        single(tokens, feature_map), torch.cat(one_by_one, dim=1), atol=1e-5, rtol=1e-5
    )
    if boxes > 1:
        assert (single(tokens, feature_map) - joint(tokens, feature_map)).abs().max() > 1e-3


def test_a_single_box_has_the_same_dropout_with_and_without_self_attention() -> None:
    attention = make_head(dropout=0.5).decoder.layers[0].self_attn.train()
    x = torch.randn(7, 1, 32)
    torch.manual_seed(0)
    alone = attention.alone(x)
    torch.manual_seed(0)
    torch.testing.assert_close(alone, attention(x, x)[0], atol=1e-6, rtol=1e-6)


def test_an_image_without_boxes_gives_no_nan() -> None:
    head = make_head()
    tokens, feature_map = make_input()
    real = torch.tensor([[True] * 5, [False] * 5])
    output = head(tokens, feature_map, real)
    assert torch.isfinite(output).all()
    output[real].sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in head.parameters() if p.grad is not None)


def test_map_switches() -> None:
    tokens, feature_map = make_input()
    other_class_token = feature_map.clone()
    other_class_token[:, 0] += 5
    blind, headless = make_head(use_map=False), make_head(class_token=False)
    assert torch.equal(blind(tokens, feature_map), blind(tokens, other_class_token * 3))
    assert torch.equal(headless(tokens, feature_map), headless(tokens, other_class_token))
    assert not torch.equal(headless(tokens, feature_map), headless(tokens, feature_map * 2))
    _, attentions = headless(tokens, feature_map, return_attention=True)
    assert attentions[0].shape == (2, 5, MAP_TOKENS - 1)


@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_maps_with_any_number_of_tokens_before_the_grid(prefix: int) -> None:
    tokens, _ = make_input()
    feature_map = torch.randn(2, prefix + GRID[0] * GRID[1], 32)
    head = make_head(maps=((prefix, *GRID),))
    plain = make_head(maps=((0, *GRID),))
    _, attentions = head(tokens, feature_map, return_attention=True)
    assert attentions[0].shape == (2, 5, feature_map.shape[1])
    headless = make_head(maps=((prefix, *GRID),), class_token=False, map_positions=2.0)
    placed = make_head(maps=((0, *GRID),), map_positions=2.0)
    grid = feature_map[:, prefix:]
    torch.testing.assert_close(headless(tokens, feature_map), placed(tokens, grid))
    assert torch.equal(head(tokens, feature_map), plain(tokens, grid)) == (prefix == 0)
    with pytest.raises(InputError, match="map"):
        head(tokens, torch.randn(2, feature_map.shape[1] + 1, 32))


def test_several_maps_are_one_memory_with_places_of_their_own(tmp_path: Path) -> None:
    maps = ((1, *GRID), (0, 2, 2), (3, 1, 5))
    tokens, _ = make_input()
    pieces = [torch.randn(2, prefix + rows * columns, 32) for prefix, rows, columns in maps]
    memory = torch.cat(pieces, dim=1)
    head = make_head(maps=maps)
    head.save_pretrained(tmp_path)
    assert RegionHead.from_pretrained(tmp_path).config == head.config
    _, attentions = head(tokens, memory, return_attention=True)
    assert attentions[0].shape == (2, 5, 13 + 4 + 8)
    grids = torch.cat([piece[:, prefix:] for piece, (prefix, *_) in zip(pieces, maps, strict=True)], dim=1)
    headless = make_head(maps=maps, class_token=False)
    torch.testing.assert_close(
        headless(tokens, memory), make_head(maps=tuple((0, *m[1:]) for m in maps))(tokens, grids)
    )
    placed = make_head(maps=maps, map_positions=2.0).positions
    assert not placed[[0, 17, 18, 19]].any()
    torch.testing.assert_close(placed[1:13], 2 * sine_positions(GRID, 32))
    torch.testing.assert_close(placed[13:17], 2 * sine_positions((2, 2), 32))
    torch.testing.assert_close(placed[20:], 2 * sine_positions((1, 5), 32))


def test_map_positions_make_the_place_of_a_patch_matter() -> None:
    tokens, feature_map = make_input()
    moved = torch.cat([feature_map[:, :1], feature_map[:, 1:].flip(1)], dim=1)
    plain, placed = make_head(), make_head(map_positions=3.0)
    torch.testing.assert_close(plain(tokens, feature_map), plain(tokens, moved), atol=1e-4, rtol=1e-4)
    assert (placed(tokens, feature_map) - placed(tokens, moved)).abs().max() > 1e-2
    assert "positions" not in placed.state_dict()


def test_sine_positions_tell_all_places_apart() -> None:
    positions = sine_positions((5, 7), 64)
    assert positions.shape == (35, 64)
    assert positions.abs().max() <= 1
    distances = torch.cdist(positions, positions) + torch.eye(35) * 9
    assert distances.min() > 0.5
    torch.testing.assert_close(positions[0, :32], positions[6, :32])  # same row, same first half


def test_attention_maps_are_averages_of_distributions() -> None:
    head = make_head()
    tokens, feature_map = make_input()
    output, attentions = head(tokens, feature_map, return_attention=True)
    torch.testing.assert_close(output, head(tokens, feature_map))
    assert [tuple(a.shape) for a in attentions] == [(2, 5, MAP_TOKENS)] * 3
    torch.testing.assert_close(attentions[1].sum(-1), torch.ones(2, 5))


def test_logits_are_scaled_cosines_in_float32() -> None:
    head = make_head()
    embeddings, text = torch.randn(3, 10), nn.functional.normalize(torch.randn(7, 10), dim=1)
    expected = 100 * nn.functional.cosine_similarity(embeddings[:, None], text[None], dim=-1)
    torch.testing.assert_close(head.logits(embeddings, text), expected, atol=1e-4, rtol=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert head.logits(embeddings.bfloat16(), text).dtype == torch.float32
    assert torch.isfinite(head.logits(torch.zeros(1, 10), text)).all()


def test_features_of_another_backbone_are_refused() -> None:
    head = make_head()
    tokens, feature_map = make_input()
    with pytest.raises(InputError, match="tokens"):
        head(tokens[..., :5], feature_map)
    with pytest.raises(InputError, match="map"):
        head(tokens, feature_map[:, 1:])


def test_heads_must_divide_width() -> None:
    with pytest.raises(InputError, match="heads"):
        HeadConfig(token_dim=4, map_dim=30, text_dim=4, maps=MAPS, num_heads=4)


def test_saved_head_loads_equal(tmp_path: Path) -> None:
    head = make_head(map_positions=2.0)
    tokens, feature_map = make_input()
    head.save_pretrained(tmp_path, {"text": "abc"})
    loaded = RegionHead.from_pretrained(tmp_path)
    assert loaded.config == head.config
    assert torch.equal(loaded(tokens, feature_map), head(tokens, feature_map))
    assert read_model_config(tmp_path)["text"] == "abc"


def test_loading_is_strict(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"config\.json"):
        RegionHead.from_pretrained(tmp_path / "nothing")
    make_head().save_pretrained(tmp_path)
    config = read_model_config(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"head": config["head"] | {"text_dim": 11}}))
    with pytest.raises(IdentityError, match=r"projector\.bias"):
        RegionHead.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"head": config["head"] | {"colour": 1}}))
    with pytest.raises(IdentityError, match="colour"):
        RegionHead.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="JSON"):
        RegionHead.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="head"):
        RegionHead.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    with pytest.raises(InputError, match="safetensors"):
        RegionHead.from_pretrained(tmp_path)
    weights.unlink()
    with pytest.raises(MissingFileError, match=r"model\.safetensors"):
        RegionHead.from_pretrained(tmp_path)


def test_map_norm_makes_the_scale_of_the_map_irrelevant() -> None:
    torch.manual_seed(0)
    sizes = {
        "token_dim": 8,
        "map_dim": 16,
        "text_dim": 6,
        "maps": ((1, 2, 3),),
        "num_heads": 2,
        "ffn_dim": 16,
        "depth": 1,
    }
    tokens, feature_map = torch.randn(2, 3, 8), torch.randn(2, 7, 16)
    plain, normed = (
        RegionHead(HeadConfig(**sizes)).eval(),
        RegionHead(HeadConfig(**sizes, map_norm=True)).eval(),
    )
    torch.testing.assert_close(
        normed(tokens, 30 * feature_map), normed(tokens, feature_map), rtol=1e-3, atol=1e-4
    )
    assert (plain(tokens, 30 * feature_map) - plain(tokens, feature_map)).abs().max() > 1e-2
