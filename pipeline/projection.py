"""What a schedule takes on the machine at hand: the networks and a training step are timed, the rest follows.

Weights do not change the time, so random ones are used. Every figure is of one process on one device.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from math import prod
from typing import Any

import numpy as np
import torch

from pipeline import console
from pipeline.names import check_backbone
from pipeline.verbs.plan import PlanSettings
from regionspot_cache.backbones import Backbone, Encoder, load_part, load_preset
from regionspot_cache.backbones.arithmetic import autocast, choose
from regionspot_cache.backbones.presets import BackboneSpec, OwnSpec
from regionspot_cache.extraction.devices import resolve_device
from regionspot_cache.store.storage import STORAGE
from regionspot_cache.training.head import RegionHead
from regionspot_cache.training.head_config import HeadConfig, HeadOptions
from regionspot_cache.training.losses import box_weights, region_loss

PICTURE = (768, 1024)  # height and width of the picture that is timed
FORMULA = (
    "hours = images x seconds an image of all networks / 3600 + steps x seconds a step / 3600; "
    "live = the same without the extraction of the head's maps, and each step also encodes its batch"
)


def project(settings: PlanSettings, *, as_json: bool = False) -> list[dict[str, Any]]:
    """Prints and returns a row for every backbone.

    Raises:
        UsageError: a backbone that is not there, or whose head reads no map.
    """
    device = resolve_device(settings.device)
    rows = [_row(load_preset(check_backbone(name)), settings, device) for name in settings.backbones]
    values = {"schedule": _given(settings), "device": device, "formula": FORMULA, "rows": rows}
    console.result(values, _text(values, settings), as_json=as_json)
    return rows


def _given(settings: PlanSettings) -> dict[str, Any]:
    keys = ("images", "boxes_per_image", "steps", "batch_size", "classes", "price", "dtype")
    return {key: getattr(settings, key) for key in keys}


def _row(spec: BackboneSpec, settings: PlanSettings, device: str) -> dict[str, Any]:
    console.say(f"{spec.name}: timing its networks, {settings.repeats + 1} passes each")
    networks = Backbone({name: _network(name, spec, settings, device) for name in spec.parts}, spec)
    seconds = {name: _encode_seconds(part, settings) for name, part in networks.parts.items()}
    step = _step_seconds(networks, settings, device)
    stored = {name: _stored_bytes(part, settings) for name, part in networks.parts.items()}
    of_maps = {path.partition("/")[0] for path in spec.head.memory}
    map_seconds = sum(seconds[name] for name in of_maps)
    map_bytes = sum(stored[name] for name in of_maps)
    extraction = settings.images * sum(seconds.values()) / 3600
    training = settings.steps * step / 3600
    live_extraction = settings.images * (sum(seconds.values()) - map_seconds) / 3600
    live = live_extraction + training + settings.steps * settings.batch_size * map_seconds / 3600
    hours = extraction + training
    return {
        "backbone": spec.name,
        "seconds_per_image": seconds,
        "seconds_per_step": step,
        "extraction_hours": extraction,
        "training_hours": training,
        "hours": hours,
        "live_hours": live,
        "live_over_cached": live / hours,
        "bytes": settings.images * sum(stored.values()),
        "money": hours * settings.price,
        # a sample is read in this time or live would be faster
        "break_even_bytes_per_second": map_bytes / map_seconds,
    }


def _network(name: str, spec: BackboneSpec, settings: PlanSettings, device: str) -> Encoder:
    part = spec.parts[name]
    if isinstance(part, OwnSpec) or part.model == "packaged":
        return load_part(part, device)
    return load_part(
        replace(part, weights="random:0", precision=settings.precision, compile=settings.compile), device
    )


def _encode_seconds(network: Encoder, settings: PlanSettings) -> float:
    """Seconds an image, preparing included."""
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (*PICTURE, 3), np.uint8)
    corners = rng.uniform(0, 300, (settings.boxes_per_image, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(30, 400, corners.shape)], axis=1).astype(
        np.float32
    )
    count = settings.encode_batch

    def run() -> None:
        batch = torch.stack([network.preprocess(picture) for _ in range(count)])
        network.encode(batch, [boxes] * count, [PICTURE] * count)

    return _fastest(run, settings.repeats, network.device) / count


def _step_seconds(networks: Backbone, settings: PlanSettings, device: str) -> float:
    """Seconds of one training step on random features of the right shapes."""
    inputs, text_dim = networks.spec.head, networks.text.encode_text(["a"]).shape[1]
    arrays = [networks.parts[part].arrays[name] for part, name in (p.split("/") for p in inputs.memory)]
    part, name = inputs.query.split("/")
    width = networks.parts[part].arrays[name].shape[-1] if part in networks.parts else 512
    grids = [array.grid or (1, array.shape[0]) for array in arrays]
    maps = tuple((a.shape[0] - prod(grid), *grid) for a, grid in zip(arrays, grids, strict=True))
    config = HeadConfig(
        **asdict(HeadOptions()),
        token_dim=width,
        map_dim=arrays[0].shape[-1],
        text_dim=text_dim,
        maps=maps,
    )
    head = RegionHead(config).to(device).train()
    optimiser = torch.optim.AdamW(head.parameters(), 1e-5)
    images, boxes = settings.batch_size, settings.boxes_per_image
    tokens = torch.randn(images, boxes, width, device=device)
    memory = torch.randn(images, config.map_tokens, config.map_dim, device=device)
    text = torch.nn.functional.normalize(torch.randn(settings.classes, text_dim, device=device), dim=1)
    labels = torch.randint(settings.classes, (images * boxes,), device=device)
    weights = torch.from_numpy(box_weights(np.full(images, boxes), images)).to(device)
    precision = choose(settings.precision, torch.device(device)).arithmetic

    def run() -> None:
        with autocast(precision, torch.device(device)):
            found = head(tokens, memory)
        loss = region_loss(head.logits(found.float().flatten(0, 1), text), labels, weights)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimiser.step()

    return _fastest(run, settings.repeats, torch.device(device))


def _stored_bytes(network: Encoder, settings: PlanSettings) -> int:
    """Bytes an image, scales included."""
    storage = STORAGE[settings.dtype]
    return sum(
        storage.record_bytes(tuple(array.shape)) * (settings.boxes_per_image if array.per_box else 1)
        for array in network.arrays.values()
    )


def _fastest(run: Callable[[], None], repeats: int, device: torch.device) -> float:
    """Seconds of the fastest of some runs, after one that is not timed."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times[1:])


def _text(values: dict[str, Any], settings: PlanSettings) -> str:
    lines = [
        f"{settings.schedule}: {settings.images:,} images of {settings.boxes_per_image} boxes, "
        f"{settings.steps:,} steps of {settings.batch_size} images",
        f"measured on {values['device']}, one process; {values['formula']}",
    ]
    for row in values["rows"]:
        parts = ", ".join(f"{name} {s:.4g} s" for name, s in row["seconds_per_image"].items())
        money = f", money {row['money']:,.0f}" if settings.price else ""
        cheaper = "the cache is cheaper" if row["live_over_cached"] > 1 else "running it live is cheaper"
        lines += [
            "",
            f"{row['backbone']}: {row['hours']:,.1f} hours ({row['extraction_hours']:,.1f} of extraction, "
            f"{row['training_hours']:,.1f} of training), {console.size(int(row['bytes']))}{money}",
            f"  an image: {parts}; a step: {row['seconds_per_step']:.4g} s",
            f"  with the maps computed live in every step: {row['live_hours']:,.1f} hours, "
            f"{row['live_over_cached']:.2f} times as long: {cheaper}",
            f"  reading must give {console.size(int(row['break_even_bytes_per_second']))}/s or more, "
            "else computing a map is faster than reading it",
        ]
    return "\n".join(lines)
