"""`rs-cache demo`."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.options import option, verb
from pipeline.places import WORKPLACE


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """How much of the built-in world."""

    out: Path = option(
        WORKPLACE / "demo", "--out", "Folder of the report; caches and head go to their usual places.", "DIR"
    )
    train_images: int | None = None
    """A sample, for a shorter demo; all when not given."""
    val_images: int | None = None
    gt_images: int = 200
    """Validation images that every method recognises; the crops of the baselines take the time."""
    rpn_images: int = 20
    rpn_top_n: int = 50
    pictures: int = 6
    workers: int = 2
    device: str = "auto"


@verb(DemoSettings)
def demo(settings: DemoSettings) -> None:
    """The whole story on the built-in world in a few minutes, ending in one HTML report."""
    from pipeline.demo import demo as run

    run(settings)
