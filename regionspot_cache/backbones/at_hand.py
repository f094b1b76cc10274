"""Whether the weights of a spec are on this machine: answered without fetching or loading anything."""

from pathlib import Path

import open_clip
from huggingface_hub import try_to_load_from_cache

from regionspot_cache.backbones.clip_build import open_clip_folder
from regionspot_cache.backbones.clip_tags import BRINGS_WEIGHTS
from regionspot_cache.backbones.fg_clip import FG_CLIP
from regionspot_cache.backbones.hf_sam_load import FOLDER, HUB, is_transformers
from regionspot_cache.backbones.hf_sam_load import PUBLISHED as TRANSFORMERS_SAMS
from regionspot_cache.backbones.load import SAM_FILES
from regionspot_cache.backbones.presets import ClipSpec, NetworkSpec, SamSpec, Tipsv2Spec
from regionspot_cache.backbones.tipsv2_load import PUBLISHED as TIPSV2
from regionspot_cache.backbones.weights import random_seed, weights_home

_HUB_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
    "pytorch_model.bin",
)


def at_hand(spec: NetworkSpec) -> bool:
    """Whether `load_part` needs no network; one of the user's own is taken to need none."""
    if isinstance(spec, SamSpec):
        return spec.weights == "packaged" or random_seed(spec.weights) is not None or _sam_at_hand(spec)
    if isinstance(spec, ClipSpec):
        return spec.model == "packaged" or random_seed(spec.weights) is not None or _clip_at_hand(spec)
    if isinstance(spec, Tipsv2Spec):
        return random_seed(spec.weights) is not None or _tipsv2_at_hand(spec)
    return True


def _sam_at_hand(spec: SamSpec) -> bool:
    if is_transformers(spec.model):
        if spec.model.startswith(FOLDER):
            return True
        published = TRANSFORMERS_SAMS.get(spec.model)
        return _on_the_disk(published.repository if published else spec.model.removeprefix(HUB), None)
    if spec.weights == "official" and spec.model in SAM_FILES:
        return (weights_home() / "weights" / SAM_FILES[spec.model].name).is_file()
    return Path(spec.weights).is_file()


def _clip_at_hand(spec: ClipSpec) -> bool:
    if spec.model.startswith(BRINGS_WEIGHTS):
        repository = spec.model.removeprefix("hf-hub:")
        return spec.model.startswith("local-dir:") or _on_the_disk(repository, open_clip_folder())
    if spec.model in FG_CLIP and spec.weights == "official":
        return _on_the_disk(FG_CLIP[spec.model].repository, None)
    known = open_clip.get_pretrained_cfg(spec.model, spec.weights)
    if not known:
        return Path(spec.weights).is_file()
    repository = str(known.get("hf_hub") or "").rstrip("/")
    published = Path(str(known.get("url") or "")).name
    folder = open_clip_folder()
    return bool(published and (Path(folder) / published).is_file()) or _on_the_disk(repository, folder)


def _tipsv2_at_hand(spec: Tipsv2Spec) -> bool:
    if spec.model.startswith(FOLDER):
        return True
    published = TIPSV2.get(spec.model)
    repository = published.repository if published else spec.model.removeprefix(HUB)
    return Path(spec.weights).is_file() or _on_the_disk(repository, None)


def _on_the_disk(repository: str, folder: str | None) -> bool:
    """Whether the weights of a repository of the Hugging Face hub were fetched before."""
    if repository.count("/") != 1:
        return False
    return any(isinstance(try_to_load_from_cache(repository, name, folder), str) for name in _HUB_FILES)
