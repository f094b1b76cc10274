"""The image embedding without the tokens that never reach it, beside open_clip's own pass."""

import pytest
import torch

from regionspot_cache.backbones.clip_class_token import image_embedding
from tests.backbones.small import VISION, small_clip

PLAIN = {**VISION, "layers": 3}


@pytest.mark.parametrize("vision", [PLAIN, {**PLAIN, "layers": 1}, {**PLAIN, "ls_init_value": 0.3}])
def test_equals_the_whole_tower_and_skips_tokens(vision: dict) -> None:
    visual = small_clip(vision=vision).model.visual
    batch = torch.randn(3, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    seen: list[int] = []
    visual.transformer.resblocks[-1].mlp.register_forward_hook(lambda _m, x, _y: seen.append(x[0].shape[1]))
    with torch.inference_mode():
        found, expected = image_embedding(visual, batch), visual(batch)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert seen == [1, 10]


@pytest.mark.parametrize(
    "changes", [{"pool_type": "avg"}, {"attentional_pool": True, "attn_pooler_heads": 2}]
)
def test_towers_that_pool_patches_run_as_they_are(changes: dict) -> None:
    visual = small_clip(vision={**PLAIN, **changes}).model.visual
    batch = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(image_embedding(visual, batch), visual(batch), rtol=0, atol=0)
