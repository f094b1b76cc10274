"""Methods that embed every box and compare the embeddings with those of class names.

`clip-box` and `clip-mask` run CLIP on crops (the RegionSpot paper's baselines); `clip-roi` and
`clip-roi-mask` pool a value-path map, one pass an image; `regionclip` is RegionCLIP's recogniser.
"""

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, normalize

from regionspot_cache.ahead import batches_ahead
from regionspot_cache.backbones import Backbone, RegionClip, TextEncoder
from regionspot_cache.backbones.clip import VALUES
from regionspot_cache.backbones.clip_values import pool_boxes
from regionspot_cache.backbones.presets import BackboneSpec, ClipSpec, OwnSpec, RegionClipSpec, Tipsv2Spec
from regionspot_cache.errors import UsageError
from regionspot_cache.recognition.inputs import RegionInputs
from regionspot_cache.recognition.methods import RegionMethod

# Side of the crop over the side of the box: for each baseline the stronger of 1.0 and 1.25 on `shapes`.
BOX_CONTEXT, MASK_CONTEXT = 1.0, 1.25
CROP_BATCH = 64
CPU_BATCH = 8  # whose activations stay in the caches
CROP_THREADS = 2  # prepare crops while the network runs
# Objects of `shapes` then span the cells that the last stage knows best: 384 was the best of 256 to 640.
PACKAGED = RegionClipSpec(model="packaged", weights="included", short_side=384, long_side=768)


class EmbeddingMethod(RegionMethod):
    """What the methods here share.

    Attributes:
        background: a column of similarity 0 that belongs to no class takes its share of the probability.

    Args:
        encoder: embeds the class names, in the space of the boxes' embeddings.
    """

    reads: tuple[str, ...] = ()
    background = False

    def __init__(self, encoder: TextEncoder) -> None:
        self.encoder = encoder

    @torch.inference_mode()
    def embed(self, batch: Sequence[RegionInputs]) -> list[Tensor]:
        """As of `Recogniser`."""
        found = iter(self._embed([inputs for inputs in batch if len(inputs.boxes)]))
        return [next(found).float() if len(inputs.boxes) else self._nothing for inputs in batch]

    @torch.inference_mode()
    def scores(self, embeddings: Tensor, text: Tensor) -> Tensor:
        """As of `Recogniser`: a softmax of scaled cosines."""
        logits = self.encoder.logit_scale * normalize(embeddings, dim=-1) @ text.T
        if self.background:
            logits = torch.cat([logits, logits.new_zeros(len(logits), 1)], dim=1)
        return logits.softmax(-1)[:, : len(text)]

    @abstractmethod
    def _embed(self, batch: Sequence[RegionInputs]) -> Iterable[Tensor]:
        """As `embed`, of images that have boxes."""

    @cached_property
    def _nothing(self) -> Tensor:
        return self.encoder.encode_text([""])[:0].float()


class ClipCrops(EmbeddingMethod):
    """CLIP on a crop of every box; with `masked`, pixels outside SAM's mask take CLIP's mean colour.

    The crops of all images of a batch share the passes.
    """

    reads_pixels = True

    def __init__(self, encoder: TextEncoder, *, masked: bool) -> None:
        super().__init__(encoder)
        self.masked = masked
        self.context = MASK_CONTEXT if masked else BOX_CONTEXT
        self.name = "clip-mask" if masked else "clip-box"

    def _embed(self, batch: Sequence[RegionInputs]) -> Iterable[Tensor]:
        clip = self.encoder
        rows = [(inputs, i) for inputs in batch for i in range(len(inputs.boxes))]
        if self.masked:
            for inputs in batch:
                inputs.masks.decode(len(inputs.boxes))
        size = CPU_BATCH if clip.device.type == "cpu" else CROP_BATCH
        crops = batches_ahead(self._crop, rows, size=size, threads=CROP_THREADS)
        out = [clip.encode_image(torch.stack(lot)).float() for lot in crops]
        return torch.cat(out).split([len(inputs.boxes) for inputs in batch]) if out else ()

    def _crop(self, row: tuple[RegionInputs, int]) -> Tensor:
        """The network's input for one box."""
        inputs, i = row
        x0, y0, x1, y1 = crop_window(inputs.boxes[i], inputs.size, self.context)
        crop = inputs.image[y0:y1, x0:x1]
        if self.masked:
            inside = inputs.masks.pixels([i])[0, y0:y1, x0:x1, None]
            crop = np.where(inside, crop, np.round(255 * np.asarray(self.encoder.mean)).astype(np.uint8))
        return self.encoder.preprocess(crop)


class ClipRoi(EmbeddingMethod):
    """A value-path map, pooled over every box; with `masked`, over SAM's mask of it.

    Args:
        part: the network whose `values` are read; it embeds the class names too.
        grid: rows and columns of the map.
    """

    def __init__(self, encoder: TextEncoder, part: str, grid: tuple[int, int], *, masked: bool) -> None:
        super().__init__(encoder)
        self.part, self.grid, self.masked = part, grid, masked
        self.name = "clip-roi-mask" if masked else "clip-roi"
        self.reads = (f"{part}/{VALUES}",)
        self.text_part = part

    def _embed(self, batch: Sequence[RegionInputs]) -> Iterable[Tensor]:
        return map(self._pooled, batch)

    def _pooled(self, inputs: RegionInputs) -> Tensor:
        values = inputs.memory(self.reads)  # [rows * columns, E]
        if not self.masked:
            return pool_boxes(values, self.grid, inputs.boxes, inputs.size)
        shares = [
            adaptive_avg_pool2d(masks.to(values.device, torch.float32), self.grid).flatten(1)
            for masks in map(torch.from_numpy, inputs.masks.chunks(len(inputs.boxes)))
        ]
        weights = torch.cat(shares)  # the share of each cell that is inside
        pooled = weights @ values / weights.sum(1, keepdim=True).clamp(min=1e-12)
        empty = weights.sum(1) == 0  # SAM found nothing
        if empty.any():
            pooled[empty] = pool_boxes(values, self.grid, inputs.boxes[empty.cpu().numpy()], inputs.size)
        return pooled


class RegionClipRoi(EmbeddingMethod):
    """RegionCLIP's recogniser: RoIAlign, the last stage and the attention pool for every box.

    Args:
        part: the network `regionclip`, whose own text encoder embeds the class names.
    """

    name = "regionclip"
    background = True

    def __init__(self, encoder: TextEncoder, part: str) -> None:
        super().__init__(encoder)
        self.reads = (f"{part}/region",)
        self.text_part = part

    def _embed(self, batch: Sequence[RegionInputs]) -> Iterable[Tensor]:
        return (inputs.query(self.reads[0]) for inputs in batch)


def embedding_method(name: str, backbone: Backbone) -> EmbeddingMethod:
    """The method of this name, one of those of this module, on the networks that it needs.

    Raises:
        UsageError: the backbone has no such network.
    """
    masked = name.endswith("mask")
    if name in ("clip-box", "clip-mask"):
        return ClipCrops(backbone.text, masked=masked)
    for part, encoder in backbone.parts.items():
        if name == "regionclip" and isinstance(encoder, RegionClip):
            return RegionClipRoi(encoder, part)
        values = encoder.arrays.get(VALUES) if name != "regionclip" else None
        if values and values.grid and isinstance(encoder, TextEncoder):
            return ClipRoi(encoder, part, values.grid, masked=masked)
    needed = "{network: clip, values: true} or {network: tipsv2, values: true}"
    if name == "regionclip":
        needed = "{network: regionclip}"
    raise UsageError(
        f"--method {name}: backbone {backbone.spec.name} has no network for it.", f"A part {needed}."
    )


def with_networks_of(
    methods: Iterable[str], spec: BackboneSpec, regionclip: RegionClipSpec | None = None
) -> BackboneSpec:
    """The backbone with what some methods read beside its own arrays.

    The value-path map is that of the first part that can have one, unless one has it already.

    Args:
        methods: names; those of other modules need nothing.
        regionclip: the network of the method `regionclip` where the backbone has none; if not given the
            packaged one beside a packaged CLIP, else the default of `RegionClipSpec`.

    Raises:
        UsageError: there is no network whose value path could be read.
    """
    wanted = set(methods)
    if any(name.startswith("clip-roi") for name in wanted):
        spec = _with_values(spec)
    if "regionclip" in wanted and not any(isinstance(p, RegionClipSpec) for p in spec.parts.values()):
        packaged = any(isinstance(p, ClipSpec) and p.model == "packaged" for p in spec.parts.values())
        spec = spec.with_parts(regionclip=regionclip or (PACKAGED if packaged else RegionClipSpec()))
    return spec


def _with_values(spec: BackboneSpec) -> BackboneSpec:
    """The first able part gets a value-path map, unless one has it or a network of the user's own may."""
    able = {name: part for name, part in spec.parts.items() if isinstance(part, ClipSpec | Tipsv2Spec)}
    if any(part.values for part in able.values()):
        return spec
    if not able and any(isinstance(part, OwnSpec) for part in spec.parts.values()):
        return spec
    first = next(iter(able), None) or spec.named_first(ClipSpec)[0]  # which raises
    return spec.with_parts(**{first: replace(able[first], values=True)})


def crop_window(box: NDArray[np.float32], size: tuple[int, int], context: float) -> tuple[int, int, int, int]:
    """The box grown `context` times about its centre, within the image: x0, y0, x1, y1."""
    height, width = size
    centre_x, centre_y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    half_w, half_h = (box[2] - box[0]) / 2 * context, (box[3] - box[1]) / 2 * context
    x0 = int(np.clip(np.floor(centre_x - half_w), 0, width - 1))
    y0 = int(np.clip(np.floor(centre_y - half_h), 0, height - 1))
    x1 = int(np.clip(np.ceil(centre_x + half_w), x0 + 1, width))
    y1 = int(np.clip(np.ceil(centre_y + half_h), y0 + 1, height))
    return x0, y0, x1, y1
