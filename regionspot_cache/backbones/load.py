"""Networks from specs: one part, all of a backbone, or its proposer."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN, fasterrcnn_resnet50_fpn_v2

from regionspot_cache.backbones.assets import packaged_config, packaged_state
from regionspot_cache.backbones.clip import ClipBackbone
from regionspot_cache.backbones.clip_build import build_clip
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

SAM_URL = "https://dl.fbaipublicfiles.com/segment_anything/"
# The names carry the first digits of an MD5; these are the SHA-256 of the same files.
SAM_FILES = {
    "vit_b": RemoteFile(
        SAM_URL + "sam_vit_b_01ec64.pth", "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912"
    ),
    "vit_l": RemoteFile(
        SAM_URL + "sam_vit_l_0b3195.pth", "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622"
    ),
    "vit_h": RemoteFile(
        SAM_URL + "sam_vit_h_4b8939.pth", "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e"
    ),
    "mobile_sam": RemoteFile(
        "https://github.com/ChaoningZhang/MobileSAM/raw/f706ad9c4eb7f219c00d9050e46328518ffb65d2/weights/mobile_sam.pt",
        "6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
    ),
}
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
    def masks(self) -> MaskEncoder:
        """The first part that decodes boxes to masks. Raises UsageError."""
        return self._first(MaskEncoder, "makes masks")

    def _first(self, kind: type[T], what: str) -> T:
        for encoder in self.parts.values():
            if isinstance(encoder, kind):
                return encoder
        raise UsageError(
            f"No network of backbone {self.spec.name} {what}; its parts are {', '.join(self.spec.parts)}.",
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
    """The part that embeds texts alone; no SAM is loaded.

    Raises:
        UsageError: there is none; or as of `load_part`.
    """
    for name, part in spec.parts.items():
        if isinstance(part, SamSpec):
            continue
        encoder = load_part(part, device, progress)
        if isinstance(encoder, TextEncoder):
            return Backbone({name: encoder}, spec)
    found = Backbone({}, spec)
    assert found.text  # raises
    return found


def load_part(spec: NetworkSpec, device: Device = "cpu", progress: Progress | None = None) -> Encoder:
    """The network of one part.

    Raises:
        MissingFileError: weights that are not here and cannot be fetched.
        DamageError: a fetched file with a wrong checksum.
        InputError: weights that do not fit.
        UsageError: a spec that makes no sense, as of `own_network`, or a library that is not installed.
    """
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
    config = _sam_config(spec.model)
    seed = random_seed(spec.weights)
    if seed is not None:
        return SamBackbone(random_sam(config, seed), config, spec, device)
    network = build_sam(config)
    state = _state(spec.model, spec.weights, "sam", SAM_FILES.get(spec.model), progress)
    load_state(network, state, f"sam.weights = {spec.weights}")
    return SamBackbone(network, config, spec, device)


def _sam_config(model: str) -> Mapping[str, Any]:
    if model == "packaged":
        return packaged_config("sam")
    if model not in PUBLISHED:
        known = ", ".join(["packaged", *PUBLISHED, *TRANSFORMERS_SAMS, f"{HUB}ORG/NAME", f"{FOLDER}DIR"])
        raise UsageError(f"There is no SAM {model!r}.", f"{known}.")
    return PUBLISHED[model]


def load_clip(spec: ClipSpec, device: Device = "cpu") -> ClipBackbone:
    """A CLIP: the packaged one, one of open_clip or FG-CLIP. On "meta" it has shapes but no values.

    Raises:
        UsageError: as of `build_clip`, or an image tower without a fixed grid.
        MissingFileError, InputError: as of `build_clip`.
    """
    made_on = "meta" if torch.device(device).type == "meta" else "cpu"
    build = build_fg_clip if spec.model in FG_CLIP else build_clip
    return ClipBackbone(build(spec, made_on), spec, device)


def load_proposer(backbone: Backbone, progress: Progress | None = None) -> RegionProposer:
    """The source of proposals of a backbone, on the device of its networks.

    Args:
        backbone: its spec says which; the packaged RPN reads the embeddings of the packaged SAM.
        progress: called while weights are fetched.

    Raises:
        UsageError: a packaged RPN with a SAM that it was not trained on.
        MissingFileError, DamageError, InputError: as of `load_part`.
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
