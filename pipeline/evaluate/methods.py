"""The recognition methods that `rs-cache eval --method` names."""

from typing import Any

from pipeline.verbs.evaluate import WITH_HEAD, EvalSettings
from regionspot_cache.backbones import Backbone
from regionspot_cache.recognition import ClipCrops, OfficialRegionSpot, Recogniser, RegionSpot
from regionspot_cache.recognition.predictor import head_inputs, require_backbone
from regionspot_cache.training.head import RegionHead


def make_method(
    name: str, settings: EvalSettings, config: dict[str, Any], backbone: Backbone, device: str
) -> Recogniser:
    """The method of this name, one of `settings.RECOGNISERS`.

    Args:
        config: of the checkpoint's head; empty for methods without a checkpoint.

    Raises:
        IdentityError: a checkpoint of other frozen networks or another width.
    """
    if name in WITH_HEAD:
        require_backbone(config, backbone, str(settings.checkpoint))
        head = RegionHead.from_pretrained(settings.checkpoint, device=device)
        method = OfficialRegionSpot if name == "official" else RegionSpot
        return method(head, head_inputs(config))
    return ClipCrops(masked=name == "clip-mask")
