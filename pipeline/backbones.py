"""`rs-cache backbones`: which frozen networks there are, and what each costs for one image."""

import difflib
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TypeVar

import numpy as np
import open_clip

from pipeline import console
from pipeline.places import CONFIGS
from pipeline.settings import ExtractSettings
from regionspot_cache.backbones import PRESETS, ClipSpec, SamSpec, load_preset
from regionspot_cache.backbones.costs import clip_cost, sam_cost
from regionspot_cache.backbones.hf_sam_load import PUBLISHED as TRANSFORMERS_SAMS
from regionspot_cache.backbones.registry import own_network, registered
from regionspot_cache.backbones.sam_build import PUBLISHED as SAMS
from regionspot_cache.errors import RegionSpotError, UsageError
from regionspot_cache.store import HalfSpec, make_clip_half, make_sam_half
from regionspot_cache.store.layout import PlanShape, half_arrays

BOXES_OF_AN_IMAGE = 16  # in the partition whose objects are measured
SAM_COLUMNS = ["SAM side", "pixels", "GFLOP/image", "GFLOP/box", "token", "bytes/box", "in"]
CLIP_COLUMNS = ["CLIP side", "pixels", "GFLOP/image", "tokens", "width", "text", "bytes/image", "in"]

Spec = TypeVar("Spec", SamSpec, ClipSpec)
Named = dict[Spec, list[str]]
"""Networks, each once, with the names that lead to it."""


def backbones(names: list[str], *, as_json: bool = False) -> None:
    """Prints operations, stored bytes and shapes of networks.

    Args:
        names: presets, backbone files and names of single networks; all that are known when there are none.
        as_json: one JSON document in place of tables.

    Raises:
        UsageError: a name of nothing, or a network that cannot be made. Among all that are known, one that
            cannot be made is listed with the reason.
    """
    sams, clips = _asked(names) if names else _known()
    values = {
        "sam": [_row(_sam_facts, spec, of, strict=bool(names)) for spec, of in sams.items()],
        "clip": [_row(_clip_facts, spec, of, strict=bool(names)) for spec, of in clips.items()],
        "registered": {"sam": list(registered("sam")), "clip": list(registered("clip"))},
    }
    console.result(values, None if as_json else _text(values), as_json=as_json)


def _known() -> tuple[Named[SamSpec], Named[ClipSpec]]:
    """Networks of this package by name, and those of presets and shipped files; none runs foreign code."""
    sams: Named[SamSpec] = {_counted_sam(SamSpec(model=model)): [] for model in (*SAMS, *TRANSFORMERS_SAMS)}
    clips: Named[ClipSpec] = {}
    files = sorted(CONFIGS.glob("backbones/*.yaml"))
    specs = dict(PRESETS) | {file.name: load_preset(file) for file in files}
    for name, spec in specs.items():
        sams.setdefault(_counted_sam(spec.sam), []).append(name)
        clips.setdefault(_counted_clip(spec.clip), []).append(name)
    return sams, clips


def _asked(names: list[str]) -> tuple[Named[SamSpec], Named[ClipSpec]]:
    sams: Named[SamSpec] = {}
    clips: Named[ClipSpec] = {}
    single_sams = {*SAMS, *TRANSFORMERS_SAMS, *registered("sam")}
    single_clips = {*open_clip.list_models(), *registered("clip")}
    for name in names:
        if name in single_sams:
            sams.setdefault(_counted_sam(SamSpec(model=name)), []).append(name)
        elif name in single_clips:
            clips.setdefault(_counted_clip(ClipSpec(model=name)), []).append(name)
        elif name in PRESETS or name.endswith((".yaml", ".yml")):
            spec = load_preset(name)
            sams.setdefault(_counted_sam(spec.sam), []).append(name)
            clips.setdefault(_counted_clip(spec.clip), []).append(name)
        else:
            raise _unknown(name, [*PRESETS, *single_sams, *single_clips])
    return sams, clips


def _unknown(name: str, known: list[str]) -> UsageError:
    near = difflib.get_close_matches(name, known, n=3)
    return UsageError(
        f"No backbone {name!r}.",
        f"Did you mean {' or '.join(near)}?"
        if near
        else "A preset, a .yaml file, or a network of open_clip or of this package.",
        "rs-cache backbones",
    )


def _counted_sam(spec: SamSpec) -> SamSpec:
    """The spec without what changes no cost, so that equal networks are one; own code decides for itself."""
    return spec if own_network("sam", spec.model) else SamSpec(model=spec.model, weights="random:0")


def _counted_clip(spec: ClipSpec) -> ClipSpec:
    if own_network("clip", spec.model):
        return spec
    return ClipSpec(model=spec.model, weights="random:0", image_size=spec.image_size, layer=spec.layer)


def _row(
    facts: Callable[[Spec], dict[str, Any]], spec: Spec, names: list[str], *, strict: bool
) -> dict[str, Any]:
    row: dict[str, Any] = {"model": spec.model, "named_by": names}
    try:
        return row | facts(spec)
    except RegionSpotError as error:
        if strict:
            raise
        return row | {"error": error.found}


def _sam_facts(spec: SamSpec) -> dict[str, Any]:
    cost = sam_cost(spec)
    _, box = _stored(make_sam_half(cost.token_dims, dtype=ExtractSettings.dtype, fingerprint={}))
    return asdict(cost) | {"box_bytes": box}


def _clip_facts(spec: ClipSpec) -> dict[str, Any]:
    cost = clip_cost(spec)
    tokens = cost.prefix_tokens + cost.grid[0] * cost.grid[1]
    half = make_clip_half(tokens, cost.width, dtype=ExtractSettings.dtype, fingerprint={})
    return {"layer": spec.layer, **asdict(cost), "image_bytes": _stored(half)[0]}


def _stored(half: HalfSpec) -> tuple[float, float]:
    """Bytes that an image and a box take in a cache, checksums and indices included."""
    images = ExtractSettings.partition_size
    boxes = images * BOXES_OF_AN_IMAGE
    shape = PlanShape(num_images=images, num_boxes=boxes, partition_size=images, max_boxes=boxes, max_text=1)
    arrays = half_arrays(half, shape).values()
    of_images = sum(array.stored_bytes(np.array([images])) for array in arrays if not array.ragged)
    of_boxes = sum(array.stored_bytes(np.array([boxes])) for array in arrays if array.ragged)
    return round(of_images / images, 1), round(of_boxes / boxes, 1)


def _text(values: dict[str, Any]) -> str:
    good = {half: [row for row in values[half] if "error" not in row] for half in ("sam", "clip")}
    bad = [row for half in ("sam", "clip") for row in values[half] if "error" in row]
    blocks = [
        _aligned(SAM_COLUMNS, good["sam"], _sam_cells),
        _aligned(CLIP_COLUMNS, good["clip"], _clip_cells),
        "\n".join(f"{row['model']}: {row['error']}" for row in bad),
        "\n".join(
            f"Registered for the {half} side: {', '.join(names)}. They are loaded and counted when named."
            for half, names in values["registered"].items()
            if names
        ),
    ]
    return "\n\n".join(block for block in blocks if block)


def _sam_cells(row: dict[str, Any]) -> list[str]:
    return [
        row["model"],
        str(row["image_size"]),
        f"{row['image_gflops']:.1f}",
        f"{row['box_gflops']:.2f}",
        "+".join(str(width) for width in row["token_dims"].values()),
        f"{row['box_bytes']:.0f}",
        " ".join(row["named_by"]),
    ]


def _clip_cells(row: dict[str, Any]) -> list[str]:
    return [
        row["model"] + ("" if row["layer"] == -1 else f", layer {row['layer']}"),
        str(row["image_size"]),
        f"{row['image_gflops']:.1f}",
        f"{row['prefix_tokens']} + {row['grid'][0]} x {row['grid'][1]}",
        str(row["width"]),
        str(row["text_width"]),
        f"{row['image_bytes']:,.0f}",
        " ".join(row["named_by"]),
    ]


def _aligned(
    head: list[str], rows: list[dict[str, Any]], cells: Callable[[dict[str, Any]], list[str]]
) -> str:
    """Columns of one width; the first and the last to the left, numbers to the right. Empty without rows."""
    table = [head, *map(cells, rows)] if rows else []
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for first, *middle, last in table:
        numbers = (cell.rjust(width) for cell, width in zip(middle, widths[1:-1], strict=True))
        lines.append("  ".join([first.ljust(widths[0]), *numbers, last]).rstrip())
    return "\n".join(lines)
