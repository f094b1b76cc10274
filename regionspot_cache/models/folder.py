"""The files of a model folder, read with everything checked: others may have written them."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from regionspot_cache.backbones.weights import read_tensors
from regionspot_cache.errors import InputError, MissingFileError, near_path
from regionspot_cache.files import open_file, read_json
from regionspot_cache.models.hub import CONFIG_FILE, WEIGHTS_FILE


def read_model_config(folder: Path | str) -> dict[str, Any]:
    """The `config.json` of a model folder: key "head" and what was saved beside it.

    Raises:
        MissingFileError: there is no such folder or file.
        InputError: it is not a model's config.
    """
    path = Path(folder) / CONFIG_FILE
    if not os.path.isdir(folder):
        raise MissingFileError(
            f"There is no folder {folder}.",
            f"{near_path(folder)}A folder of a trained head, with {CONFIG_FILE}, or ORG/NAME on the hub.",
            "rs-cache train --out DIR",
        )
    values = read_json(path, "the config of a trained head", "rs-cache train --out DIR   or restore the file")
    if not isinstance(values, dict) or not isinstance(values.get("head"), dict):
        raise InputError(
            f'{path} has no key "head"', "the config of a trained head", "rs-cache train --out DIR"
        )
    return values


def read_weights(folder: Path | str) -> dict[str, Tensor]:
    """The tensors of a model folder. Raises as `read_tensors`; InputError also for what is not finite."""
    path = Path(folder) / WEIGHTS_FILE
    expected, remedy = "the weights of a trained head", "train again or restore the file"
    open_file(path, expected, "rs-cache train --out DIR").close()
    tensors = read_tensors(path, expected, remedy)
    for name, value in tensors.items():
        if not (value.is_floating_point() and torch.isfinite(value).all()):
            found = f"{path}: {name} has values that are not finite floating-point numbers"
            raise InputError(found, expected, remedy)
    return tensors
