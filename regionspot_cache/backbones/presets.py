"""Which frozen networks make up a backbone: named presets, and the YAML schema of own ones.

A preset file is a YAML map of the fields of `BackboneSpec`. Every field has a default, so this is complete:

    name: b32
    sam: {model: vit_b, weights: official}
    clip: {model: ViT-B-32-quickgelu, weights: openai, layer: -1}
"""

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import yaml

from regionspot_cache.backbones.arithmetic import Precision
from regionspot_cache.config import load_config
from regionspot_cache.errors import UsageError, near
from regionspot_cache.files import replacing

Position = Literal["transformer", "prompt", "mlp"]
"""Where a SAM token is taken: mask token 0 after the two-way transformer, the two corner embeddings of the
prompt encoder side by side, or the output of hyper-network 0 (RegionSpot's ablation of positions)."""


@dataclass(frozen=True, kw_only=True)
class SamSpec:
    """The SAM side.

    Attributes:
        model: "vit_b", "vit_l", "vit_h", "mobile_sam", or "packaged" for the small SAM that ships with the
            package; with the transformers library "sam-hq-vit-b" (-l, -h), "sam2.1-hiera-tiny" (-small,
            -base-plus, -large), "sam3", "hf-hub:ORG/NAME" or "local-dir:DIR" of these families or of SAM
            itself (facebook/sam-vit-base, ...); or a network of your own: the name of an entry point or
            "package.module:callable" (docs/own-backbone.md).
        weights: "official" (fetched), "packaged", "random:SEED", the path of a .pth or .safetensors file, or
            "included" for the models that bring their own ("hf-hub:" and "local-dir:").
        precision: of the image encoder; the decoder always runs in float32.
        positions: token positions to extract.
    """

    model: str = "vit_b"
    weights: str = "official"
    precision: Precision = "auto"
    positions: tuple[Position, ...] = ("transformer",)


@dataclass(frozen=True, kw_only=True)
class ClipSpec:
    """The CLIP side: any open_clip model with a ViT image tower.

    Attributes:
        model: an open_clip name, "hf-hub:ORG/NAME", "local-dir:DIR", "packaged", or a network of your own:
            the name of an entry point or "package.module:callable" (docs/own-backbone.md).
        weights: an open_clip tag, the path of a state dict, "random:SEED", or "included" for the models that
            bring their own ("hf-hub:", "local-dir:" and "packaged").
        tag: the open_clip tag whose weights a file holds; decides preprocessing, and is checked for the GELU.
            Needed where the tags of the model are preprocessed differently, as those of ViT-L-14.
        image_size: side of the input in pixels; None for the model's own.
        layer: block whose output is the map; -1 is the last.
        resize: how images are squashed to a square: "auto" is the model's own interpolation, antialiased
            (PIL); "bilinear-noantialias" follows the official RegionSpot predictor.
        precision: of the image tower; text always runs in float32.
        quick_gelu: forces QuickGELU on (True); None leaves it to the model name, and a tag that needs the
            other activation is an error.
    """

    model: str = "ViT-L-14-quickgelu"
    weights: str = "openai"
    tag: str | None = None
    image_size: int | None = None
    layer: int = -1
    resize: Literal["auto", "bicubic", "bilinear", "bilinear-noantialias"] = "auto"
    precision: Precision = "auto"
    quick_gelu: Literal[True] | None = None


@dataclass(frozen=True, kw_only=True)
class ProposerSpec:
    """Class-agnostic proposals.

    Attributes:
        model: "packaged" for the small RPN on SAM embeddings, or "fasterrcnn_resnet50_fpn_v2" (torchvision).
        weights: "packaged", "official" (fetched), "random:SEED", or the path of a state dict.
        top_n: proposals kept per image.
        nms: IoU above which the lower-scored of two proposals is dropped.
    """

    model: Literal["packaged", "fasterrcnn_resnet50_fpn_v2"] = "fasterrcnn_resnet50_fpn_v2"
    weights: str = "official"
    top_n: int = 1000
    nms: float = 0.7


@dataclass(frozen=True, kw_only=True)
class BackboneSpec:
    """The frozen networks of one cache."""

    name: str = "custom"
    sam: SamSpec = field(default_factory=SamSpec)
    clip: ClipSpec = field(default_factory=ClipSpec)
    proposer: ProposerSpec = field(default_factory=ProposerSpec)


PRESETS = {
    # Products this small gain nothing from bfloat16, and so the features are those of every machine.
    "tiny": BackboneSpec(
        name="tiny",
        sam=SamSpec(model="packaged", weights="packaged", precision="fp32"),
        clip=ClipSpec(model="packaged", weights="included", precision="fp32"),
        proposer=ProposerSpec(model="packaged", weights="packaged", top_n=300),
    ),
    "bb": BackboneSpec(name="bb", clip=ClipSpec(model="ViT-B-16-quickgelu")),
    "bl": BackboneSpec(name="bl", clip=ClipSpec(model="ViT-L-14-quickgelu")),
    "bl336": BackboneSpec(name="bl336", clip=ClipSpec(model="ViT-L-14-336-quickgelu")),
}


def load_preset(name_or_yaml: str | Path, *, from_model_folder: bool = False) -> BackboneSpec:
    """A preset by name, or an own one from a YAML file.

    Args:
        name_or_yaml: a name of `PRESETS` or a file.
        from_model_folder: the file came with a model, so others may have written it, and it must not say what
            code is run: import paths in it are refused.

    Raises:
        UsageError: unknown name, unknown key, wrong value, or an import path that is not the user's own.
        MissingFileError: no such YAML file.
    """
    text = str(name_or_yaml)
    if text in PRESETS:
        return PRESETS[text]
    if Path(text).suffix not in (".yaml", ".yml"):
        expected = f"{near(text, PRESETS)}One of {', '.join(PRESETS)}, or a .yaml file."
        raise UsageError(f"No backbone preset {text!r}.", expected)
    spec = load_config(BackboneSpec, Path(text))
    if from_model_folder:
        _refuse_import_paths(spec, text)
    return spec


def save_preset(spec: BackboneSpec, file: Path) -> None:
    """Writes a YAML file that `load_preset` reads, whole or not at all."""
    plain = json.loads(json.dumps(asdict(spec)))  # lists for tuples, which YAML does not know
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as staging:
        staging.write_text(yaml.safe_dump(plain, sort_keys=False), encoding="utf-8")


def is_import_path(model: str) -> bool:
    """Whether the `model` of a spec has the form "package.module:callable"."""
    name = r"[^\W\d]\w*(\.[^\W\d]\w*)*"
    return re.fullmatch(f"{name}:{name}", model) is not None


def _refuse_import_paths(spec: BackboneSpec, source: str) -> None:
    for part, model in (("sam", spec.sam.model), ("clip", spec.clip.model)):
        if is_import_path(model):
            raise UsageError(
                f"{source} has the import path {part}.model = {model}; a model folder may not choose code.",
                "A backbone file of your own, or a network registered by an installed package.",
                f"--backbone {source}, if you trust it and {model.partition(':')[0]}.",
            )
