"""One interface, several methods: image and boxes in, class probabilities out."""

from regionspot_cache.recognition.embedding import ClipCrops, embedding_method, with_networks_of
from regionspot_cache.recognition.engine import EmbeddedImage, RecognitionEngine, RegionSource
from regionspot_cache.recognition.inputs import RegionInputs
from regionspot_cache.recognition.methods import Recogniser, RegionSpot
from regionspot_cache.recognition.official import OfficialRegionSpot

__all__ = [
    "ClipCrops",
    "EmbeddedImage",
    "OfficialRegionSpot",
    "Recogniser",
    "RecognitionEngine",
    "RegionInputs",
    "RegionSource",
    "RegionSpot",
    "embedding_method",
    "with_networks_of",
]
