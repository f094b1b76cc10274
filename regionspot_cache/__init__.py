"""Open-vocabulary region recognition from cached features of frozen networks.

What is named here is imported when first used, so that the cache can be read without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from regionspot_cache.extraction import extract
    from regionspot_cache.recognition.prediction import Prediction
    from regionspot_cache.recognition.predictor import RegionPredictor
    from regionspot_cache.store import open_cache
    from regionspot_cache.training import RegionHead, train

    __version__: str

__all__ = ["Prediction", "RegionHead", "RegionPredictor", "extract", "open_cache", "train"]

_HOMES = {
    "Prediction": "recognition.prediction",
    "RegionHead": "training.head",
    "RegionPredictor": "recognition.predictor",
    "extract": "extraction.run",
    "open_cache": "store",
    "train": "training.loop",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("regionspot-cache")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
