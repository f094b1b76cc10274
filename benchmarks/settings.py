"""How much each measurement does. The defaults take under five minutes together on two idle cores."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import PositiveInt

from pipeline.places import WORKPLACE

HeadSize = Literal["tiny", "b16", "l14", "l14-336"]


@dataclass(frozen=True, kw_only=True)
class Read:
    """Shuffled reading of cached maps; `seconds` are of one run of one reader."""

    images: int = 512
    tokens: int = 257
    width: int = 1024
    partition_size: int = 256
    batch_size: int = 16
    seconds: float = 0.4


@dataclass(frozen=True, kw_only=True)
class Extract:
    """Extraction in one process against image by image; the dataset is also that of `workers`."""

    images: int = 32
    dataset: str | None = None
    """A name of the catalog or a COCO-style file; drawn scenes when not given."""
    image_root: Path | None = None
    data: Path = WORKPLACE / "datasets"
    batch_size: int = 8
    decode_threads: int = 4


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """SAM's image encoder."""

    model: Literal["vit_b", "vit_l", "vit_h"] = "vit_b"
    batch_size: PositiveInt = 1


@dataclass(frozen=True, kw_only=True)
class Train:
    """Steps of the recognition head."""

    sizes: tuple[HeadSize, ...] | None = None
    """All with CUDA or --full; without the largest elsewhere."""
    batch_size: int = 16
    boxes: int = 16
    images: int = 64
    classes: int = 365
    steps: int | None = None
    """Of one run; 500 on CUDA, else 4."""
    live: tuple[HeadSize, ...] | None = None
    """Measured beside CLIP in every step; all of `sizes` with CUDA or --full, elsewhere tiny and b16."""
    live_steps: int | None = None
    """Of one run of that peer; 50 on CUDA, else 2."""


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """LVIS average precision of random detections; --full is the size of LVIS val."""

    images: int = 300
    detections: int = 300
    categories: int = 1203


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Planning of random annotations; --full is the size of Objects365 v2."""

    images: int = 10_000
    boxes: float = 15.5
    """Of an image, on average."""


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Extraction by local Dask workers; `images` are for all of them, and one alone gets its share."""

    workers: int = 2
    images: int = 160
    partition_size: int = 16


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Classes by examples, on scenes drawn for it; the defaults take three minutes beside the others."""

    checkpoint: Path = WORKPLACE / "runs" / "shapes"
    """A head trained on the built-in world, as `rs-cache demo` makes it."""
    methods: tuple[str, ...] = ("regionspot", "clip-box", "clip-roi")
    images: int = 400
    """That examples are drawn from."""
    tested: int = 100
    """Other images, whose regions are named."""
    shots: tuple[int, ...] = (1, 5, 20)
    """Examples of a class; fewer where the images have fewer."""


@dataclass(frozen=True, kw_only=True)
class OwnLabels:
    """`rs-cache train --dataset` on classes that a head was not trained on, in scenes drawn for it."""

    checkpoint: Path = WORKPLACE / "runs" / "shapes"
    """A head trained on the built-in world, as `rs-cache demo` makes it."""
    boxes: int = 500
    """To label, at least; of novel classes alone."""
    images: int = 1300
    """That these are drawn from, by image."""
    tested: int = 500
    """Other images, whose regions are named before and after."""
    variants: dict[str, dict[str, float]] = field(
        default_factory=lambda: {
            "as it is": {},
            "towards_initial 300 instead": {"distillation": 0.0, "towards_initial": 300.0},
            "neither": {"distillation": 0.0},
        }
    )
    """Settings of training by name, beside those of the command."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`python -m benchmarks`."""

    backbone: str = "tiny"
    """Of `extract` and `workers`."""
    random_weights: bool = False
    """Nothing is fetched: speeds depend on the sizes of the networks only."""
    device: str = "auto"
    """Of `encoder`, `extract` and `train`."""
    repeats: PositiveInt = 3
    """Runs of each contender, taken in turns; medians are shown."""
    full: bool = False
    read: Read = field(default_factory=Read)
    encoder: Encoder = field(default_factory=Encoder)
    extract: Extract = field(default_factory=Extract)
    train: Train = field(default_factory=Train)
    evaluate: Evaluate = field(default_factory=Evaluate)
    plan: Plan = field(default_factory=Plan)
    workers: Workers = field(default_factory=Workers)
    examples: Examples = field(default_factory=Examples)
    own_labels: OwnLabels = field(default_factory=OwnLabels)
