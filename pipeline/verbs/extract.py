"""`rs-cache extract`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.settings import ExtractSettings
from pipeline.tiny_networks import require_named_backbone, warn_of_photographs
from pipeline.verbs.command import verb


def _named_backbone(said: Mapping[str, Any], _: Path | None) -> Mapping[str, Any]:
    if "backbone" not in said:
        require_named_backbone(str(said.get("dataset", ExtractSettings.dataset)))
    return {}


@verb(ExtractSettings, defaults=_named_backbone)
def extract(settings: ExtractSettings, *, as_json: bool) -> None:
    """Run the frozen SAM and CLIP once over a dataset, into a cache. Resumes by default.

    Example: rs-cache extract --dataset o365 --backbone bl --workers 8
    """
    warn_of_photographs(settings.backbone, settings.dataset)
    if settings.dry_run:
        from pipeline.plan import dry_run as run
    else:
        from pipeline.extract import extract as run

    run(settings, as_json=as_json)
