"""The settings of every verb, one dataclass each, with the built-in world as default."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pipeline.places import WORKPLACE
from regionspot_cache.errors import UsageError
from regionspot_cache.regions import BoxPolicy
from regionspot_cache.training import TrainConfig
from regionspot_cache.views import Augmentation

Half = Literal["sam", "clip"]
HALVES: tuple[Half, Half] = ("sam", "clip")
RESULTS = "results:"
WITH_HEAD = ("regionspot", "official")
RECOGNISERS = (*WITH_HEAD, "clip-box", "clip-mask")


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
    cache: str | None = None
    """Cache folder or object-store URL; `rs-cache-data/caches/DATASET-SPLIT-BACKBONE` when not given,
    with `-views` behind it when there are extra views."""
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
    positions: tuple[Literal["transformer", "prompt", "mlp"], ...] | None = None
    """Where in SAM the box tokens are taken; the backbone's own when not given."""
    device: str = "auto"
    decode_threads: int = 4
    max_failed: float = 0.01
    """Share of the images that may fail before the run counts as incomplete (exit code 3)."""
    policy: BoxPolicy = field(default_factory=BoxPolicy)
    augment: Augmentation = field(default_factory=Augmentation)
    """Extra views of every image, for training: mirrored, cropped, with jittered boxes; none by default."""

    def __post_init__(self) -> None:
        for name in ("partition_size", "batch_size", "decode_threads"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} = {getattr(self, name)}.", f"{name} >= 1.")
        if not 0 <= self.max_failed <= 1:
            raise UsageError(f"max_failed = {self.max_failed}.", "A share of the images, 0 to 1.")
        if self.workers < 0 or (self.limit is not None and self.limit < 1):
            raise UsageError(
                f"workers = {self.workers}, limit = {self.limit}.", "workers >= 0 and limit >= 1."
            )
        if self.scheduler and self.workers:
            raise UsageError("--workers and --scheduler together.", "One of them.")

    @property
    def halves(self) -> tuple[Half, ...]:
        """The halves this run fills."""
        return (self.half,) if self.half else HALVES


@dataclass(frozen=True, kw_only=True)
class PromptSettings:
    """How class names become text embeddings."""

    templates: str = "clip80+name"
    """A named template set, the official one by default."""
    cleaning: str = "raw"
    """Rule by which names of a file become words; the rules are the names of `vocabulary.CLEANING`."""
    average: str = "raw-mean"
    """`raw-mean` of the embeddings over the templates, or `unit-mean`: of each at unit length first."""


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """`rs-cache train`: which caches, which prompts, and the run itself."""

    caches: tuple[str, ...] = (str(WORKPLACE / "caches" / "shapes-train-tiny"),)
    """Each is its own label space; batches are homogeneous and every cache is equally likely."""
    out: Path = WORKPLACE / "runs" / "shapes"
    backbone: str = "tiny"
    """The preset the caches were made with; its text tower embeds the class names."""
    position: Literal["transformer", "prompt", "mlp"] = "transformer"
    prompts: PromptSettings = field(default_factory=PromptSettings)
    hierarchies: dict[str, Path] = field(default_factory=dict)
    """Class trees by name of the cache folder: more general and more special classes than a box's own say
    nothing about it. OpenImages' bbox_labels_600_hierarchy.json, V3Det's category tree."""
    device: str = "auto"
    training: TrainConfig = field(default_factory=TrainConfig)


@dataclass(frozen=True, kw_only=True)
class EvalSettings:
    """`rs-cache eval`: which regions of which dataset, recognised how."""

    checkpoint: Path = WORKPLACE / "runs" / "shapes"
    dataset: str = "shapes:val"
    images: Path | None = None
    data: Path = WORKPLACE / "datasets"
    cache: str | None = None
    """Cached features to use where they fit; `rs-cache-data/caches/DATASET-SPLIT-BACKBONE` if it exists."""
    backbone: str | None = None
    """The checkpoint's own when not given."""
    proposals: str = "gt"
    """`gt`, `rpn`, or a file: GLIP dictionary, COCO results, Detectron2 proposals."""
    top_n: int = 100
    """Proposals of an image that are recognised; the paper's protocol for LVIS takes 1000."""
    methods: tuple[str, ...] = ("regionspot",)
    """Any of `RECOGNISERS`, and `results:FILE` for the detections of another system."""
    score_rule: Literal["product", "official", "geometric"] = "product"
    """How class probability and objectness become the score; see `evaluation.select_top_k`."""
    masks: bool = True
    """Mask AP too, where the ground truth has masks."""
    ap: Literal["standard", "fixed"] = "standard"
    """Which detections count: the best of each image, or the 10,000 best of each class over the dataset."""
    cap: int = 300
    """Standard AP: detections of an image that count, over all classes."""
    reference: bool = False
    """Score with the lvis package or pycocotools instead of the fast evaluator (slow; the same numbers)."""
    limit: int | None = None
    seed: int = 0
    prompts: PromptSettings | None = None
    """The checkpoint's own when not given."""
    out: Path = WORKPLACE / "evaluations"
    pictures: int = 4
    """Images that the report shows, drawn by `seed`; 0 for none."""
    details: bool = True
    """Detections, classes and report beside metrics.json; without, the numbers alone, in seconds less."""
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.pictures < 0:
            raise UsageError(f"pictures = {self.pictures}.", "pictures >= 0.")
        for name in self.methods:
            if name not in RECOGNISERS and (not name.startswith(RESULTS) or name == RESULTS):
                raise UsageError(f"--method {name}.", f"One of {', '.join(RECOGNISERS)}, or {RESULTS}FILE.")
        rows = self.row_names
        if not rows or len(set(rows)) < len(rows):
            found = f"The rows of the table would be {', '.join(rows) or 'none'}."
            raise UsageError(found, "One name for each --method; a results file is named by its stem.")

    @property
    def recognisers(self) -> tuple[str, ...]:
        """The methods that are run here."""
        return tuple(name for name in self.methods if not name.startswith(RESULTS))

    @property
    def result_files(self) -> tuple[Path, ...]:
        """The files of detections that are scored."""
        return tuple(Path(name.removeprefix(RESULTS)) for name in self.methods if name.startswith(RESULTS))

    @property
    def row_names(self) -> tuple[str, ...]:
        """The rows of the table in the order of the methods."""
        return tuple(
            Path(name.removeprefix(RESULTS)).stem if name.startswith(RESULTS) else name
            for name in self.methods
        )


@dataclass(frozen=True, kw_only=True)
class PredictSettings:
    """`rs-cache predict`: one image."""

    image: Path
    boxes: str | None = None
    classes: str | None = None
    checkpoint: Path = WORKPLACE / "runs" / "shapes"
    backbone: str | None = None
    out: Path | None = None
    top: int = 20
    compare: bool = False
    """The baselines' names, too, and a picture of all beside each other."""
    report: Path | None = None
    """An HTML page with everything about the image."""
    device: str = "auto"


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """`rs-cache demo`: the whole story on the built-in world."""

    out: Path = WORKPLACE / "demo"
    """Folder of the report; caches and the head go to their usual places, where the other verbs find them."""
    train_images: int | None = None
    """A sample, for a shorter demo; all when not given."""
    val_images: int | None = None
    gt_images: int = 400
    """Validation images that every method recognises; the crops of the baselines take the time."""
    rpn_images: int = 40
    rpn_top_n: int = 50
    pictures: int = 6
    workers: int = 2
    device: str = "auto"
