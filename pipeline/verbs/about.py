"""`rs-cache backbones` and `env`: what there is."""

from dataclasses import dataclass
from typing import Annotated

from pipeline.names import backbones as known_backbones
from pipeline.options import Option
from pipeline.verbs.command import verb


@dataclass(frozen=True, kw_only=True)
class BackbonesSettings:
    """`rs-cache backbones`."""

    names: Annotated[
        tuple[str, ...],
        Option(
            name="NAMES",
            help="Presets, YAML files, or names of networks; all that are known when not given.",
            complete=known_backbones,
        ),
    ] = ()


@dataclass(frozen=True, kw_only=True)
class EnvSettings:
    """`rs-cache env` has nothing to set."""


@verb(BackbonesSettings)
def backbones(settings: BackbonesSettings, *, as_json: bool) -> None:
    """List the frozen networks: operations and stored bytes of each for one image. Needs no weights.

    Example: rs-cache backbones bl backbones/siglip2-so400m.yaml ViT-B-32 sam2.1-hiera-large
    """
    from pipeline.backbones import backbones as run

    run(list(settings.names), as_json=as_json)


@verb(EnvSettings)
def env(settings: EnvSettings, *, as_json: bool) -> None:
    """Versions, devices and paths: what a bug report needs."""
    from pipeline.environment import environment as run

    run(as_json=as_json)
