"""`rs-cache eval`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.settings import RESULTS, EvalSettings
from pipeline.tiny_networks import require_named_backbone, warn_of_photographs
from pipeline.verbs.command import verb
from regionspot_cache.errors import MissingFileError


def _named_networks(said: Mapping[str, Any], _: Path | None) -> Mapping[str, Any]:
    methods = said.get("methods")
    scores_only = isinstance(methods, list) and all(str(name).startswith(RESULTS) for name in methods)
    if not scores_only and not {"backbone", "checkpoint"} & set(said):
        require_named_backbone(str(said.get("dataset", EvalSettings.dataset)), "--checkpoint DIR")
    return {}


@verb(EvalSettings, defaults=_named_networks)
def evaluate(settings: EvalSettings, *, as_json: bool) -> None:
    """Recognise the regions of a dataset and score the result: AP, APr, APc, APf, accuracy, recall.

    Example: rs-cache eval --proposals rpn --method regionspot --method clip-box

    Example: rs-cache eval --dataset lvis:minival --method results:glip.json --ap fixed
    """
    if missing := [file for file in settings.result_files if not file.exists()]:
        raise MissingFileError(f"There is no file {missing[0]}.", "Detections of another system.")
    if settings.recognisers:
        warn_of_photographs(settings.backbone or settings.checkpoint, settings.dataset)
    from pipeline.evaluate.run import evaluate as run

    run(settings, as_json=as_json)
