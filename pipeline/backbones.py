"""`rs-cache backbones`: which frozen networks there are, and what each costs for one image."""

from dataclasses import asdict
from math import prod
from typing import Any

import open_clip

from pipeline import console
from pipeline.names import check_backbone
from pipeline.places import CONFIGS
from regionspot_cache.backbones import PRESETS, ClipSpec, NetworkSpec, OwnSpec, SamSpec, load_preset
from regionspot_cache.backbones.costs import network_cost
from regionspot_cache.backbones.hf_sam_load import PUBLISHED as TRANSFORMERS_SAMS
from regionspot_cache.backbones.registry import registered
from regionspot_cache.backbones.sam_build import PUBLISHED
from regionspot_cache.errors import RegionSpotError, UsageError, near
from regionspot_cache.store.storage import STORAGE

SAMS = (*PUBLISHED, *TRANSFORMERS_SAMS)


def backbones(names: list[str], *, as_json: bool = False) -> None:
    """Prints operations, stored bytes and shapes of networks.

    Args:
        names: presets, backbone files and names of single networks; all that are known when there are none.
        as_json: one JSON document in place of a table.

    Raises:
        UsageError: a name of nothing, or a network that cannot be made. Among all that are known, one that
            cannot be made is listed with the reason.
    """
    rows = []
    for spec, of in _named(names):
        row = {"network": spec.network, "model": spec.model, "named_by": of}
        try:
            row |= facts_of(spec)
        except RegionSpotError as error:
            if names:
                raise
            row["error"] = error.found
        rows.append(row)
    values = {"networks": rows, "registered": list(registered())}
    console.result(values, None if as_json else _text(values), as_json=as_json)


def _named(names: list[str]) -> list[tuple[NetworkSpec, list[str]]]:
    """Every network once, with what names it."""
    found: dict[str, tuple[NetworkSpec, list[str]]] = {}
    if not names:
        for model in SAMS:
            spec = _counted(SamSpec(model=model))
            found[repr(spec)] = spec, []
    for name in names or [*PRESETS, *sorted(CONFIGS.glob("backbones/*.yaml"))]:
        for spec in map(_counted, _specs_of(str(name))):
            _, of = found.setdefault(repr(spec), (spec, []))
            of.append(name if isinstance(name, str) else name.name)
    return list(found.values())


def _specs_of(name: str) -> list[NetworkSpec]:
    if name in SAMS:
        return [SamSpec(model=name)]
    if name in open_clip.list_models():
        return [ClipSpec(model=name)]
    if name in registered():
        return [OwnSpec(network=name)]
    if name in PRESETS or name.endswith((".yaml", ".yml")):
        return list(load_preset(check_backbone(name)).parts.values())
    known = [*PRESETS, *SAMS, *open_clip.list_models(), *registered()]
    expected = f"{near(name, known)}A preset, a .yaml file, or a network of open_clip or of this package."
    raise UsageError(f"No backbone {name!r}.", expected, "rs-cache backbones")


def _counted(spec: NetworkSpec) -> NetworkSpec:
    """The spec without what changes no cost, so that equal networks are one; own code decides for itself."""
    if isinstance(spec, SamSpec):
        return SamSpec(model=spec.model, weights="random:0", store=spec.store)
    if isinstance(spec, ClipSpec):
        return ClipSpec(model=spec.model, weights="random:0", image_size=spec.image_size, layers=spec.layers)
    return spec


def facts_of(spec: NetworkSpec) -> dict[str, Any]:
    """Its costs, and the bytes that an image and a box take in a cache."""
    cost = network_cost(spec)
    stored = dict.fromkeys((False, True), 0)
    for array in cost.arrays.values():
        stored[array.per_box] += STORAGE["int8"].record_bytes(tuple(array.shape))
    return {**asdict(cost), "image_bytes": stored[False], "box_bytes": stored[True]}


def _text(values: dict[str, Any]) -> str:
    good = [row for row in values["networks"] if "error" not in row]
    errors = [f"{row['model']}: {row['error']}" for row in values["networks"] if "error" in row]
    names = ", ".join(values["registered"])
    own = f"Installed networks: {names}. They are loaded and counted when named." if names else ""
    blocks = [_aligned([_cells(row) for row in good]), "\n".join(errors), own]
    return "\n\n".join(block for block in blocks if block)


def _cells(row: dict[str, Any]) -> dict[str, str]:
    height, width = row["input_size"]
    return {
        "network": " ".join(dict.fromkeys(filter(None, (row["network"], row["model"])))),
        "pixels": str(height) if height == width else f"{height} x {width}",
        "GFLOP/image": f"{row['image_gflops']:.1f}",
        "GFLOP/box": f"{row['box_gflops']:.2f}",
        "bytes/image": f"{row['image_bytes']:,}",
        "bytes/box": f"{row['box_bytes']:,}",
        "arrays": "; ".join(f"{name} {_shape(array)}" for name, array in row["arrays"].items()),
        "in": " ".join(row["named_by"]),
    }


def _shape(array: dict[str, Any]) -> str:
    """`1 + 16 x 16 of 1024` for a map with one token before its grid."""
    *tokens, width = array["shape"]
    if array["grid"] is None:
        return " x ".join(map(str, array["shape"]))
    rows, columns = array["grid"]
    return f"{prod(tokens) - rows * columns} + {rows} x {columns} of {width}"


def _aligned(rows: list[dict[str, str]]) -> str:
    """Columns of one width; numbers to the right, the others to the left. Empty without rows."""
    table = [[*rows[0]], *([*row.values()] for row in rows)] if rows else []
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    left = [name in ("network", "arrays", "in") for name in (rows[0] if rows else ())]
    lines = []
    for cells in table:
        aligned = (
            cell.ljust(width) if to_left else cell.rjust(width)
            for cell, width, to_left in zip(cells, widths, left, strict=True)
        )
        lines.append("  ".join(aligned).rstrip())
    return "\n".join(lines)
