"""Names that settings may hold: checked before data are drawn or weights fetched, and completed in the shell.

Nothing here imports torch.
"""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

from pipeline import console
from pipeline.options import shared
from pipeline.places import find_config, shipped_names
from regionspot_cache.backbones.presets import PRESETS, load_preset
from regionspot_cache.datasets.catalog import DATASET_NAMES, SHAPES, check_name, splits_of
from regionspot_cache.errors import MissingFileError, RegionSpotError, UsageError, near
from regionspot_cache.models.hub import BACKBONE_FILE, model_folder

BACKBONES = "backbones"
BOXES = ("gt", "rpn")
ONLY_SHAPES = "The built-in `tiny` networks know drawn shapes only; on photographs their names mean nothing."


def backbones() -> list[str]:
    """Presets, and the shipped files of the folder of that name."""
    return [*PRESETS, *(name for name in shipped_names() if name.startswith(f"{BACKBONES}/"))]


def check_backbone(name: str) -> str:
    """A preset as it is, a backbone file as a path."""
    path = Path(name)
    if name not in PRESETS and path.suffix in (".yaml", ".yml"):
        name = str(find_config(path, BACKBONES))
    load_preset(name)
    return name


def parts() -> list[str]:
    """The parts of the presets."""
    return list(dict.fromkeys(part for spec in PRESETS.values() for part in spec.parts))


def check_part(part: str, backbone: str) -> None:
    """Raises UsageError unless the backbone has the part."""
    spec = load_preset(backbone)
    if part not in spec.parts:
        known = ", ".join(spec.parts)
        raise UsageError(f"--part {part}.", f"{near(part, spec.parts)}Backbone {spec.name} has {known}.")


def datasets() -> list[str]:
    """NAME and NAME:SPLIT of the catalog."""
    return [
        text for name in DATASET_NAMES for text in (name, *(f"{name}:{split}" for split in splits_of(name)))
    ]


def check_dataset(name: str) -> str:
    """A dataset of the catalog, or a file that is there."""
    check_name(name)
    return name


def check_boxes(name: str) -> str:
    """`gt`, `rpn`, or a file of boxes that is there."""
    if name in BOXES or Path(name).exists():
        return name
    if Path(name).suffix:
        raise MissingFileError(f"There is no file {name}.", f"{', '.join(BOXES)} or a file of boxes.")
    raise UsageError(f"--proposals {name}.", f"{near(name, BOXES)}{', '.join(BOXES)} or a file of boxes.")


# Options that several verbs have: types with their checks, and what makes the option of a default.
Backbone = Annotated[str, AfterValidator(check_backbone)]
Model = Annotated[Path, BeforeValidator(model_folder)]
Dataset = Annotated[str, AfterValidator(check_dataset)]
backbone_option = shared(
    "--backbone", "The frozen networks: tiny, bb, bl, bl336, or a YAML file.", "NAME", backbones
)
dataset_option = shared(
    "--dataset", "NAME or NAME:SPLIT of the catalog, or a COCO-style FILE.json.", "NAME", datasets
)
images_option = shared("--images", "Image root, where it is not the dataset's usual one.", "DIR")
checkpoint_option = shared(
    "--checkpoint", "Model folder written by train or import, or ORG/NAME on the hub.", "DIR"
)
limit_option = shared("--limit", "A seeded sample of this many images.")


def require_named_backbone(what: str | Path, *also: str) -> None:
    """Refuses networks that nobody asked for, unless `what`, a dataset or an image, is of the built-in world.

    Args:
        also: other options that name networks.
    """
    if isinstance(what, str):
        check_dataset(what)
    if is_of_shapes(what):
        return
    raise UsageError(
        f"No networks are named for {what}. {ONLY_SHAPES}",
        " or ".join((*also, "--backbone bb, bl or bl336 (tiny to insist), or a YAML file.")),
    )


def warn_of_photographs(networks: str | Path, what: str | Path) -> None:
    """One loud warning where the built-in networks are about to see something else than their world.

    Args:
        networks: a preset or backbone file, or the folder of a checkpoint.
    """
    if not is_of_shapes(what) and _are_tiny(networks):
        console.warn(f"{ONLY_SHAPES} What follows for {what} is a test of the machinery, not an answer.")


def is_of_shapes(what: str | Path) -> bool:
    """Whether a dataset is the built-in world, or an image lies in a drawn one."""
    if isinstance(what, str):
        return what.partition(":")[0] in SHAPES
    around = what.absolute().parents
    return any(folder.name == "shapes" and (folder / "COMPLETE").is_file() for folder in around)


def _are_tiny(networks: str | Path) -> bool:
    try:
        spec = load_preset(networks / BACKBONE_FILE if isinstance(networks, Path) else networks)
    except RegionSpotError:  # said by what loads the networks
        return False
    return any(part.model == "packaged" for part in spec.parts.values())
