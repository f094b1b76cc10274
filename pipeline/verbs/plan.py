"""`rs-cache plan`: hours, bytes and money of a whole schedule, from rates measured here."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import NonNegativeFloat, PositiveInt

from pipeline import names
from pipeline.options import option, verb
from pipeline.places import shipped, shipped_names
from regionspot_cache.backbones.arithmetic import Precision
from regionspot_cache.backbones.presets import Compile
from regionspot_cache.store import StorageName
from regionspot_cache.yaml_text import read_yaml

PAPER = "paper"


@dataclass(frozen=True, kw_only=True)
class PlanSettings:
    """What is extracted and trained, and what an hour costs."""

    schedule: str = option(
        PAPER,
        "SCHEDULE",
        "paper, or any other word with a --config of your own.",
        complete=lambda: (Path(name).stem for name in shipped_names() if name.startswith("plan/")),
    )
    backbones: tuple[str, ...] = option(
        ("bb", "bl", "bl336"), "--backbone", "Preset or YAML file; repeat.", "NAME", names.backbones
    )
    images: PositiveInt
    """Images to extract."""
    boxes_per_image: PositiveInt
    steps: PositiveInt
    """Steps of training, of all stages."""
    batch_size: PositiveInt
    """Images of a step."""
    classes: PositiveInt
    """Names that a box is compared with."""
    price: NonNegativeFloat = option(0.0, "--price", "Money an hour of this machine costs.", "MONEY")
    dtype: StorageName = "int8"
    precision: Precision = "auto"
    compile: Compile = "auto"
    encode_batch: PositiveInt = 1
    """Images of one pass while the networks are measured."""
    repeats: PositiveInt = 2
    """Timed passes, after one that is not; the fastest counts."""
    device: str = "auto"


def _schedule(said: Mapping[str, Any], config: Path | None) -> Mapping[str, Any]:
    """The shipped schedule of that name, below what the config says."""
    name = f"plan/{said.get('schedule', PAPER)}.yaml"
    return read_yaml(shipped(name)) if name in shipped_names() or not config else {}


@verb(PlanSettings, defaults=_schedule)
def plan(settings: PlanSettings, *, as_json: bool) -> None:
    """Project a whole schedule from rates measured on this machine, for each backbone; needs no weights.

    Example: rs-cache plan paper --backbone bl --price 3.5
    """
    from pipeline.projection import project

    project(settings, as_json=as_json)
