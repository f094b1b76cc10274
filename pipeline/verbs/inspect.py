"""`rs-cache status`, `info` and `verify`: three ways to look into a cache."""

from dataclasses import dataclass
from typing import Annotated

from pipeline.options import Option
from pipeline.shared_options import Backbone, Images
from pipeline.verbs.command import verb
from regionspot_cache.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class CacheSettings:
    """Which cache."""

    cache: Annotated[str, Option(name="CACHE", help="Cache folder or object-store URL.")]


@dataclass(frozen=True, kw_only=True)
class VerifySettings(CacheSettings):
    """`rs-cache verify`."""

    full: Annotated[bool, Option(name="--full", help="Read every byte; finds any flipped bit.")] = False
    recompute: Annotated[
        int, Option(name="--recompute", help="Run the encoders again on this many images.")
    ] = 0
    repair: Annotated[bool, Option(name="--repair", help="Uncommit what is damaged; extract redoes it.")] = (
        False
    )
    backbone: Backbone = "tiny"
    images: Images | None = None

    def __post_init__(self) -> None:
        if self.recompute < 0:
            raise UsageError(f"recompute = {self.recompute}.", "recompute >= 0.")


@verb(CacheSettings)
def status(settings: CacheSettings, *, as_json: bool) -> None:
    """Progress of an extraction: partitions, failures by reason, time spent in each step."""
    from pipeline.inspection import status as run

    run(settings.cache, as_json=as_json)


@verb(CacheSettings)
def info(settings: CacheSettings, *, as_json: bool) -> None:
    """What is in a cache: dataset, backbones, arrays, bytes, dropped boxes."""
    from pipeline.inspection import info as run

    run(settings.cache, as_json=as_json)


@verb(VerifySettings)
def verify(settings: VerifySettings, *, as_json: bool) -> None:
    """Prove that a cache is whole. Exit code 4 when damage is found."""
    from pipeline.inspection import verify as run

    run(
        settings.cache,
        full=settings.full,
        recompute=settings.recompute,
        repair=settings.repair,
        backbone=settings.backbone,
        images=settings.images,
        as_json=as_json,
    )
