"""Captioned images from any source: a file, a folder of tar files, or a dataset of the catalog."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from regionspot_cache.datasets import shapes
from regionspot_cache.datasets.caption_tars import read_webdataset
from regionspot_cache.datasets.captions import (
    CaptionedImage,
    CaptionedImages,
    Pairs,
    add_entry,
    read_caption_json,
    read_caption_tsv,
)
from regionspot_cache.datasets.catalog import DATASET_NAMES, check_name, load_dataset
from regionspot_cache.datasets.values import ENTRY_ERRORS
from regionspot_cache.errors import InputError, MissingFileError
from regionspot_cache.json_stream import JsonFile

EXCLUDED = "image: excluded"
FORMATS = "A COCO-style FILE.json, FILE.tsv, a WebDataset FILE.tar or a folder of them"


def check_source(source: str) -> None:
    """That there is such a source, without reading anything.

    Raises:
        UsageError, MissingFileError: as of `check_name`.
    """
    if source.partition(":")[0] not in DATASET_NAMES and not Path(source).exists():
        if Path(source).suffix in (".tsv", ".tar"):
            raise MissingFileError(f"There is no file {source}.", f"{FORMATS}.", "Check the path.")
        check_name(source)


def load_captions(
    source: str,
    *,
    data_root: Path,
    images: Path | None = None,
    exclude: Path | None = None,
    required: bool = True,
    progress: shapes.Progress | None = None,
) -> CaptionedImages:
    """Reads captioned images; those of detection data may have no captions.

    Args:
        source: NAME or NAME:SPLIT of the catalog, FILE.json, FILE.tsv, FILE.tar or a folder of tar files.
        data_root: folder that holds the datasets of the catalog.
        images: image folder, instead of the usual places; the one that tar files are unpacked into.
        exclude: a COCO-style file whose images are left out, as of `Excluded`.
        required: the image files are needed: raise where there is none, unpack tar files.
        progress: called while `shapes` is drawn.

    Raises:
        UsageError, MissingFileError, InputError: as of `load_dataset` and the readers; InputError also when
            every image is excluded.
    """
    check_source(source)
    path = Path(source)
    if source.partition(":")[0] in DATASET_NAMES:
        found = _of_catalog(source, data_root, images, required, progress)
    elif images and required and path.suffix in (".json", ".tsv") and not images.is_dir():
        expected = "The folder that the file names start from."
        raise MissingFileError(f"There is no image folder {images}.", expected, "--images DIR")
    elif path.is_dir() or path.suffix == ".tar":
        found = read_webdataset(path, images, unpack=required)
    else:
        read = read_caption_tsv if path.suffix == ".tsv" else read_caption_json
        found = read(path, images, required=required)
    return found if exclude is None else without(found, read_excluded(exclude))


def _of_catalog(
    name: str, data_root: Path, images: Path | None, required: bool, progress: shapes.Progress | None
) -> CaptionedImages:
    pairs = Pairs()

    def also(key: str, entry: Any) -> None:
        try:
            add_entry(pairs, key, entry, with_images=False)
        except ENTRY_ERRORS as error:
            raise InputError(
                f"{name}: an entry of `{key}`: {error!r}.", "Captions as COCO has them."
            ) from None

    dataset = load_dataset(
        name, data_root=data_root, images=images, require_images=required, progress=progress, also=also
    )
    return CaptionedImages(
        name="-".join(filter(None, (dataset.name, dataset.split))),
        image_root=dataset.image_root,
        own_ids=True,
        records=[
            CaptionedImage(image_id, file_name, tuple(pairs.captions.get(str(image_id), ())))
            for image_id, file_name in zip(dataset.image_ids, dataset.file_names, strict=True)
        ],
        dropped=pairs.dropped,
    )


@dataclass(frozen=True)
class Excluded:
    """Images that must not be trained on, such as LVIS val, which lies partly in COCO train2017.

    Attributes:
        file: which says so.
        ids: as texts; they count for sources with ids of their own.
        names: last parts of file names; they count for the others.
    """

    file: Path
    ids: frozenset[str]
    names: frozenset[str]

    def has(self, record: CaptionedImage, own_ids: bool) -> bool:
        """Whether an image is one of these."""
        if own_ids:
            return str(record.image_id) in self.ids
        return PurePosixPath(record.file_name).name in self.names


def read_excluded(file: Path) -> Excluded:
    """The images of a COCO-style annotation file.

    Raises:
        MissingFileError, InputError: no such file, broken JSON, or no images.
    """
    entries = [
        entry for key, entry in JsonFile(file).sections() if key == "images" and isinstance(entry, dict)
    ]
    if not entries or not all("id" in entry for entry in entries):
        raise InputError(
            f"{file} lists no images.", "A COCO-style file, such as that of LVIS val.", "--exclude FILE"
        )
    names = (str(entry.get("coco_url") or entry.get("file_name") or "") for entry in entries)
    return Excluded(
        file,
        frozenset(str(entry["id"]) for entry in entries),
        frozenset(name.rpartition("/")[2] for name in names if name),
    )


def without(images: CaptionedImages, excluded: Excluded) -> CaptionedImages:
    """The images that are not excluded; the others are counted.

    Raises:
        InputError: nothing would be left.
    """
    kept: Sequence[CaptionedImage] = [
        record for record in images.records if not excluded.has(record, images.own_ids)
    ]
    if not kept:
        found = f"All {len(images)} images of {images.name} are in {excluded.file}."
        raise InputError(found, "Training images beside those that are excluded.", "Check --exclude.")
    dropped = images.dropped.copy()
    dropped.update({EXCLUDED: len(images) - len(kept)} if len(kept) < len(images) else {})
    return replace(images, records=kept, dropped=dropped)
