"""`rs-cache backbones`: which frozen networks there are, and what each costs for one image."""

from dataclasses import asdict
from typing import Any

import open_clip

from pipeline import console
from pipeline.places import CONFIGS
from regionspot_cache.backbones import PRESETS, ClipSpec, SamSpec, load_preset
from regionspot_cache.backbones.costs import clip_cost, sam_cost
from regionspot_cache.backbones.hf_sam_load import PUBLISHED as TRANSFORMERS_SAMS
from regionspot_cache.backbones.registry import own_network, registered
from regionspot_cache.backbones.sam_build import PUBLISHED
from regionspot_cache.errors import RegionSpotError, UsageError, near

SAMS = (*PUBLISHED, *TRANSFORMERS_SAMS)
SCALE_BYTES = 2  # a token is stored in int8 with one float16 scale

Spec = SamSpec | ClipSpec


def backbones(names: list[str], *, as_json: bool = False) -> None:
    """Prints operations, stored bytes and shapes of networks.

    Args:
        names: presets, backbone files and names of single networks; all that are known when there are none.
        as_json: one JSON document in place of tables.

    Raises:
        UsageError: a name of nothing, or a network that cannot be made. Among all that are known, one that
            cannot be made is listed with the reason.
    """
    named: dict[Spec, list[str]] = {} if names else {_counted(SamSpec(model=model)): [] for model in SAMS}
    for name in names or [*PRESETS, *sorted(CONFIGS.glob("backbones/*.yaml"))]:
        for spec in _specs_of(str(name)):
            named.setdefault(_counted(spec), []).append(name if isinstance(name, str) else name.name)
    values: dict[str, Any] = {"sam": [], "clip": []}
    for spec, of in named.items():
        row = {"model": spec.model, "named_by": of}
        try:
            row |= sam_facts(spec) if isinstance(spec, SamSpec) else clip_facts(spec)
        except RegionSpotError as error:
            if names:
                raise
            row["error"] = error.found
        values["sam" if isinstance(spec, SamSpec) else "clip"].append(row)
    values["registered"] = {part: list(registered(part)) for part in ("sam", "clip")}
    console.result(values, None if as_json else _text(values), as_json=as_json)


def _specs_of(name: str) -> list[Spec]:
    if name in (*SAMS, *registered("sam")):
        return [SamSpec(model=name)]
    if name in (*open_clip.list_models(), *registered("clip")):
        return [ClipSpec(model=name)]
    if name in PRESETS or name.endswith((".yaml", ".yml")):
        spec = load_preset(name)
        return [spec.sam, spec.clip]
    known = [*PRESETS, *SAMS, *open_clip.list_models(), *registered("sam"), *registered("clip")]
    expected = f"{near(name, known)}A preset, a .yaml file, or a network of open_clip or of this package."
    raise UsageError(f"No backbone {name!r}.", expected, "rs-cache backbones")


def _counted(spec: Spec) -> Spec:
    """The spec without what changes no cost, so that equal networks are one; own code decides for itself."""
    if isinstance(spec, SamSpec):
        return spec if own_network("sam", spec.model) else SamSpec(model=spec.model, weights="random:0")
    if own_network("clip", spec.model):
        return spec
    return ClipSpec(model=spec.model, weights="random:0", image_size=spec.image_size, layer=spec.layer)


def sam_facts(spec: SamSpec) -> dict[str, Any]:
    """Its costs, and the bytes that a box takes in a cache."""
    cost = sam_cost(spec)
    stored = sum(width + SCALE_BYTES for width in cost.token_dims.values())
    return {**asdict(cost), "box_bytes": stored}


def clip_facts(spec: ClipSpec) -> dict[str, Any]:
    """Its costs, and the bytes that an image takes in a cache."""
    cost = clip_cost(spec)
    tokens = cost.prefix_tokens + cost.grid[0] * cost.grid[1]
    return {"layer": spec.layer, **asdict(cost), "image_bytes": tokens * (cost.width + SCALE_BYTES)}


def _text(values: dict[str, Any]) -> str:
    good = {part: [row for row in values[part] if "error" not in row] for part in ("sam", "clip")}
    errors = [f"{row['model']}: {row['error']}" for part in good for row in values[part] if "error" in row]
    blocks = [_aligned([_sam_cells(row) for row in good["sam"]])]
    blocks += [_aligned([_clip_cells(row) for row in good["clip"]]), "\n".join(errors)]
    blocks += [
        f"Registered for the {part} side: {', '.join(names)}. They are loaded and counted when named."
        for part, names in values["registered"].items()
        if names
    ]
    return "\n\n".join(block for block in blocks if block)


def _sam_cells(row: dict[str, Any]) -> dict[str, str]:
    return {
        "SAM side": row["model"],
        "pixels": str(row["image_size"]),
        "GFLOP/image": f"{row['image_gflops']:.1f}",
        "GFLOP/box": f"{row['box_gflops']:.2f}",
        "token": "+".join(map(str, row["token_dims"].values())),
        "bytes/box": str(row["box_bytes"]),
        "in": " ".join(row["named_by"]),
    }


def _clip_cells(row: dict[str, Any]) -> dict[str, str]:
    return {
        "CLIP side": row["model"] + ("" if row["layer"] == -1 else f", layer {row['layer']}"),
        "pixels": str(row["image_size"]),
        "GFLOP/image": f"{row['image_gflops']:.1f}",
        "tokens": f"{row['prefix_tokens']} + {row['grid'][0]} x {row['grid'][1]}",
        "width": str(row["width"]),
        "text": str(row["text_width"]),
        "bytes/image": f"{row['image_bytes']:,}",
        "in": " ".join(row["named_by"]),
    }


def _aligned(rows: list[dict[str, str]]) -> str:
    """Columns of one width; the first and the last to the left, numbers to the right. Empty without rows."""
    table = [[*rows[0]], *([*row.values()] for row in rows)] if rows else []
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for first, *middle, last in table:
        numbers = map(str.rjust, middle, widths[1:-1])
        lines.append("  ".join([first.ljust(widths[0]), *numbers, last]).rstrip())
    return "\n".join(lines)
