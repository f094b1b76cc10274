"""The blocks of SAM's image encoder against segment_anything's own."""

import pytest
import torch
from segment_anything.modeling.image_encoder import Block, get_rel_pos

from regionspot_cache.backbones import sam_attention
from regionspot_cache.backbones.sam_attention import FrozenBlock, relative_attention
from regionspot_cache.backbones.sam_build import build_sam
from tests.backbones.small import SAM_CONFIG

DIM, HEADS = 24, 3
CELL_BYTES = 4


def block_of(grid: tuple[int, int], window: int, qkv_bias: bool = True, seed: int = 0) -> Block:
    """segment_anything's block with random weights, position tables and biases."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        block = Block(
            DIM, HEADS, qkv_bias=qkv_bias, use_rel_pos=True, window_size=window, input_size=grid
        ).eval()
        for parameter in block.parameters():
            torch.nn.init.normal_(parameter, std=0.4)
    return block


def cells(batch: int, grid: tuple[int, int]) -> torch.Tensor:
    return torch.randn(batch, *grid, DIM, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("step_cells", [1, 50, 7 * 9, 4 * (7 * 9) ** 2, 1 << 20])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    ("grid", "window"), [((7, 9), 0), ((7, 9), 3), ((8, 8), 4), ((5, 6), 14), ((6, 7), 3), ((1, 9), 0)]
)
def test_equals_segment_anything(
    monkeypatch: pytest.MonkeyPatch, grid: tuple[int, int], window: int, batch: int, step_cells: int
) -> None:
    monkeypatch.setattr(sam_attention, "STEP_BYTES", {"cpu": CELL_BYTES * step_cells})
    theirs, x = block_of(grid, window), cells(batch, grid)
    with torch.no_grad():
        expected, found = theirs(x), FrozenBlock(theirs)(x)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


def test_windows_without_a_bias_of_queries() -> None:
    theirs, x = block_of((7, 9), 4, qkv_bias=False), cells(2, (7, 9))
    with torch.no_grad():
        torch.testing.assert_close(FrozenBlock(theirs)(x), theirs(x), rtol=0, atol=1e-4)


def test_tables_of_another_size_are_interpolated() -> None:
    theirs, x = block_of((4, 5), 0), cells(1, (7, 9))
    with torch.no_grad():
        torch.testing.assert_close(FrozenBlock(theirs)(x), theirs(x), rtol=0, atol=1e-4)


@pytest.mark.parametrize("window", [0, 3])
def test_bf16_is_as_close_to_float32_as_segment_anything(window: int) -> None:
    theirs, x = block_of((7, 9), window), cells(2, (7, 9))
    with torch.no_grad():
        expected = theirs(x)
        with torch.autocast("cpu", torch.bfloat16):
            errors = [(block(x) - expected).norm() for block in (theirs, FrozenBlock(theirs))]
    assert 0 < errors[1] < 1.5 * errors[0]


def test_every_relative_position_counts() -> None:
    """Against the definition in float64, where the whole bias is written down."""
    g = torch.Generator().manual_seed(0)
    h, w, c = 3, 4, 5
    query, key, value = torch.randn(3, 2, h * w, c, generator=g, dtype=torch.float64)
    tables = [torch.randn(2 * side - 1, c, generator=g, dtype=torch.float64) for side in (h, w)]
    logits = torch.empty(2, h * w, h * w, dtype=torch.float64)
    for i in range(h * w):
        for j in range(h * w):
            place = tables[0][i // w - j // w + h - 1] + tables[1][i % w - j % w + w - 1]
            logits[:, i, j] = (query[:, i] * (0.3 * key[:, j] + place)).sum(-1)
    found = relative_attention(
        query, key, value, get_rel_pos(h, h, tables[0]), get_rel_pos(w, w, tables[1]), 0.3
    )
    torch.testing.assert_close(found, logits.softmax(-1) @ value, rtol=1e-12, atol=1e-12)


def test_gradients_are_those_of_segment_anything() -> None:
    theirs, x = block_of((7, 9), 3), cells(1, (7, 9))
    gradients = []
    for block in (theirs, FrozenBlock(theirs)):
        block.zero_grad()
        block(x).square().sum().backward()
        gradients.append({name: p.grad.clone() for name, p in block.named_parameters()})
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


def test_all_blocks_of_a_network_are_replaced_and_names_kept() -> None:
    with torch.device("meta"):
        blocks = build_sam(SAM_CONFIG).image_encoder.blocks
        without = build_sam(
            SAM_CONFIG | {"image_encoder": SAM_CONFIG["image_encoder"] | {"use_rel_pos": False}}
        ).image_encoder.blocks
    assert all(type(block) is FrozenBlock for block in blocks)
    assert all(type(block) is Block for block in without)
    assert list(blocks[0].state_dict()) == list(block_of((8, 8), 3).state_dict())
