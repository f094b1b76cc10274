"""`rs-cache train`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.places import WORKPLACE, shipped
from pipeline.settings import TrainSettings
from pipeline.verbs.command import verb


def _defaults(said: Mapping[str, Any], config: Path | None) -> Mapping[str, Any]:
    """The demo's run where nothing is said; else a folder of its own, for the demo's is the demo's."""
    from regionspot_cache.yaml_text import read_yaml

    values = {} if config else read_yaml(shipped("train/shapes.yaml"))
    caches = said.get("caches")
    if config:
        values["out"] = WORKPLACE / "runs" / _own(config.stem)
    elif isinstance(caches, list | tuple) and list(caches) != list(TrainSettings.caches):
        names = [Path(str(path).rstrip("/")).name for path in caches]
        values["out"] = WORKPLACE / "runs" / _own("+".join(names)[:200])
    return values


def _own(name: str) -> str:
    return f"{name}-own" if name == TrainSettings.out.name else name


@verb(TrainSettings, defaults=_defaults)
def train(settings: TrainSettings, *, as_json: bool) -> None:
    """Train the head on cached features. Resumes by default. Several processes: torchrun.

    Example: rs-cache train --config train/bl.yaml --out runs/bl
    """
    from pipeline.train import train as run

    run(settings, as_json=as_json)
