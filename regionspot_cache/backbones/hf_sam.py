"""SAM families of the transformers library: SAM itself, HQ-SAM, SAM 2.1 and SAM 3, decoded alike.

Their two-way transformers are SAM's, so tokens come from the same flat decoder. What differs is the frame,
the tokens that stand before mask token 0, and the features that masks need beside the embedding.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from segment_anything.modeling import TwoWayTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from regionspot_cache.backbones.pixels import Statistics, by_torchvision, statistics
from regionspot_cache.backbones.presets import SamSpec
from regionspot_cache.backbones.sam_base import Embedding, FrozenSam, LayeredEmbedding, cells_of
from regionspot_cache.backbones.sam_decode import TokenDecoder

LEAVES = {  # names in segment_anything -> in transformers, the first that exists
    "norm": ("layer_norm",),
    "out_proj": ("out_proj", "o_proj"),
    "lin1": ("lin1", "proj_in"),
    "lin2": ("lin2", "proj_out"),
    "act": ("act", "activation"),
}


class TransformersSam(FrozenSam):
    """A frozen SAM of the transformers library.

    Args:
        processor: its image processor, for the filter that resizes, mean and deviation.

    Attributes:
        token, frame: for the fingerprint; `frame` says how an image is fitted into the square input.
        output_names: the learned tokens that stand before those of the prompt.
    """

    token = ""
    frame = ""
    output_names: tuple[str, ...] = ()

    def __init__(
        self, network: Any, processor: Any, spec: SamSpec, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__(network, spec, device)
        self.processor = processor

    @property
    def image_size(self) -> int:
        return self.network.config.prompt_encoder_config.image_size

    def fingerprint(self) -> dict[str, Any]:
        processor = self.processor
        resampling = Image.Resampling(processor.resample).name.lower()
        local = self.spec.model.startswith("local-dir:")
        return {
            "library": "transformers",
            "model": "local-dir" if local else self.spec.model,
            "network": type(self.network).__name__,
            "architecture": architecture(self.network.config),
            "weights_sha256": self.weights_sha256,
            "preprocess": f"{self.frame.format(self.image_size)}, {resampling} antialiased (torchvision), "
            f"mean {list(processor.image_mean)}, std {list(processor.image_std)}",
            "token": f"{self.token} of a box prompt, single-mask output",
            "precision": self.precision,
        }

    @cached_property
    def _pixel_statistics(self) -> Statistics:
        mean, std = statistics(self.processor.image_mean, self.processor.image_std, self.device)
        white = 1 / self.processor.rescale_factor
        return mean * white, std * white

    def _resized(self, image: np.ndarray) -> Tensor:
        # The processor would leave no row or column of a very narrow image.
        resampling = Image.Resampling(self.processor.resample)
        return by_torchvision(image, self.resized_size(image.shape[:2]), resampling)

    def image_network(self, batch: Tensor) -> Sequence[Tensor]:
        return (self.network.get_image_embeddings(batch),)

    def _embed_boxes(self, framed: Tensor) -> Tensor:
        sparse, _ = self.network.prompt_encoder(None, None, framed[None], None)
        return sparse[0]

    @cached_property
    def _decoder(self) -> TokenDecoder:
        decoder = self.network.mask_decoder
        output = torch.cat([getattr(decoder, name).weight for name in self.output_names])
        before = self.output_names.index("mask_tokens")
        return TokenDecoder(shared_transformer(decoder.transformer), output, mask_token=before)

    @cached_property
    def _position(self) -> Tensor:
        return self.network.get_image_wide_positional_embeddings()

    def _low_masks(self, embedding: Embedding, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [n,4h,4w] and predicted IoU [n] of prompts [n,P,D] of one image."""
        fine = embedding.fine if isinstance(embedding, LayeredEmbedding) else ()
        low, quality, *_ = self.network.mask_decoder(
            image_embeddings=cells_of(embedding),
            image_positional_embeddings=self._position,
            sparse_prompt_embeddings=prompts[None],
            dense_prompt_embeddings=self._dense_prompt,
            multimask_output=False,
            **({"high_resolution_features": list(fine)} if fine else {}),
        )
        return low[0, :, 0], quality[0, :, 0]


class PlainSam(TransformersSam):
    """SAM itself (Kirillov et al., 2023), as transformers has it: images keep their shape."""

    token = "mask token 0 (index 1)"
    frame = "longest side {}, zero pad"
    output_names = ("iou_token", "mask_tokens")

    def _decode_masks(
        self, embedding: Embedding, prompts: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        low, quality = self._low_masks(embedding, prompts)
        side = (self.image_size, self.image_size)
        height, width = self.resized_size(size)
        whole = F.interpolate(low[:, None], side, mode="bilinear", align_corners=False)[..., :height, :width]
        logits = F.interpolate(whole, size, mode="bilinear", align_corners=False)
        return logits[:, 0] > 0, quality


class HqSam(PlainSam):
    """HQ-SAM (Ke et al., 2023).

    The token is mask token 0, as for SAM: the HQ token, one further learned token, corrects the outline of a
    mask and is not taken. It does take part in attention. Masks are the sum of SAM's and of the HQ token's,
    from early features of the ViT.
    """

    masks_need_cells_alone = False
    token = "mask token 0 (index 1; not the HQ token, index 5)"
    output_names = ("iou_token", "mask_tokens", "hq_token")

    def image_network(self, batch: Tensor) -> Sequence[Tensor]:
        cells, levels = self.network.get_image_embeddings(batch)
        return cells, levels[0]  # [B,h,w,C], the output of the first block of global attention

    def _low_masks(self, embedding: Any, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """As the paper's code has it: masks read the image after the two-way transformer.

        transformers, at least up to 5.23, upscales the image from before it, with rows and columns exchanged.
        """
        decoder = self.network.mask_decoder
        output = self._decoder.output.expand(len(prompts), -1, -1)
        tokens, cells = decoder.transformer(
            torch.cat([output, prompts], dim=1)[:, None],
            (embedding.cells + self._dense_prompt).expand(len(prompts), -1, -1, -1),
            self._position.expand(len(prompts), -1, -1, -1),
            None,
        )
        tokens = tokens[:, 0]  # [n,T,D]
        grid = cells[:, 0].transpose(1, 2).unflatten(2, embedding.cells.shape[2:])  # [n,D,h,w]
        act = decoder.activation
        plain = act(decoder.upscale_layer_norm(decoder.upscale_conv1(grid)))
        plain = act(decoder.upscale_conv2(plain))
        fine = decoder.mask_conv2(act(decoder.mask_norm(decoder.mask_conv1(plain))))
        fine = fine + self._hq_features(*embedding)
        low = torch.einsum("nc,nchw->nhw", self._mask_weights(tokens[:, 1]), plain)
        low = low + torch.einsum("nc,nchw->nhw", decoder.hq_mask_mlp(tokens[:, 5]), fine)
        return low, decoder.iou_prediction_head(tokens[:, 0])[:, 0]

    def _hq_features(self, cells: Tensor, fine: tuple[Tensor, ...]) -> Tensor:
        """The embedding and the early features at four times their resolution, added: [1,D/8,4h,4w]."""
        decoder = self.network.mask_decoder
        act, early = decoder.activation, fine[0].permute(0, 3, 1, 2)
        last = decoder.encoder_conv2(act(decoder.encoder_norm(decoder.encoder_conv1(cells))))
        first = decoder.compress_vit_conv2(act(decoder.compress_vit_norm(decoder.compress_vit_conv1(early))))
        return last + first


class Sam2(TransformersSam):
    """SAM 2.1 (Ravi et al., 2024) and the tracker of SAM 3 (2025) on single images.

    A token for the object's score stands first, so mask token 0 has index 2. Where a mask is not stable, the
    decoder gives the best of three others in its place; the token stays mask token 0.
    """

    masks_need_cells_alone = False
    token = "mask token 0 (index 2)"
    frame = "squash to {0} x {0}"
    output_names = ("obj_score_token", "iou_token", "mask_tokens")

    def resized_size(self, size: tuple[int, int]) -> tuple[int, int]:
        return self.image_size, self.image_size

    def image_network(self, batch: Tensor) -> Sequence[Tensor]:
        *fine, cells = self.network.get_image_embeddings(batch)
        return cells, *fine  # of high resolution, [B,D/8,4h,4w] and [B,D/4,2h,2w]

    def _decode_masks(
        self, embedding: Embedding, prompts: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        low, quality = self._low_masks(embedding, prompts)
        logits = F.interpolate(low[:, None], size, mode="bilinear", align_corners=False)
        return logits[:, 0] > 0, quality


def shared_transformer(theirs: Any) -> TwoWayTransformer:
    """segment_anything's two-way transformer around the very layers of one of transformers."""
    first = theirs.layers[0]
    width = first.self_attn.q_proj.in_features
    with torch.device("meta"):
        ours = TwoWayTransformer(
            depth=len(theirs.layers),
            embedding_dim=width,
            num_heads=first.self_attn.num_attention_heads,
            mlp_dim=_child(first.mlp, "lin1").out_features,
            attention_downsample_rate=width // first.cross_attn_token_to_image.q_proj.out_features,
        )
    leaves = [name for name, module in ours.named_modules() if not list(module.children())]
    for name in leaves:
        *folders, leaf = name.split(".")
        ours.set_submodule(name, _child(theirs.get_submodule(".".join(folders)), leaf))
    return ours


def _child(parent: nn.Module, leaf: str) -> Any:
    """The layer that segment_anything calls `leaf`."""
    stem = "norm" if leaf.startswith("norm") else leaf
    names = [name + leaf.removeprefix(stem) for name in LEAVES.get(stem, (leaf,))]
    return getattr(parent, next((name for name in names if hasattr(parent, name)), leaf))


def architecture(config: Any) -> dict[str, Any]:
    """What a configuration sets differently from its class, with those of its parts; json-able."""
    default = type(config)()
    found: dict[str, Any] = {}
    for name in type(config).__annotations__:
        value = getattr(config, name)
        if hasattr(value, "model_type"):
            found[name] = architecture(value)
        elif name != "initializer_range" and value != getattr(default, name, None):
            found[name] = list(value) if isinstance(value, tuple) else value
    return found
