"""What the extraction benchmarks share: images to work on, and a whole extraction without output."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.bench.settings import BenchSettings
from pipeline.partition import ExtractJob, encoders_of, half_specs, resolve_device
from pipeline.settings import HALVES, ExtractSettings
from regionspot_cache.backbones import BackboneSpec, load_preset
from regionspot_cache.datasets import DetectionDataset, load_dataset
from regionspot_cache.datasets.shapes import materialise
from regionspot_cache.store import CacheWriter, create_cache


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """A dataset, networks and sizes; `run` makes a new cache of them each time."""

    dataset: DetectionDataset
    spec: BackboneSpec
    device: str
    partition_size: int
    batch_size: int
    decode_threads: int

    def run(self, cache: Path, run_all: Callable[[ExtractJob, CacheWriter], None]) -> CacheWriter:
        """Plans a cache, has `run_all` fill its partitions, and seals it."""
        settings = ExtractSettings(cache=str(cache), partition_size=self.partition_size)
        writer = create_cache(
            cache,
            self.dataset,
            halves=half_specs(encoders_of(self.spec, HALVES, self.device), settings.dtype),
            partition_size=self.partition_size,
        )
        run_all(self.job(cache), writer)
        writer.seal()
        return writer

    def job(self, cache: Path) -> ExtractJob:
        """What every partition of the cache needs to know."""
        return ExtractJob(
            cache=str(cache),
            image_root=str(self.dataset.image_root.absolute()),
            exif=self.dataset.exif,
            spec=self.spec,
            halves=HALVES,
            dtype=ExtractSettings.dtype,
            batch_size=self.batch_size,
            decode_threads=self.decode_threads,
            device=self.device,
        )


def extraction(settings: BenchSettings, folder: Path, *, images: int, partition_size: int) -> Extraction:
    """The extraction that the settings ask for, of at most `images` images."""
    spec = load_preset(settings.backbone)
    if settings.random_weights:
        spec = replace(
            spec, sam=replace(spec.sam, weights="random:0"), clip=replace(spec.clip, weights="random:0")
        )
    return Extraction(
        dataset=_dataset(settings, folder, images),
        spec=spec,
        device=resolve_device(settings.device),
        partition_size=partition_size,
        batch_size=settings.extract.batch_size,
        decode_threads=settings.extract.decode_threads,
    )


def _dataset(settings: BenchSettings, folder: Path, images: int) -> DetectionDataset:
    work = settings.extract
    if work.dataset:
        return load_dataset(work.dataset, data_root=work.data, images=work.image_root, limit=images)
    materialise(folder / "shapes", train=images, val=1, processes=1)
    return load_dataset(
        str(folder / "shapes" / "train.json"), data_root=folder, images=folder / "shapes" / "images"
    )
