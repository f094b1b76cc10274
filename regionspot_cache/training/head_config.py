"""All that defines a recognition head, in numbers. Settings hold it, so it needs no torch."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from regionspot_cache.config import validate
from regionspot_cache.errors import IdentityError, InputError, UsageError
from regionspot_cache.models.hub import CONFIG_FILE

_LARGEST, _DEEPEST = 1 << 16, 256  # sizes and layers beyond which a config makes no sense


@dataclass(frozen=True, kw_only=True)
class HeadOptions:
    """What may be chosen about a head; the defaults are the paper's."""

    depth: int = 3
    num_heads: int = 8
    ffn_dim: int = 2048
    dropout: float = 0.1
    # LayerNorm without parameters on every map token, whose scale before CLIP's last norm is arbitrary; the
    # official code declares this norm and never applies it
    map_norm: bool = False
    # amplitude of a 2-D sine-cosine position added to the patch tokens; 0 adds none
    map_positions: float = 0.0
    use_map: bool = True  # False replaces the map by one zero token (ablation)
    class_token: bool = True  # False leaves out the map's prefix tokens (ablation)
    # False lets every box attend to itself alone, which is what it gets as the only box of its image. The
    # tensors stay the same, so that any checkpoint can be evaluated box by box.
    self_attention: bool = True
    logit_scale: float = 100.0  # fixed factor on the cosine; CLIP's learned value is 100
    # a learned number that the focal loss adds to all cosines of boxes with labels: what it asks of them is
    # then relative, as it is for the losses on captions. Recognition, a softmax, does without it
    offset: bool = False


@dataclass(frozen=True, kw_only=True)
class HeadConfig(HeadOptions):
    """All that defines a `RegionHead`: the options and the sizes that the two caches and the text dictate."""

    token_dim: int  # width of the query of a box (256 for a SAM token; 512 for the prompt position)
    map_dim: int  # width of a map token, which is also the width of the decoder
    text_dim: int  # width of the text embeddings
    # of every map of the memory, (prefix tokens, rows, columns): tokens before the grid (1 for a class token,
    # 0 for SigLIP, more with registers) and its sides
    maps: tuple[tuple[int, int, int], ...]

    @property
    def map_tokens(self) -> int:
        """Tokens of all maps."""
        return sum(prefix + rows * columns for prefix, rows, columns in self.maps)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the first map's grid."""
        return self.maps[0][1:]

    @property
    def prefix_tokens(self) -> int:
        """Tokens before the first map's grid."""
        return self.maps[0][0]

    def __post_init__(self) -> None:
        object.__setattr__(self, "maps", tuple(map(tuple, self.maps)))  # JSON and YAML give lists
        self._check_ranges()
        if self.map_dim % self.num_heads:
            raise InputError(
                f"map_dim {self.map_dim} cannot be split over {self.num_heads} heads",
                "num_heads must divide map_dim",
                "choose another one with --set training.head.num_heads=N",
            )
        if self.map_positions and self.map_dim % 4:
            raise InputError(
                f"map_positions needs a map_dim that 4 divides, not {self.map_dim}",
                remedy="--set training.head.map_positions=0",
            )

    def _check_ranges(self) -> None:
        """Config files come from elsewhere too: a wrong one must be no crash and no endless allocation."""
        sizes = (self.num_heads, self.ffn_dim, self.token_dim, self.map_dim, self.text_dim)
        sides = [side for _, *grid in self.maps for side in grid]
        good = (
            1 <= len(self.maps) <= _DEEPEST
            and all(1 <= size <= _LARGEST for size in (*sizes, *sides))
            and 1 <= self.depth <= _DEEPEST
            and all(0 <= prefix <= _LARGEST for prefix, _, _ in self.maps)
            and 0 <= self.dropout < 1
            and 0 < self.logit_scale < math.inf
            and 0 <= abs(self.map_positions) < math.inf
        )
        if not good:
            raise InputError(
                f"no head has {', '.join(f'{key}={value}' for key, value in vars(self).items())}",
                f"sizes up to {_LARGEST}, maps as (prefix, rows, columns), depth up to {_DEEPEST}, "
                "0 <= dropout < 1, 0 < logit_scale",
                "set training.head, or use a config.json as training wrote it",
            )

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"maps": [list(sizes) for sizes in self.maps]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The config in a file; IdentityError for other keys, InputError for values out of range."""
        known = {field.name for field in dataclasses.fields(cls)}
        needed = {f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING}
        if wrong := sorted((set(values) - known) | (needed - set(values))):
            raise IdentityError(
                f"head config with unknown or missing keys: {', '.join(wrong)}",
                f"the keys {', '.join(sorted(known))}",
                "use the version of regionspot-cache that wrote it",
            )
        try:
            return validate(cls, values, CONFIG_FILE)
        except UsageError as error:
            raise InputError(
                error.found, "values as training writes them", "train again or restore the file"
            ) from None
