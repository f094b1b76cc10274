"""The data sets known by name: which files they consist of, where those go, and who offers them."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Source:
    """One named data set.

    In paths, `{split}` stands for the split; all paths are relative to the data folder.

    Attributes:
        splits: names of the splits.
        default_split: used when none is named.
        annotations: places of the annotation file, the usual one first.
        roots: folders in which the images are looked for, the usual one first.
        images: what to put below the first root, for people.
        origin: where the files officially come from, for people.
    """

    splits: tuple[str, ...]
    default_split: str
    annotations: tuple[str, ...]
    roots: tuple[str, ...]
    images: str
    origin: str


def _places(folders: Iterable[str], *names: str) -> tuple[str, ...]:
    return tuple(folder + name for folder in folders for name in names)


_O365_V1 = Source(
    splits=("train", "val"),
    default_split="train",
    annotations=_places(
        ("objects365/", "objects365/annotations/", "objects365v1/"), "objects365_{split}.json"
    ),
    roots=("objects365", "objects365v1"),
    images="objects365/{split}/*.jpg",
    origin="Objects365 v1 (2019): https://www.objects365.org, https://opendatalab.com/OpenDataLab/Objects365_v1.",
)
_O365_V2 = Source(
    splits=("train", "val"),
    default_split="train",
    annotations=_places(
        ("objects365/", "objects365/annotations/", "objects365v2/", "objects365v2/annotations/"),
        "zhiyuan_objv2_{split}.json",
    ),
    roots=("objects365", "objects365v2"),
    images="objects365/{split}/patchN/*.jpg, as patchN.tar.gz unpacks",
    origin="Objects365 v2 (2020): https://www.objects365.org/download.html, with archives below "
    "https://dorc.ks3-cn-beijing.ksyun.com/data-set/2020Objects365%E6%95%B0%E6%8D%AE%E9%9B%86/{split}/ "
    "(zhiyuan_objv2_train.tar.gz, zhiyuan_objv2_val.json, patch0.tar.gz and so on).",
)

SOURCES: dict[str, Source] = {
    "o365v1": _O365_V1,
    "o365v2": _O365_V2,
    "v3det": Source(
        splits=("train", "val"),
        default_split="train",
        annotations=_places(
            ("V3Det/annotations/", "v3det/annotations/", "v3det/", "V3Det/"), "v3det_2023_v1_{split}.json"
        ),
        roots=("V3Det", "v3det", "v3det/V3Det"),
        images="V3Det/images/<category>/*.jpg",
        origin="V3Det: https://v3det.openxlab.org.cn, https://github.com/V3Det/V3Det, images also at "
        "https://huggingface.co/datasets/yhcao/V3Det_Backup.",
    ),
    "lvis": Source(
        splits=("train", "val", "minival"),
        default_split="val",
        annotations=_places(
            ("lvis/", "lvis/annotations/", "coco/annotations/"),
            "lvis_v1_{split}.json",
            "lvis_v1_{split}_inserted_image_name.json",  # GLIP's name of minival
        ),
        roots=("coco", "lvis"),
        images="coco/train2017/*.jpg and coco/val2017/*.jpg (LVIS val has images of both)",
        origin="LVIS v1: https://www.lvisdataset.org/dataset "
        "(https://dl.fbaipublicfiles.com/LVIS/lvis_v1_{split}.json.zip; minival is taken from val); images: "
        "http://images.cocodataset.org/zips/train2017.zip and http://images.cocodataset.org/zips/val2017.zip.",
    ),
    "coco": Source(
        splits=("train", "val"),
        default_split="val",
        annotations=("coco/annotations/instances_{split}2017.json",),
        roots=("coco",),
        images="coco/{split}2017/*.jpg",
        origin="COCO 2017: https://cocodataset.org/#download "
        "(http://images.cocodataset.org/annotations/annotations_trainval2017.zip, "
        "http://images.cocodataset.org/zips/{split}2017.zip).",
    ),
    "openimages": Source(
        splits=("train", "validation", "test"),
        default_split="train",
        annotations=_places(
            ("openimages/" + folder for folder in ("", "annotations/", "{split}/", "{split}/labels/")),
            "{split}-annotations-bbox.csv",
            "oidv6-{split}-annotations-bbox.csv",
        ),
        roots=("openimages", "openimages/images"),
        images="openimages/{split}/*.jpg, or in folders by first digit",
        origin="OpenImages V7, whose boxes are those of V6: "
        "https://storage.googleapis.com/openimages/web/download_v7.html; boxes "
        "https://storage.googleapis.com/openimages/v6/oidv6-train-annotations-bbox.csv, "
        "https://storage.googleapis.com/openimages/v5/{{validation,test}}-annotations-bbox.csv; classes "
        "https://storage.googleapis.com/openimages/v7/oidv7-class-descriptions-boxable.csv; images "
        "s3://open-images-dataset/{split} or s3://open-images-dataset/tar/{split}_*.tar.gz, without signing.",
    ),
}

OPENIMAGES_CLASSES = _places(
    ("openimages/", "openimages/annotations/", "openimages/metadata/"),
    "class-descriptions-boxable.csv",
    "oidv7-class-descriptions-boxable.csv",
)
OPENIMAGES_SIZES = _places(
    ("openimages/", "openimages/annotations/"),
    "{split}_sizes-00000-of-00001.csv",
    "{split}-image-sizes.csv",
)
