"""Training of the head on cached features.

Names are those of `api`, imported when first used; `training.config` alone needs no torch.
"""

from typing import TYPE_CHECKING

from regionspot_cache.lazy import attributes_of

if TYPE_CHECKING:
    from regionspot_cache.training.api import *  # noqa: F403

__getattr__ = attributes_of(f"{__name__}.api")
