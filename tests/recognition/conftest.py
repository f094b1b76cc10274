import pytest
import torch

from regionspot_cache.training.head import HeadConfig, RegionHead


@pytest.fixture(scope="package")
def head() -> RegionHead:
    """A head for `small_sam` and `small_clip`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = HeadConfig(
            token_dim=64, map_dim=32, text_dim=24, maps=((1, 3, 3),), depth=2, num_heads=2, ffn_dim=16
        )
        return RegionHead(config)
