"""`rs-cache train`: caches and class names to a trained head."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import console
from pipeline.console import counts
from pipeline.names import check_backbone
from pipeline.train_captions import caption_sources
from pipeline.train_inputs import embed_names, opened
from pipeline.verbs.train import TrainSettings, is_main
from regionspot_cache.backbones import (
    Backbone,
    BackboneSpec,
    load_preset,
    load_text_part,
    save_preset,
)
from regionspot_cache.backbones.vocabulary import unique_classes
from regionspot_cache.datasets import DetectionDataset, load_dataset, load_source, with_views
from regionspot_cache.datasets.augmentation import Augmentation
from regionspot_cache.datasets.class_split import OUTSIDE, load_class_split, restrict
from regionspot_cache.datasets.hierarchy import hierarchy_ignore
from regionspot_cache.errors import InputError, MissingFileError, UsageError
from regionspot_cache.extraction.devices import resolve_device
from regionspot_cache.models.hub import BACKBONE_FILE, CLASSES_FILE
from regionspot_cache.store import Cache, LabelledCache
from regionspot_cache.training import StepReport, TrainingSource, TrainResult
from regionspot_cache.training import train as train_head
from regionspot_cache.training.sources import FeatureSource


def train(settings: TrainSettings, *, as_json: bool = False) -> TrainResult:
    """Trains the head, or continues the run in `settings.out`."""
    check_named(settings)
    device, spec = resolve_device(settings.device), backbone_spec(settings)
    text = load_text_part(spec, device, console.fetching)
    sources: list[FeatureSource] = [training_source(path, text, settings) for path in settings.caches]
    sources += caption_sources(text, settings, device)
    del text
    result = fit(sources, spec, settings, device)
    facts = facts_of(result, sources)
    console.result(facts, told(result, facts), as_json=as_json)
    return result


def backbone_spec(settings: TrainSettings) -> BackboneSpec:
    """The networks of a run: those that are named, those of the initial head, or `tiny`."""
    if settings.backbone is not None or settings.init is None:
        spec = load_preset(check_backbone(settings.backbone or "tiny"))
    else:
        spec = load_preset(settings.init / BACKBONE_FILE, from_model_folder=True)
    return replace(spec, head=settings.head.of(spec.head))


def fit(
    sources: Sequence[FeatureSource], spec: BackboneSpec, settings: TrainSettings, device: str
) -> TrainResult:
    """Trains on sources into `settings.out`, and leaves a model folder there."""
    training = settings.training
    if settings.init is not None:
        training = replace(training, init_from=str(settings.init))
    total = training.total_steps
    names = ", ".join(source.name for source in sources)
    console.say(f"training on {names} into {settings.out}: {total} steps on {device}")
    console.arithmetic(device, {"training": training.precision})
    with console.progress("training", total) as ticker:
        result = train_head(
            sources,
            training,
            settings.out,
            device=device,
            on_step=lambda step: _show(ticker, step),
            on_note=console.say,
        )
    if is_main():
        save_preset(spec, settings.out / BACKBONE_FILE)
        names = dict.fromkeys(name for source in sources for name in source.class_names)
        (settings.out / CLASSES_FILE).write_text("\n".join(names) + "\n", encoding="utf-8")
    return result


def training_source(
    path: str, text: Backbone, settings: TrainSettings, dataset: DetectionDataset | None = None
) -> TrainingSource:
    """A cache with the labels of its dataset as they are now, and the text embeddings of its classes.

    Classes without a single box in the cache are left out: the loss could only ever push them down, which
    would spoil the recognition of classes that were not seen.

    Args:
        text: the part that embeds texts; its spec says what the head relates.
        dataset: with the labels, where it was read already.

    Raises:
        IdentityError: the cache has features of that part, and of another network.
        InputError: the cache lacks an array that the head reads, or boxes of the dataset, or names no
            dataset; or the class tree of this cache does not know its classes.
        MissingFileError: the annotations are not there any more.
    """
    name, inputs = Path(path).name, text.spec.head
    cache = opened(path, text.spec.head, text.parts)
    labelled = _labelled(name, cache, _annotations(name, cache, settings) if dataset is None else dataset)
    boxed = labelled.boxed_classes
    names, rows = unique_classes([labelled.class_names[label] for label in boxed])
    class_map = np.zeros(len(labelled.class_names), np.int64)
    class_map[boxed] = rows
    ignore = _ignored_classes(name, names, settings)
    return TrainingSource(
        name=name,
        cache=labelled,
        inputs=inputs,
        class_names=tuple(names),
        text_embeddings=embed_names(text.text, names, settings.prompts),
        class_map=class_map,
        text_identity={**asdict(settings.prompts), "encoder": text.text.text_fingerprint()},
        ignore=ignore,
        scale=settings.scales.get(name, 1.0),
        known=_known(text, settings),
    )


def _known(text: Backbone, settings: TrainSettings) -> NDArray[np.float32] | None:
    """Text embeddings of the classes of the initial head, where it shall not forget them; float32 [P, E]."""
    training = settings.training
    folder = settings.init or (Path(training.init_from) if training.init_from else None)
    if not training.distillation or folder is None:
        return None
    path = folder / CLASSES_FILE
    try:
        names = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise MissingFileError(
            f"{path} cannot be read: {error}",
            "The classes that the head was trained on, one a line.",
            "--set training.distillation=0",
        ) from None
    return embed_names(text.text, names, settings.prompts)


def _annotations(name: str, cache: Cache, settings: TrainSettings) -> DetectionDataset:
    """The dataset whose labels a cache gets: the named one, or that of the extraction as it is now."""
    remedy = f"--set datasets.{name}=FILE.json"
    source, given = cache.source, settings.datasets.get(name)
    names = cache.file_names  # the image files need not be there any more
    if given is not None:
        policy = source.policy if source else None
        dataset = load_dataset(
            given, data_root=settings.data, policy=policy, require_images=False, known_names=names
        )
    elif source:
        if not Path(source.data_root).is_dir():  # everything was moved
            source = replace(source, data_root=str(settings.data.absolute()))
        try:
            dataset = load_source(source, require_images=False, known_names=names)
        except MissingFileError as error:
            other = f"{remedy}, where they are now. {error.remedy}".strip()
            raise MissingFileError(error.found, error.expected, other) from None
    else:
        raise InputError(f"{cache.url} does not say for which annotations it was made.", "Labels.", remedy)
    dataset = of_base_classes(name, dataset, settings)
    return with_views(dataset, Augmentation(**cache.augmentation)) if cache.augmentation else dataset


def of_base_classes(name: str, dataset: DetectionDataset, settings: TrainSettings) -> DetectionDataset:
    """The boxes that may be learned; says how many others there are."""
    if not settings.class_split:
        return dataset
    dataset = restrict(dataset, load_class_split(settings.class_split), "base")
    lacking = f"{dataset.dropped[OUTSIDE]} boxes of other classes left out"
    console.say(f"{name}: {len(dataset.class_names)} base classes of {settings.class_split}, {lacking}")
    return dataset


def _labelled(name: str, cache: Cache, dataset: DetectionDataset) -> LabelledCache:
    """The boxes of the dataset that the cache has; says how many it lacks."""
    labelled = LabelledCache(cache, dataset)
    files = ", ".join(map(str, dataset.annotation_files)) or dataset.name
    console.say(f"{name}: labels of {files}")
    if labelled.left_out:
        console.warn(
            f"{name}: left out {counts(labelled.left_out)}; rs-cache extract --cache {cache.url} --update "
            f"adds what {dataset.name} has beside"
        )
    if not len(labelled.boxed_classes):
        raise InputError(
            f"{cache.url} has no box of {dataset.name} ({counts(labelled.left_out)}).",
            "Boxes of the images that were extracted, to the last bit.",
            f"--set datasets.{name}=FILE.json, or rs-cache extract --cache {cache.url} --update",
        )
    return labelled


def check_named(settings: TrainSettings) -> None:
    """Caches have names of their own, and settings by cache name caches of the run."""
    paths = (*settings.caches, *settings.captions.caches)
    caches = [Path(path).name for path in paths]
    if not caches or len(set(caches)) != len(caches):
        expected = "At least one cache, and no two of the same name."
        raise UsageError(f"caches {list(paths)}", expected)
    for key in ("hierarchies", "datasets", "scales"):
        named: Mapping[str, object] = getattr(settings, key)
        if unknown := set(named) - set(caches):
            raise UsageError(
                f"{key} names {min(unknown)!r}, which is no cache of this run.",
                f"Names of cache folders: {', '.join(caches)}.",
                f"--set {key}.{caches[0]}={'1.0' if key == 'scales' else 'FILE.json'}",
            )


def _ignored_classes(cache: str, names: Sequence[str], settings: TrainSettings) -> NDArray[np.bool_] | None:
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


def _show(ticker: console.Ticker, step: StepReport) -> None:
    ticker.update(
        step.step,
        f"loss {step.loss:.3f}  {console.rate(step.steps_per_second, 'step')}"
        f"  {console.rate(step.samples_per_second, 'image')}"
        f"  lr {step.learning_rate:.1e}  waiting {step.waiting:.0%}",
    )


def facts_of(result: TrainResult, sources: Sequence[FeatureSource]) -> dict[str, Any]:
    """What a run says of itself."""
    left_out = {s.name: Counter(result.left_out[s.name]) + s.cache.left_out for s in sources}
    return {
        "folder": str(result.folder),
        "steps": result.steps,
        "resumed_from": result.resumed_from,
        "seconds": round(result.seconds, 1),
        "left_out": {name: dict(reasons) for name, reasons in left_out.items()},
    }


def told(result: TrainResult, facts: Mapping[str, Any]) -> str:
    """The same in words."""
    lacking = "; ".join(f"{name}: {counts(reasons)}" for name, reasons in facts["left_out"].items())
    if result.resumed_from == result.steps:
        return f"The head in {result.folder} was trained already ({result.steps} steps)."
    since = f" from step {result.resumed_from}" if result.resumed_from else ""
    return (
        f"Trained head in {result.folder} ({result.steps} steps{since}, {console.clock(result.seconds)}; "
        f"left out: {lacking})."
    )
