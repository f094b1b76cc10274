"""The reader of backbone files, for `tests.fuzzing`."""

import json
from dataclasses import asdict
from pathlib import Path

import yaml

from regionspot_cache.backbones.presets import PRESETS, load_preset
from tests.fuzzing import Target


def _read(path: Path) -> object:
    return load_preset(path, from_model_folder=True)


PLAIN = json.loads(json.dumps(asdict(PRESETS["bl"])))
TARGETS = [Target(name="backbone file", sample=yaml.safe_dump(PLAIN).encode(), suffix=".yaml", read=_read)]
