"""The settings of every verb, with the built-in world as default. One dataclass a verb, filled by `load_config`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from regionspot_cache.errors import UsageError
from regionspot_cache.regions import BoxPolicy

WORKPLACE = Path("rs-cache-data")

Half = Literal["sam", "clip"]
HALVES: tuple[Half, Half] = ("sam", "clip")


@dataclass(frozen=True, kw_only=True)
class ExtractSettings:
    """`rs-cache extract`: what to run through which frozen networks, where, and into which cache."""

    dataset: str = "shapes"
    """A name of the catalog, NAME:SPLIT, or a COCO-style JSON file."""
    images: Path | None = None
    """Image root; the catalog's when not given."""
    data: Path = WORKPLACE / "datasets"
    """Folder of the catalog's datasets."""
    backbone: str = "tiny"
    """A preset or a YAML file."""
    cache: Path | None = None
    """Cache folder; `rs-cache-data/caches/DATASET-SPLIT-BACKBONE` when not given."""
    workers: int = 0
    """Local Dask workers; 0 runs in this process."""
    scheduler: str | None = None
    """Address of a running Dask scheduler."""
    half: Half | None = None
    """Only this half of the cache."""
    rebuild: bool = False
    """Replace the chosen half, or both, when the cache holds another backbone."""
    limit: int | None = None
    """A seeded sample of this many images."""
    seed: int = 0
    """Seed of the sample and of the order in the cache."""
    partition_size: int = 512
    """Images in a partition: the unit of work, writing, resuming and shuffling."""
    batch_size: int = 8
    """Images in one pass of an encoder."""
    dtype: Literal["int8", "float16"] = "int8"
    positions: tuple[Literal["transformer", "prompt", "mlp"], ...] = ("transformer",)
    """Where in SAM the box tokens are taken; the first is what training uses by default."""
    device: str = "auto"
    decode_threads: int = 4
    policy: BoxPolicy = field(default_factory=BoxPolicy)

    def __post_init__(self) -> None:
        for name in ("partition_size", "batch_size", "decode_threads"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} = {getattr(self, name)}.", f"{name} >= 1.")
        if self.workers < 0 or (self.limit is not None and self.limit < 1):
            raise UsageError(f"workers = {self.workers}, limit = {self.limit}.", "workers >= 0 and limit >= 1.")
        if self.scheduler and self.workers:
            raise UsageError("--workers and --scheduler together.", "One of them.")
        if not self.positions:
            raise UsageError("positions is empty.", "At least `transformer`.")

    @property
    def halves(self) -> tuple[Half, ...]:
        """The halves this run fills."""
        return (self.half,) if self.half else HALVES
