"""`rs-cache reproduce`, set by a world: what the roles of the rows stand for, how long to train, and where
everything lies."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pipeline.options import Option
from pipeline.places import WORKPLACE, shipped, shipped_names
from pipeline.reproduce.rows import FOLDER, BackboneRole, BoxesRole, DataRole, check_table, table_names
from pipeline.verbs.command import verb
from regionspot_cache.backbones.presets import Stored
from regionspot_cache.errors import UsageError
from regionspot_cache.training.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class BoxSource:
    """Whose boxes a role stands for: how tables name them, and settings of `rs-cache eval`.

    Attributes:
        limit: a seeded sample of this many evaluation images; all when not given.
    """

    called: str
    proposals: str
    limit: int | None = None
    top_n: int = 100
    score_rule: Literal["product", "official", "geometric", "rc-compat"] = "product"


GROUND_TRUTH = BoxSource(called="GT", proposals="gt")


@dataclass(frozen=True, kw_only=True)
class ReproduceSettings:
    """`rs-cache reproduce`: a world, and how its rows run.

    Attributes:
        names: of the tables that are run; all without any.
        world: its name.
        made_on: on what data our numbers were made; printed with every table.
        backbones: preset or YAML file of each role; rows of a role that is not here are not run.
        no_backbone: why.
        training: dataset of each role.
        evaluation: dataset of every row.
        boxes: of each role; ground truth need not be given.
        ground_truth_too: measure every trained row on ground-truth boxes as well.
        store: what the caches hold of a SAM; table4b compares all three.
        train: batches, optimiser, head and the two stages; rows choose the sources of each stage.
        tables: folder of the tables.
        data, caches, results, out: folders of datasets, of caches, of results of other systems, of the run.
        seeds: trained heads a row; the seed is added to that of `train`.
        workers: processes that train and evaluate side by side; 0 uses this one.
        dry_run: only says what would be done.
        device, partition_size, batch_size, decode_threads: of extraction, as in `ExtractSettings`.
    """

    names: Annotated[
        tuple[str, ...],
        Option(name="TABLES", help="table1, table2, ... table6; all when not given.", complete=table_names),
    ] = ()
    world: Annotated[
        str,
        Option(
            name="--world",
            metavar="NAME",
            help="shapes, the built-in world, or paper; a config may be a world of its own.",
            complete=lambda: (path.stem for path in (FOLDER / "worlds").glob("*.yaml")),
        ),
    ] = "shapes"
    made_on: str
    backbones: dict[BackboneRole, str]
    no_backbone: str = "this world has no such backbone"
    training: dict[DataRole, str]
    evaluation: str
    boxes: dict[BoxesRole, BoxSource]
    ground_truth_too: bool = False
    train: TrainConfig
    store: tuple[Stored, ...] = ("transformer", "prompt", "mlp")
    tables: Path = FOLDER
    data: Path = WORKPLACE / "datasets"
    caches: Path = WORKPLACE / "caches" / "reproduce"
    results: Path = WORKPLACE / "results"
    out: Annotated[Path, Option(name="--out", metavar="DIR", help="Folder of heads, results and tables.")] = (
        WORKPLACE / "reproduce"
    )
    seeds: Annotated[int, Option(name="--seeds", help="Heads trained for every row.")] = 3
    workers: Annotated[int, Option(name="--workers", help="Processes side by side; 0: this process.")] = 2
    device: str = "auto"
    partition_size: int = 512
    batch_size: int = 8
    decode_threads: int = 4
    dry_run: Annotated[
        bool, Option(name="--dry-run", help="Print what would run, and what is missing, only.")
    ] = False

    def __post_init__(self) -> None:
        for name in self.names:
            check_table(name, self.tables)
        if self.seeds < 1 or self.workers < 0:
            raise UsageError(f"seeds = {self.seeds}, workers = {self.workers}.", "seeds >= 1, workers >= 0.")
        if len(self.train.stages) != 2:
            raise UsageError(f"{len(self.train.stages)} stages in world {self.world}.", "Two.")
        for what, known, needed in (
            ("training", self.training, ("first", "second", "third")),
            ("boxes", self.boxes, ("rpn", "detector")),
        ):
            if missing := [role for role in needed if role not in known]:
                raise UsageError(f"World {self.world} has no {missing[0]} {what}.", f"{', '.join(needed)}.")

    def box_source(self, role: BoxesRole) -> BoxSource:
        """The boxes of a role."""
        return self.boxes.get(role, GROUND_TRUTH)


def _world(said: Mapping[str, Any], config: Path | None) -> Mapping[str, Any]:
    """The shipped world of that name, below what the config says."""
    from regionspot_cache.yaml_text import read_yaml

    name = f"reproduce/worlds/{said.get('world', ReproduceSettings.world)}.yaml"
    if config and name not in shipped_names():
        return {}  # a world of its own
    return read_yaml(shipped(name))


@verb(ReproduceSettings, defaults=_world)
def reproduce(settings: ReproduceSettings, *, as_json: bool) -> None:
    """The paper's tables 1 to 6, one config a row: its numbers beside ours, and which trends show. Resumes.

    Example: rs-cache reproduce table3 table4a --seeds 1
    """
    from pipeline.reproduce import run

    (run.dry_run if settings.dry_run else run.reproduce)(settings, as_json=as_json)
