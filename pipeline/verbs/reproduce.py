"""`rs-cache reproduce`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.places import shipped, shipped_names
from pipeline.reproduce.settings import ReproduceSettings
from pipeline.verbs.command import verb


def _world(said: Mapping[str, Any], config: Path | None) -> Mapping[str, Any]:
    """The shipped world of that name, below what the config says."""
    from regionspot_cache.yaml_text import read_yaml

    name = f"reproduce/worlds/{said.get('world', ReproduceSettings.world)}.yaml"
    if config and name not in shipped_names():
        return {}  # a world of its own
    return read_yaml(shipped(name))


@verb(ReproduceSettings, defaults=_world)
def reproduce(settings: ReproduceSettings, *, as_json: bool) -> None:
    """The paper's tables 1 to 6, one config a row: its numbers beside ours, and which trends show. Resumes.

    Example: rs-cache reproduce table3 table4a --seeds 1
    """
    if settings.dry_run:
        from pipeline.reproduce.dry import dry_run as run
    else:
        from pipeline.reproduce.run import reproduce as run

    run(settings.names, settings, as_json=as_json)
