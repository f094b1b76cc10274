"""The public names of the package.

Importing this checks torch and torchvision first, because the modules below need the pair.
"""
# ruff: noqa: E402, F401

from regionspot_cache.backbones.compat import check_torchvision

check_torchvision()

from regionspot_cache.backbones.clip import ClipBackbone
from regionspot_cache.backbones.encoder import Array, Encoder, MaskEncoder, TextEncoder
from regionspot_cache.backbones.load import (
    Backbone,
    load_backbone,
    load_clip,
    load_part,
    load_proposer,
    load_sam,
    load_text_part,
)
from regionspot_cache.backbones.presets import (
    PRESETS,
    BackboneSpec,
    ClipSpec,
    HeadInputs,
    NetworkSpec,
    OwnSpec,
    ProposerSpec,
    SamSpec,
    load_preset,
    save_preset,
)
from regionspot_cache.backbones.proposer import RegionProposer
from regionspot_cache.backbones.sam import SamBackbone
from regionspot_cache.backbones.weights import weights_home
