"""What all SAM families share: boxes of many images in one flat list, decoded in chunks."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor, nn

from regionspot_cache.backbones.arithmetic import autocast, choose
from regionspot_cache.backbones.encoder import Array
from regionspot_cache.backbones.pixels import Statistics, framed, normalised
from regionspot_cache.backbones.presets import SamSpec
from regionspot_cache.backbones.sam_decode import TokenDecoder
from regionspot_cache.backbones.weights import state_sha256


class LayeredEmbedding(NamedTuple):
    """Embeddings of B images by a network whose masks need more than what tokens attend to."""

    cells: Tensor  # [B,D,h,w], what tokens attend to
    fine: tuple[Tensor, ...]  # what only masks need beside it


Embedding = Tensor | LayeredEmbedding
"""What `embed` gives and `tokens` and `masks` take back."""

# Cells of the boxes of one decoder call, float32: what stays in a core's cache, or fills a GPU.
CHUNK_BYTES = {"cpu": 1 << 22, "cuda": 1 << 30}


def cells_of(embedding: Embedding) -> Tensor:
    """What tokens attend to, [B,D,h,w]."""
    return embedding.cells if isinstance(embedding, LayeredEmbedding) else embedding


class FrozenSam(ABC):
    """A frozen network of a SAM family; see `Encoder` and `MaskEncoder` for what its methods take and give.

    All results are inference tensors on `device`; clone one before training on it.
    """

    masks_need_cells_alone = True

    def __init__(self, network: nn.Module, spec: SamSpec, device: torch.device | str) -> None:
        self.spec = spec
        self.device = torch.device(device)
        self.network: Any = network.to(self.device).eval().requires_grad_(False)
        self.precision = choose(spec.precision, self.device).arithmetic

    @property
    @abstractmethod
    def image_size(self) -> int:
        """Side S of the network's input in pixels."""

    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """As of `Encoder`."""

    @property
    @abstractmethod
    def _pixel_statistics(self) -> Statistics:
        """Of pixels in 0..255."""

    @abstractmethod
    def _resized(self, image: np.ndarray) -> Tensor:
        """uint8 [H,W,3] RGB as uint8 [3,*`resized_size`]."""

    def preprocess(self, image: np.ndarray) -> Tensor:
        """uint8 [H,W,3] RGB, resized, in the network's square: uint8 [4,S,S] of `framed`; thread-safe."""
        return framed(self._resized(image), self.image_size)

    def normalise(self, batch: Tensor) -> Tensor:
        """Inputs of `preprocess` [B,4,S,S] as the network takes them, float32 [B,3,S,S] on the device:
        normalised, then padded with zeros."""
        return normalised(batch, self._pixel_statistics, white=255)

    @abstractmethod
    def image_network(self, batch: Tensor) -> Sequence[Tensor]:
        """Cells [B,D,h,w] of normalised inputs, then what only masks need."""

    @cached_property
    @abstractmethod
    def _decoder(self) -> TokenDecoder:
        """Makes the tokens."""

    @cached_property
    @abstractmethod
    def _position(self) -> Tensor:
        """Dense positional encoding, [1,D,h,w]."""

    @abstractmethod
    def _embed_boxes(self, framed: Tensor) -> Tensor:
        """Prompt embeddings [N,P,D] of boxes [N,4] in the network's frame; the two corners come first."""

    @abstractmethod
    def _decode_masks(
        self, embedding: Embedding, prompts: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Masks bool [n,height,width] and predicted IoU [n] of prompts [n,P,D] of one image."""

    def resized_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) in the network's frame of an image of `size` (height, width); at least 1 each."""
        height, width = ResizeLongestSide.get_preprocess_shape(*size, self.image_size)
        return max(height, 1), max(width, 1)

    @torch.inference_mode()
    def embed(self, batch: Tensor) -> Embedding:
        """Embeddings, float32, of inputs [B,4,S,S] of `preprocess`."""
        with autocast(self.precision, self.device):
            found = self.image_network(self.normalise(batch))
        cells, *fine = (level.float() for level in found)
        return LayeredEmbedding(cells, tuple(fine)) if fine else cells

    @cached_property
    def _dense_prompt(self) -> Tensor:
        """Dense prompt embedding without a mask prompt, [1,D,h,w]."""
        weight = self.network.prompt_encoder.no_mask_embed.weight
        return weight.reshape(1, -1, 1, 1).expand_as(self._position)

    def _mask_weights(self, tokens: Tensor) -> Tensor:
        """Hyper-network 0 of mask tokens [N,D], [N,D/8]."""
        return self.network.mask_decoder.output_hypernetworks_mlps[0](tokens)

    @cached_property
    def arrays(self) -> dict[str, Array]:
        """What the spec stores."""
        dim = self._decoder.output.shape[1]
        rows, columns = self._position.shape[2:]
        known = {
            "transformer": Array(shape=(dim,), per_box=True),
            "prompt": Array(shape=(2 * dim,), per_box=True),
            "mlp": Array(shape=(dim // 8,), per_box=True),
            "embedding": Array(shape=(rows * columns, dim), grid=(rows, columns)),
        }
        return {name: known[name] for name in self.spec.store}

    def encode(
        self, batch: Tensor, boxes: Sequence[np.ndarray], sizes: Sequence[tuple[int, int]]
    ) -> dict[str, Sequence[Tensor] | Tensor]:
        """As of `Encoder`."""
        embeddings = self.embed(batch)
        found: dict[str, Sequence[Tensor] | Tensor] = {**self.tokens(embeddings, boxes, sizes)}
        if "embedding" in self.spec.store:
            found["embedding"] = self.stored(embeddings)
        return found

    def stored(self, embeddings: Embedding) -> Tensor:
        """The array "embedding" of B images, float32 [B,h*w,D]."""
        return cells_of(embeddings).flatten(2).transpose(1, 2)

    def restored(self, stored: np.ndarray) -> Embedding:
        """The embedding of one image from its stored array float32 [h*w,D]; for `masks` only where
        `masks_need_cells_alone`."""
        rows, columns = self._position.shape[2:]
        return torch.from_numpy(stored).to(self.device).transpose(0, 1).unflatten(1, (rows, columns))[None]

    @cached_property
    def weights_sha256(self) -> str:
        """`state_sha256` of the weights."""
        return state_sha256(self.network.state_dict())

    def frame_boxes(self, boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Boxes [N,4] xyxy from pixels of the image of `size` (height, width) to the frame, float32."""
        height, width = self.resized_size(size)
        scale = np.array([width / size[1], height / size[0]] * 2)
        return (np.asarray(boxes, dtype=np.float64).reshape(-1, 4) * scale).astype(np.float32)

    @torch.inference_mode()
    def tokens(
        self, embeddings: Embedding, boxes: Sequence[np.ndarray], sizes: Sequence[tuple[int, int]]
    ) -> dict[str, list[Tensor]]:
        """As of `MaskEncoder`; boxes of many images are one flat list, decoded in chunks of a fixed size."""
        wanted = tuple(name for name, array in self.arrays.items() if array.per_box)
        counts = [len(b) for b in boxes]
        prompts = self._prompts(boxes, sizes)
        found: dict[str, Tensor] = {"prompt": prompts[:, :2].flatten(1)}
        if set(wanted) & {"transformer", "mlp"}:
            cells, dense, position = cells_of(embeddings), self._dense_prompt, self._position
            found["transformer"] = self._decoder(cells, dense, position, counts, prompts, self._chunk_bytes)
        if "mlp" in wanted:
            found["mlp"] = self._mask_weights(found["transformer"])
        return {name: list(found[name].split(counts)) for name in wanted}

    @torch.inference_mode()
    def masks(self, embedding: Embedding, boxes: np.ndarray, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """As of `MaskEncoder`: the single mask of each box."""
        masks = torch.zeros(len(boxes), *size, dtype=torch.bool, device=self.device)
        quality = torch.zeros(len(boxes), device=self.device)
        pixels = max(size[0] * size[1], self.image_size**2)
        chunk = max(1, self._chunk_bytes // (4 * pixels))
        prompts = self._prompts([boxes], [size])
        for start in range(0, len(boxes), chunk):
            part = slice(start, start + chunk)
            masks[part], quality[part] = self._decode_masks(embedding, prompts[part], size)
        return masks, quality

    def _prompts(self, boxes: Sequence[np.ndarray], sizes: Sequence[tuple[int, int]]) -> Tensor:
        """Prompt embeddings [N,P,D] of all boxes."""
        framed = [self.frame_boxes(b, size) for b, size in zip(boxes, sizes, strict=True)]
        flat = torch.from_numpy(np.concatenate([np.zeros((0, 4), np.float32), *framed]))
        return self._embed_boxes(flat.to(self.device))

    @property
    def _chunk_bytes(self) -> int:
        return CHUNK_BYTES.get(self.device.type, CHUNK_BYTES["cpu"])
