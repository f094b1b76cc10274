"""`rs-cache train`: caches and class names to a trained head."""

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import console
from pipeline.console import counts
from pipeline.partition import resolve_device
from pipeline.places import WORKPLACE
from pipeline.settings import PromptSettings, TrainSettings
from regionspot_cache.backbones import ClipEncoder, load_clip, load_preset, save_preset
from regionspot_cache.backbones.vocabulary import text_embeddings, unique_classes
from regionspot_cache.datasets.hierarchy import hierarchy_ignore
from regionspot_cache.errors import IdentityError, UsageError
from regionspot_cache.models.hub import BACKBONE_FILE, CLASSES_FILE
from regionspot_cache.store import open_cache
from regionspot_cache.training import StepReport, TrainingSource, TrainResult
from regionspot_cache.training import train as train_head


def train(settings: TrainSettings, *, as_json: bool = False) -> TrainResult:
    """Trains the head, or continues the run in `settings.out`."""
    _check_hierarchies(settings)
    spec, device = load_preset(settings.backbone), resolve_device(settings.device)
    clip = load_clip(spec.clip, device=device)
    sources = [training_source(path, clip, settings) for path in _unique(settings.caches)]
    del clip
    total = settings.training.total_steps
    main = int(os.environ.get("RANK", "0")) == 0  # of the processes of torchrun
    if main:
        caches = ", ".join(settings.caches)
        console.say(f"training on {caches} into {settings.out}: {total} steps on {device}")
        console.arithmetic(device, training=settings.training.precision)
    with console.progress("training", total) as ticker:
        result = train_head(
            sources, settings.training, settings.out, device=device, on_step=lambda step: _show(ticker, step)
        )
    if main:
        save_preset(spec, settings.out / BACKBONE_FILE)
        names = dict.fromkeys(name for source in sources for name in source.class_names)
        (settings.out / CLASSES_FILE).write_text("\n".join(names) + "\n", encoding="utf-8")
        _report(result, as_json=as_json)
    return result


def training_source(path: str, clip: ClipEncoder, settings: TrainSettings) -> TrainingSource:
    """A cache with the text embeddings of its classes.

    Classes without a single box in the cache are left out: the loss could only ever push them down, which
    would spoil the recognition of classes that were not seen.

    Raises:
        IdentityError: the cache's maps come from another CLIP than the backbone of the settings.
        InputError: the class tree of this cache does not know its classes.
    """
    try:
        cache = open_cache(path, expect={"clip": clip.fingerprint()})
    except IdentityError as error:
        other = f"--set backbone=FILE of the networks that made the cache, or {error.remedy}"
        raise IdentityError(error.found, error.expected, other) from None
    boxed = np.unique(cache.all_labels)
    names, rows = unique_classes([cache.dataset.class_names[label] for label in boxed])
    class_map = np.zeros(len(cache.dataset.class_names), np.int64)
    class_map[boxed] = rows
    ignore = _ignored_classes(Path(path).name, names, settings)
    return TrainingSource(
        name=Path(path).name,
        cache=cache,
        class_names=tuple(names),
        text_embeddings=embed_names(clip, names, settings.prompts),
        class_map=class_map,
        grid=clip.grid,
        text_identity={**asdict(settings.prompts), "encoder": clip.text_fingerprint()},
        token_position=settings.position,
        ignore=ignore,
    )


def _check_hierarchies(settings: TrainSettings) -> None:
    caches = [Path(path).name for path in settings.caches]
    if unknown := set(settings.hierarchies) - set(caches):
        raise UsageError(
            f"hierarchies names {min(unknown)!r}, which is no cache of this run.",
            f"Names of cache folders: {', '.join(caches)}.",
            f"--set hierarchies.{caches[0] if caches else 'CACHE'}=FILE.json",
        )


def _ignored_classes(cache: str, names: Sequence[str], settings: TrainSettings) -> Any:
    """bool [K, K] of a cache with a class tree, else None."""
    if cache not in settings.hierarchies:
        return None
    ignore = hierarchy_ignore(settings.hierarchies[cache], names)
    related = int(ignore.any(axis=1).sum())
    console.say(
        f"{cache}: {related} of {len(names)} classes have ancestors or descendants, "
        f"{int(ignore.sum()) // 2} pairs in all, which do not count against each other"
    )
    return ignore


def embed_names(clip: ClipEncoder, names: Any, prompts: PromptSettings) -> Any:
    """Text embeddings of class names, kept on disk between runs; float32 [K, E]."""
    with console.progress("embedding class names", len(names)) as ticker:
        return text_embeddings(
            clip,
            names,
            templates=prompts.templates,
            cleaning=prompts.cleaning,
            average=prompts.average,
            cache_dir=WORKPLACE / "text",
            progress=lambda done, total: ticker.update(done, "classes", total=total),
        )


def _unique(caches: tuple[str, ...]) -> tuple[str, ...]:
    names = [Path(path).name for path in caches]
    if not caches or len(set(names)) != len(names):
        raise UsageError(f"caches {list(caches)}", "At least one cache, and no two of the same name.")
    return caches


def _show(ticker: console.Ticker, step: StepReport) -> None:
    ticker.update(
        step.step,
        f"loss {step.loss:.3f}  {console.rate(step.steps_per_second, 'step')}"
        f"  {console.rate(step.samples_per_second, 'image')}"
        f"  lr {step.learning_rate:.1e}  waiting {step.waiting:.0%}",
    )


def _report(result: TrainResult, *, as_json: bool) -> None:
    facts = {
        "folder": str(result.folder),
        "steps": result.steps,
        "resumed_from": result.resumed_from,
        "seconds": round(result.seconds, 1),
        "left_out": {name: dict(reasons) for name, reasons in result.left_out.items()},
    }
    left_out = "; ".join(f"{name}: {counts(dict(reasons))}" for name, reasons in result.left_out.items())
    if result.resumed_from == result.steps:
        text = f"The head in {result.folder} was trained already ({result.steps} steps)."
    else:
        since = f" from step {result.resumed_from}" if result.resumed_from else ""
        text = (
            f"Trained head in {result.folder} ({result.steps} steps{since}, {console.clock(result.seconds)}; "
            f"images left out: {left_out})."
        )
    console.result(facts, text, as_json=as_json)
