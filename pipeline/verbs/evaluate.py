"""`rs-cache eval`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, NonNegativeInt, PositiveInt

from pipeline import names
from pipeline.names import require_named_backbone, warn_of_photographs
from pipeline.options import option, verb
from pipeline.places import WORKPLACE
from pipeline.verbs.train import PromptSettings
from regionspot_cache.backbones.presets import RegionClipSpec
from regionspot_cache.errors import MissingFileError, UsageError, near

RESULTS = "results:"
WITH_HEAD = ("regionspot", "official")
RECOGNISERS = (*WITH_HEAD, "clip-box", "clip-mask", "clip-roi", "clip-roi-mask", "regionclip")


@dataclass(frozen=True, kw_only=True)
class EvalSettings:
    """Which regions of which dataset, recognised how."""

    checkpoint: Path = names.checkpoint_option(WORKPLACE / "runs" / "shapes")
    dataset: names.Dataset = names.dataset_option("shapes:val")
    images: Path | None = names.images_option(None)
    data: Path = WORKPLACE / "datasets"
    cache: str | None = None
    """Cached features to use where they fit; `rs-cache-data/caches/DATASET-SPLIT-BACKBONE` if it exists."""
    backbone: names.Backbone | None = names.backbone_option(None)
    """The checkpoint's own when not given."""
    proposals: Annotated[str, AfterValidator(names.check_boxes)] = option(
        "gt",
        "--proposals",
        "gt, rpn, or a file: GLIP dictionary, COCO results, Detectron2 proposals.",
        "BOXES",
        lambda: names.BOXES,
    )
    proposal_boxes: Literal["pixels", "normalised"] = "pixels"
    """Unit of the boxes in a file of proposals: `pixels`, or `normalised` by the image's width and height."""
    proposal_scores: Literal["probabilities", "logits"] = "probabilities"
    """What the scores in a file of proposals are: `probabilities`, or `logits`."""
    top_n: int = 100
    """Proposals of an image that are recognised; the paper's protocol for LVIS takes 1000."""
    methods: tuple[str, ...] = option(
        ("regionspot",),
        "--method",
        "regionspot, official, clip-box, clip-mask, clip-roi, clip-roi-mask, regionclip, or results:FILE for "
        "the detections of another system; repeat.",
        "NAME",
        lambda: (*RECOGNISERS, RESULTS),
    )
    protocol: Literal["shared", "regionclip"] = "shared"
    """Detections: `shared`, every box with every class; `regionclip`, that paper's threshold and NMS."""
    score_rule: Literal["product", "official", "geometric", "rc-compat"] | None = None
    """How class probability and objectness become the score, see `evaluation.select_top_k`; `product` when
    not given, `geometric` by the protocol `regionclip`."""
    masks: bool = True
    """Mask AP too, where the ground truth has masks."""
    ap: Literal["standard", "fixed"] = option(
        "standard",
        "--ap",
        "Which detections count: the best of each image, or the 10,000 best of each class.",
    )
    cap: int = 300
    """Standard AP: detections of an image that count, over all classes."""
    reference: bool = False
    """Score with the lvis package or pycocotools instead of the fast evaluator (slow; the same numbers)."""
    class_split: str | None = None
    """Base and novel classes, all in one table: coco-ovd, lvis-ovd, or a .yaml file with base and novel."""
    limit: int | None = names.limit_option(None)
    seed: int = 0
    prompts: PromptSettings | None = None
    """The checkpoint's own when not given."""
    regionclip: RegionClipSpec | None = None
    """The network of the method regionclip, where the backbone has none."""
    out: Path | None = option(
        None,
        "--out",
        "Folder for detections, metrics and report; a new one, numbered, in rs-cache-data/evaluations if not "
        "given.",
        "DIR",
    )
    pictures: NonNegativeInt = 4
    """Images that the report shows, drawn by `seed`; 0 for none."""
    details: bool = True
    """Detections, classes and report beside metrics.json; without, the numbers alone, in seconds less."""
    batch_size: PositiveInt = 8
    """Images in one pass of a network."""
    threads: PositiveInt = 2
    """That read and prepare images ahead."""
    device: str = "auto"

    def __post_init__(self) -> None:
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


def _named_networks(said: Mapping[str, Any], _: Path | None) -> Mapping[str, Any]:
    methods = said.get("methods")
    scores_only = isinstance(methods, list) and all(str(name).startswith(RESULTS) for name in methods)
    if not scores_only and not {"backbone", "checkpoint"} & set(said):
        require_named_backbone(str(said.get("dataset", EvalSettings.dataset)), "--checkpoint DIR")
    return {}


@verb(EvalSettings, defaults=_named_networks)
def evaluate(settings: EvalSettings, *, as_json: bool) -> None:
    """Recognise the regions of a dataset and score the result: AP, APr, APc, APf, accuracy, recall.

    Example: rs-cache eval --proposals rpn --method regionspot --method clip-box

    Example: rs-cache eval --dataset lvis:minival --method results:glip.json --ap fixed
    """
    if missing := [file for file in settings.result_files if not file.exists()]:
        raise MissingFileError(f"There is no file {missing[0]}.", "Detections of another system.")
    if settings.recognisers:
        warn_of_photographs(settings.backbone or settings.checkpoint, settings.dataset)
    from pipeline.evaluate.run import evaluate as run

    run(settings, as_json=as_json)
