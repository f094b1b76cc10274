"""The model card: what a head is, what it was made from, and how to use it, generated from its config."""

from collections.abc import Mapping, Sequence
from typing import Any

_FRONT = """\
---
library_name: regionspot-cache
pipeline_tag: zero-shot-object-detection
tags:
- open-vocabulary
- region-recognition
- segment-anything
- clip
---
"""
_USE = """\
```python
from regionspot_cache import RegionPredictor
predictor = RegionPredictor.from_pretrained("ORG/NAME")  # or a folder
print(predictor.set_image("street.jpg").predict([[10, 20, 200, 180]], ["car", "bus"]).names)
```
"""
_LICENCE = """\
The frozen networks are not part of this repository; they and the training data keep their own licences.
The licence of these weights is for their publisher to state here."""
_OFFICIAL_LICENCE = """\
The weights come from a RegionSpot checkpoint and keep its licence; the code of RegionSpot's authors is
CC BY-NC 4.0. The frozen networks are not part of this repository and keep their own licences."""


def model_card(config: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]] = ()) -> str:
    """Markdown with the front matter of the hub.

    Args:
        config: content of the model's config.json; only "head" must be there.
        metrics: evaluation results as `rs-cache eval` writes them to metrics.json under "results".
    """
    sections = {
        "": _summary(config),
        "Use": _USE,
        "Networks": _networks(config),
        "Options of the head": _table(("option", "value"), config["head"].items()),
        "Label spaces and training data": _training(config),
        "Prompts": _prompts(config.get("text", {})),
        "Metrics": "\n".join(line for result in metrics for line in _metric_lines(result)),
        "Licence": _OFFICIAL_LICENCE if "imported_from" in config else _LICENCE,
    }
    parts = [f"## {title}\n\n{text.strip()}" if title else text for title, text in sections.items() if text]
    return _FRONT + "\n# Region recognition head\n\n" + "\n\n".join(parts) + "\n"


def _summary(config: Mapping[str, Any]) -> str:
    head = config["head"]
    inputs = config.get("inputs", {})
    query, memory = inputs.get("query", "a vector"), inputs.get("memory", ["a map"] * len(head["maps"]))
    maps = ", ".join(
        f"{name} ({rows} x {columns} patches, {head['map_dim']} wide)"
        for name, (_, rows, columns) in zip(memory, head["maps"], strict=True)
    )
    text = (
        f"Names regions of images, given as boxes, in any words. A decoder of {head['depth']} layers relates "
        f"{query} of every box ({head['token_dim']} wide) to {maps} of its image, both of frozen networks, "
        f"and compares the result with text embeddings ({head['text_dim']} wide). The architecture is that "
        "of RegionSpot (Yang et al., *Recognize Any Regions*, NeurIPS 2024)."
    )
    if source := config.get("imported_from"):
        text += f" Imported from the RegionSpot checkpoint `{source['file']}` (SHA-256 `{source['sha256']}`)."
    return text


def _networks(config: Mapping[str, Any]) -> str:
    rows = []
    for part, facts in config.get("networks", {}).items():
        weights = str(facts.get("weights_sha256", "not recorded"))[:16]
        rows.append((part, facts.get("model", "not recorded"), weights, facts.get("preprocess", "")))
    return _table(("part", "model", "weights, SHA-256 of the tensors", "image"), rows) if rows else ""


def _training(config: Mapping[str, Any]) -> str:
    rows = [
        (name, facts.get("classes", ""), facts.get("images", ""))
        for name, facts in config.get("trained_on", {}).items()
    ]
    return _table(("cache", "classes", "images"), rows) if rows else ""


def _prompts(text: Mapping[str, Any]) -> str:
    known = [(key, text[key]) for key in ("templates", "cleaning", "average") if key in text]
    return _table(("prompts", "value"), known) if known else ""


def _metric_lines(result: Mapping[str, Any]) -> list[str]:
    """One list entry a group of metrics, with the protocol: a number without it means nothing."""
    protocol = "; ".join(f"{name} {value}" for name, value in result.get("protocol", {}).items())
    return [
        f"- {group}: {', '.join(f'{name} {_percent(value)}' for name, value in values.items())} ({protocol})"
        for group, values in result.get("metrics", {}).items()
    ]


def _percent(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return "-" if value < 0 else f"{100 * value:.1f}"


def _table(titles: Sequence[str], rows: Any) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(value: Any) -> str:
    """Text that cannot break out of its cell: names of caches and templates come from users."""
    return " ".join(str(value).split()).replace("|", "\\|")
