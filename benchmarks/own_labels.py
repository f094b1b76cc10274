"""Labels of one's own: what `rs-cache train --dataset` gains on new classes, and what it forgets of the old.

Scenes are new, and no network or head was trained on them. Every seed draws other images to label, and is
that of the split and of training too.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import Findings, Row
from benchmarks.settings import Settings
from pipeline import console
from pipeline.options import load, options_of
from pipeline.train import backbone_spec, training_source
from pipeline.train_own import train_own
from pipeline.verbs.train import TrainSettings, train_defaults
from regionspot_cache.backbones import load_text_part
from regionspot_cache.datasets import DetectionDataset, to_coco_dict
from regionspot_cache.datasets.class_split import ClassSplit, restrict
from regionspot_cache.datasets.coco_style import read_coco_style
from regionspot_cache.datasets.shapes import materialise
from regionspot_cache.extraction import extract
from regionspot_cache.extraction.devices import resolve_device
from regionspot_cache.models.hub import CONFIG_FILE
from regionspot_cache.training import TrainingSource
from regionspot_cache.training.head import RegionHead
from regionspot_cache.training.judge import count_right

WORLD_SEED = 77  # that of the built-in world is 0
BEFORE = "before"


@dataclass(frozen=True, kw_only=True)
class Tested:
    """Regions of the test images by what they are told apart from."""

    new: TrainingSource
    old: TrainingSource
    all: TrainingSource
    is_new: NDArray[np.bool_]  # of the classes of `all`

    def percent(self, heads: Sequence[RegionHead]) -> dict[str, tuple[float, ...]]:
        """Top-1 of every head by group of regions."""
        found: dict[str, NDArray[np.float64]] = {}
        for name, source in (("new", self.new), ("old", self.old)):
            counted = count_right(heads, source)
            right = counted.right.sum((1, 2)) / counted.total.sum()
            found[f"regions of {name} classes, among these"] = right
        counted = count_right(heads, self.all)
        for name, rows in (("new", self.is_new), ("old", ~self.is_new)):
            right = counted.right[:, :, rows].sum((1, 2)) / counted.total[:, rows].sum()
            found[f"regions of {name} classes, among all"] = right
        return {name: tuple((100 * right).tolist()) for name, right in found.items()}


def measure(settings: Settings, folder: Path) -> Findings:
    """A row for every variant of the settings and group of regions; a run is a seed."""
    chosen, checkpoint = settings.own_labels, settings.own_labels.checkpoint.absolute()
    if not (checkpoint / CONFIG_FILE).is_file():
        return [f"Not measured: no head in {chosen.checkpoint}; rs-cache demo trains one."]
    materialise(folder / "world", seed=WORLD_SEED, train=1, val=chosen.images + chosen.tested, processes=1)
    world = read_coco_style(folder / "world" / "val.json", roots=(folder / "world" / "images",))
    with contextlib.chdir(folder):
        tested = _tested(world.select(np.arange(chosen.images, len(world))), checkpoint, settings)
        runs: dict[str, list[tuple[float, ...]]] = {}
        boxes: list[int] = []
        for seed in range(settings.repeats):
            pool = world.select(np.arange(chosen.images))
            boxes.append(_write_labels(pool, Path("mine.json"), seed, chosen.boxes))
            for name, values in chosen.variants.items():
                for group, pair in _run(checkpoint, tested, seed, name, values, settings.device):
                    runs.setdefault(f"{name}: {group}", []).append(pair)
    found: Findings = [
        Row(
            what=what,
            unit="top-1 %",
            ours=[pair[1] for pair in pairs],
            peer=BEFORE,
            theirs=[pair[0] for pair in pairs],
        )
        for what, pairs in runs.items()
    ]
    sizes = " and ".join(
        f"{len(source.cache.dataset.labels)} of {len(source.class_names)} {name}"
        for name, source in (("new", tested.new), ("old", tested.old))
    )
    return [*found, f"Boxes labelled, of new classes alone: {boxes}; test regions: {sizes} classes."]


def _tested(dataset: DetectionDataset, checkpoint: Path, settings: Settings) -> Tested:
    loaded = _settings({"init": str(checkpoint), "caches": ["test"]})
    spec, device = backbone_spec(loaded), resolve_device(settings.device)
    extract(dataset, "test", backbone=spec, device=device)
    text = load_text_part(spec, device)
    names, novel = np.array(dataset.class_names), np.array(dataset.class_novel)
    boxed = np.unique(dataset.labels)
    parts = (
        restrict(dataset, ClassSplit(base=tuple(names[boxed[novel[boxed] == new]]), novel=()), "base")
        for new in (True, False)
    )
    new, old, both = (training_source("test", text, loaded, part) for part in (*parts, dataset))
    is_new = np.isin(both.class_names, new.class_names)
    return Tested(new=new, old=old, all=both, is_new=is_new)


def _run(
    checkpoint: Path, tested: Tested, seed: int, name: str, values: Mapping[str, float], device: str
) -> Iterator[tuple[str, tuple[float, ...]]]:
    """Groups of regions with their top-1 before and after."""
    out = Path("runs") / f"{name}-{seed}"
    given = {"dataset": "mine.json", "images": "world/images", "init": str(checkpoint), "out": str(out)}
    values = {"training.seed": seed, "held_out.seed": seed} | {f"training.{k}": v for k, v in values.items()}
    wanted = _settings(given | {"set_": [f"{key}={value}" for key, value in values.items()]})
    with console.one_document():
        facts = train_own(wanted, as_json=True)
    of_own = tuple(facts[when]["top1"]["value"] for when in ("before", "after"))
    yield "held-out boxes of the labels", of_own
    heads = [
        RegionHead.from_pretrained(folder, device=resolve_device(device)) for folder in (checkpoint, out)
    ]
    yield from tested.percent(heads).items()


def _settings(given: Mapping[str, object]) -> TrainSettings:
    """As the command line reads them."""
    return load(TrainSettings, options_of(TrainSettings), given, train_defaults)


def _write_labels(dataset: DetectionDataset, file: Path, seed: int, boxes: int) -> int:
    """A file with the novel classes on images drawn by a seed, with that many boxes or a few more."""
    novel = tuple(name for name, new in zip(dataset.class_names, dataset.class_novel, strict=True) if new)
    of_novel = restrict(dataset, ClassSplit(base=novel, novel=()), "base")
    drawn = of_novel.select(np.random.default_rng(seed).permutation(len(of_novel)))
    few = drawn.select(np.arange(np.searchsorted(drawn.offsets, boxes)))
    file.write_text(json.dumps(to_coco_dict(few)))
    return few.num_boxes
