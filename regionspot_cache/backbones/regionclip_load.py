"""RegionCLIP's recogniser from a spec: of open_clip, packaged, or out of a published checkpoint.

A published file holds several networks under one "model": the recogniser `backbone.*`, its text encoder
`lang_encoder.*`, and often a teacher, a region proposal network `offline_*` and detection heads. Each is read
apart, with the exact set of its keys, so that none can overwrite the statistics of another unseen.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from regionspot_cache.backbones.clip_build import ClipParts, build_clip
from regionspot_cache.backbones.presets import RegionClipSpec
from regionspot_cache.backbones.regionclip import RegionClip
from regionspot_cache.backbones.weights import load_state, random_seed, read_state
from regionspot_cache.errors import InputError

RECOGNISER, TEXT = "backbone.", "lang_encoder."
POOL = "backbone.attnpool."  # what no backbone of an RPN alone has
LOGIT_SCALE = math.log(100)  # the fixed temperature of 0.01; published files have no such parameter


def load_regionclip(spec: RegionClipSpec, device: torch.device | str = "cpu") -> RegionClip:
    """The recogniser of a spec. On the device "meta" it has shapes but no values.

    Raises:
        UsageError, MissingFileError: as of `build_clip`.
        InputError: weights that do not fit, such as those of another depth, or a file of an RPN alone.
    """
    made_on = "meta" if torch.device(device).type == "meta" else "cpu"
    if random_seed(spec.weights) is not None or not Path(spec.weights).suffix:
        return RegionClip(build_clip(spec, made_on), spec, device)
    return RegionClip(_from_file(spec), spec, device)


def _from_file(spec: RegionClipSpec) -> ClipParts:
    state = read_state(Path(spec.weights))
    parts = build_clip(RegionClipSpec(model=spec.model, weights="random:0"))
    if any(key.startswith(POOL) for key in state):
        state = open_clip_names(state, spec.weights)
    elif not any(key.startswith("visual.") for key in state):
        groups = ", ".join(sorted({key.partition(".")[0] for key in state})[:6])
        raise InputError(
            f"{spec.weights} holds no recogniser: its tensors are of {groups}.",
            f"A published RegionCLIP file with {RECOGNISER}* and {TEXT}*, or a state dict of open_clip.",
            "A file of an RPN alone is given as proposer.weights.",
        )
    load_state(parts.model, state, f"regionclip.weights = {spec.weights}")
    return parts


def open_clip_names(state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """The recogniser and the text encoder of a published RegionCLIP file, by open_clip's names.

    Args:
        state: all tensors of the file.
        source: names the file in the error.

    Raises:
        InputError: no text encoder in it.
    """
    renamed = {
        f"visual.{key.removeprefix(RECOGNISER)}": value
        for key, value in state.items()
        if key.startswith(RECOGNISER) and not key.endswith("num_batches_tracked")
    }
    text = {key.removeprefix(TEXT): value for key, value in state.items() if key.startswith(TEXT)}
    if not text:
        raise InputError(
            f"{source} has no text encoder ({TEXT}*).",
            "The pretrained file, which holds it: regionclip_pretrained-cc_rn50.pth or _rn50x4.pth.",
        )
    return renamed | {"logit_scale": torch.tensor(LOGIT_SCALE)} | text
