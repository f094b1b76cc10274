"""Options that several verbs share."""

from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[Path | None, typer.Option("--config", help="YAML file with settings (see configs/).")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one setting.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Data = Annotated[str | None, typer.Option("--dataset", help="NAME, NAME:SPLIT or a COCO-style FILE.json.")]
Images = Annotated[Path | None, typer.Option("--images", help="Image root of the dataset.")]
Backbone = Annotated[str | None, typer.Option("--backbone", help="tiny, bb, bl, bl336 or a YAML file.")]
CacheDir = Annotated[str, typer.Argument(help="Cache folder or object-store URL.")]
