"""`rs-cache eval`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

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


class OwnRow(NamedTuple):
    """A row of the table that is recognised here."""

    name: str
    method: str
    checkpoint: Path | None = None  # of a method with a head


@dataclass(frozen=True, kw_only=True)
class EvalSettings:
    """Which regions of which dataset, recognised how."""

    checkpoints: tuple[names.Model, ...] = option(
        (WORKPLACE / "runs" / "shapes",),
        "--checkpoint",
        "Model folder written by train or import, or ORG/NAME on the hub; repeat to compare.",
        "DIR",
    )
    dataset: names.Dataset = names.dataset_option("shapes:val")
    images: Path | None = names.images_option(None)
    data: Path = WORKPLACE / "datasets"
    cache: str | None = None
    """Cached features to use; if not given, those in `rs-cache-data/caches` of the same pictures."""
    backbone: names.Backbone | None = names.backbone_option(None)
    """The first checkpoint's own when not given."""
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
    """Those of the checkpoints when not given."""
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
    """Images that the report shows, those with the most wrong names first; 0 for none."""
    details: bool = True
    """Detections, boxes, classes, comparisons and report beside the numbers; without, these alone, in seconds
    less."""
    resamples: NonNegativeInt = 1000
    """Draws of the images, by `seed`, for intervals of the differences between rows; 0 for none."""
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
        if len({path.resolve() for path in self.checkpoints}) < len(self.checkpoints):
            found = ", ".join(map(str, self.checkpoints))
            raise UsageError(f"--checkpoint names one folder twice: {found}.", "Each folder once.")
        if len(self.checkpoints) != 1 and not set(WITH_HEAD) & set(self.methods):
            expected = f"One --checkpoint, or a --method {' or '.join(WITH_HEAD)}, which has a head."
            raise UsageError(f"{len(self.checkpoints)} checkpoints for methods without a head.", expected)
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
    def own_rows(self) -> tuple[OwnRow, ...]:
        """The rows of the methods that are run here, a method with a head once for each checkpoint."""
        return tuple(row for name in self.recognisers for row in self._rows_of(name))

    @property
    def row_names(self) -> tuple[str, ...]:
        """The rows of the table in the order of the methods."""
        return tuple(
            row
            for name in self.methods
            for row in (
                [Path(name.removeprefix(RESULTS)).stem]
                if name.startswith(RESULTS)
                else [row.name for row in self._rows_of(name)]
            )
        )

    @property
    def compares(self) -> bool:
        """Whether rows are compared with the first one."""
        return self.details and len(self.row_names) > 1

    def _rows_of(self, method: str) -> list[OwnRow]:
        if method not in WITH_HEAD:
            return [OwnRow(method, method)]
        if len(self.checkpoints) == 1:
            return [OwnRow(method, method, self.checkpoints[0])]
        labels = zip(_apart(self.checkpoints), self.checkpoints, strict=True)
        return [OwnRow(f"{method}-{label}", method, checkpoint) for label, checkpoint in labels]


def _apart(folders: Sequence[Path]) -> list[str]:
    """The last parts of each path, as many as tell them apart."""
    parts = [path.absolute().parts[1:] for path in folders]
    found: list[str] = []
    for depth in range(1, max(map(len, parts), default=0) + 1):
        found = ["-".join(each[-depth:]) for each in parts]
        if len(set(found)) == len(found):
            break
    return found


def _named_networks(said: Mapping[str, Any], _: Path | None) -> Mapping[str, Any]:
    methods = said.get("methods")
    scores_only = isinstance(methods, list) and all(str(name).startswith(RESULTS) for name in methods)
    if not scores_only and not {"backbone", "checkpoints"} & set(said):
        require_named_backbone(str(said.get("dataset", EvalSettings.dataset)), "--checkpoint DIR")
    return {}


@verb(EvalSettings, defaults=_named_networks)
def evaluate(settings: EvalSettings, *, as_json: bool) -> None:
    """Recognise the regions of a dataset and score the result: AP, APr, APc, APf, accuracy, recall.

    Example: rs-cache eval --proposals rpn --method regionspot --method clip-box

    Example: rs-cache eval --checkpoint RUN --checkpoint OTHER-RUN

    Example: rs-cache eval --dataset lvis:minival --method results:glip.json --ap fixed
    """
    if missing := [file for file in settings.result_files if not file.exists()]:
        raise MissingFileError(f"There is no file {missing[0]}.", "Detections of another system.")
    if settings.recognisers:
        warn_of_photographs(settings.backbone or settings.checkpoints[0], settings.dataset)
    from pipeline.evaluate.run import evaluate as run

    run(settings, as_json=as_json)
