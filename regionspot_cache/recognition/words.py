"""Text embeddings of class names that are asked for again and again: each name is paid for once."""

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from regionspot_cache.backbones import TextEncoder
from regionspot_cache.backbones.vocabulary import text_embeddings

MOST = 16_384  # names: 50 MB at 768 numbers each


class ClassEmbeddings:
    """The names used last, with their embeddings.

    Args:
        encoder: embeds the prompts.
        prompts: keyword arguments of `text_embeddings`; they may be changed between calls.
        most: names that are kept; a call with more of them keeps what it needs.
    """

    def __init__(self, encoder: TextEncoder, prompts: Mapping[str, Any], *, most: int = MOST) -> None:
        self.encoder, self.prompts, self.most = encoder, dict(prompts), most
        self._rows: OrderedDict[tuple[str, str], torch.Tensor] = OrderedDict()

    def __call__(self, names: Sequence[str]) -> torch.Tensor:
        """float32 [K, E], rows of length 1, on the device of the encoder. Raises as `text_embeddings`."""
        rule = json.dumps(self.prompts, sort_keys=True, default=list)
        if new := [name for name in dict.fromkeys(names) if (rule, name) not in self._rows]:
            rows = torch.from_numpy(text_embeddings(self.encoder, new, **self.prompts))
            for name, row in zip(new, rows.to(self.encoder.device), strict=True):
                self._rows[rule, name] = row.clone()  # a view would keep the rows of all others
        for name in names:
            self._rows.move_to_end((rule, name))
        found = torch.stack([self._rows[rule, name] for name in names])
        while len(self._rows) > self.most:
            self._rows.popitem(last=False)
        return found
