"""Names that settings may hold: checked before data are drawn or weights fetched, and completed in the shell.

Nothing here imports torch.
"""

from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from pipeline.places import find_config, shipped_names
from regionspot_cache.errors import MissingFileError, UsageError, near

BACKBONES = "backbones"
BOXES = ("gt", "rpn")


def backbones() -> list[str]:
    """Presets, and the shipped files of the folder of that name."""
    from regionspot_cache.backbones.presets import PRESETS

    return [*PRESETS, *(name for name in shipped_names() if name.startswith(f"{BACKBONES}/"))]


def check_backbone(name: str) -> str:
    """A preset as it is, a backbone file as a path.

    Raises:
        UsageError: neither.
        MissingFileError: a file that is not there.
    """
    from regionspot_cache.backbones.presets import PRESETS, load_preset

    path = Path(name)
    if name not in PRESETS and path.suffix in (".yaml", ".yml"):
        name = str(find_config(path, BACKBONES))
    load_preset(name)
    return name


def parts() -> list[str]:
    """The parts of the presets."""
    from regionspot_cache.backbones.presets import PRESETS

    return list(dict.fromkeys(part for spec in PRESETS.values() for part in spec.parts))


def check_part(part: str, backbone: str) -> None:
    """Raises UsageError unless the backbone has the part."""
    from regionspot_cache.backbones.presets import load_preset

    spec = load_preset(backbone)
    if part not in spec.parts:
        known = ", ".join(spec.parts)
        raise UsageError(f"--part {part}.", f"{near(part, spec.parts)}Backbone {spec.name} has {known}.")


def datasets() -> list[str]:
    """NAME and NAME:SPLIT of the catalog."""
    from regionspot_cache.datasets.catalog import DATASET_NAMES, splits_of

    return [
        text for name in DATASET_NAMES for text in (name, *(f"{name}:{split}" for split in splits_of(name)))
    ]


def check_dataset(name: str) -> str:
    """A dataset of the catalog or a file that is there.

    Raises:
        UsageError: no such name or split.
        MissingFileError: no such file.
    """
    from regionspot_cache.datasets.catalog import check_name

    check_name(name)
    return name


def is_built_in(dataset: str) -> bool:
    """Whether a dataset is the built-in world or a part of it."""
    from regionspot_cache.datasets.catalog import SHAPES

    return dataset.partition(":")[0] in SHAPES


def check_boxes(name: str) -> str:
    """`gt`, `rpn`, or a file of boxes that is there."""
    if name in BOXES or Path(name).exists():
        return name
    if Path(name).suffix:
        raise MissingFileError(f"There is no file {name}.", f"{', '.join(BOXES)} or a file of boxes.")
    raise UsageError(f"--proposals {name}.", f"{near(name, BOXES)}{', '.join(BOXES)} or a file of boxes.")


def complete_config(start: str) -> list[str]:
    """Files here and shipped ones."""
    return sorted({*_paths(start), *(name for name in shipped_names() if name.startswith(start))})


def _paths(start: str) -> Iterable[str]:
    folder = Path(start).parent if not start.endswith("/") else Path(start)
    if folder.is_dir():
        texts = (f"{path}/" if path.is_dir() else str(path) for path in folder.iterdir())
        yield from (text for text in texts if text.startswith(start) and text.endswith(("/", ".yaml")))


def complete_key(cls: type, start: str) -> list[str]:
    """Keys of settings as --set takes them."""
    return [f"{key}=" for key in _keys(cls) if key.startswith(start)]


def _keys(kind: Any, prefix: str = "") -> Iterable[str]:
    hints = get_type_hints(kind)
    for field in fields(kind):
        hint = hints[field.name]
        inner = next((k for k in (hint, *get_args(hint)) if is_dataclass(k)), None)
        if inner and not getattr(hint, "__origin__", None):
            yield from _keys(inner, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}"
