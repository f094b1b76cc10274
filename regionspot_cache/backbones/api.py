"""The public names of the package.

Importing this checks torch and torchvision first, because the modules below need the pair.
"""
# ruff: noqa: E402, F401

from importlib.metadata import PackageNotFoundError, version

from regionspot_cache.errors import RegionSpotError


def _check_torchvision() -> None:
    # The usual broken installation: a torchvision for CUDA beside a torch for CPUs alone, for example.
    try:
        import torch
        import torchvision.ops
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        detail = " ".join(str(error).split())[:200]
        raise RegionSpotError(
            f"torchvision {_version('torchvision')} does not work beside torch {_version('torch')}: {detail}",
            "torch and torchvision of one release, both with CUDA or both without.",
            "make setup   (or: uv pip install --reinstall torch torchvision, the two together)",
        ) from error


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"


_check_torchvision()

from regionspot_cache.backbones.clip import ClipBackbone
from regionspot_cache.backbones.encoder import Array, Compilable, Encoder, MaskEncoder, TextEncoder
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
    RegionClipSpec,
    SamSpec,
    Tipsv2Spec,
    load_preset,
    save_preset,
)
from regionspot_cache.backbones.proposer import RegionProposer
from regionspot_cache.backbones.regionclip import RegionClip
from regionspot_cache.backbones.sam import SamBackbone
from regionspot_cache.backbones.weights import weights_home
