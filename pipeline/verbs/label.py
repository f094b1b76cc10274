"""`rs-cache label`; what it is asked is read before any network is loaded."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, PositiveInt

from pipeline import names
from pipeline.names import require_named_backbone, warn_of_photographs
from pipeline.options import option, verb
from pipeline.places import WORKPLACE
from pipeline.verbs.evaluate import RECOGNISERS
from pipeline.verbs.train import PromptSettings
from regionspot_cache.backbones.presets import RegionClipSpec
from regionspot_cache.errors import UsageError, one_of

AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class LabelSettings:
    """Which boxes get names out of which classes."""

    source: Path = option(
        ..., "DATA", "COCO, Label Studio or CSV file, or a folder of YOLO, Pascal VOC or pictures."
    )
    classes: Path = option(
        ..., "--classes", "Text file with a class on each line, its synonyms after commas.", "FILE"
    )
    out: Path = option(..., "--out", "Where the answers go: a file, or a folder for yolo and voc.", "NEW")
    format: Literal["coco", "yolo", "voc", "csv", "label-studio"] | None = option(
        None, "--format", "Of --out; by its ending, or as DATA, if not given."
    )
    checkpoint: names.Model = names.checkpoint_option(WORKPLACE / "runs" / "shapes")
    method: str = option("regionspot", "--method", ", ".join(RECOGNISERS) + ".", "NAME", lambda: RECOGNISERS)
    backbone: names.Backbone | None = names.backbone_option(None)
    images: Path | None = names.images_option(None)
    proposals: Annotated[str, AfterValidator(names.check_boxes)] = option(
        "gt",
        "--proposals",
        "gt (the boxes of DATA), rpn, or a file, as of eval.",
        "BOXES",
        lambda: names.BOXES,
    )
    top_n: PositiveInt = 100
    """Proposals of an image that are recognised."""
    examples: Path | None = option(
        None,
        "--examples",
        "Folder with a folder of pictures for each class, or a COCO-style file, beside the words.",
    )
    top: PositiveInt = option(5, "--top", "How many names each box gets, best first.")
    none_below: str | None = option(
        None,
        "--none-below",
        "Score below which a box shows none of the classes; auto: by labelled boxes.",
        "T",
    )
    none_name: str = "none of these"
    """The name of boxes below that score."""
    relabel: bool = option(False, "--relabel", "Compare with the labels in DATA; the doubtful ones as CSV.")
    cache: str | None = None
    """Cached features to use; if not given, those in `rs-cache-data/caches` of the same pictures."""
    prompts: PromptSettings | None = None
    """The checkpoint's own when not given."""
    regionclip: RegionClipSpec | None = None
    """The network of the method regionclip, where the backbone has none."""
    batch_size: PositiveInt = 8
    """Images in one pass of a network, and in one entry of the journal."""
    threads: PositiveInt = 2
    """That read and prepare images ahead."""
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.method not in RECOGNISERS:
            raise UsageError(f"--method {self.method}.", one_of(self.method, RECOGNISERS))
        if self.none_below is not None and self.none_below != AUTO:
            _threshold(self.none_below)
        if self.relabel and self.proposals != "gt":
            raise UsageError("--relabel with --proposals.", "The labels belong to the boxes of DATA.")

    @property
    def threshold(self) -> float | None:
        """The score that --none-below says; None without, and for auto."""
        return None if self.none_below in (None, AUTO) else _threshold(self.none_below)


def _threshold(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise UsageError(f"--none-below {text}.", "A score from 0 to 1, or auto.")
    return value


def _named_networks(said: Mapping[str, Any], _: Path | None) -> Mapping[str, Any]:
    if "source" in said and not {"backbone", "checkpoint"} & set(said):
        require_named_backbone(Path(str(said["source"])), "--checkpoint DIR")
    return {}


@verb(LabelSettings, defaults=_named_networks)
def label(settings: LabelSettings, *, as_json: bool) -> None:
    """Name all boxes of a set, with scores; killed and run again it continues.

    Example: rs-cache label boxes.json --classes names.txt --checkpoint runs/bl --out named.json

    Example: rs-cache label photos --proposals rpn --classes n.txt --method clip-roi --backbone bl --out a.csv
    """
    warn_of_photographs(settings.backbone or settings.checkpoint, settings.images or settings.source)
    from pipeline.label import label as run

    run(settings, as_json=as_json)
