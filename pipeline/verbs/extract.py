"""`rs-cache extract`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, NonNegativeInt, PositiveInt

from pipeline import names
from pipeline.names import require_named_backbone, warn_of_photographs
from pipeline.options import option, verb
from pipeline.places import WORKPLACE
from regionspot_cache.backbones.arithmetic import Precision
from regionspot_cache.backbones.presets import Compile
from regionspot_cache.datasets.augmentation import Augmentation
from regionspot_cache.datasets.images import Decoder
from regionspot_cache.datasets.regions import BoxPolicy
from regionspot_cache.errors import UsageError
from regionspot_cache.store.storage import StorageName


@dataclass(frozen=True, kw_only=True)
class ExtractSettings:
    """What to run through which frozen networks, where, and into which cache."""

    dataset: names.Dataset = names.dataset_option("shapes")
    images: Path | None = names.images_option(None)
    data: Path = WORKPLACE / "datasets"
    """Folder of the catalog's datasets."""
    backbone: names.Backbone = names.backbone_option("tiny")
    cache: str | None = option(
        None,
        "--cache",
        "Cache folder or object-store URL; rs-cache-data/caches/DATASET-SPLIT-BACKBONE if not given, with "
        "-views behind it where there are extra views.",
        "DIR",
    )
    workers: NonNegativeInt = option(0, "--workers", "Local Dask workers; 0: this process.")
    scheduler: str | None = option(
        None, "--scheduler", "A running Dask scheduler, tcp://HOST:PORT.", "ADDRESS"
    )
    part: str | None = option(None, "--part", "Only this part of the backbone.", "NAME", names.parts)
    rebuild: bool = option(False, "--rebuild", "Replace a part of another backbone.")
    update: bool = option(
        False,
        "--update",
        "Bring a cache up to date: add new images, redo those whose boxes or file changed, give up what is "
        "gone.",
    )
    limit: PositiveInt | None = names.limit_option(None)
    seed: int = 0
    """Seed of the sample and of the order in the cache."""
    partition_size: PositiveInt = 512
    """Images in a partition: the unit of work, writing, resuming and shuffling."""
    batch_size: PositiveInt = 8
    """Images in one pass of an encoder."""
    dtype: StorageName = "int8"
    """How features are stored: `int8` with a scale for each vector, `float16`, `bfloat16`, or `int4`: maps at
    half the bytes of int8, with a scale for each 64 channels or fewer, and vectors of boxes as int8."""
    precision: Precision | None = None
    """Arithmetic of the encoders; the backbone's own when not given. Workers of unlike hardware need one."""
    compile: Compile | None = None
    """Whether encoders are compiled; the backbone's own when not given. Features agree either way."""
    device: str = "auto"
    decode_threads: PositiveInt = 4
    decoder: Decoder = "pillow"
    """What reads the pixels of RGB JPEG files."""
    max_failed: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Share of the images that may fail before the run counts as incomplete (exit code 3)."""
    dry_run: bool = option(False, "--dry-run", "Print images, boxes, bytes and hours only.")
    policy: BoxPolicy = field(default_factory=BoxPolicy)
    augment: Augmentation = field(default_factory=Augmentation)
    """Extra views of every image, for training: mirrored, cropped, with jittered boxes; none by default."""

    def __post_init__(self) -> None:
        if self.part is not None:
            names.check_part(self.part, self.backbone)
        if self.scheduler and self.workers:
            raise UsageError("--workers and --scheduler together.", "One of them.")


def _named_backbone(said: Mapping[str, Any], _: Path | None) -> Mapping[str, Any]:
    if "backbone" not in said:
        require_named_backbone(str(said.get("dataset", ExtractSettings.dataset)))
    return {}


@verb(ExtractSettings, defaults=_named_backbone)
def extract(settings: ExtractSettings, *, as_json: bool) -> None:
    """Run the frozen SAM and CLIP once over a dataset, into a cache. Resumes by default.

    Example: rs-cache extract --dataset o365 --backbone bl --workers 8
    """
    warn_of_photographs(settings.backbone, settings.dataset)
    if settings.dry_run:
        from pipeline.plan import dry_run as run
    else:
        from pipeline.extract import extract as run

    run(settings, as_json=as_json)
