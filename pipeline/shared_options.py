"""Options that several verbs have, each with its check."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from pipeline import names
from pipeline.options import Option

Backbone = Annotated[
    str,
    Option(
        name="--backbone",
        metavar="NAME",
        help="The frozen networks: tiny, bb, bl, bl336, or a YAML file.",
        complete=names.backbones,
    ),
    AfterValidator(names.check_backbone),
]
Dataset = Annotated[
    str,
    Option(
        name="--dataset",
        metavar="NAME",
        help="NAME or NAME:SPLIT of the catalog, or a COCO-style FILE.json.",
        complete=names.datasets,
    ),
    AfterValidator(names.check_dataset),
]
Images = Annotated[
    Path,
    Option(name="--images", metavar="DIR", help="Image root, where it is not the dataset's usual one."),
]
Checkpoint = Annotated[
    Path, Option(name="--checkpoint", metavar="DIR", help="Model folder written by train or import.")
]
Limit = Annotated[int, Option(name="--limit", help="A seeded sample of this many images.")]
