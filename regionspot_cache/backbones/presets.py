"""Which frozen networks make up a backbone: named presets, and the YAML schema of own ones.

A backbone file names parts; each says which network makes it and what it stores. All fields of a
network beside `network` have defaults, so this is complete:

    name: b32-two-layers
    parts:
      sam: {network: sam, model: vit_b}
      clip: {network: clip, model: ViT-B-32-quickgelu, weights: openai, layers: [-1, -4]}
      dino: {network: "my_dino:Dino", weights: "random:0"}
    head: {query: sam/transformer, memory: [clip/map, dino/map]}
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BeforeValidator

from regionspot_cache.backbones.arithmetic import Precision
from regionspot_cache.config import load_config, shown, validate
from regionspot_cache.datasets.regions import BOX_QUERY
from regionspot_cache.errors import UsageError, near
from regionspot_cache.files import replacing

Stored = Literal["transformer", "prompt", "mlp", "embedding"]
"""What of SAM is stored. For every box: mask token 0 after the two-way transformer, the two corner embeddings
of the prompt encoder side by side, or the output of hyper-network 0 (RegionSpot's ablation of positions). For
every image: the embedding, from which tokens of any other box are decoded without running the encoder."""


Compile = Literal["auto", "always", "never"]
"""Whether an image network is compiled; "auto": on a CUDA device with compilers, for many images."""


@dataclass(frozen=True, kw_only=True)
class SamSpec:
    """A SAM: box-prompted tokens and masks.

    Attributes:
        model: "vit_b", "vit_l", "vit_h", "mobile_sam", or "packaged" for the small SAM that ships with the
            package; with the transformers library "sam-hq-vit-b" (-l, -h), "sam2.1-hiera-tiny" (-small,
            -base-plus, -large), "sam3", "hf-hub:ORG/NAME" or "local-dir:DIR" of these families or of SAM
            itself (facebook/sam-vit-base, ...).
        weights: "official" (fetched), "packaged", "random:SEED", the path of a .pth or .safetensors file, or
            "included" for the models that bring their own ("hf-hub:" and "local-dir:").
        precision: of the image encoder; the decoder always runs in float32.
        compile: the image encoder.
        store: what is extracted.
    """

    network: Literal["sam"] = "sam"
    model: str = "vit_b"
    weights: str = "official"
    precision: Precision = "auto"
    compile: Compile = "auto"
    store: tuple[Stored, ...] = ("transformer",)

    def __post_init__(self) -> None:
        if not self.store or len(set(self.store)) < len(self.store):
            raise UsageError(f"store = {list(self.store)}.", "Different arrays, at least one.")


@dataclass(frozen=True, kw_only=True)
class ClipSpec:
    """A CLIP: any open_clip model with a ViT image tower; maps of images, and embeddings of texts.

    Attributes:
        model: an open_clip name, "fg-clip-base", "fg-clip-large", "hf-hub:ORG/NAME", "local-dir:DIR" or
            "packaged".
        weights: an open_clip tag, the path of a state dict, "random:SEED", "official" (fetched) for FG-CLIP,
            or "included" for the models that bring their own ("hf-hub:", "local-dir:" and "packaged").
        tag: the open_clip tag whose weights a file holds; decides preprocessing, and is checked for the GELU.
            Needed where the tags of the model are preprocessed differently, as those of ViT-L-14.
        image_size: side of the input in pixels; None for the model's own.
        layers: blocks whose outputs are stored; -1 is the last. The first of them is the array "map", another
            "map_K" with K the block counted from 0.
        values: also stores the array "values": embeddings of patches in the space of texts by the value path
            of the last block, which clip-roi and clip-roi-mask pool. For plain ViTs of open_clip.
        resize: how images are squashed to a square: "auto" is the model's own interpolation, antialiased
            (PIL); "bilinear-noantialias" follows the official RegionSpot predictor.
        precision: of the image tower; text always runs in float32.
        compile: the image tower, where it gives maps.
        quick_gelu: forces QuickGELU on (True); None leaves it to the model name, and a tag that needs the
            other activation is an error.
    """

    network: Literal["clip"] = "clip"
    model: str = "ViT-L-14-quickgelu"
    weights: str = "openai"
    tag: str | None = None
    image_size: int | None = None
    layers: tuple[int, ...] = (-1,)
    values: bool = False
    resize: Literal["auto", "bicubic", "bilinear", "bilinear-noantialias"] = "auto"
    precision: Precision = "auto"
    compile: Compile = "auto"
    quick_gelu: Literal[True] | None = None

    def __post_init__(self) -> None:
        if not self.layers or len(set(self.layers)) < len(self.layers):
            raise UsageError(f"layers = {list(self.layers)}.", "Different blocks, at least one.")


@dataclass(frozen=True, kw_only=True)
class RegionClipSpec:
    """RegionCLIP's recogniser: a CLIP ResNet that embeds boxes.

    Attributes:
        model: an open_clip name of a ResNet, or "packaged" for the small one that ships with the package.
        weights: as of `ClipSpec`; or a published RegionCLIP checkpoint, of which the recogniser and its text
            encoder are read; "included" for "packaged".
        short_side, long_side: pixels of a resized image: its short side, unless the long one gets longer.
        precision: of the image tower; text always runs in float32.
        compile: is never done, for its inputs differ in shape; "always" is an error.
    """

    network: Literal["regionclip"] = "regionclip"
    model: str = "RN50x4-quickgelu"
    weights: str = "openai"
    short_side: int = 800
    long_side: int = 1333
    precision: Precision = "fp32"
    compile: Compile = "auto"


@dataclass(frozen=True, kw_only=True)
class Tipsv2Spec:
    """TIPSv2 of the transformers library, whose patches are in the space of texts.

    Attributes:
        model: "tipsv2-b14" (-l14, -so400m14, -g14), "hf-hub:ORG/NAME" or "local-dir:DIR".
        weights: as of `SamSpec`.
        image_size, values, precision, compile: as of `ClipSpec`.
    """

    network: Literal["tipsv2"] = "tipsv2"
    model: str = "tipsv2-b14"
    weights: str = "official"
    image_size: int | None = None
    values: bool = False
    precision: Precision = "auto"
    compile: Compile = "auto"


@dataclass(frozen=True, kw_only=True)
class OwnSpec:
    """A network of the user's own, see docs/own-backbone.md; what its fields mean is its own affair.

    Attributes:
        network: the name of an entry point, or "package.module:callable"; called with this spec and a device.
    """

    network: str
    model: str = ""
    weights: str = ""
    precision: Precision = "auto"
    compile: Compile = "auto"
    options: dict[str, Any] = field(default_factory=dict)


NetworkSpec = SamSpec | ClipSpec | RegionClipSpec | Tipsv2Spec | OwnSpec
S = TypeVar("S", SamSpec, ClipSpec, RegionClipSpec)


def _network_spec(value: Any) -> Any:
    """A part of a file by what its `network` is."""
    if not isinstance(value, Mapping):
        return value
    network = value.get("network")
    if not isinstance(network, str):
        raise UsageError(
            f"A part with network = {shown(network)}.",
            "sam, clip, regionclip, tipsv2, or a network of your own: package.module:Name.",
        )
    kinds = {"sam": SamSpec, "clip": ClipSpec, "regionclip": RegionClipSpec, "tipsv2": Tipsv2Spec}
    return validate(kinds.get(network, OwnSpec), value, f"a part of network {network}")


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


@dataclass(frozen=True, kw_only=True)
class HeadInputs:
    """Which arrays a head relates, each as PART/ARRAY.

    Attributes:
        query: one vector a box; "box/position" is made from the position of the box alone.
        memory: one map an image; several of one width are put one after the other.
    """

    query: str = "sam/transformer"
    memory: Annotated[tuple[str, ...], BeforeValidator(_as_list)] = ("clip/map",)

    @property
    def arrays(self) -> tuple[str, ...]:
        """The stored arrays that are read."""
        return tuple(path for path in (self.query, *self.memory) if path != BOX_QUERY)

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts that are read, each once."""
        return tuple(dict.fromkeys(path.partition("/")[0] for path in self.arrays))

    def to_dict(self) -> dict[str, Any]:
        return {"query": self.query, "memory": list(self.memory)}


@dataclass(frozen=True, kw_only=True)
class ProposerSpec:
    """Class-agnostic proposals: of the small RPN on SAM embeddings ("packaged"), torchvision's detector, or
    the RPN of Detectron2 that RegionCLIP's published files hold ("rpn_r50_fpn")."""

    model: Literal["packaged", "fasterrcnn_resnet50_fpn_v2", "rpn_r50_fpn"] = "fasterrcnn_resnet50_fpn_v2"
    # "official" is fetched; else "packaged", "random:SEED", or the path of a state dict; for "rpn_r50_fpn" of
    # a pretrained RegionCLIP file or of an RPN alone
    weights: str = "official"
    top_n: int = 1000  # proposals kept per image
    nms: float = 0.7  # IoU above which the lower-scored of two proposals is dropped


@dataclass(frozen=True, kw_only=True)
class BackboneSpec:
    """The frozen networks of one cache by part, what a head on them relates, and the source of proposals."""

    name: str = "custom"
    parts: Mapping[str, Annotated[NetworkSpec, BeforeValidator(_network_spec)]] = field(
        default_factory=lambda: {"sam": SamSpec(), "clip": ClipSpec()}
    )
    head: HeadInputs = field(default_factory=HeadInputs)
    proposer: ProposerSpec = field(default_factory=ProposerSpec)

    def __post_init__(self) -> None:
        missing = [path for path in self.head.arrays if path.partition("/")[0] not in self.parts]
        if missing or any(path.count("/") != 1 for path in (self.head.query, *self.head.memory)):
            raise UsageError(
                f"head.query = {self.head.query}, head.memory = {', '.join(self.head.memory) or 'nothing'}.",
                f"PART/ARRAY with a part of {', '.join(self.parts)}; or query: {BOX_QUERY}.",
            )

    def __hash__(self) -> int:
        return hash(json.dumps(self.to_dict(), sort_keys=True))

    def first(self, kind: type[S]) -> S:
        """The first part that a network of this kind makes. Raises UsageError."""
        return self.named_first(kind)[1]

    def named_first(self, kind: type[S]) -> tuple[str, S]:
        """As `first`, with the name of the part."""
        for name, part in self.parts.items():
            if isinstance(part, kind):
                return name, part
        kinds = kind.__name__.removesuffix("Spec").lower()
        raise UsageError(f"Backbone {self.name} has no {kinds} part.", f"parts: NAME: {{network: {kinds}}}.")

    def with_parts(self, **changed: NetworkSpec) -> "BackboneSpec":
        """The same with some parts replaced."""
        return replace(self, parts={**self.parts, **changed})

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form, as a file holds it."""
        parts = {name: asdict(part) for name, part in self.parts.items()}
        return json.loads(json.dumps({**asdict(self), "parts": parts}))


def _preset(name: str, clip: str) -> BackboneSpec:
    return BackboneSpec(name=name, parts={"sam": SamSpec(), "clip": ClipSpec(model=clip)})


PRESETS = {
    # Products this small gain nothing from bfloat16, and so the features are those of every machine.
    "tiny": BackboneSpec(
        name="tiny",
        parts={
            "sam": SamSpec(model="packaged", weights="packaged", precision="fp32"),
            "clip": ClipSpec(model="packaged", weights="included", precision="fp32"),
        },
        proposer=ProposerSpec(model="packaged", weights="packaged", top_n=300),
    ),
    "bb": _preset("bb", "ViT-B-16-quickgelu"),
    "bl": _preset("bl", "ViT-L-14-quickgelu"),
    "bl336": _preset("bl336", "ViT-L-14-336-quickgelu"),
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
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as staging:
        staging.write_text(yaml.safe_dump(spec.to_dict(), sort_keys=False), encoding="utf-8")


def is_import_path(network: str) -> bool:
    """Whether the `network` of a spec has the form "package.module:callable"."""
    name = r"[^\W\d]\w*(\.[^\W\d]\w*)*"
    return re.fullmatch(f"{name}:{name}", network) is not None


def _refuse_import_paths(spec: BackboneSpec, source: str) -> None:
    for name, part in spec.parts.items():
        if is_import_path(part.network):
            raise UsageError(
                f"{source} has the import path {name}.network = {part.network}; a model folder may not "
                "choose code.",
                "A backbone file of your own, or a network registered by an installed package.",
                f"--backbone {source}, if you trust it and {part.network.partition(':')[0]}.",
            )
