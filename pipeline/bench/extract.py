"""Extraction in one process against segment_anything and open_clip image by image, one .pth each."""

import shutil
import time
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import torch

from pipeline.bench.extracting import Extraction, extraction
from pipeline.bench.official import OfficialExtraction
from pipeline.bench.result import OURS, Findings, Goal, Row, against, take_turns
from pipeline.bench.settings import BenchSettings
from pipeline.features import Encoders
from pipeline.partition import ExtractJob, encoders_of, extract_partition
from pipeline.settings import HALVES
from regionspot_cache.errors import RegionSpotError
from regionspot_cache.store import CacheWriter, open_cache

PEER = "per image, one .pth each"
FASTER = Goal(of="ratio", at_least=3)
EQUAL = Goal(of="ours", at_most=1e-3)


def measure(settings: BenchSettings, folder: Path) -> Findings:
    """Images a second from files to stored features, and how far the features are apart."""
    work = extraction(
        settings, folder, images=settings.extract.images, partition_size=settings.extract.images
    )
    encoders = encoders_of(work.spec, HALVES, work.device)
    official = OfficialExtraction(work.dataset, encoders)
    number = count()
    contenders = {
        OURS: lambda: _ours(work, folder / f"cache-{next(number)}"),
        PEER: partial(_theirs, official, folder / "official"),
    }
    for run in contenders.values():  # warm-up; also leaves what is compared
        run()
    distances = _distances(folder / "cache-0", folder / "official")
    cuda = work.device.startswith("cuda")
    runs = take_turns(contenders, settings.repeats)
    what = (
        f"extract {len(work.dataset)} images, {work.dataset.num_boxes} boxes, {work.spec.name}, {work.device}"
    )
    goals = {} if cuda else {PEER: FASTER}
    found = Findings(rows=against(what, "images/s", runs, goals=goals))
    found.rows += [
        Row(
            what=f"largest cosine distance, stored {name}", unit="", ours=(value,), better="lower", goal=EQUAL
        )
        for name, value in distances.items()
    ]
    found.notes += _notes(settings, encoders, cuda)
    return found


def _notes(settings: BenchSettings, encoders: Encoders, cuda: bool) -> list[str]:
    notes = ["Both decode the same files and run the same networks; loading these is not counted."]
    ran = ", ".join(f"{half} in {encoder.precision}" for half, encoder in vars(encoders).items())
    notes.append(f"Ours ran {ran}; the peer both in float32.")
    if not cuda:
        notes.append("GPU: none used, not measured.")
    if settings.random_weights:
        notes.append("Random weights: speeds hold, distances are those of random features.")
    return notes


def _ours(work: Extraction, cache: Path) -> float:
    start = time.perf_counter()
    work.run(cache, _all_here)
    return len(work.dataset) / (time.perf_counter() - start)


def _all_here(job: ExtractJob, writer: CacheWriter) -> None:
    for p in range(writer.num_partitions):
        extract_partition(job, p)


def _theirs(official: OfficialExtraction, folder: Path) -> float:
    shutil.rmtree(folder, ignore_errors=True)
    start = time.perf_counter()
    official.run(folder)
    return len(official.dataset) / (time.perf_counter() - start)


def _distances(cache_path: Path, official: Path) -> dict[str, float]:
    cache = open_cache(cache_path)
    worst = {"tokens": 0.0, "maps": 0.0}
    for i in range(cache.num_images):
        if not (cache.ok(i, "sam") and cache.ok(i, "clip")):
            continue
        image_id, _ = cache.image(i)
        item = torch.load(official / f"{image_id}.pth", weights_only=True)
        found = {"tokens": cache.read_tokens(i), "maps": cache.read_map(i)}
        for name, ours in found.items():
            worst[name] = max(worst[name], cosine_distance(ours, item[name].numpy()))
    return worst


def cosine_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Largest 1 - cosine of vectors [n, D] with their partners; 0 when there are none."""
    if a.shape != b.shape:
        raise RegionSpotError(f"features {a.shape} and {b.shape} of one image", "Equal shapes.")
    a, b = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return float((1 - (a * b).sum(-1) / norms).max(initial=0))
