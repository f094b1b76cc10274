"""One interface, several methods: image and boxes in, class logits out."""

from regionspot_cache.recognition.inputs import RegionInputs
from regionspot_cache.recognition.methods import ClipCrops, Recogniser, RegionSpot
from regionspot_cache.recognition.official import OfficialRegionSpot

__all__ = ["ClipCrops", "OfficialRegionSpot", "Recogniser", "RegionInputs", "RegionSpot"]
