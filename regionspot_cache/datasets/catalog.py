"""Datasets by name (`DATASET_NAMES`), or any COCO-style JSON file."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from regionspot_cache.datasets import minival, shapes
from regionspot_cache.datasets.coco_style import guess_split, read_coco_style
from regionspot_cache.datasets.columns import EntryReader
from regionspot_cache.datasets.openimages import read_openimages
from regionspot_cache.datasets.records import DetectionDataset
from regionspot_cache.datasets.regions import BoxPolicy
from regionspot_cache.datasets.shapes_annotations import SPACES
from regionspot_cache.datasets.source import DatasetSource
from regionspot_cache.datasets.sources import OPENIMAGES_CLASSES, OPENIMAGES_SIZES, SOURCES, Source
from regionspot_cache.errors import InputError, MissingFileError, UsageError, near, near_path, one_of

O365 = "o365"  # whichever release lies in the data folder
SHAPES = {"shapes": None, **{f"shapes-{space}": space for space in SPACES}}  # name -> label space
DATASET_NAMES = (*SHAPES, O365, *SOURCES)


def splits_of(name: str) -> tuple[str, ...]:
    """The splits of a dataset of the catalog."""
    if name in SHAPES:
        return ("train",) if SHAPES[name] else tuple(shapes.SPLITS)
    return SOURCES["o365v1" if name == O365 else name].splits


def evaluation_split(name: str) -> str:
    """The split that a dataset of the catalog is evaluated on: for validation, or the only one it has."""
    splits = splits_of(name)
    return next((split for split in ("val", "validation") if split in splits), splits[0])


def check_name(name_or_file: str) -> None:
    """Refuses what is neither NAME, NAME:SPLIT nor a file, as `load_dataset` would; reads nothing."""
    name, _, split = name_or_file.partition(":")
    if name in DATASET_NAMES:
        _check_split(name, split or splits_of(name)[0])
        return
    path = Path(name_or_file)
    if path.suffix.lower() != ".json" and not path.is_file():
        known = f"One of {', '.join(DATASET_NAMES)} (with :SPLIT if wanted), or a COCO-style FILE.json."
        expected = near(name, DATASET_NAMES) + known
        raise UsageError(
            f"There is no dataset {name_or_file!r}.", expected, "rs-cache extract --dataset shapes"
        )
    if not path.exists():
        raise MissingFileError(
            f"There is no annotation file {path}.",
            f"{near_path(path)}A COCO-style JSON file.",
            "Check the path.",
        )


def load_dataset(
    name_or_file: str,
    *,
    split: str | None = None,
    data_root: Path,
    images: Path | None = None,
    policy: BoxPolicy | None = None,
    limit: int | None = None,
    seed: int = 0,
    correct_spelling: bool = False,
    require_images: bool = True,
    known_names: Collection[str] | None = None,
    progress: shapes.Progress | None = None,
    also: EntryReader | None = None,
) -> DetectionDataset:
    """Loads a dataset of the catalog, or a file.

    Args:
        name_or_file: NAME, NAME:SPLIT or FILE.json; the format of a file is recognised from its content.
        split: overrides the default split (train; val for LVIS and COCO).
        data_root: folder that holds the datasets of the catalog; `shapes` is drawn there on first use.
        images: image folder, instead of the usual places.
        limit: a sample of this many images, drawn by `seed`; None for all.
        progress: called while `shapes` is drawn.
        policy, correct_spelling, require_images, known_names, also: as of `read_coco_style`.

    Raises:
        UsageError: unknown name or split.
        MissingFileError: says which files go where, and who offers them.
        InputError: what the readers raise.
    """
    options: dict[str, Any] = {"policy": policy, "require_images": require_images, "known_names": known_names}
    read = partial(read_coco_style, correct_spelling=correct_spelling, also=also, **options)

    def roots(*places: str) -> tuple[Path, ...]:
        return (images,) if images else tuple(data_root / place for place in places)

    name, _, named_split = name_or_file.partition(":")
    if name not in DATASET_NAMES:
        check_name(name_or_file)
        if images and not images.is_dir():
            found = f"There is no image folder {images}."
            raise MissingFileError(found, "The folder that the file names start from.", "--images DIR")
        dataset = read(Path(name_or_file), split=split, roots=roots())
    elif split and named_split and split != named_split:
        raise UsageError(f"{name_or_file} with split {split}.", "One split.", f"--dataset {name}:{split}")
    elif name in SHAPES:
        chosen = split or named_split or "train"
        file = _shapes(name, chosen, data_root / "shapes", progress)
        dataset = read(file, name=name, split=chosen, roots=roots("shapes/images"))
    elif name == "openimages":
        source, chosen, boxes = _named(name, split or named_split, data_root)
        classes = _find(OPENIMAGES_CLASSES, chosen, data_root)
        if classes is None:
            raise _absent(name, chosen, [source], data_root)
        sizes = _find(OPENIMAGES_SIZES, chosen, data_root)
        places = roots(*source.roots)
        dataset = read_openimages(boxes, classes, split=chosen, roots=places, sizes_csv=sizes, **options)
    else:
        source, chosen, file = _named(name, split or named_split, data_root)
        o365 = name if name.startswith(O365) else None
        from_val = chosen == minival.MINIVAL and guess_split(file) == minival.WHOLE
        folder = minival.FOLDER if from_val else None
        places = roots(*source.roots)
        dataset = read(file, name=name, split=chosen, roots=places, o365=o365, folder=folder)
    where = DatasetSource(
        dataset=_where(name_or_file, split),
        data_root=str(data_root.absolute()),
        images=None if images is None else str(images.absolute()),
        limit=limit,
        seed=seed,
        policy=policy or BoxPolicy(),
    )
    return replace(dataset.sample(limit, seed), source=where)


def _where(name_or_file: str, split: str | None) -> str:
    """What names the same annotations from any folder."""
    name, _, _ = name_or_file.partition(":")
    if name not in DATASET_NAMES:
        return str(Path(name_or_file).absolute())
    return f"{name}:{split}" if split else name_or_file


def load_source(
    source: DatasetSource,
    progress: shapes.Progress | None = None,
    *,
    require_images: bool = True,
    known_names: Collection[str] | None = None,
) -> DetectionDataset:
    """The dataset of a source as it is annotated now; arguments and errors as of `load_dataset`."""
    return load_dataset(
        source.dataset,
        data_root=Path(source.data_root),
        images=None if source.images is None else Path(source.images),
        policy=source.policy,
        limit=source.limit,
        seed=source.seed,
        require_images=require_images,
        known_names=known_names,
        progress=progress,
    )


def _find(places: Sequence[str], split: str, data_root: Path) -> Path | None:
    paths = (data_root / place.format(split=split) for place in places)
    return next((path for path in paths if path.is_file()), None)


def _shapes(name: str, split: str, root: Path, progress: shapes.Progress | None) -> Path:
    space = SHAPES[name]
    if space and split != "train":
        found = f"{name} has no split {split!r}: it is a part of the training images."
        raise UsageError(found, "train, or the validation images of all classes.", "--dataset shapes:val")
    _check_split(name, split)
    if not (root / "COMPLETE").is_file():  # a world of other parameters is used as it is
        shapes.materialise(root, progress=progress)
    return shapes.materialise_space(root, space) if space else root / f"{split}.json"


def _named(name: str, split: str | None, data_root: Path) -> tuple[Source, str, Path]:
    """What the name means, the split, and the annotation file."""
    options = [SOURCES[key] for key in (("o365v1", "o365v2") if name == O365 else (name,))]
    split = split or options[0].default_split
    _check_split(name, split)
    found = [(source, file) for source in options if (file := _find(source.annotations, split, data_root))]
    if not found and split == minival.MINIVAL:
        whole = _find(options[0].annotations, minival.WHOLE, data_root)
        found = [(options[0], whole)] if whole else []
    if not found:
        raise _absent(name, split, options, data_root)
    if len(found) > 1:
        files = " and ".join(str(file) for _, file in found)
        expected = "One release; their class ids name different things."
        raise InputError(
            f"Both releases of Objects365 are there: {files}.", expected, f"--dataset o365v2:{split}"
        )
    source, file = found[0]
    return source, split, file


def _check_split(name: str, split: str) -> None:
    splits = splits_of(name)
    if split not in splits:
        found = f"{name} has no split {split!r}."
        raise UsageError(found, one_of(split, splits), f"--dataset {name}:{splits[0]}")


def _absent(name: str, split: str, options: Sequence[Source], root: Path) -> MissingFileError:
    files = " or ".join(str(root / option.annotations[0].format(split=split)) for option in options)
    if name == "openimages":
        files += f" (oidv6-{split}-annotations-bbox.csv will do) and {root / OPENIMAGES_CLASSES[0]}"
    images = " or ".join(option.images.format(split=split) for option in options)
    origins = " ".join(option.origin.format(split=split) for option in options)
    return MissingFileError(
        f"{name} ({split}) is not in {root}.",
        f"Annotations: {files}. Images: below {root}, {images}. {origins}",
        "Put the files there, or try the built-in world: --dataset shapes",
    )
