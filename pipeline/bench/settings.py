"""How much each benchmark does. The defaults take under three minutes together on two idle cores."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pipeline.options import Option
from pipeline.places import WORKPLACE
from pipeline.shared_options import Backbone
from regionspot_cache.errors import UsageError, one_of

BENCHMARKS = ("read", "extract", "train", "evaluate", "workers")
HeadSize = Literal["tiny", "b16", "l14", "l14-336"]


@dataclass(frozen=True, kw_only=True)
class ReadBench:
    """Shuffled reading of cached maps."""

    images: int = 512
    tokens: int = 257
    width: int = 1024
    partition_size: int = 256
    batch_size: int = 16
    seconds: float = 0.4
    """Of one run of one reader."""


@dataclass(frozen=True, kw_only=True)
class ExtractBench:
    """Extraction in one process against image by image; the dataset is also that of `workers`."""

    images: int = 32
    dataset: str | None = None
    """A name of the catalog or a COCO-style file; drawn scenes when not given."""
    image_root: Path | None = None
    data: Path = WORKPLACE / "datasets"
    """As of `rs-cache extract`."""
    batch_size: int = 8
    decode_threads: int = 4


@dataclass(frozen=True, kw_only=True)
class TrainBench:
    """Steps of the recognition head."""

    sizes: tuple[HeadSize, ...] | None = None
    """All with CUDA or --full; without the largest elsewhere."""
    batch_size: int = 16
    boxes: int = 16
    images: int = 64
    classes: int = 365
    steps: int | None = None
    """Of one run; 500 on CUDA, else 4."""


@dataclass(frozen=True, kw_only=True)
class EvaluateBench:
    """LVIS average precision of random detections; --full is the size of LVIS val."""

    images: int = 300
    detections: int = 300
    categories: int = 1203


@dataclass(frozen=True, kw_only=True)
class WorkersBench:
    """Extraction by local Dask workers."""

    workers: int = 2
    images: int = 160
    """For the most workers; one worker gets its share."""
    partition_size: int = 16


@dataclass(frozen=True, kw_only=True)
class BenchSettings:
    """`rs-cache bench`."""

    names: Annotated[
        tuple[str, ...],
        Option(
            name="NAMES", help=f"{', '.join(BENCHMARKS)}; all when not given.", complete=lambda: BENCHMARKS
        ),
    ] = ()
    backbone: Backbone = "tiny"
    """Of `extract` and `workers`."""
    random_weights: bool = False
    """Nothing is fetched: speeds depend on the sizes of the networks only."""
    device: str = "auto"
    """Of `extract` and `train`."""
    repeats: int = 3
    """Runs of each contender, taken in turns; medians are shown."""
    full: Annotated[
        bool, Option(name="--full", help="Full sizes: minutes to an hour, gigabytes of disk.")
    ] = False
    out: (
        Annotated[
            Path, Option(name="--out", metavar="FILE.md", help="A page to write, and FILE.json beside it.")
        ]
        | None
    ) = None
    read: ReadBench = field(default_factory=ReadBench)
    extract: ExtractBench = field(default_factory=ExtractBench)
    train: TrainBench = field(default_factory=TrainBench)
    evaluate: EvaluateBench = field(default_factory=EvaluateBench)
    workers: WorkersBench = field(default_factory=WorkersBench)

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise UsageError(f"repeats = {self.repeats}.", "repeats >= 1.")
        if self.out and self.out.suffix != ".md":
            raise UsageError(f"--out {self.out}.", "FILE.md; FILE.json is written beside it.")
        for name in self.names:
            if name not in BENCHMARKS:
                raise UsageError(f"No benchmark {name}.", one_of(name, BENCHMARKS))
