"""`rs-cache reproduce`, set by a world: what the roles of the rows stand for, how long to train, and where
everything lies."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.options import option, verb
from pipeline.places import WORKPLACE, shipped, shipped_names
from pipeline.reproduce.rows import FOLDER, BackboneRole, BoxesRole, DataRole, check_table, table_names
from regionspot_cache.backbones.presets import RegionClipSpec, Stored
from regionspot_cache.errors import UsageError
from regionspot_cache.training.config import Stage, TrainConfig
from regionspot_cache.yaml_text import read_yaml


@dataclass(frozen=True, kw_only=True)
class BoxSource:
    """Whose boxes a role stands for: how tables name them, and settings of `rs-cache eval`."""

    called: str
    proposals: str
    limit: int | None = None
    """A seeded sample of this many evaluation images; all when not given."""
    top_n: int = 100
    score_rule: Literal["product", "official", "geometric", "rc-compat"] = "product"


@dataclass(frozen=True, kw_only=True)
class CaptionSource:
    """Captioned images, and how heads learn from them."""

    source: str
    """As of `rs-cache propose`."""
    limit: int | None = None
    """A seeded sample of this many images."""
    top_n: int = 300
    """Proposals of an image."""
    exclude: Path | None = None
    """Annotations whose images are left out."""
    min_images: int = 100
    """Of concepts, as of `rs-cache concepts`."""
    regions: int = 100
    """Of an image in a step."""
    stage: Stage
    """Of training on captions alone."""


GROUND_TRUTH = BoxSource(called="GT", proposals="gt")


@dataclass(frozen=True, kw_only=True)
class ReproduceSettings:
    """A world, and how its rows run."""

    names: tuple[str, ...] = option(
        (), "TABLES", "table1, table2, ... table6; all when not given.", complete=table_names
    )
    world: str = option(
        "shapes",
        "--world",
        "shapes, the built-in world, or paper; a config may be a world of its own.",
        "NAME",
        lambda: (path.stem for path in (FOLDER / "worlds").glob("*.yaml")),
    )
    made_on: str
    """On what data our numbers were made; printed with every table."""
    backbones: dict[BackboneRole, str]
    """Preset or YAML file of each role; rows of a role that is not here are not run."""
    no_backbone: str = "this world has no such backbone"
    """Why."""
    training: dict[DataRole, str]
    """Dataset of each role."""
    evaluation: str
    """Dataset of every row."""
    captions: CaptionSource
    """What rows that learn from captions learn from."""
    regionclip: RegionClipSpec | None = None
    """The method regionclip, and the teacher; the packaged one beside the packaged CLIP when not given."""
    boxes: dict[BoxesRole, BoxSource]
    """Of each role; ground truth need not be given."""
    ground_truth_too: bool = False
    """Measure every trained row on ground-truth boxes as well."""
    train: TrainConfig
    """Batches, optimiser, head and the two stages; rows choose the sources of each stage."""
    store: tuple[Stored, ...] = ("transformer", "prompt", "mlp")
    """What the caches hold of a SAM; table4b compares all three."""
    tables: Path = FOLDER
    data: Path = WORKPLACE / "datasets"
    caches: Path = WORKPLACE / "caches" / "reproduce"
    results: Path = WORKPLACE / "results"
    """Folder of the results of other systems."""
    out: Path = option(WORKPLACE / "reproduce", "--out", "Folder of heads, results and tables.", "DIR")
    seeds: int = option(3, "--seeds", "Heads trained for every row.")
    """Each is added to the seed of `train`."""
    workers: int = option(2, "--workers", "Processes side by side; 0: this process.")
    device: str = "auto"
    partition_size: int = 512
    """With the next two, of extraction, as in `ExtractSettings`."""
    batch_size: int = 8
    decode_threads: int = 4
    dry_run: bool = option(False, "--dry-run", "Print what would run, and what is missing, only.")

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
