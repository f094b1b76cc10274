"""Tables and rows as files: what makes a row of the paper, its published numbers, and what the paper claims.

A table is a folder of `configs/reproduce`: `table.yaml` and one file a row. Rows know roles (`bl`, `first`,
`detector`), never names of datasets or networks; a world gives the names (`settings.ReproduceSettings`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pipeline.places import CONFIGS
from pipeline.verbs.evaluate import RECOGNISERS, RESULTS
from pipeline.verbs.train import PromptSettings
from regionspot_cache.config import load_config, validate
from regionspot_cache.errors import UsageError, one_of
from regionspot_cache.training.head_config import HeadOptions

Figure = Literal["AP", "APr", "APc", "APf", "AP novel", "hours"]
Teaching = Literal["boxes", "captions", "captions then boxes"]
DataRole = Literal["first", "second", "third"]
BackboneRole = Literal["bb", "bl", "bl336"]
BoxesRole = Literal["gt", "rpn", "detector"]
METHODS = tuple(name for name in RECOGNISERS if name != "official")

FOLDER = CONFIGS / "reproduce"
TABLE_FILE = "table.yaml"
PAPER = "Recognize Any Regions, arXiv 2311.01373"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a table, called `row`."""

    row: str
    paper: dict[Figure, float] = field(default_factory=dict)
    """Published numbers: AP in percent on LVIS val, or GPU hours; none for rows of our own."""
    source: str = PAPER
    """Where these come from."""
    paper_data: str = ""
    """What they were made on."""
    paper_boxes: str = ""
    method: str = "regionspot"
    """Or clip-box, clip-mask, clip-roi, clip-roi-mask, regionclip, or results:NAME for a file of results."""
    measure: Literal["box", "mask", "hours"] = "box"
    """AP of boxes or of masks, or the hours of extraction and training."""
    backbone: BackboneRole = "bl"
    data: tuple[DataRole, ...] = ("first", "second", "third")
    """Of boxes: stage one is on the first of them, stage two on all."""
    learns: Teaching = "boxes"
    """What the head learns from; captions are a stage of their own, before those of boxes."""
    stages: Literal[1, 2] = 2
    head: dict[str, Any] = field(default_factory=dict)
    """Fields of `HeadOptions` that differ from the world's head."""
    query: str | None = None
    """PART/ARRAY of the vector of a box; that of the backbone when not given."""
    prompts: PromptSettings = field(default_factory=PromptSettings)
    proposals: BoxesRole = "detector"

    def __post_init__(self) -> None:
        if self.method not in METHODS and not self.given:
            raise UsageError(
                f"Row {self.row!r}: method {self.method!r}.", f"{', '.join(METHODS)} or {RESULTS}NAME."
            )
        if not self.data or len(set(self.data)) < len(self.data):
            raise UsageError(f"Row {self.row!r}: data {list(self.data)}.", "At least one role, each once.")
        validate(HeadOptions, self.head, f"the head of row {self.row!r}")

    @property
    def trained(self) -> bool:
        """Whether the row needs a trained head."""
        return self.method == "regionspot"

    @property
    def given(self) -> bool:
        """Whether the detections are those of a file; neither networks nor caches are needed then."""
        return self.method.startswith(RESULTS)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The paper says that row `better` is ahead of row `worse` in `metric`; for hours, smaller is ahead."""

    better: str
    worse: str
    metric: Figure = "AP"


@dataclass(frozen=True, kw_only=True)
class PaperTable:
    """A table and the trends that our numbers may show; `rows` by the names of their files, in order."""

    title: str
    note: str = ""
    claimed_by: Literal["the paper", "RegionCLIP", "this package"] = "the paper"
    claims: tuple[Claim, ...] = ()
    name: str = ""
    rows: Mapping[str, Row] = field(default_factory=dict)


def table_names(folder: Path = FOLDER) -> list[str]:
    """All tables, in order."""
    return sorted(path.parent.name for path in folder.glob(f"*/{TABLE_FILE}"))


def check_table(name: str, folder: Path = FOLDER) -> None:
    """Raises UsageError where there is no such table."""
    if name not in table_names(folder):
        raise UsageError(f"There is no table {name!r}.", one_of(name, table_names(folder)))


def load_table(name: str, folder: Path = FOLDER) -> PaperTable:
    """One table by name.

    Raises:
        UsageError: no such table, a row that makes no sense, or a claim about rows that are not there.
    """
    check_table(name, folder)
    table = load_config(PaperTable, folder / name / TABLE_FILE)
    paths = sorted(path for path in (folder / name).glob("*.yaml") if path.name != TABLE_FILE)
    rows = {path.stem: load_config(Row, path) for path in paths}
    claimed = {row for claim in table.claims for row in (claim.better, claim.worse)}
    if unknown := claimed - set(rows):
        raise UsageError(f"{name}: a claim about {min(unknown)!r}.", f"One of {', '.join(rows)}.")
    return replace(table, name=name, rows=rows)
