"""The public names of the package.

Importing this checks torch and torchvision first, because the modules below need the pair.
"""

from regionspot_cache.backbones.compat import check_torchvision

check_torchvision()

from regionspot_cache.backbones.clip import ClipBackbone  # noqa: E402
from regionspot_cache.backbones.encoder import Array, Encoder, MaskEncoder, TextEncoder  # noqa: E402
from regionspot_cache.backbones.load import (  # noqa: E402
    Backbone,
    load_backbone,
    load_clip,
    load_part,
    load_proposer,
    load_sam,
    load_text_part,
)
from regionspot_cache.backbones.presets import (  # noqa: E402
    PRESETS,
    BackboneSpec,
    ClipSpec,
    HeadInputs,
    NetworkSpec,
    OwnSpec,
    ProposerSpec,
    RegionClipSpec,
    SamSpec,
    Tipsv2Spec,
    load_preset,
    save_preset,
)
from regionspot_cache.backbones.proposer import RegionProposer  # noqa: E402
from regionspot_cache.backbones.regionclip import RegionClip  # noqa: E402
from regionspot_cache.backbones.sam import SamBackbone  # noqa: E402
from regionspot_cache.backbones.weights import weights_home  # noqa: E402

__all__ = [
    "PRESETS",
    "Array",
    "Backbone",
    "BackboneSpec",
    "ClipBackbone",
    "ClipSpec",
    "Encoder",
    "HeadInputs",
    "MaskEncoder",
    "NetworkSpec",
    "OwnSpec",
    "ProposerSpec",
    "RegionClip",
    "RegionClipSpec",
    "RegionProposer",
    "SamBackbone",
    "SamSpec",
    "TextEncoder",
    "Tipsv2Spec",
    "check_torchvision",
    "load_backbone",
    "load_clip",
    "load_part",
    "load_preset",
    "load_proposer",
    "load_sam",
    "load_text_part",
    "save_preset",
    "weights_home",
]
