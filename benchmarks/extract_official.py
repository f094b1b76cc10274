"""Features without this package: both libraries' own paths, an image at a time, a file an image."""

from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import open_clip
import torch
from PIL import Image
from segment_anything import SamPredictor
from torch import Tensor

from regionspot_cache.backbones import Backbone, ClipBackbone, SamBackbone
from regionspot_cache.datasets import DetectionDataset
from regionspot_cache.errors import UsageError

T = TypeVar("T", SamBackbone, ClipBackbone)


def _part(backbone: Backbone, kind: type[T]) -> tuple[str, T]:
    """The first part of a kind, with its name. Raises UsageError."""
    for name, encoder in backbone.parts.items():
        if isinstance(encoder, kind):
            return name, encoder
    raise UsageError(
        f"Backbone {backbone.spec.name} has no {kind.__name__}.",
        "A SAM of segment_anything and a CLIP of open_clip, for example bb or bl.",
    )


class OfficialExtraction:
    """SamPredictor and open_clip's image transform and encoder, with the networks of a backbone.

    Attributes:
        paths: PART/ARRAY of the same features in a cache, by name in the files.

    Raises:
        UsageError: networks that are none of these libraries' own.
    """

    def __init__(self, dataset: DetectionDataset, backbone: Backbone) -> None:
        sam_part, sam = _part(backbone, SamBackbone)
        clip_part, self.clip = _part(backbone, ClipBackbone)
        self.paths = {"tokens": f"{sam_part}/transformer", "maps": f"{clip_part}/map"}
        self.dataset = dataset
        self.predictor = SamPredictor(sam.network)
        self.model: Any = self.clip.model
        if not hasattr(self.model.visual, "transformer"):
            raise UsageError(f"{self.clip.spec.model} is no plain ViT of open_clip.", "For example bb or bl.")
        parts = self.clip.parts
        self.transform: Any = open_clip.image_transform(
            self.clip.image_size,
            is_train=False,
            mean=parts.mean,
            std=parts.std,
            resize_mode="squash",
            interpolation=parts.interpolation,
        )

        # What neither library returns: decoder tokens [n, 6, D] and patch tokens [1, N, C].
        self.caught: dict[str, Tensor] = {}
        block = self.model.visual.transformer.resblocks[self.clip.blocks[0]]
        decoder = sam.network.mask_decoder.transformer
        decoder.register_forward_hook(lambda _m, _i, out: self.caught.update(tokens=out[0]))
        block.register_forward_hook(lambda _m, _i, out: self.caught.update(map=out))

    @torch.no_grad()
    def run(self, folder: Path) -> None:
        """Writes IMAGE_ID.pth with boxes, labels, tokens float32 [n, D] and maps float32 [N, C]."""
        folder.mkdir()
        for i in range(len(self.dataset)):
            record = self.dataset[i]
            image = Image.open(self.dataset.image_root / record.file_name).convert("RGB")
            item = {"boxes": torch.from_numpy(record.boxes), "labels": torch.from_numpy(record.labels)}
            item["tokens"] = self._tokens(np.array(image), record.boxes)
            self.model.encode_image(self.transform(image)[None].to(self.clip.device))
            item["maps"] = self.caught["map"][0].cpu()
            torch.save(item, folder / f"{record.image_id}.pth")

    def _tokens(self, image: np.ndarray, boxes: np.ndarray) -> Tensor:
        self.predictor.set_image(image)
        if not len(boxes):
            return torch.zeros(0, self.predictor.model.mask_decoder.transformer_dim)
        framed = self.predictor.transform.apply_boxes_torch(torch.from_numpy(boxes), image.shape[:2])
        self.predictor.predict_torch(None, None, framed.to(self.predictor.device), multimask_output=False)
        return self.caught["tokens"][:, 1].cpu()  # after the IoU token comes mask token 0
