"""The settings of every verb, one dataclass each, with the built-in world as default."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator

from pipeline import names
from pipeline.options import Option
from pipeline.places import WORKPLACE
from pipeline.shared_options import Backbone, Checkpoint, Dataset, Images, Limit
from regionspot_cache.backbones.arithmetic import Precision
from regionspot_cache.backbones.presets import HeadInputs, RegionClipSpec
from regionspot_cache.datasets.augmentation import Augmentation
from regionspot_cache.datasets.regions import BoxPolicy
from regionspot_cache.errors import UsageError, near
from regionspot_cache.training.config import TrainConfig

RESULTS = "results:"
WITH_HEAD = ("regionspot", "official")
RECOGNISERS = (*WITH_HEAD, "clip-box", "clip-mask", "clip-roi", "clip-roi-mask", "regionclip")


@dataclass(frozen=True, kw_only=True)
class ExtractSettings:
    """`rs-cache extract`: what to run through which frozen networks, where, and into which cache."""

    dataset: Dataset = "shapes"
    images: Images | None = None
    data: Path = WORKPLACE / "datasets"
    """Folder of the catalog's datasets."""
    backbone: Backbone = "tiny"
    cache: (
        Annotated[
            str,
            Option(
                name="--cache",
                metavar="DIR",
                help="Cache folder or object-store URL; rs-cache-data/caches/DATASET-SPLIT-BACKBONE if not "
                "given, with -views behind it where there are extra views.",
            ),
        ]
        | None
    ) = None
    workers: Annotated[int, Option(name="--workers", help="Local Dask workers; 0: this process.")] = 0
    scheduler: (
        Annotated[
            str,
            Option(name="--scheduler", metavar="ADDRESS", help="A running Dask scheduler, tcp://HOST:PORT."),
        ]
        | None
    ) = None
    part: (
        Annotated[
            str,
            Option(
                name="--part", metavar="NAME", help="Only this part of the backbone.", complete=names.parts
            ),
        ]
        | None
    ) = None
    rebuild: Annotated[bool, Option(name="--rebuild", help="Replace a part of another backbone.")] = False
    update: Annotated[
        bool,
        Option(
            name="--update",
            help="Bring a cache up to date: add new images, redo those whose boxes or file changed, give up "
            "what is gone.",
        ),
    ] = False
    limit: Limit | None = None
    seed: int = 0
    """Seed of the sample and of the order in the cache."""
    partition_size: int = 512
    """Images in a partition: the unit of work, writing, resuming and shuffling."""
    batch_size: int = 8
    """Images in one pass of an encoder."""
    dtype: Literal["int8", "float16"] = "int8"
    precision: Precision | None = None
    """Arithmetic of the encoders; the backbone's own when not given. Workers of unlike hardware need one."""
    device: str = "auto"
    decode_threads: int = 4
    max_failed: float = 0.01
    """Share of the images that may fail before the run counts as incomplete (exit code 3)."""
    dry_run: Annotated[bool, Option(name="--dry-run", help="Print images, boxes, bytes and hours only.")] = (
        False
    )
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
        if self.part is not None:
            names.check_part(self.part, self.backbone)
        if self.scheduler and self.workers:
            raise UsageError("--workers and --scheduler together.", "One of them.")


@dataclass(frozen=True, kw_only=True)
class PromptSettings:
    """How class names become text embeddings."""

    templates: str = "clip80+name"
    """A named template set, the official one by default."""
    cleaning: str = "raw"
    """Rule by which names of a file become words; the rules are the names of `vocabulary.CLEANING`."""
    average: Literal["raw-mean", "unit-mean"] = "raw-mean"
    """`raw-mean` of the embeddings over the templates, or `unit-mean`: of each at unit length first."""

    def __post_init__(self) -> None:
        from regionspot_cache.backbones.vocabulary import check_prompts

        check_prompts(self.templates, self.cleaning)


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


@dataclass(frozen=True, kw_only=True)
class HeadArrays:
    """Arrays of the caches, each as PART/ARRAY, instead of those that the backbone names."""

    query: str | None = None
    """One vector a box; `box/position` is made from the position of the box alone."""
    memory: Annotated[tuple[str, ...], BeforeValidator(_as_list)] | None = None
    """Maps of the image, put one after the other."""

    def of(self, own: HeadInputs) -> HeadInputs:
        """These, and `own` where none are given."""
        return HeadInputs(query=self.query or own.query, memory=self.memory or own.memory)


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """`rs-cache train`: which caches, which prompts, and the run itself."""

    caches: Annotated[
        tuple[str, ...],
        Option(name="--cache", metavar="DIR", help="Cache folder or URL; repeat to mix caches."),
    ] = (str(WORKPLACE / "caches" / "shapes-train-tiny"),)
    """Each is its own label space; batches are homogeneous and every cache is equally likely."""
    out: Annotated[
        Path,
        Option(
            name="--out",
            metavar="DIR",
            help="Folder of checkpoints, metrics and model; with a config or caches of your own "
            "rs-cache-data/runs/NAME, the name of the config or of the caches.",
        ),
    ] = WORKPLACE / "runs" / "shapes"
    backbone: str = "tiny"
    """The preset the caches were made with; its text tower embeds the class names."""
    head: HeadArrays = field(default_factory=HeadArrays)
    """What the head relates; as the backbone says where it is not given."""
    datasets: dict[str, str] = field(default_factory=dict)
    """Labels by cache folder: NAME, NAME:SPLIT or FILE.json; else those of the extraction, read again."""
    data: Path = WORKPLACE / "datasets"
    """Folder of the catalog's datasets, for `datasets` and where that of the extraction is gone."""
    prompts: PromptSettings = field(default_factory=PromptSettings)
    hierarchies: dict[str, Path] = field(default_factory=dict)
    """Class trees by name of the cache folder: more general and more special classes than a box's own say
    nothing about it. OpenImages' bbox_labels_600_hierarchy.json, V3Det's category tree."""
    device: str = "auto"
    training: TrainConfig = field(default_factory=TrainConfig)


@dataclass(frozen=True, kw_only=True)
class EvalSettings:
    """`rs-cache eval`: which regions of which dataset, recognised how."""

    checkpoint: Checkpoint = WORKPLACE / "runs" / "shapes"
    dataset: Dataset = "shapes:val"
    images: Images | None = None
    data: Path = WORKPLACE / "datasets"
    cache: str | None = None
    """Cached features to use where they fit; `rs-cache-data/caches/DATASET-SPLIT-BACKBONE` if it exists."""
    backbone: Backbone | None = None
    """The checkpoint's own when not given."""
    proposals: Annotated[
        str,
        Option(
            name="--proposals",
            metavar="BOXES",
            help="gt, rpn, or a file: GLIP dictionary, COCO results, Detectron2 proposals.",
            complete=lambda: names.BOXES,
        ),
        AfterValidator(names.check_boxes),
    ] = "gt"
    proposal_boxes: Literal["pixels", "normalised"] = "pixels"
    """Unit of the boxes in a file of proposals: `pixels`, or `normalised` by the image's width and height."""
    proposal_scores: Literal["probabilities", "logits"] = "probabilities"
    """What the scores in a file of proposals are: `probabilities`, or `logits`."""
    top_n: int = 100
    """Proposals of an image that are recognised; the paper's protocol for LVIS takes 1000."""
    methods: Annotated[
        tuple[str, ...],
        Option(
            name="--method",
            metavar="NAME",
            help="regionspot, official, clip-box, clip-mask, clip-roi, clip-roi-mask, regionclip, or "
            "results:FILE for the detections of another system; repeat.",
            complete=lambda: (*RECOGNISERS, RESULTS),
        ),
    ] = ("regionspot",)
    protocol: Literal["shared", "regionclip"] = "shared"
    """Detections: `shared`, every box with every class; `regionclip`, that paper's threshold and NMS."""
    score_rule: Literal["product", "official", "geometric", "rc-compat"] | None = None
    """How class probability and objectness become the score, see `evaluation.select_top_k`; `product` when
    not given, `geometric` by the protocol `regionclip`."""
    masks: bool = True
    """Mask AP too, where the ground truth has masks."""
    ap: Annotated[
        Literal["standard", "fixed"],
        Option(
            name="--ap",
            help="Which detections count: the best of each image, or the 10,000 best of each class.",
        ),
    ] = "standard"
    cap: int = 300
    """Standard AP: detections of an image that count, over all classes."""
    reference: bool = False
    """Score with the lvis package or pycocotools instead of the fast evaluator (slow; the same numbers)."""
    limit: Limit | None = None
    seed: int = 0
    prompts: PromptSettings | None = None
    """The checkpoint's own when not given."""
    regionclip: RegionClipSpec | None = None
    """The network of the method regionclip, where the backbone has none."""
    out: Annotated[
        Path | None,
        Option(
            name="--out",
            metavar="DIR",
            help="Folder for detections, metrics and report; a new one, numbered, in "
            "rs-cache-data/evaluations if not given.",
        ),
    ] = None
    pictures: int = 4
    """Images that the report shows, drawn by `seed`; 0 for none."""
    details: bool = True
    """Detections, classes and report beside metrics.json; without, the numbers alone, in seconds less."""
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.pictures < 0:
            raise UsageError(f"pictures = {self.pictures}.", "pictures >= 0.")
        if self.protocol != "shared" and self.ap == "fixed":
            raise UsageError(f"protocol: {self.protocol} with fixed AP.", "--ap standard.")
        for name in self.methods:
            if name not in RECOGNISERS and (not name.startswith(RESULTS) or name == RESULTS):
                expected = f"{near(name, RECOGNISERS)}One of {', '.join(RECOGNISERS)}, or {RESULTS}FILE."
                raise UsageError(f"--method {name}.", expected)
        rows = self.row_names
        if not rows or len(set(rows)) < len(rows):
            found = f"The rows of the table would be {', '.join(rows) or 'none'}."
            raise UsageError(found, "One name for each --method; a results file is named by its stem.")

    @property
    def rule(self) -> Literal["product", "official", "geometric", "rc-compat"]:
        """The score rule of methods that do not bring their own."""
        return self.score_rule or ("product" if self.protocol == "shared" else "geometric")

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

    image: Annotated[Path, Option(name="IMAGE", help="An image file.")]
    boxes: (
        Annotated[
            str,
            Option(
                name="--boxes",
                metavar="BOXES",
                help="x0,y0,x1,y1;... in pixels, or a JSON file of such fours; what the RPN proposes if not "
                "given.",
            ),
        ]
        | None
    ) = None
    classes: (
        Annotated[
            str,
            Option(
                name="--classes",
                metavar="NAMES",
                help="Names separated by commas, or a file with one a line; those of training if not given.",
            ),
        ]
        | None
    ) = None
    checkpoint: Checkpoint = WORKPLACE / "runs" / "shapes"
    backbone: Backbone | None = None
    out: (
        Annotated[
            Path,
            Option(name="--out", metavar="FILE", help="Picture to write; IMAGE-regions.png if not given."),
        ]
        | None
    ) = None
    top: Annotated[int, Option(name="--top", help="Boxes that the RPN proposes.")] = 20
    compare: Annotated[
        bool, Option(name="--compare", help="Also clip-box and clip-mask, and a picture of all.")
    ] = False
    report: (
        Annotated[
            Path,
            Option(name="--report", metavar="FILE", help="HTML page with everything about the image."),
        ]
        | None
    ) = None
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.top < 1:
            raise UsageError(f"top = {self.top}.", "top >= 1.")
