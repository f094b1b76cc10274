"""Frozen networks: the SAM side, the CLIP side and region proposals, with their presets and weights.

Names are those of `api`, imported when first used; `backbones.presets` alone needs no torch.
"""

from typing import TYPE_CHECKING

from regionspot_cache.lazy import attributes_of

if TYPE_CHECKING:
    from regionspot_cache.backbones.api import *  # noqa: F403

__getattr__ = attributes_of(f"{__name__}.api")
