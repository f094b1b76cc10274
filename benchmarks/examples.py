"""Examples beside words: how many regions are named right with 1, 5 and 20 example regions of every class.

Images are new drawn scenes, which no network or head was trained on. A run draws its examples by a seed of
its own, from the same embedded regions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import Findings, Row
from benchmarks.settings import Settings
from regionspot_cache.datasets import DetectionDataset
from regionspot_cache.datasets.coco_style import read_coco_style
from regionspot_cache.datasets.shapes import materialise
from regionspot_cache.extraction.devices import resolve_device
from regionspot_cache.models.hub import CONFIG_FILE
from regionspot_cache.recognition.examples import prototypes
from regionspot_cache.recognition.predictor import RegionPredictor

WORLD_SEED = 77  # that of the built-in world is 0
WORDS = "words alone"


@dataclass(frozen=True, kw_only=True)
class Regions:
    """Embedded regions with their classes."""

    embeddings: NDArray[np.float32]  # [n, E]
    labels: NDArray[np.int64]  # [n]


def measure(settings: Settings, folder: Path) -> Findings:
    """A row for every method, number of examples and group of classes."""
    chosen = settings.examples
    if "regionspot" in chosen.methods and not (chosen.checkpoint / CONFIG_FILE).is_file():
        return [f"Not measured: no head in {chosen.checkpoint}; rs-cache demo trains one."]
    # Its training images lack the labels of the novel classes, so that all are taken from the other split.
    materialise(folder / "world", seed=WORLD_SEED, train=1, val=chosen.images + chosen.tested)
    dataset = read_coco_style(folder / "world" / "val.json", roots=(folder / "world" / "images",))
    found: Findings = []
    for method in chosen.methods:
        found += list(_of_method(method, dataset, settings))
    counts = np.bincount(dataset.labels[: dataset.offsets[chosen.images]], minlength=len(dataset.class_names))
    found.append(
        f"{chosen.images} images for examples, with {counts.min()} to {counts.max()} regions of each of "
        f"{len(counts)} classes, {sum(dataset.class_novel)} of them novel; {chosen.tested} to test on."
    )
    return found


def _of_method(method: str, dataset: DetectionDataset, settings: Settings) -> Iterator[Row | str]:
    chosen, device = settings.examples, resolve_device(settings.device)
    if method == "regionspot":
        predictor = RegionPredictor.from_pretrained(chosen.checkpoint, device=device)
    else:
        predictor = RegionPredictor.from_backbone(settings.backbone, method=method, device=device)
    pool = _embedded(predictor, dataset, range(chosen.images))
    tested = _embedded(predictor, dataset, range(chosen.images, len(dataset)))
    text = predictor.embed(dataset.class_names).cpu().numpy()
    novel = np.array(dataset.class_novel)
    for shots in chosen.shots:
        for given, classes in (("", np.arange(len(text))), (" of novel classes only", np.flatnonzero(novel))):
            runs, weights = [], []
            for seed in range(settings.repeats):
                rows = _drawn(pool.labels, classes, shots, seed)
                made = prototypes(pool.embeddings[rows], pool.labels[rows], text)
                runs.append(_right(tested, made.embeddings, novel))
                weights.append(made.weight)
            words = _right(tested, text, novel)
            what = f"{method}, {shots} example{'' if shots == 1 else 's'} a class{given}"
            for k, group in enumerate(("all regions", "novel regions")):
                ours = [run[k] for run in runs]
                theirs = [words[k]] * len(ours)
                yield Row(what=f"{what}: {group}", unit="top-1 %", ours=ours, peer=WORDS, theirs=theirs)
            yield f"{what}: weights of the examples {', '.join(f'{weight:.1f}' for weight in weights)}."
        yield _by_weight(f"{method}, {shots} a class", pool, tested, text, shots)


def _by_weight(what: str, pool: Regions, tested: Regions, text: NDArray[np.float32], shots: int) -> str:
    """What every weight would have reached, to judge the choice by."""
    rows = _drawn(pool.labels, np.arange(len(text)), shots, 0)
    every = np.ones(len(text), bool)
    found = []
    for weight in np.linspace(0, 1, 11):
        made = prototypes(pool.embeddings[rows], pool.labels[rows], text, float(weight))
        found.append(f"{_right(tested, made.embeddings, every)[0]:.1f}")
    return f"{what}, seed 0, top-1 % of all regions at the weights 0, 0.1 ... 1: {', '.join(found)}."


def _embedded(predictor: RegionPredictor, dataset: DetectionDataset, images: Sequence[int]) -> Regions:
    rows, labels = [], []
    for record in map(dataset.__getitem__, images):
        if len(record.boxes):
            path = dataset.image_root / record.file_name
            rows.append(predictor.embed_regions(path, record.boxes).cpu().numpy())
            labels.append(record.labels)
    return Regions(embeddings=np.concatenate(rows), labels=np.concatenate(labels).astype(np.int64))


def _drawn(labels: NDArray[np.int64], classes: NDArray[np.intp], shots: int, seed: int) -> NDArray[np.intp]:
    """At most `shots` rows of each of some classes."""
    order = np.random.default_rng(seed).permutation(len(labels))
    return np.concatenate([order[labels[order] == k][:shots] for k in classes])


def _right(regions: Regions, classes: NDArray[np.float32], novel: NDArray[np.bool_]) -> tuple[float, float]:
    """Percent of the regions that are named right: of all, and of those of novel classes."""
    right = (regions.embeddings @ classes.T).argmax(1) == regions.labels
    return 100 * float(mean(right.tolist())), 100 * float(mean(right[novel[regions.labels]].tolist()))
