"""The model card: what a head is, what it was made from, and how to use it, generated from its config."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from regionspot_cache.files import read_text

_TEMPLATE = Path(__file__).parents[1] / "assets" / "model_card.md"


def model_card(config: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]] = ()) -> str:
    """Markdown with the front matter of the hub.

    Args:
        config: content of the model's config.json; only "head" must be there.
        metrics: evaluation results as `rs-cache eval` writes them to metrics.json under "results".
    """
    from jinja2 import Environment

    environment = Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    environment.filters |= {"cell": _cell, "percent": _percent}
    template = environment.from_string(read_text(_TEMPLATE, "A complete installation.", "make setup"))
    head, inputs, text = config["head"], config.get("inputs", {}), config.get("text", {})
    memory = inputs.get("memory", ["a map"] * len(head["maps"]))
    unknown = {"model": "not recorded", "weights_sha256": "not recorded", "preprocess": ""}
    networks = [
        (part, known["model"], str(known["weights_sha256"])[:16], known["preprocess"])
        for part, facts in config.get("networks", {}).items()
        if (known := unknown | facts)
    ]
    return template.render(
        head=head,
        inputs=inputs,
        maps=list(zip(memory, head["maps"], strict=True)),
        networks=networks,
        trained_on=[
            (name, facts.get("classes", ""), facts.get("images", ""))
            for name, facts in config.get("trained_on", {}).items()
        ],
        prompts=[(key, text[key]) for key in ("templates", "cleaning", "average") if key in text],
        metrics=[
            (result.get("protocol", {}), group, values)
            for result in metrics
            for group, values in result.get("metrics", {}).items()
        ],
        imported_from=config.get("imported_from"),
    )


def _percent(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return "-" if value < 0 else f"{100 * value:.1f}"


def _cell(value: Any) -> str:
    """Text that cannot break out of its cell: names of caches and templates come from users."""
    return " ".join(str(value).split()).replace("|", "\\|")
