"""The recognition head: SAM tokens of the boxes attend to the CLIP feature map of their image.

Structure and tensor names follow the RegionSpot paper (section 3.2) and its released checkpoints, so that
those weights load. Two departures: padded boxes are masked (the paper's code repeats real ones, which changes
the result), and every layer is initialised on its own.
"""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from regionspot_cache.errors import IdentityError, InputError
from regionspot_cache.models.card import model_card
from regionspot_cache.models.folder import read_model_config, read_weights
from regionspot_cache.models.hub import CARD_FILE, CONFIG_FILE, WEIGHTS_FILE, model_folder, push_to_hub
from regionspot_cache.training.decoder import Decoder, DecoderLayer
from regionspot_cache.training.head_config import HeadConfig


def sine_positions(grid: tuple[int, int], dim: int) -> Tensor:
    """2-D sine-cosine positions as in MAE, half for the row: float32 [rows * columns, dim], row-major."""
    rows, columns = grid
    rates = torch.pow(10000.0, -torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))  # [dim/4]

    def encode(count: int) -> Tensor:
        angles = torch.arange(count, dtype=torch.float64)[:, None] * rates
        return torch.cat([angles.sin(), angles.cos()], dim=1)  # [count, dim/2]

    by_row = encode(rows)[:, None].expand(-1, columns, -1)
    by_column = encode(columns)[None].expand(rows, -1, -1)
    return torch.cat([by_row, by_column], dim=2).reshape(rows * columns, dim).float()


class RegionHead(nn.Module):
    """Region embeddings in CLIP's text space from SAM tokens and a CLIP map; see `HeadConfig`.

    With self-attention the boxes of an image are recognised jointly: leaving one out changes the others.
    """

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        self.to_clip = nn.Linear(config.token_dim, config.map_dim)
        self.decoder = Decoder((self._layer() for _ in range(config.depth)), config.map_dim)
        self.projector = nn.Linear(config.map_dim, config.text_dim)
        offset = nn.Parameter(torch.zeros(())) if config.offset else None
        self.register_parameter("offset", offset)
        self.register_buffer("positions", self._positions(), persistent=False)  # [M, C] or None

    def forward(
        self,
        tokens: Tensor,
        feature_map: Tensor,
        box_mask: Tensor | None = None,
        *,
        return_attention: bool = False,
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Embed every box of every image.

        Args:
            tokens: float [B, N, token_dim], SAM tokens, padded to the largest image of the batch.
            feature_map: float [B, M, map_dim], prefix tokens first, before CLIP's last normalisation.
            box_mask: bool [B, N], True for real boxes; None when all are real. Padded boxes never reach real
                ones; what is returned for them means nothing.
            return_attention: also return the cross-attention of every layer, averaged over its heads.

        Returns:
            [B, N, text_dim], not normalised; with `return_attention` also a list of `depth` tensors
            [B, N, M'], M' counting the tokens attended to (the grid alone without the class token).
        """
        self._check(tokens, feature_map)
        boxes, attentions = self.decoder(self.to_clip(tokens), self._memory(feature_map), box_mask)
        embeddings = self.projector(boxes)
        return (embeddings, attentions) if return_attention else embeddings

    def logits(self, embeddings: Tensor, text: Tensor) -> Tensor:
        """Scaled cosine [..., K] of region embeddings [..., text_dim] and unit text embeddings [K, text_dim].

        Computed in float32 also under autocast: a bfloat16 cosine is too coarse.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            regions = embeddings.float()
            regions = regions / (regions.norm(dim=-1, keepdim=True) + 1e-7)
            return self.config.logit_scale * regions @ text.float().T

    def save_pretrained(self, folder: Path | str, metadata: Mapping[str, Any] | None = None) -> None:
        """Write `model.safetensors`, the model card, and `config.json` with the head's config under "head".

        `metadata` goes into the config beside "head"; the card tells what it says about networks, prompts and
        training data. The folder is made when missing.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {name: value.contiguous() for name, value in self.state_dict().items()}, folder / WEIGHTS_FILE
        )
        config = {"head": self.config.to_dict(), **(metadata or {})}
        (folder / CARD_FILE).write_text(model_card(config), encoding="utf-8")
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")

    def push_to_hub(self, repo_id: str, metadata: Mapping[str, Any] | None = None, **options: Any) -> str:
        """Upload the head alone; `metadata` as of `save_pretrained`, the rest as of `hub.push_to_hub`.

        A whole model folder, with the backbone that `RegionPredictor` needs: `hub.push_to_hub(folder, ...)`.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, metadata)
            return push_to_hub(folder, repo_id, **options)

    @classmethod
    def from_pretrained(cls, folder: Path | str, *, device: str | torch.device = "cpu") -> Self:
        """Load what `save_pretrained` wrote, in evaluation mode.

        Args:
            folder: a local folder, or as text a hub id "ORG/NAME[@REVISION]"; a local folder always wins.
            device: where the head runs.

        Raises:
            MissingFileError: a file is missing.
            IdentityError: tensors are missing, unknown or of another shape than the config says.
            InputError: a file cannot be parsed.
        """
        folder = model_folder(folder)
        config = HeadConfig.from_dict(read_model_config(folder)["head"])
        tensors = read_weights(folder)
        with torch.device("meta"):  # sizes that the tensors do not have are never allocated
            cls(config).check_shapes(tensors, source=str(folder))
        head = cls(config)
        head.load_checked(tensors, source=str(folder))
        return head.to(device).eval()

    def load_checked(self, tensors: Mapping[str, Tensor], *, source: str) -> None:
        """Copy `tensors` in; errors as of `check_shapes`."""
        self.check_shapes(tensors, source=source)
        self.load_state_dict(dict(tensors))

    def check_shapes(self, tensors: Mapping[str, Tensor], *, source: str) -> None:
        """`IdentityError` names the first tensor whose name or shape does not match."""
        own = self.state_dict()
        for name in sorted(set(own) | set(tensors)):
            found = tuple(tensors[name].shape) if name in tensors else "no such tensor"
            expected = tuple(own[name].shape) if name in own else "no such tensor"
            if found != expected:
                raise IdentityError(
                    f"{source}: {name} is {found}",
                    f"{expected} for a head with {self.config}",
                    "use a checkpoint trained with this head config and these caches",
                )

    def _layer(self) -> DecoderLayer:
        config = self.config
        return DecoderLayer(
            config.map_dim,
            config.num_heads,
            ffn_dim=config.ffn_dim,
            dropout=config.dropout,
            self_attention=config.self_attention,
        )

    def _positions(self) -> Tensor | None:
        if not self.config.map_positions:
            return None
        width, tokens = self.config.map_dim, []
        for prefix, *grid in self.config.maps:
            tokens.append(torch.zeros(prefix, width))  # these have no place
            tokens.append(self.config.map_positions * sine_positions((grid[0], grid[1]), width))
        return torch.cat(tokens)

    def _memory(self, feature_map: Tensor) -> Tensor:
        if not self.config.use_map:
            return feature_map.new_zeros(len(feature_map), 1, self.config.map_dim)
        if self.config.map_norm:
            feature_map = F.layer_norm(feature_map, feature_map.shape[-1:])
        if self.positions is not None:
            feature_map = feature_map + self.positions
        if self.config.class_token:
            return feature_map
        sizes = [size for prefix, rows, columns in self.config.maps for size in (prefix, rows * columns)]
        return torch.cat(feature_map.split(sizes, dim=1)[1::2], dim=1)

    def _check(self, tokens: Tensor, feature_map: Tensor) -> None:
        map_shape = (self.config.map_tokens, self.config.map_dim)
        if tokens.shape[-1] != self.config.token_dim or feature_map.shape[1:] != map_shape:
            raise InputError(
                f"tokens {tuple(tokens.shape)} with a map {tuple(feature_map.shape)}",
                f"tokens [B, N, {self.config.token_dim}] with a map [B, {map_shape[0]}, {map_shape[1]}]",
                "use features of the backbone that this head was trained on",
            )
