"""Readers of settings, for `tests.fuzzing`: from a file and from --set."""

from pathlib import Path

from pipeline.verbs.train import TrainSettings
from regionspot_cache.config import load_config
from tests.fuzzing import Target

TRAIN = b"""\
# Everything that a config can nest.
caches: [a/one, s3://b/two]
out: runs/x
backbone: bl
prompts: {templates: clip80+name, cleaning: raw, average: unit-mean}
hierarchies:
  one: tree.json
training:
  batch_size: 16
  betas: [0.9, 0.999]
  head: {depth: 2, map_norm: true, logit_scale: 1.0e+2}
  stages:
    - {name: first, sources: [one], steps: 10, learning_rate: 2.5e-5, milestones: [3, 7]}
    - {name: second, steps: 10, schedule: cosine, warmup_steps: 1}
"""


def _from_file(path: Path) -> object:
    return load_config(TrainSettings, path)


def _from_override(path: Path) -> object:
    """The text of a file as an override: whatever a shell passes on."""
    text = path.read_bytes().decode("utf-8", "surrogateescape") if path.is_file() else ""
    return load_config(TrainSettings, overrides=[text])


TARGETS = [
    Target(name="config", sample=TRAIN, suffix=".yaml", read=_from_file),
    Target(
        name="override",
        sample=b"training.stages=[{name: a, steps: 3, learning_rate: 1.0e-3}]",
        read=_from_override,
    ),
]
