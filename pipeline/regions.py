"""Regions with embeddings, names, map and neighbours: what `export` writes and `explore` shows."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline import console
from pipeline.console import counts
from pipeline.evaluate.cached import CachedFeatures, FoundFeatures, cached_features
from pipeline.evaluate.own_methods import OwnMethods
from pipeline.region_set import RegionSet, read_region_set
from pipeline.train_inputs import embed_names
from pipeline.verbs.evaluate import WITH_HEAD, EvalSettings
from pipeline.verbs.explore import RegionSettings
from pipeline.verbs.predict import parse_classes
from pipeline.verbs.train import PromptSettings
from regionspot_cache.backbones import Backbone
from regionspot_cache.backbones.vocabulary import text_embeddings, unique_classes
from regionspot_cache.datasets import DetectionDataset
from regionspot_cache.datasets.images import find_image, read_image
from regionspot_cache.errors import InputError, UsageError
from regionspot_cache.extraction.devices import resolve_device
from regionspot_cache.recognition import Recogniser, RecognitionEngine, RegionInputs
from regionspot_cache.reporting.embedding_map import nearest, novelty, project, unit
from regionspot_cache.reporting.regions_table import EmbeddedRegions, RankedNames
from regionspot_cache.store import open_cache

NO_FEATURES = "image without features"


@dataclass(frozen=True, kw_only=True)
class Embedder:
    """A loaded method, and the names that it compares with.

    Attributes:
        text: unit embeddings of `classes`, float32 [K, E].
    """

    method: Recogniser
    backbone: Backbone
    prompts: PromptSettings
    classes: tuple[str, ...]
    text: torch.Tensor
    cached: FoundFeatures

    def inputs(self, dataset: DetectionDataset, index: int) -> RegionInputs:
        """An image of a dataset with all its boxes, and what is cached of them."""
        record = dataset[index]
        cached = self.cached.of(index, record.boxes)
        size, read = (record.height, record.width), partial(picture, dataset, index)
        return RegionInputs(self.backbone, read, record.boxes, size=size, cached=cached)

    def embed_words(self, words: Sequence[str]) -> NDArray[np.float32]:
        """Unit embeddings of words by the prompts of the method, float32 [n, E]."""
        prompts = self.prompts
        return text_embeddings(
            self.backbone.text_of(self.method.text_part),
            words,
            templates=prompts.templates,
            cleaning=prompts.cleaning,
            average=prompts.average,
        )


@dataclass(frozen=True, kw_only=True)
class RegionsFound:
    """All about the regions of a source; `embedder` is None where the embeddings are an array."""

    source: RegionSet
    regions: EmbeddedRegions
    embedder: Embedder | None
    facts: Mapping[str, Any]


def picture(dataset: DetectionDataset, index: int) -> NDArray[np.uint8]:
    """The pixels of an image, RGB [H, W, 3], as its boxes see it. ImageFailure: it cannot be read."""
    record = dataset[index]
    path = find_image(dataset.image_root, record.file_name)
    return read_image(path, expected_size=(record.width, record.height), exif=dataset.exif)


def find_regions(name: str, settings: RegionSettings, *, most: int | None = None) -> RegionsFound:
    """Embeds and names the regions of a source, and lays them out.

    Args:
        name: a cache or annotations.
        settings: how.
        most: at most about so many regions, of whole images drawn by the seed.

    Raises:
        InputError, MissingFileError, IdentityError, IncompleteError: what the source or the networks refuse.
    """
    source = read_region_set(name, settings)
    dataset = _few(source.dataset, most, settings.seed)
    embedder = None if settings.array else _embedder(source, dataset, settings)
    kept, embeddings, named, failures = (
        _of_array(source, dataset, settings) if embedder is None else _recognised(embedder, dataset, settings)
    )
    if failures:
        console.warn(f"images without regions: {counts(failures)}")
    if not len(kept):
        raise InputError(f"No region of {name} could be embedded.", "Images or features that can be read.")
    embeddings = unit(embeddings)
    neighbours = nearest(embeddings, settings.neighbours, device=resolve_device(settings.device))
    owner = np.repeat(np.arange(len(dataset)), np.diff(dataset.offsets))
    regions = EmbeddedRegions(
        dataset=dataset,
        images=owner[kept],
        boxes=kept,
        labelled=np.full(len(kept), source.labelled),
        embeddings=embeddings,
        named=named,
        places=project(embeddings, settings.map, settings.seed),
        neighbours=neighbours,
        novelty=novelty(neighbours[1]),
    )
    facts = _facts(name, source, settings, regions, failures)
    return RegionsFound(source=source, regions=regions, embedder=embedder, facts=facts)


def _few(dataset: DetectionDataset, most: int | None, seed: int) -> DetectionDataset:
    """Whole images drawn by the seed until there are `most` boxes; one at least."""
    if most is None or dataset.num_boxes <= most:
        return dataset
    drawn = np.random.default_rng(seed).permutation(len(dataset))
    drawn = drawn[np.diff(dataset.offsets)[drawn] > 0]
    count = int(np.searchsorted(np.cumsum(np.diff(dataset.offsets)[drawn]), most, side="right"))
    return dataset.select(np.sort(drawn[: max(count, 1)]))


def _embedder(source: RegionSet, dataset: DetectionDataset, settings: RegionSettings) -> Embedder:
    chosen = EvalSettings(
        checkpoints=(settings.checkpoint,),
        backbone=settings.backbone,
        methods=(settings.method,),
        device=settings.device,
    )
    own = OwnMethods(chosen)
    [method] = own.methods
    names, _ = unique_classes(_vocabulary(source, settings))
    cache = source.cache or settings.cache
    parts = {path.partition("/")[0] for path in method.reads}
    text = embed_names(own.backbone.text_of(method.text_part), names, own.prompts)
    return Embedder(
        method=method,
        backbone=own.backbone,
        prompts=own.prompts,
        classes=tuple(names),
        text=torch.from_numpy(text).to(own.device),
        cached=cached_features(cache, dataset, own.backbone, parts),
    )


def _vocabulary(source: RegionSet, settings: RegionSettings) -> Sequence[str]:
    if settings.classes is None and source.labelled:
        return source.dataset.class_names
    if settings.classes is None and settings.method not in WITH_HEAD:
        raise UsageError(
            f"The boxes have no classes, and {settings.method} was trained on none.", "--classes NAMES."
        )
    return parse_classes(settings.classes, settings.checkpoint)


def _recognised(
    embedder: Embedder, dataset: DetectionDataset, settings: RegionSettings
) -> tuple[NDArray[np.int64], NDArray[np.float32], RankedNames, Counter[str]]:
    """Rows of the boxes, their embeddings and names; and images that could not be read, by reason."""
    text, failures, rows = embedder.text, Counter[str](), []
    total, top = dataset.num_boxes, min(settings.top, len(embedder.classes))
    embeddings = np.zeros((total, text.shape[1]), np.float32)
    labels, scores = np.zeros((total, top), np.int32), np.zeros((total, top), np.float32)
    images = np.flatnonzero(np.diff(dataset.offsets)).tolist()
    engine = RecognitionEngine(methods=[embedder.method])
    with console.progress("recognising", len(images)) as ticker:
        for done, image in enumerate(engine.run(_AllBoxes(embedder, dataset), images), start=1):
            ticker.update(done, console.rate(done / max(ticker.elapsed, 1e-9), "image"))
            if image.failure is not None:
                failures[image.failure.reason] += 1
                continue
            of_image = slice(int(dataset.offsets[image.index]), int(dataset.offsets[image.index + 1]))
            [found] = image.embeddings
            best = embedder.method.scores(found, text).float().topk(top, dim=1)
            embeddings[of_image] = found.cpu().numpy()
            labels[of_image], scores[of_image] = best.indices.cpu().numpy(), best.values.cpu().numpy()
            rows.append(np.arange(of_image.start, of_image.stop))
    kept = np.concatenate([*rows, np.zeros(0, np.int64)])
    named = RankedNames(classes=embedder.classes, labels=labels[kept], scores=scores[kept])
    return kept, embeddings[kept], named, failures


class _AllBoxes:
    """The images of a dataset with their own boxes, for the engine."""

    def __init__(self, embedder: Embedder, dataset: DetectionDataset) -> None:
        self._embedder, self._dataset = embedder, dataset

    def open(self, index: int) -> RegionInputs:
        """As of `recognition.engine.RegionSource`."""
        return self._embedder.inputs(self._dataset, index)

    def regions_of(self, index: int, inputs: RegionInputs) -> tuple[RegionInputs, NDArray[np.float32] | None]:
        """As of `recognition.engine.RegionSource`; the boxes have no objectness."""
        return inputs, None


def _of_array(
    source: RegionSet, dataset: DetectionDataset, settings: RegionSettings
) -> tuple[NDArray[np.int64], NDArray[np.float32], None, Counter[str]]:
    """As `_recognised`, of an array by box of a cache."""
    path = settings.array
    place = source.cache or settings.cache
    if place is None or path is None:
        raise UsageError(f"--method {settings.method} without a cache.", "A cache, or --set cache=DIR.")
    cache = open_cache(place)
    part = path.partition("/")[0]
    if not cache.array(path).ragged:
        by_box = [f"{p}/{a.name}" for p, spec in cache.parts.items() for a in spec.arrays if a.ragged]
        raise UsageError(f"{path} is an array by image.", f"One by box: {', '.join(by_box) or 'none here'}.")
    features, failures = CachedFeatures(cache, dataset, [part]), Counter[str]()
    rows, found = [], []
    for i, record in enumerate(dataset):
        if not len(record.boxes):
            continue
        cached = features.of(i, record.boxes)
        if cached is None or path not in cached:
            failures[NO_FEATURES] += 1
            continue
        found.append(cached[path].reshape(len(record.boxes), -1))
        rows.append(np.arange(dataset.offsets[i], dataset.offsets[i + 1]))
    kept = np.concatenate([*rows, np.zeros(0, np.int64)])
    return kept, np.concatenate(found) if found else np.zeros((0, 1), np.float32), None, failures


def _facts(
    name: str,
    source: RegionSet,
    settings: RegionSettings,
    regions: EmbeddedRegions,
    failures: Counter[str],
) -> dict[str, Any]:
    """What the regions were made from, json-able."""
    with_head = settings.method in WITH_HEAD
    return {
        "library_version": version("regionspot-cache"),
        "source": name,
        "dataset": f"{source.dataset.name} {source.dataset.split}".strip(),
        "images": len(np.unique(regions.images)),
        "regions": len(regions),
        "method": settings.method,
        "checkpoint": str(settings.checkpoint) if with_head else None,
        "backbone": settings.backbone,
        "classes": len(regions.named.classes) if regions.named else 0,
        "map": settings.map,
        "neighbours": regions.neighbours[0].shape[1],
        "seed": settings.seed,
        "limit": settings.limit,
        "left_out": dict(source.left_out),
        "failures": dict(failures),
    }
