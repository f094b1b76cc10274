"""The SAM side: boxes to position-aware tokens and masks, with a frozen network."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from segment_anything.modeling import Sam
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor

from regionspot_cache.backbones.presets import Position, SamSpec
from regionspot_cache.backbones.sam_decode import mask_tokens, prepare_images
from regionspot_cache.backbones.weights import state_sha256

# Cells of the boxes of one decoder call, float32: what stays in a core's cache, or fills a GPU.
CHUNK_BYTES = {"cpu": 1 << 22, "cuda": 1 << 30}


class SamBackbone:
    """A frozen SAM (Kirillov et al., 2023).

    All results are inference tensors on `device`; clone one before training on it.

    Args:
        network: SAM with its weights.
        config: what it was built from, see `sam_build`.
        spec: what it is called, its precision and token positions.
        device: where it runs.
    """

    def __init__(
        self, network: Sam, config: Mapping[str, Any], spec: SamSpec, device: torch.device | str = "cpu"
    ) -> None:
        self.spec = spec
        self.config = config
        self.device = torch.device(device)
        self.network = network.to(self.device).eval().requires_grad_(False)
        bf16 = spec.precision == "bf16" or (spec.precision == "auto" and self.device.type == "cuda")
        self.precision = "bf16" if bf16 else "fp32"

    @property
    def image_size(self) -> int:
        """Side S of the network's input in pixels."""
        return self.network.image_encoder.img_size

    @property
    def token_dims(self) -> dict[str, int]:
        """Width of the token at each position of the spec."""
        dim = self.token_dim
        widths = {"transformer": dim, "prompt": 2 * dim, "mlp": dim // 8}
        return {position: widths[position] for position in self.spec.positions}

    @property
    def token_dim(self) -> int:
        """Width of the mask token, the one that the head takes by default."""
        return self.network.mask_decoder.transformer_dim

    @cached_property
    def weights_sha256(self) -> str:
        return state_sha256(self.network.state_dict())

    def fingerprint(self) -> dict[str, Any]:
        """All that decides the values of the tokens, json-able; the same on every machine."""
        return {
            "half": "sam",
            "library": "segment_anything",
            "model": self.spec.model,
            "architecture": dict(self.config),
            "weights_sha256": self.weights_sha256,
            "preprocess": f"longest side {self.image_size}, PIL bilinear antialiased, mean/std, zero pad",
            "token": "mask token 0 of a box prompt, single-mask output",
            "positions": list(self.spec.positions),
            "precision": self.precision,
        }

    def preprocess(self, image: np.ndarray) -> Tensor:
        """What SamPredictor feeds the network: longest side resized with PIL, normalised, zero-padded.

        Args:
            image: uint8 [H,W,3] RGB.

        Returns:
            float32 [3,S,S] on the CPU.
        """
        height, width = self.resized_size(image.shape[:2])
        resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1)
        out = torch.zeros(3, self.image_size, self.image_size)
        mean, std = self._pixel_statistics
        torch.div(pixels - mean, std, out=out[:, :height, :width])
        return out

    @cached_property
    def _pixel_statistics(self) -> tuple[Tensor, Tensor]:
        return self.network.pixel_mean.cpu(), self.network.pixel_std.cpu()  # [3,1,1] each

    def resized_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) in the SAM frame of an image of `size` (height, width); at least one pixel each."""
        height, width = ResizeLongestSide.get_preprocess_shape(*size, self.image_size)
        return max(height, 1), max(width, 1)

    def frame_boxes(self, boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Boxes [N,4] xyxy from pixels of the image of `size` (height, width) to the SAM frame, float32."""
        height, width = self.resized_size(size)
        scale = np.array([width / size[1], height / size[0]] * 2)
        return (np.asarray(boxes, dtype=np.float64).reshape(-1, 4) * scale).astype(np.float32)

    @torch.inference_mode()
    def embed(self, batch: Tensor) -> Tensor:
        """Image embeddings.

        Args:
            batch: float32 [B,3,S,S] of `preprocess`.

        Returns:
            float32 [B,D,h,w].
        """
        with self._autocast():
            return self.network.image_encoder(batch.to(self.device, non_blocking=True)).float()

    @torch.inference_mode()
    def tokens(
        self,
        embeddings: Tensor,
        boxes: Sequence[np.ndarray],
        sizes: Sequence[tuple[int, int]],
        positions: Sequence[Position] | None = None,
    ) -> dict[str, list[Tensor]]:
        """Tokens of the boxes of many images, decoded as one flat list in chunks of a fixed size.

        Args:
            embeddings: [B,D,h,w] of `embed`.
            boxes: per image [n,4] xyxy, pixels of the original image; n may be 0.
            sizes: per image (height, width) of the original.
            positions: where to take them; those of the spec by default.

        Returns:
            position -> per image float32 [n,d], d as in `token_dims`.
        """
        wanted = tuple(positions or self.spec.positions)
        counts = [len(b) for b in boxes]
        prompts = self._prompts(boxes, sizes)
        found: dict[str, Tensor] = {"prompt": prompts.flatten(1)}
        if set(wanted) & {"transformer", "mlp"}:
            found["transformer"] = self._mask_tokens(embeddings, counts, prompts)
        if "mlp" in wanted:
            found["mlp"] = self.network.mask_decoder.output_hypernetworks_mlps[0](found["transformer"])
        return {position: list(found[position].split(counts)) for position in wanted}

    @torch.inference_mode()
    def masks(self, embedding: Tensor, boxes: np.ndarray, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The single mask of each box at the original resolution, as SamPredictor gives it.

        Args:
            embedding: [1,D,h,w] of `embed`.
            boxes: [n,4] xyxy, pixels of the original image.
            size: (height, width) of the original.

        Returns:
            masks bool [n,height,width] and predicted IoU float32 [n].
        """
        masks = torch.zeros(len(boxes), *size, dtype=torch.bool, device=self.device)
        quality = torch.zeros(len(boxes), device=self.device)
        pixels = max(size[0] * size[1], self.image_size**2)
        chunk = max(1, self._chunk_bytes // (4 * pixels))
        prompts = self._prompts([boxes], [size])
        for start in range(0, len(boxes), chunk):
            part = slice(start, start + chunk)
            masks[part], quality[part] = self._decode_masks(embedding, prompts[part], size)
        return masks, quality

    def _decode_masks(
        self, embedding: Tensor, prompts: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        low, quality = self.network.mask_decoder(
            image_embeddings=embedding,
            image_pe=self._position,
            sparse_prompt_embeddings=prompts,
            dense_prompt_embeddings=self._dense_prompt.expand(len(prompts), -1, -1, -1),
            multimask_output=False,
        )
        logits = self.network.postprocess_masks(low, self.resized_size(size), size)
        return logits[:, 0] > self.network.mask_threshold, quality[:, 0]

    def _prompts(self, boxes: Sequence[np.ndarray], sizes: Sequence[tuple[int, int]]) -> Tensor:
        """Corner embeddings [N,2,D] of all boxes."""
        framed = [self.frame_boxes(b, size) for b, size in zip(boxes, sizes, strict=True)]
        flat = torch.from_numpy(np.concatenate([np.zeros((0, 4), np.float32), *framed]))
        sparse, _ = self.network.prompt_encoder(points=None, boxes=flat.to(self.device), masks=None)
        return sparse

    def _mask_tokens(self, embeddings: Tensor, counts: list[int], prompts: Tensor) -> Tensor:
        """Mask token 0 of every box, [N,D]."""
        decoder = self.network.mask_decoder
        images = prepare_images(decoder, embeddings, self._dense_prompt, self._position)
        owners = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)).to(self.device)
        chunk = max(1, self._chunk_bytes // (4 * images.cells[0].numel()))
        parts = [
            mask_tokens(decoder, images, owners[start : start + chunk], prompts[start : start + chunk])
            for start in range(0, len(prompts), chunk)
        ]
        return torch.cat([prompts.new_zeros(0, self.token_dim), *parts])

    @property
    def _chunk_bytes(self) -> int:
        return CHUNK_BYTES.get(self.device.type, CHUNK_BYTES["cpu"])

    @cached_property
    def _position(self) -> Tensor:
        return self.network.prompt_encoder.get_dense_pe()  # [1,D,h,w]

    @cached_property
    def _dense_prompt(self) -> Tensor:
        side = self.network.prompt_encoder.image_embedding_size
        weight = self.network.prompt_encoder.no_mask_embed.weight
        return weight.reshape(1, -1, 1, 1).expand(1, -1, *side)  # [1,D,h,w]

    def _autocast(self) -> AbstractContextManager:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")
