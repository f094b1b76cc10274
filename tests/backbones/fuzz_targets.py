"""Readers of backbone files and of the folders that they name, for `tests.fuzzing`."""

import json
from pathlib import Path

import yaml

from regionspot_cache.backbones import load_sam
from regionspot_cache.backbones.presets import PRESETS, SamSpec, load_preset
from tests.backbones.small import picture
from tests.backbones.small_hf import CONFIGS
from tests.fuzzing import Target

PLAIN = PRESETS["bl"].to_dict()


def _read(path: Path) -> object:
    return load_preset(path, from_model_folder=True)


def _sam_folder(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(CONFIGS["sam"]))
    sam = load_sam(SamSpec(model=f"local-dir:{folder}", weights="random:0"))
    sam.network.save_pretrained(folder)
    sam.processor.save_pretrained(folder)


def _read_sam(folder: Path) -> object:
    sam = load_sam(SamSpec(model=f"local-dir:{folder}", weights="included"))
    sam.embed(sam.preprocess(picture(20, 30))[None])
    return sam.fingerprint()


TARGETS = [
    Target(
        name="backbone file", sample=yaml.safe_dump(PLAIN).encode(), suffix=".yaml", read=_read, share=0.5
    ),
    Target(name="transformers SAM", sample=_sam_folder, read=_read_sam, share=0.06),
]
