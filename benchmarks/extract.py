"""Extraction in one process against segment_anything and open_clip image by image, one .pth each."""

import contextlib
import io
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import open_clip
import torch
from PIL import Image
from segment_anything import SamPredictor
from torch import Tensor

from benchmarks.harness import OURS, Findings, Row, against, take_turns
from benchmarks.settings import Settings
from pipeline.extract import extract
from pipeline.verbs.extract import ExtractSettings
from regionspot_cache.backbones import (
    Backbone,
    ClipBackbone,
    SamBackbone,
    load_backbone,
    load_preset,
    save_preset,
)
from regionspot_cache.datasets import DetectionDataset, load_dataset
from regionspot_cache.datasets.shapes import materialise
from regionspot_cache.errors import RegionSpotError, UsageError
from regionspot_cache.extraction.devices import resolve_device
from regionspot_cache.store import open_cache

PEER = "per image, one .pth each"
T = TypeVar("T", SamBackbone, ClipBackbone)


def _part(backbone: Backbone, kind: type[T]) -> tuple[str, T]:
    """The first part of a kind, with its name. Raises UsageError."""
    for name, encoder in backbone.parts.items():
        if isinstance(encoder, kind):
            return name, encoder
    raise UsageError(
        f"Backbone {backbone.spec.name} has no {kind.__name__}.",
        "A SAM of segment_anything and a CLIP of open_clip, for example bb or bl.",
    )


class OfficialExtraction:
    """SamPredictor and open_clip's image transform and encoder, with the networks of a backbone.

    Attributes:
        paths: PART/ARRAY of the same features in a cache, by name in the files.

    Raises:
        UsageError: networks that are none of these libraries' own.
    """

    def __init__(self, dataset: DetectionDataset, backbone: Backbone) -> None:
        sam_part, sam = _part(backbone, SamBackbone)
        clip_part, self.clip = _part(backbone, ClipBackbone)
        self.paths = {"tokens": f"{sam_part}/transformer", "maps": f"{clip_part}/map"}
        self.dataset = dataset
        self.predictor = SamPredictor(sam.network)
        self.model: Any = self.clip.model
        if not hasattr(self.model.visual, "transformer"):
            raise UsageError(f"{self.clip.spec.model} is no plain ViT of open_clip.", "For example bb or bl.")
        parts = self.clip.parts
        self.transform: Any = open_clip.image_transform(
            self.clip.image_size,
            is_train=False,
            mean=parts.mean,
            std=parts.std,
            resize_mode="squash",
            interpolation=parts.interpolation,
        )

        # What neither library returns: decoder tokens [n, 6, D] and patch tokens [1, N, C].
        self.caught: dict[str, Tensor] = {}
        block = self.model.visual.transformer.resblocks[self.clip.blocks[0]]
        decoder = sam.network.mask_decoder.transformer
        decoder.register_forward_hook(lambda _m, _i, out: self.caught.update(tokens=out[0]))
        block.register_forward_hook(lambda _m, _i, out: self.caught.update(map=out))

    @torch.no_grad()
    def run(self, folder: Path) -> None:
        """Writes IMAGE_ID.pth with boxes, labels, tokens float32 [n, D] and maps float32 [N, C]."""
        folder.mkdir()
        for i in range(len(self.dataset)):
            record = self.dataset[i]
            image = Image.open(self.dataset.image_root / record.file_name).convert("RGB")
            item = {"boxes": torch.from_numpy(record.boxes), "labels": torch.from_numpy(record.labels)}
            item["tokens"] = self._tokens(np.array(image), record.boxes)
            self.model.encode_image(self.transform(image)[None].to(self.clip.device))
            item["maps"] = self.caught["map"][0].cpu()
            torch.save(item, folder / f"{record.image_id}.pth")

    def _tokens(self, image: np.ndarray, boxes: np.ndarray) -> Tensor:
        self.predictor.set_image(image)
        if not len(boxes):
            return torch.zeros(0, self.predictor.model.mask_decoder.transformer_dim)
        framed = self.predictor.transform.apply_boxes_torch(torch.from_numpy(boxes), image.shape[:2])
        self.predictor.predict_torch(None, None, framed.to(self.predictor.device), multimask_output=False)
        return self.caught["tokens"][:, 1].cpu()  # after the IoU token comes mask token 0


def measure(settings: Settings, folder: Path) -> Findings:
    """Images a second from files to stored features, and how far the features are apart."""
    verb = extraction(settings, folder, images=settings.extract.images)
    dataset = load_dataset(verb.dataset, data_root=verb.data, images=verb.images, limit=verb.limit)
    device = resolve_device(settings.device)
    official = OfficialExtraction(dataset, load_backbone(load_preset(verb.backbone), device=device))
    numbers = count()

    def ours() -> None:
        quietly(replace(verb, cache=str(folder / f"cache-{next(numbers)}")))

    def theirs() -> None:
        official.run(folder / f"official-{next(numbers)}")

    ours(), theirs()  # a warm-up, which also leaves what is compared
    distances = _distances(folder / "cache-0", folder / "official-1", official.paths)
    rates = {OURS: partial(_rate, ours, len(dataset)), PEER: partial(_rate, theirs, len(dataset))}
    what = f"extract {len(dataset)} images, {dataset.num_boxes} boxes, {settings.backbone}, {device}"
    on_cpu = device == "cpu"
    runs = take_turns(rates, settings.repeats)
    found: Findings = [*against(what, "images/s", runs, goals={PEER: ">= 3x"} if on_cpu else {})]
    for name, worst in distances.items():
        stored = f"largest cosine distance, stored {name}"
        found.append(Row(what=stored, unit="", ours=(worst,), lower=True, goal="<= 1e-3"))
    found += [
        "Both decode the same files and run the same networks; loading these is not counted.",
        "Ours runs in the arithmetic of its backbone; the peer in float32.",
    ]
    if on_cpu:
        found.append("GPU: none used, not measured.")
    if settings.random_weights:
        found.append("Random weights: speeds hold, distances are those of random features.")
    return found


def extraction(settings: Settings, folder: Path, *, images: int) -> ExtractSettings:
    """What `rs-cache extract` is asked for: at most `images` images, drawn ones where no dataset is named."""
    work, backbone = settings.extract, folder / "backbone.yaml"
    spec = load_preset(settings.backbone)
    if settings.random_weights:
        random = {name: replace(part, weights="random:0") for name, part in spec.parts.items()}
        spec = spec.with_parts(**random)
    save_preset(spec, backbone)
    if not work.dataset:
        materialise(folder / "shapes", train=images, val=1, processes=1)
    return ExtractSettings(
        dataset=work.dataset or str(folder / "shapes" / "train.json"),
        images=work.image_root if work.dataset else folder / "shapes" / "images",
        data=work.data,
        backbone=str(backbone),
        limit=images,
        batch_size=work.batch_size,
        decode_threads=work.decode_threads,
        device=settings.device,
    )


def quietly(verb: ExtractSettings) -> None:
    """`rs-cache extract` without a word."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        extract(verb)


def _rate(work: Any, images: int) -> float:
    start = time.perf_counter()
    work()
    return images / (time.perf_counter() - start)


def _distances(cache_path: Path, official: Path, paths: Mapping[str, str]) -> dict[str, float]:
    """Largest by name in the files of the peer; `paths` are those of the same arrays in the cache."""
    cache = open_cache(cache_path)
    worst = dict.fromkeys(paths, 0.0)
    both = [cache.ok_mask(path.partition("/")[0]) for path in paths.values()]
    for i in np.flatnonzero(np.all(both, axis=0)).tolist():
        item = torch.load(official / f"{cache.image(i)[0]}.pth", weights_only=True)
        for name, path in paths.items():
            worst[name] = max(worst[name], cosine_distance(cache.read(path, i), item[name].numpy()))
    return worst


def cosine_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Largest 1 - cosine of vectors [n, D] with their partners; 0 when there are none."""
    if a.shape != b.shape:
        raise RegionSpotError(f"features {a.shape} and {b.shape} of one image", "Equal shapes.")
    a, b = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return float((1 - (a * b).sum(-1) / norms).max(initial=0))
