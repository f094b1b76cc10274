"""`rs-cache status`, `info` and `verify`: three ways to look into a cache."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import NonNegativeInt

from pipeline import names
from pipeline.options import option, verb


@dataclass(frozen=True, kw_only=True)
class CacheSettings:
    """Which cache."""

    cache: str = option(..., "CACHE", "Cache folder or object-store URL.")


@dataclass(frozen=True, kw_only=True)
class VerifySettings(CacheSettings):
    """How thoroughly, and what follows."""

    full: bool = option(False, "--full", "Read every byte; finds any flipped bit.")
    recompute: NonNegativeInt = option(0, "--recompute", "Run the encoders again on this many images.")
    repair: bool = option(False, "--repair", "Uncommit what is damaged; extract redoes it.")
    backbone: names.Backbone = names.backbone_option("tiny")
    images: Path | None = names.images_option(None)


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

    how = {name: value for name, value in vars(settings).items() if name != "cache"}
    run(settings.cache, **how, as_json=as_json)
