"""FG-CLIP (Xie et al., 2025): a CLIP whose value path was trained on the boxes of 12 million images.

It is published in the layout of the transformers library with code of its own. None of that runs here: the
tensors are taken by their names into open_clip's CLIP of the same size, whose value path is FG-CLIP's dense
features and whose texts are FG-CLIP's short ones (77 positions).
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from open_clip.model import resize_pos_embed
from torch import Tensor

from regionspot_cache.backbones.clip_build import ClipParts, build_clip
from regionspot_cache.backbones.presets import ClipSpec
from regionspot_cache.backbones.weights import (
    load_state,
    missing_hub,
    random_seed,
    read_state,
    why_not_fetched,
)
from regionspot_cache.errors import InputError, MissingFileError, UsageError


class Published(NamedTuple):
    """open_clip's name of a CLIP of the same size, and the repository on the Hugging Face hub."""

    size: str
    repository: str


FG_CLIP = {
    "fg-clip-base": Published("ViT-B-16-quickgelu", "qihoo360/fg-clip-base"),
    "fg-clip-large": Published("ViT-L-14-336-quickgelu", "qihoo360/fg-clip-large"),
}
WEIGHTS_FILE = "model.safetensors"
LONG_TEXTS = "text_filip_projection.weight"  # no other CLIP has it
UNREAD = {  # long texts, temperatures of the training, and counters that old files hold
    LONG_TEXTS,
    "text_model.embeddings.position_embedding_ori.weight",
    "text_model.embeddings.position_embedding_res.weight",
    "text_model.embeddings.position_ids",
    "vision_model.embeddings.position_ids",
    "logit_scale_finegraind",
    "logit_scale_hardneg",
}
TRANSPOSED = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}
NAMES = TRANSPOSED | {
    "logit_scale": "logit_scale",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
}
LAYERS = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "ln_final": "text_model.final_layer_norm",
    "visual.ln_pre": "vision_model.pre_layrnorm",
    "visual.ln_post": "vision_model.post_layernorm",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_BLOCK = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)")


def build_fg_clip(spec: ClipSpec, device: str = "cpu") -> ClipParts:
    """The model of a spec that names one of `FG_CLIP`, in training mode.

    Args:
        spec: its weights are "official" (fetched), the path of a published file, or "random:SEED".
        device: as of `build_clip`.

    Raises:
        UsageError: other weights; or as of `build_clip`.
        MissingFileError: weights that are not here and cannot be fetched.
        InputError: weights that do not fit.
    """
    size, repository = FG_CLIP[spec.model]
    if random_seed(spec.weights) is not None:
        return build_clip(replace(spec, model=size), device)
    file = _fetched(repository) if spec.weights == "official" else Path(spec.weights)
    if not file.suffix:
        raise UsageError(
            f"There are no {spec.weights} weights of {spec.model}.",
            "weights: official, a path or random:SEED.",
        )
    own = replace(spec, model=size, weights="random:0")
    shapes = build_clip(replace(own, image_size=None), "meta").model.state_dict()
    source = f"clip.weights = {spec.weights}"
    state = open_clip_state(read_state(file), shapes, source)
    parts = build_clip(own)
    resize_pos_embed(state, parts.model)  # changes nothing unless spec.image_size does
    load_state(parts.model, state, source)
    return parts


def open_clip_state(
    published: Mapping[str, Tensor], own: Mapping[str, Tensor], source: str
) -> dict[str, Tensor]:
    """The tensors of a published file by open_clip's names, float32.

    Args:
        published: all tensors of the file.
        own: state dict of open_clip's model, whose names and shapes alone count.
        source: names the file in the error.

    Raises:
        InputError: a tensor is missing, unknown or of another shape.
    """
    names = {key: published_names(key) for key in own}
    shapes: dict[str, tuple[int, ...]] = {}
    for key, parts in names.items():
        shape = tuple(own[key].shape)
        if len(parts) > 1:  # all query rows, all key rows, all value rows
            shape = (shape[0] // len(parts), *shape[1:])
        shapes |= dict.fromkeys(parts, shape[::-1] if key in TRANSPOSED else shape)
    differing = {name for name in shapes if name not in published or published[name].shape != shapes[name]}
    differing |= published.keys() - shapes.keys() - UNREAD
    differing |= {LONG_TEXTS} - published.keys()
    if differing:
        raise InputError(
            f"{source} does not fit FG-CLIP: {len(differing)} tensors differ, first {min(differing)}.",
            f"{len(shapes)} tensors as published, and those of long texts, which are not read.",
            f"The {WEIGHTS_FILE} of {' or '.join(found.repository for found in FG_CLIP.values())}.",
        )
    state = {}
    for key, parts in names.items():
        tensors = [published[name].float() for name in parts]
        state[key] = torch.cat(tensors) if len(tensors) > 1 else tensors[0]
    return state | {key: state[key].T.contiguous() for key in TRANSPOSED}


def published_names(key: str) -> list[str]:
    """What a tensor of open_clip's model is called in the published layout; three that it joins, or one."""
    if key in NAMES:
        return [NAMES[key]]
    block = _BLOCK.fullmatch(key)
    tower = "" if block is None else f"{'vision' if block[1] else 'text'}_model.encoder.layers.{block[2]}."
    inner = key if block is None else block[3]
    if inner.startswith("attn.in_proj_"):
        kind = inner.removeprefix("attn.in_proj_")
        return [f"{tower}self_attn.{part}_proj.{kind}" for part in "qkv"]
    layer, _, kind = inner.rpartition(".")
    return [f"{tower}{LAYERS[layer]}.{kind}"]


def _fetched(repository: str) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import HTTPError

    missing_hub()
    try:
        return Path(huggingface_hub.hf_hub_download(repository, WEIGHTS_FILE))
    except (HTTPError, OSError, ValueError) as error:
        raise MissingFileError(
            f"{repository} is not here and could not be fetched: {why_not_fetched(error)}",
            f"Its {WEIGHTS_FILE}.",
            f"Where there is a network: hf download {repository} {WEIGHTS_FILE}",
        ) from None
