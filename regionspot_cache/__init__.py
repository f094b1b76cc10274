"""Open-vocabulary region recognition from cached SAM tokens and CLIP maps.

`RegionPredictor`, `RegionHead` and `open_cache` are imported when first used, so that the cache can be read
without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from regionspot_cache.recognition.predictor import RegionPredictor
    from regionspot_cache.store import open_cache
    from regionspot_cache.training.head import RegionHead

__all__ = ["RegionHead", "RegionPredictor", "open_cache"]

_HOMES = {"RegionHead": "head", "RegionPredictor": "predictor", "open_cache": "store"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
