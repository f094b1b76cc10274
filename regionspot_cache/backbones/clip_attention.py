"""How attention of open_clip's towers gets its input, so that a batch costs no more an image than one."""

from typing import Any

import torch
from torch import Tensor, nn


def lay_out_attention(tower: nn.Module) -> None:
    """Has every attention that takes [N, L, E] given values that lie as [L, N, E] where autocast is on.

    PyTorch transposes them without moving them and then multiplies each of L positions on its own; for
    bfloat16 on a CPU it also copies the weights L times.
    """
    for module in tower.modules():
        if isinstance(module, nn.MultiheadAttention) and module.batch_first:
            module.register_forward_pre_hook(_laid_out)


def _laid_out(_: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...] | None:
    query: Tensor = given[0]
    if query.is_meta or not torch.is_autocast_enabled(query.device.type):
        return None  # another kernel takes them as they are
    moved = {id(values): values.transpose(0, 1).contiguous().transpose(0, 1) for values in given[:3]}
    return (*(moved[id(values)] for values in given[:3]), *given[3:])
