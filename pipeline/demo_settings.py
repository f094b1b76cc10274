"""The settings of `rs-cache demo`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pipeline.options import Option
from pipeline.places import WORKPLACE


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """`rs-cache demo`: the whole story on the built-in world."""

    out: Annotated[
        Path,
        Option(
            name="--out",
            metavar="DIR",
            help="Folder of the report; caches and head go to their usual places.",
        ),
    ] = WORKPLACE / "demo"
    train_images: int | None = None
    """A sample, for a shorter demo; all when not given."""
    val_images: int | None = None
    gt_images: int = 300
    """Validation images that every method recognises; the crops of the baselines take the time."""
    rpn_images: int = 30
    rpn_top_n: int = 50
    pictures: int = 6
    workers: int = 2
    device: str = "auto"
