"""Networks from specs: one part, all of a backbone, or its proposer."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN, fasterrcnn_resnet50_fpn_v2

from regionspot_cache.backbones.assets import packaged_config, packaged_state, published_sams
from regionspot_cache.backbones.clip import ClipBackbone
from regionspot_cache.backbones.clip_build import build_clip
from regionspot_cache.backbones.compiled import choose_compiled, with_compiled
from regionspot_cache.backbones.detectron_rpn import DetectronRpn, load_detectron_rpn
from regionspot_cache.backbones.encoder import Encoder, MaskEncoder, TextEncoder
from regionspot_cache.backbones.fg_clip import FG_CLIP, build_fg_clip
from regionspot_cache.backbones.hf_sam_load import FOLDER, HUB, is_transformers, load_transformers_sam
from regionspot_cache.backbones.hf_sam_load import PUBLISHED as TRANSFORMERS_SAMS
from regionspot_cache.backbones.presets import (
    BackboneSpec,
    ClipSpec,
    NetworkSpec,
    ProposerSpec,
    RegionClipSpec,
    SamSpec,
    Tipsv2Spec,
)
from regionspot_cache.backbones.proposer import (
    DetectorProposer,
    DetectronProposer,
    RegionProposer,
    SamRpnProposer,
)
from regionspot_cache.backbones.regionclip_load import load_regionclip
from regionspot_cache.backbones.registry import own_network
from regionspot_cache.backbones.rpn import SamRpn
from regionspot_cache.backbones.sam import SamBackbone
from regionspot_cache.backbones.sam_base import FrozenSam
from regionspot_cache.backbones.sam_build import PUBLISHED, build_sam, random_sam
from regionspot_cache.backbones.tipsv2_load import load_tipsv2
from regionspot_cache.backbones.weights import (
    Progress,
    RemoteFile,
    fetch,
    load_state,
    random_seed,
    read_state,
)
from regionspot_cache.errors import UsageError

SAM_FILES = {name: RemoteFile(**file) for name, file in published_sams()["files"].items()}
DETECTOR_FILE = RemoteFile(
    "https://download.pytorch.org/models/fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth",
    "dd69338a24b8d7381807e247652bdc356325bcbaf1cd3e092e00e0a1a58706bf",
)
Device = torch.device | str
T = TypeVar("T")


@dataclass(frozen=True)
class Backbone:
    """The networks of a spec, all or some of its parts."""

    parts: Mapping[str, Encoder]
    spec: BackboneSpec

    @property
    def text(self) -> TextEncoder:
        """The first part that embeds texts. Raises UsageError."""
        return self._first(TextEncoder, "embeds texts")

    def text_of(self, part: str | None) -> TextEncoder:
        """The text encoder of a part; of the first that has one, for None. Raises UsageError."""
        encoder = self.text if part is None else self.parts[part]
        assert isinstance(encoder, TextEncoder)
        return encoder

    @property
    def compilation(self) -> dict[str, str]:
        """By part, whether its image network is compiled, and why; for people."""
        return {
            name: choose_compiled(self.spec.parts[name].compile, part)[1] for name, part in self.parts.items()
        }

    @property
    def masks(self) -> MaskEncoder:
        """The first part that decodes boxes to masks. Raises UsageError."""
        return self._first(MaskEncoder, "makes masks")

    def _first(self, kind: type[T], what: str) -> T:
        for encoder in self.parts.values():
            if isinstance(encoder, kind):
                return encoder
        raise _without(self.spec, what)


def _without(spec: BackboneSpec, what: str) -> UsageError:
    return UsageError(
        f"No network of backbone {spec.name} {what}; its parts are {', '.join(spec.parts)}.",
        f"A part whose network {what}.",
        "Add one to the backbone file, or choose another --backbone.",
    )


def load_backbone(
    spec: BackboneSpec,
    device: Device = "cpu",
    progress: Progress | None = None,
    parts: Iterable[str] | None = None,
) -> Backbone:
    """The networks of a spec, or of some of its parts, on one device; errors as of `load_part`."""
    names = tuple(spec.parts if parts is None else parts)
    return Backbone({name: load_part(spec.parts[name], device, progress) for name in names}, spec)


def load_text_part(spec: BackboneSpec, device: Device = "cpu", progress: Progress | None = None) -> Backbone:
    """The part that embeds texts alone; no SAM is loaded. UsageError without one, or as of `load_part`."""
    for name, part in spec.parts.items():
        if isinstance(part, SamSpec):
            continue
        encoder = load_part(part, device, progress)
        if isinstance(encoder, TextEncoder):
            return Backbone({name: encoder}, spec)
    raise _without(spec, "embeds texts")


def load_part(spec: NetworkSpec, device: Device = "cpu", progress: Progress | None = None) -> Encoder:
    """The network of one part, compiled where the spec says so.

    Raises:
        MissingFileError: weights that are not here and cannot be fetched.
        DamageError: a fetched file with a wrong checksum.
        InputError: weights that do not fit.
        UsageError: a spec that makes no sense, as of `own_network` and `with_compiled`, or a library that is
            not installed.
    """
    return with_compiled(_load_part(spec, device, progress), spec.compile)


def _load_part(spec: NetworkSpec, device: Device, progress: Progress | None) -> Encoder:
    if isinstance(spec, SamSpec):
        return load_sam(spec, device, progress)
    if isinstance(spec, RegionClipSpec):
        return load_regionclip(spec, device)
    if isinstance(spec, Tipsv2Spec):
        return load_tipsv2(spec, device)
    return load_clip(spec, device) if isinstance(spec, ClipSpec) else own_network(spec, device)


def load_sam(spec: SamSpec, device: Device = "cpu", progress: Progress | None = None) -> FrozenSam:
    """A SAM, of this package or of transformers; errors as of `load_part`."""
    if is_transformers(spec.model):
        return load_transformers_sam(spec, device)
    config = packaged_config("sam") if spec.model == "packaged" else PUBLISHED.get(spec.model)
    if config is None:
        known = ", ".join(["packaged", *PUBLISHED, *TRANSFORMERS_SAMS, f"{HUB}ORG/NAME", f"{FOLDER}DIR"])
        raise UsageError(f"There is no SAM {spec.model!r}.", f"{known}.")
    seed = random_seed(spec.weights)
    if seed is not None:
        return SamBackbone(random_sam(config, seed), config, spec, device)
    network = build_sam(config)
    state = _state(spec.model, spec.weights, "sam", SAM_FILES.get(spec.model), progress)
    load_state(network, state, f"sam.weights = {spec.weights}")
    return SamBackbone(network, config, spec, device)


def load_clip(spec: ClipSpec, device: Device = "cpu") -> ClipBackbone:
    """A CLIP: the packaged one, one of open_clip or FG-CLIP; errors as of `load_part`.

    On the device "meta" it has shapes but no values.
    """
    made_on = "meta" if torch.device(device).type == "meta" else "cpu"
    build = build_fg_clip if spec.model in FG_CLIP else build_clip
    return ClipBackbone(build(spec, made_on), spec, device)


def load_proposer(backbone: Backbone, progress: Progress | None = None) -> RegionProposer:
    """The source of proposals of a backbone, on the device of its networks; errors as of `load_part`.

    The packaged RPN reads the embeddings of the packaged SAM; a UsageError where that is not among the parts.
    """
    spec = backbone.spec.proposer
    sams = [part for part in backbone.parts.values() if isinstance(part, SamBackbone)]
    sam = next((part for part in sams if part.spec.model == "packaged"), None)
    if spec.model == "packaged" and sam is None:
        raise UsageError(
            f"The packaged proposer reads the packaged SAM, and {backbone.spec.name} has none.",
            "proposer.model: fasterrcnn_resnet50_fpn_v2.",
        )
    seed = random_seed(spec.weights)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed or 0)
        network = _proposer_network(spec)
    if seed is None:
        known = DETECTOR_FILE if isinstance(network, FasterRCNN) else None
        state = _state(spec.model, spec.weights, "rpn", known, progress)
        source = f"proposer.weights = {spec.weights}"
        if isinstance(network, DetectronRpn):
            load_detectron_rpn(network, state, source)
        else:
            load_state(network, state, source)
    if isinstance(network, SamRpn):
        assert sam is not None
        return SamRpnProposer(network, spec, sam)
    device = next(iter(backbone.parts.values())).device
    if isinstance(network, DetectronRpn):
        return DetectronProposer(network, spec, device)
    return DetectorProposer(network, spec, device)


def _proposer_network(spec: ProposerSpec) -> SamRpn | FasterRCNN | DetectronRpn:
    if spec.model == "packaged":
        return SamRpn(**packaged_config("rpn") | {"top_n": spec.top_n, "nms": spec.nms})
    if spec.model == "rpn_r50_fpn":
        return DetectronRpn(nms=spec.nms, top_n=spec.top_n)
    return fasterrcnn_resnet50_fpn_v2(
        weights=None, weights_backbone=None, rpn_post_nms_top_n_test=spec.top_n, rpn_nms_thresh=spec.nms
    )


def _state(
    model: str, weights: str, part: str, published: RemoteFile | None, progress: Progress | None
) -> dict[str, Tensor]:
    """Tensors named by the `weights` of a spec: "packaged", "official", or a path."""
    if weights == "packaged" and model == "packaged":
        return packaged_state(part)
    if weights == "official" and published:
        return read_state(fetch(published, progress=progress))
    if weights in ("packaged", "official"):
        other = "official, " if published else "packaged, " if model == "packaged" else ""
        raise UsageError(
            f"There are no {weights} weights of {model}.", f"weights: {other}a path or random:SEED."
        )
    return read_state(Path(weights))
