"""`rs-cache propose` and `concepts`: captioned images to regions, captions to a vocabulary."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator

from pipeline import names
from pipeline.options import Option
from pipeline.places import WORKPLACE
from pipeline.shared_options import Backbone, Images, Limit
from pipeline.tiny_networks import require_named_backbone, warn_of_photographs
from pipeline.verbs.command import verb
from regionspot_cache.errors import UsageError

SHAPES = "shapes:train"


def _check_source(source: str) -> str:
    from regionspot_cache.datasets.caption_sources import check_source

    check_source(source)
    return source


def _check_ending(out: Path | None, ending: str) -> None:
    if out is not None and out.suffix != ending:
        raise UsageError(f"--out {out}.", f"A file that ends in {ending}.")


@dataclass(frozen=True, kw_only=True)
class ProposeSettings:
    """`rs-cache propose`: which images, which boxes, which file."""

    source: Annotated[
        str,
        Option(
            name="DATA",
            help="Captions (COCO-style FILE.json, FILE.tsv, a WebDataset FILE.tar or a folder of them) or a "
            "dataset of the catalog.",
            complete=names.datasets,
        ),
        AfterValidator(_check_source),
    ] = SHAPES
    images: Images | None = None
    """For tar files the folder that images are unpacked into."""
    data: Path = WORKPLACE / "datasets"
    """Folder of the catalog's datasets."""
    backbone: Backbone = "tiny"
    """Its proposer makes the boxes."""
    out: (
        Annotated[
            Path,
            Option(
                name="--out",
                metavar="FILE",
                help="FILE.json to write; rs-cache-data/captions/DATA-regions.json if not given.",
            ),
        ]
        | None
    ) = None
    top_n: Annotated[int, Option(name="--top-n", help="Most proposals of an image.")] = 300
    nms: float = 0.5
    """IoU above which the lower-scored of two proposals is dropped; RegionCLIP's."""
    exclude: (
        Annotated[
            Path,
            Option(
                name="--exclude",
                metavar="FILE",
                help="Annotations whose images are left out, such as those of LVIS val.",
            ),
        ]
        | None
    ) = None
    limit: Limit | None = None
    seed: int = 0
    """Seed of the sample."""
    decode_threads: int = 4
    device: str = "auto"

    def __post_init__(self) -> None:
        for name, value in (
            ("top_n", self.top_n),
            ("limit", self.limit),
            ("decode_threads", self.decode_threads),
        ):
            if value is not None and value < 1:
                raise UsageError(f"{name} = {value}.", f"{name} >= 1.")
        if not 0 < self.nms <= 1:
            raise UsageError(f"nms = {self.nms}.", "0 < nms <= 1.")
        _check_ending(self.out, ".json")


@dataclass(frozen=True, kw_only=True)
class ConceptSettings:
    """`rs-cache concepts`: the vocabulary of captions."""

    source: Annotated[
        str,
        Option(
            name="CAPTIONS",
            help="COCO-style FILE.json, FILE.tsv, a WebDataset FILE.tar or a folder of them, or shapes.",
            complete=names.datasets,
        ),
        AfterValidator(_check_source),
    ] = SHAPES
    data: Path = WORKPLACE / "datasets"
    """Folder of the catalog's datasets."""
    out: (
        Annotated[
            Path,
            Option(
                name="--out",
                metavar="FILE",
                help="FILE.txt to write; rs-cache-data/captions/CAPTIONS-concepts.txt if not given.",
            ),
        ]
        | None
    ) = None
    min_images: Annotated[
        int, Option(name="--min-images", help="Least number of images that a noun phrase must occur in.")
    ] = 100
    overlap: (
        Annotated[
            str,
            Option(
                name="--overlap",
                metavar="ANNOTATIONS",
                help="Say which class names of a dataset are in the pool.",
                complete=names.datasets,
            ),
            AfterValidator(names.check_dataset),
        ]
        | None
    ) = None

    def __post_init__(self) -> None:
        if self.min_images < 1:
            raise UsageError(f"min_images = {self.min_images}.", "min_images >= 1.")
        _check_ending(self.out, ".txt")


def _known(source: str) -> str | Path:
    return source if names.is_built_in(source) else Path(source)


def _named_backbone(said: Mapping[str, Any], _: Path | None) -> Mapping[str, Any]:
    if "backbone" not in said and "source" in said:
        source = str(said["source"])
        _check_source(source)
        require_named_backbone(_known(source))
    return {}


@verb(ProposeSettings, defaults=_named_backbone)
def propose(settings: ProposeSettings, *, as_json: bool) -> None:
    """Propose regions of images with captions, into a file that extract takes. Resumes by default.

    Example: rs-cache propose captions_train2017.json --backbone bl --exclude lvis_v1_val.json
    """
    warn_of_photographs(settings.backbone, _known(settings.source))
    from pipeline.captions import propose as run

    run(settings, as_json=as_json)


@verb(ConceptSettings)
def concepts(settings: ConceptSettings, *, as_json: bool) -> None:
    """Make a concept pool of the noun phrases in captions.

    Example: rs-cache concepts captions_train2017.json --out pool.txt --overlap lvis_v1_val.json
    """
    from pipeline.captions import concepts as run

    run(settings, as_json=as_json)
