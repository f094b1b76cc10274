"""Checkpoints that are whole or absent: written aside, synced, renamed into place, hashed.

    OUT/checkpoints/step-000001000/   model.safetensors  config.json  README.md
                                      optimizer.safetensors  state.json
    OUT/model.safetensors  OUT/README.md  OUT/config.json           the finished head

Every checkpoint folder is also a loadable model folder.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from regionspot_cache.errors import DamageError, IdentityError, InputError
from regionspot_cache.files import file_sha256
from regionspot_cache.models.hub import CARD_FILE, CONFIG_FILE, WEIGHTS_FILE
from regionspot_cache.training.head import RegionHead

CHECKPOINTS = "checkpoints"
OPTIMIZER_FILE = "optimizer.safetensors"
STATE_FILE = "state.json"
_FORMAT = 1


def save_checkpoint(
    folder: Path,
    head: RegionHead,
    optimizer: Optimizer,
    state: Mapping[str, Any],
    metadata: Mapping[str, Any],
    keep: int,
) -> Path:
    """Write the checkpoint of `state["step"]` below `folder`; all but the newest `keep` go."""
    root = folder / CHECKPOINTS
    final = root / f"step-{state['step']:09d}"
    if final.exists():  # the same step of the same run is the same checkpoint
        return final
    draft = root / f".draft-{os.getpid()}"
    try:
        shutil.rmtree(draft, ignore_errors=True)
        head.save_pretrained(draft, metadata)
        save_file(optimizer_tensors(head, optimizer), draft / OPTIMIZER_FILE)
        files = {path.name: file_sha256(path) for path in sorted(draft.iterdir())}
        text = json.dumps({"format": _FORMAT, "files": files, **state}, indent=1)
        (draft / STATE_FILE).write_text(text + "\n", encoding="utf-8")
        _sync(draft)
        os.rename(draft, final)
        _sync(root)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise InputError(
            f"cannot write the checkpoint {final}: {error}",
            "a writable folder with free space",
            "make room and run the same command again: it resumes",
        ) from error
    for old in [*sorted(root.glob("step-*"))[:-keep], *root.glob(".draft-*")]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint with the most steps, or None."""
    return max((folder / CHECKPOINTS).glob("step-*"), default=None)


def read_state(checkpoint: Path) -> dict[str, Any]:
    """`state.json` of a checkpoint whose files all have their recorded SHA-256; else DamageError."""
    remedy = f"remove {checkpoint} to continue from the checkpoint before it"
    try:
        state = json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))
        files = dict(state["files"])
        broken = [name for name, digest in files.items() if file_sha256(checkpoint / name) != digest]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamageError(f"{checkpoint} is not whole: {error}", "its files as written", remedy) from error
    if broken:
        raise DamageError(f"{checkpoint / broken[0]} was changed", f"SHA-256 {files[broken[0]]}", remedy)
    if state.get("format") != _FORMAT:
        raise IdentityError(f"{checkpoint} has format {state.get('format')}", f"format {_FORMAT}", remedy)
    return state


def load_tensors(checkpoint: Path, head: RegionHead, optimizer: Optimizer | None) -> None:
    """Weights into `head` and, unless None, the moments into `optimizer`."""
    head.load_checked(load_file(checkpoint / WEIGHTS_FILE), source=str(checkpoint))
    if optimizer is not None:
        parameters = dict(head.named_parameters())
        for full_name, value in load_file(checkpoint / OPTIMIZER_FILE).items():
            name, key = full_name.rsplit("/", 1)
            optimizer.state[parameters[name]][key] = value.to(parameters[name].device)


def optimizer_tensors(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as `{parameter name}/{state name}` tensors."""
    return {
        f"{name}/{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def publish_model(folder: Path, head: RegionHead, metadata: Mapping[str, Any]) -> None:
    """Put the finished head into `folder`: its weights, its card, and last the config that completes it."""
    draft = folder / f".draft-{os.getpid()}"
    head.save_pretrained(draft, metadata)
    _sync(draft)
    for name in (WEIGHTS_FILE, CARD_FILE, CONFIG_FILE):
        os.replace(draft / name, folder / name)
    draft.rmdir()
    _sync(folder)


def _sync(folder: Path) -> None:
    """Flush the files of a folder, and the folder itself, to the disk."""
    for path in (*(p for p in folder.iterdir() if p.is_file()), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
