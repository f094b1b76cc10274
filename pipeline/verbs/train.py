"""`rs-cache train`."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from pipeline import console, names
from pipeline.names import require_named_backbone, warn_of_photographs
from pipeline.options import option, verb
from pipeline.places import WORKPLACE, shipped
from regionspot_cache.backbones.presets import HeadInputs
from regionspot_cache.backbones.vocabulary import check_prompts
from regionspot_cache.errors import UsageError
from regionspot_cache.models.hub import CLASSES_FILE, model_folder
from regionspot_cache.training.config import CaptionOptions, TrainConfig
from regionspot_cache.training.head_config import HeadConfig, HeadOptions
from regionspot_cache.yaml_text import read_yaml


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
class CaptionSettings(CaptionOptions):
    """Caches of regions without labels, and what says what these show."""

    caches: tuple[str, ...] = ()
    """Of region files that `rs-cache propose` wrote; captions are read from these, or from `datasets`."""
    pool: Path | None = None
    """The concepts that the teacher chooses from, one a line, as `rs-cache concepts` writes them."""
    templates: str = "clip80+name"
    """Prompt templates of the concepts, of the teacher and of the head."""
    teacher: str = "teacher/region"
    """Array by box that is compared with the concepts, PART/ARRAY; the part embeds texts too."""
    top_k: int = 32
    """Concepts of a region whose probabilities are kept one by one; the others count together."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_prompts(self.templates, "raw")
        if self.top_k < 1:
            raise UsageError(f"captions.top_k = {self.top_k}.", "At least 1.")
        if self.caches and self.pool is None:
            raise UsageError(
                "captions.caches without captions.pool.",
                "A file with one concept a line.",
                "--set captions.pool=FILE.txt, which rs-cache concepts CAPTIONS --out FILE.txt writes",
            )

    @property
    def options(self) -> CaptionOptions:
        """What training itself goes by."""
        return CaptionOptions(
            **{option.name: getattr(self, option.name) for option in fields(CaptionOptions)}
        )


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Images of `dataset` that the head is judged by instead of trained on."""

    share: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Of the images of every class, as far as a class has several; 0 trains on all."""
    seed: int = 0
    """Of the draw, and of the bootstrap of the intervals."""


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Which labels or caches, which prompts, and the run itself."""

    dataset: names.Dataset | None = option(
        None,
        "--dataset",
        "Labels to extract, train on and judge by in one go, instead of caches: NAME, NAME:SPLIT, or a "
        "COCO-style FILE.json.",
        "NAME",
        names.datasets,
    )
    images: Path | None = names.images_option(None)
    reviewed: bool = option(
        False,
        "--reviewed",
        "Take only the boxes of --dataset that were accepted or renamed in rs-cache explore.",
    )
    held_out: HeldOut = field(default_factory=HeldOut)
    init: names.Model | None = option(
        None, "--init", "Model folder of a trained head to start from, or ORG/NAME on the hub.", "DIR"
    )
    """Its networks, prompts and head options count where nothing else is said."""
    caches: tuple[str, ...] = option(
        (str(WORKPLACE / "caches" / "shapes-train-tiny"),),
        "--cache",
        "Cache folder or URL; repeat to mix caches.",
        "DIR",
    )
    """Each is its own label space; batches are homogeneous and every cache is equally likely."""
    captions: CaptionSettings = field(default_factory=CaptionSettings)
    """More caches, whose regions have no labels."""
    scales: dict[str, float] = field(default_factory=dict)
    """Factor of the loss by cache folder; 1 where none is given."""
    out: Path = option(
        WORKPLACE / "runs" / "shapes",
        "--out",
        "Folder of checkpoints, metrics and model; with a config or caches of your own "
        "rs-cache-data/runs/NAME, the name of the config or of the caches.",
        "DIR",
    )
    backbone: str | None = names.backbone_option(None)
    """Those that the caches were made with; their text tower embeds the class names. When not given, those of
    `init`, else `tiny`."""
    head: HeadArrays = field(default_factory=HeadArrays)
    """What the head relates; as the backbone says where it is not given."""
    datasets: dict[str, str] = field(default_factory=dict)
    """Labels by cache folder: NAME, NAME:SPLIT or FILE.json; else those of the extraction, read again."""
    data: Path = WORKPLACE / "datasets"
    """Folder of the catalog's datasets, for `datasets` and where that of the extraction is gone."""
    prompts: PromptSettings = field(default_factory=PromptSettings)
    class_split: str | None = None
    """Only boxes of base classes are learned: coco-ovd, lvis-ovd, or a .yaml file with base and novel."""
    hierarchies: dict[str, Path] = field(default_factory=dict)
    """Class trees by name of the cache folder: more general and more special classes than a box's own say
    nothing about it. OpenImages' bbox_labels_600_hierarchy.json, V3Det's category tree."""
    device: str = "auto"
    training: TrainConfig = field(default_factory=TrainConfig)


def train_defaults(said: Mapping[str, Any], config: Path | None) -> Mapping[str, Any]:
    """The demo's run where nothing is said; else a folder of its own, for the demo's is the demo's."""
    if dataset := said.get("dataset"):
        values = _for_labels(str(dataset), said)
    else:
        values = {} if config else read_yaml(shipped("train/shapes.yaml"))
        values |= _out_of_caches(said, config)
    if init := said.get("init"):
        follows = _following(model_folder(init))
        values |= follows | {"training": values.get("training", {}) | follows["training"]}
    return values


def _for_labels(dataset: str, said: Mapping[str, Any]) -> dict[str, Any]:
    if said.get("caches"):
        raise UsageError("--dataset and --cache together.", "--dataset, whose cache is made, or --cache.")
    init, backbone = said.get("init"), said.get("backbone")
    if not init and not backbone:
        require_named_backbone(dataset, "--init RUN")
    out = WORKPLACE / "runs" / _own(Path(dataset.replace(":", "-")).stem)
    training: dict[str, Any] = {"loss": "softmax", "focal_gamma": 0.0}
    if init:  # an imported head does not say which classes it knew
        known = (model_folder(init) / CLASSES_FILE).is_file()
        training |= {"distillation": 1.0} if known else {"towards_initial": 300.0}
    return {"caches": (), "out": out, "training": training}


def _following(init: Path) -> dict[str, Any]:
    """What a head that is trained on needs to be as it was."""
    from regionspot_cache.models.folder import read_model_config
    from regionspot_cache.recognition.predictor import check_origin

    config = read_model_config(init)
    check_origin(config, str(init))
    head = HeadConfig.from_dict(config["head"])
    text = {key.name: config["text"][key.name] for key in fields(PromptSettings)}
    options = {key.name: getattr(head, key.name) for key in fields(HeadOptions)}
    return {"prompts": text, "training": {"head": options}}


def _out_of_caches(said: Mapping[str, Any], config: Path | None) -> dict[str, Any]:
    caches = said.get("caches")
    if config:
        return {"out": WORKPLACE / "runs" / _own(config.stem)}
    if isinstance(caches, list | tuple) and list(caches) != list(TrainSettings.caches):
        folders = [Path(str(path).rstrip("/")).name for path in caches]
        return {"out": WORKPLACE / "runs" / _own("+".join(folders)[:200])}
    return {}


def _own(name: str) -> str:
    return f"{name}-own" if name == TrainSettings.out.name else name


def is_main() -> bool:
    """Whether this is the main one of the processes of torchrun."""
    return int(os.environ.get("RANK", "0")) == 0


@verb(TrainSettings, defaults=train_defaults)
def train(settings: TrainSettings, *, as_json: bool) -> None:
    """Train the head on cached features, or on labels of your own. Resumes by default. torchrun works too.

    Example: rs-cache train --dataset mine.json --images photos --init runs/bl
    """
    if settings.dataset is None:
        if settings.reviewed:
            raise UsageError("--reviewed without --dataset.", "--dataset FILE-reviewed.json")
        from pipeline.train import train as run
    else:
        from pipeline.train_own import train_own as run
    with console.muted(not is_main()):
        if settings.dataset is not None:
            warn_of_photographs(settings.backbone or settings.init or "tiny", settings.dataset)
        run(settings, as_json=as_json)
