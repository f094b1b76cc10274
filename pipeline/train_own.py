"""`rs-cache train --dataset`: from labels to a head, and how much better it is on held-out boxes."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline import console
from pipeline.console import counts
from pipeline.extract import extract
from pipeline.plan import open_dataset
from pipeline.train import (
    backbone_spec,
    check_named,
    facts_of,
    fit,
    of_base_classes,
    told,
    training_source,
)
from pipeline.train_captions import caption_sources
from pipeline.usual_caches import cache_path
from pipeline.verbs.extract import ExtractSettings
from pipeline.verbs.train import TrainSettings, is_main
from regionspot_cache.backbones import Backbone, load_text_part
from regionspot_cache.datasets import DetectionDataset, ImageRecord
from regionspot_cache.datasets.held_out import Split, hold_out
from regionspot_cache.datasets.images import find_image, read_image
from regionspot_cache.errors import InputError
from regionspot_cache.evaluation.confidence import Counted, accuracies
from regionspot_cache.extraction.devices import resolve_device
from regionspot_cache.extraction.run import has_cache
from regionspot_cache.models.hub import BACKBONE_FILE
from regionspot_cache.recognition import ClipCrops, RecognitionEngine, RegionInputs
from regionspot_cache.reporting.review import read_reviews
from regionspot_cache.store import LabelledCache
from regionspot_cache.store.reader import open_as_it_is
from regionspot_cache.training import Stage, TrainingSource
from regionspot_cache.training.head import RegionHead
from regionspot_cache.training.judge import count_right
from regionspot_cache.training.sources import FeatureSource

STEPS = (100, 10_000)  # fewest and most
STEPS_A_BOX = 0.6
NOT_REVIEWED = "not reviewed"
RATE, RATE_AFRESH = 3e-4, 1e-3  # of a head that goes on learning, and of a new one


def train_own(settings: TrainSettings, *, as_json: bool = False) -> dict[str, Any]:
    """Extracts what is missing, trains, and judges the head before and after; what `--json` prints.

    Raises:
        InputError: labels that nothing can be learned from.
        IdentityError, IncompleteError: as of `extract` and training.
    """
    device, spec = resolve_device(settings.device), backbone_spec(settings)
    dataset, path = _extracted(settings)
    settings = replace(settings, caches=(path,))
    check_named(settings)
    text = load_text_part(spec, device, console.fetching)
    whole = training_source(path, text, settings, dataset)
    split = _split(dataset, settings)
    chosen = {"held_out": settings.held_out.share, "seed": settings.held_out.seed}
    learned, judged = (
        replace(whole, cache=LabelledCache(whole.cache.cache, part), chosen=chosen) for part in split
    )
    settings = _with_steps(settings, split.train.num_boxes)
    sources: list[FeatureSource] = [learned, *caption_sources(text, settings, device)]
    result = fit(sources, spec, settings, device)
    if not is_main():
        return {}
    facts = facts_of(result, sources) | {"cache": path, "train": _sizes(split.train)}
    _call_held_out(facts["left_out"][learned.name], len(split.held_out))
    lines = [told(result, facts)]
    if split.held_out.num_boxes:
        facts |= {"held_out": _sizes(split.held_out)} | _judge(judged, text, settings, device)
        lines += _table(facts)
    console.result(facts, "\n".join(lines), as_json=as_json)
    return facts


def _extracted(settings: TrainSettings) -> tuple[DetectionDataset, str]:
    """The labels, and the cache with the features of their boxes, in the usual place."""
    assert settings.dataset is not None
    networks = settings.backbone or (str(settings.init / BACKBONE_FILE) if settings.init else "tiny")
    wanted = ExtractSettings(
        dataset=settings.dataset,
        images=settings.images,
        data=settings.data,
        backbone=networks,
        max_failed=1.0,  # boxes of pictures that cannot be read are left out, and counted
        device=settings.device,
    )
    dataset = open_dataset(wanted)
    path = cache_path(None, dataset, backbone_spec(settings))
    labels = of_base_classes(Path(path).name, _reviewed(dataset, settings), settings)
    _check_labels(labels)
    known = open_as_it_is(path, ()).source if has_cache(path) else None
    same = known is not None and dataset.source is not None and known.dataset == dataset.source.dataset
    with console.one_document():  # the result of this command is another one
        extract(replace(wanted, update=same), as_json=True)
    return labels, path


def _reviewed(dataset: DetectionDataset, settings: TrainSettings) -> DetectionDataset:
    """The boxes whose names a person has seen, where these alone count."""
    if not settings.reviewed:
        return dataset
    reviews = read_reviews(Path(str(settings.dataset)))
    named = [number for number, review in reviews.items() if review.name is not None]
    found = dataset.with_boxes(np.isin(dataset.annotation_ids, named), NOT_REVIEWED)
    console.say(f"{found.num_boxes} boxes were reviewed, {found.dropped[NOT_REVIEWED]} were not")
    return found


def _check_labels(dataset: DetectionDataset) -> None:
    """Raises InputError unless there are boxes of two classes or more."""
    names = sorted({dataset.class_names[label] for label in np.unique(dataset.labels)})
    if not names:
        raise InputError(
            f"{dataset.name} has no box to learn from (left out: {counts(dict(dataset.dropped))}).",
            "Annotations with bbox and category_id.",
        )
    if len(names) == 1:
        raise InputError(
            f"All boxes of {dataset.name} are of one class, {names[0]!r}.",
            "Two classes or more: recognition tells them apart.",
            "Label boxes of other things too.",
        )


def _split(dataset: DetectionDataset, settings: TrainSettings) -> Split:
    """Says which classes cannot be judged."""
    split = hold_out(dataset, settings.held_out.share, settings.held_out.seed)
    classes, judged = (len(np.unique(part.labels)) for part in (dataset, split.held_out))
    console.say(
        f"{settings.dataset}: {dataset.num_boxes} boxes of {classes} classes; "
        f"{split.held_out.num_boxes} boxes on {len(split.held_out)} images are held out"
    )
    if not judged:
        console.warn("no image is held out, so nothing can be said about before and after")
    elif judged < classes:
        console.warn(f"{classes - judged} of {classes} classes are on too few images to hold one out")
    return split


def _call_held_out(left_out: dict[str, int], images: int) -> None:
    """Training sees images that are held out as images without boxes."""
    if images:
        left_out |= {"held out": images, "without boxes": left_out["without boxes"] - images}
        if not left_out["without boxes"]:
            del left_out["without boxes"]


def _with_steps(settings: TrainSettings, boxes: int) -> TrainSettings:
    """With a short stage, as long as there are boxes, where no stages are given."""
    if settings.training.stages != (Stage(),):
        return settings
    steps = int(np.clip(boxes * STEPS_A_BOX, *STEPS))
    goes_on = settings.init is not None or settings.training.init_from is not None
    rate = RATE if goes_on else RATE_AFRESH
    stage = Stage(name="labels", steps=steps, learning_rate=rate, schedule="cosine")
    return replace(settings, training=replace(settings.training, stages=(stage,)))


def _sizes(dataset: DetectionDataset) -> dict[str, int]:
    return {
        "images": len(dataset),
        "boxes": dataset.num_boxes,
        "classes": len(np.unique(dataset.labels)),
    }


def _judge(source: TrainingSource, text: Backbone, settings: TrainSettings, device: str) -> dict[str, Any]:
    """`before`, with what it is `of`, and `after`, on the boxes of a source."""
    folders = [settings.init, settings.out] if settings.init else [settings.out]
    heads = [RegionHead.from_pretrained(folder, device=device) for folder in folders]
    counted, of = count_right(heads, source), str(settings.init)
    if settings.init is None:
        counted, of = _beside_crops(counted, source, text), "clip-box"
    before, after = accuracies(counted, settings.held_out.seed)
    return {"before": {"of": of, **before}, "after": after}


def _beside_crops(counted: Counted, source: TrainingSource, text: Backbone) -> Counted:
    """With what CLIP says of the crops of the boxes in front; images that are gone count for neither."""
    method, pictures = ClipCrops(text.text, masked=False), _Pictures(source.cache.dataset, text)
    names = torch.from_numpy(source.text_embeddings).to(text.text.device)
    right, total = np.zeros((2, *counted.total.shape), np.int64), np.zeros_like(counted.total)
    row_of = {image: row for row, image in enumerate(counted.images.tolist())}
    for image in RecognitionEngine(methods=[method]).run(pictures, range(len(pictures.dataset))):
        row = row_of.get(int(source.cache.match.images[image.index]))
        if row is None or image.failure is not None:
            continue
        labels = source.class_map[pictures.dataset[image.index].labels]
        named = method.scores(image.embeddings[0], names).argmax(-1).cpu().numpy()
        np.add.at(right[0, row], labels, named == labels)
        right[1, row], total[row] = counted.right[0, row], counted.total[row]
    if lost := int((counted.total.sum(1) > 0).sum() - (total.sum(1) > 0).sum()):
        console.warn(f"{lost} held-out images cannot be read any more and are not judged")
    return Counted(images=counted.images, right=right, total=total)


@dataclass(frozen=True)
class _Pictures:
    """The images of a dataset with their labelled boxes, as a `RegionSource`."""

    dataset: DetectionDataset
    backbone: Backbone

    def open(self, index: int) -> RegionInputs:
        record = self.dataset[index]
        size = (record.height, record.width)
        return RegionInputs(self.backbone, partial(self._read, record), record.boxes, size=size)

    def regions_of(self, index: int, inputs: RegionInputs) -> tuple[RegionInputs, None]:
        return inputs, None

    def _read(self, record: ImageRecord) -> NDArray[np.uint8]:
        path = find_image(self.dataset.image_root, record.file_name)
        return read_image(path, expected_size=(record.width, record.height), exif=self.dataset.exif)


def _table(facts: dict[str, Any]) -> list[str]:
    """Before and after in lines."""
    sizes = facts["held_out"]
    lines = [
        f"On {sizes['boxes']} held-out boxes ({sizes['images']} images, {sizes['classes']} classes), percent "
        "with 95 % intervals:",
        f"{'':<8}{'top-1':<24}mean over classes",
    ]
    after = facts["after"]
    gain = {key: after[key]["gain"] for key in ("top1", "class_mean")}
    for what, values in (("before", facts["before"]), ("after", after), ("gain", gain)):
        shown = (
            f"{v['value']:.1f} ({v['low']:.1f} to {v['high']:.1f})"
            for v in (values["top1"], values["class_mean"])
        )
        lines.append(f"{what:<8}{''.join(f'{text:<24}' for text in shown)}".rstrip())
    return [*lines, f"Before: {facts['before']['of']}."]
