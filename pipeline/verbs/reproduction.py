"""The verb that runs the paper's tables: `reproduce`."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.verbs.options import Config, Json, Set


def reproduce(
    tables: Annotated[
        list[str] | None, typer.Argument(help="table1, table2, table3, ... table6; all when not given.")
    ] = None,
    world: Annotated[
        str, typer.Option("--world", help="`shapes`, the built-in world, or `paper`; --config for your own.")
    ] = "shapes",
    seeds: Annotated[int | None, typer.Option("--seeds", help="Heads trained for every row.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder of heads, results and tables.")] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", help="Processes side by side; 0: this process.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would run, and what is missing, only.")
    ] = False,
    config: Config = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """The paper's tables 1 to 6, one config a row: its numbers beside ours, and which trends show. Resumes.

    Example: rs-cache reproduce table3 table4a --seeds 1
    """
    from pipeline.places import shipped
    from pipeline.reproduce.dry import dry_run as plan
    from pipeline.reproduce.run import reproduce as run
    from pipeline.reproduce.settings import ReproduceSettings
    from regionspot_cache.config import load_config

    file = config or shipped(f"reproduce/worlds/{world}.yaml")
    settings = load_config(ReproduceSettings, file, set_ or (), seeds=seeds, out=out, workers=workers)
    (plan if dry_run else run)(tables or (), settings, as_json=as_json)
