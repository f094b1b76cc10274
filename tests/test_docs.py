"""What the documents tell people to type, and where to put files, agrees with the code."""

import re
import shlex
from fnmatch import fnmatch
from itertools import pairwise
from pathlib import Path
from pkgutil import resolve_name

import pytest
import typer

from pipeline.cli import app
from pipeline.places import shipped
from pipeline.verbs.evaluate import EvalSettings
from pipeline.verbs.extract import ExtractSettings
from pipeline.verbs.reproduce import ReproduceSettings
from pipeline.verbs.train import TrainSettings
from regionspot_cache.backbones.load import DETECTOR_FILE, SAM_FILES
from regionspot_cache.backbones.presets import PRESETS
from regionspot_cache.config import load_config
from regionspot_cache.datasets.catalog import DATASET_NAMES, SHAPES
from regionspot_cache.datasets.sources import OPENIMAGES_CLASSES, OPENIMAGES_SIZES, SOURCES
from regionspot_cache.store import PartSpec
from regionspot_cache.store.layout import PlanShape, part_arrays, plan_arrays
from regionspot_cache.training import config as training_config
from tests.store.small_world import box_array, map_array

ROOT = Path(__file__).parents[1]
TEXTS = {file.name: file.read_text(encoding="utf-8") for file in sorted((ROOT / "docs").glob("*.md"))}
GUIDE = TEXTS["zero-to-table1.md"]
COMMANDS = sorted(
    {
        (name, command.strip())
        for name, text in TEXTS.items()
        for command in re.findall(
            r"(?<![\w-])rs-cache (?!VERB)([a-z]+[^`\n;#|]*)", re.sub(r"\\\n\s*", "", text)
        )
    }
)
SETTINGS = {
    "extract": ExtractSettings,
    "train": TrainSettings,
    "eval": EvalSettings,
    "reproduce": ReproduceSettings,
}
DATA = "rs-cache-data/datasets/"
# Images and boxes of the guide's data sets, and tokens x width of the maps of its backbones.
SIZES = {
    "Objects365 v1": (660_000, 10_400_000),
    "Objects365 v2": (1_742_289, 27_500_000),
    "OpenImages": (1_743_042, 14_600_000),
    "V3Det": (183_354, 1_357_377),
    "LVIS val": (19_809, 244_707),
}
MAPS = ((197, 768), (257, 1024), (577, 1024))
LIMITS = (742, 663, 559)  # images a second


def options(arguments: list[str], name: str) -> list[str]:
    return [value for option, value in pairwise(arguments) if option == name]


@pytest.mark.parametrize(("file", "command"), COMMANDS)
def test_commands_name_real_verbs_options_and_settings(
    file: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_config, "find_spec", lambda _: True)  # an extra may not be installed here
    verb, *arguments = shlex.split(command.replace("...", ""))
    verbs = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert verb in verbs
    known = {option for parameter in verbs[verb].params for option in parameter.opts}
    assert {a.partition("=")[0] for a in arguments if a.startswith("--")} <= known
    if verb in SETTINGS:
        asked = options(arguments, "--world") or (["shapes"] if verb == "reproduce" else [])
        worlds = [shipped(f"reproduce/worlds/{name}.yaml") for name in asked]
        files = [shipped(name.removeprefix("configs/")) for name in options(arguments, "--config")]
        config = next(iter(files + worlds), None)
        load_config(SETTINGS[verb], config, options(arguments, "--set"))


@pytest.mark.parametrize(("file", "command"), COMMANDS)
def test_commands_name_real_datasets_and_backbones(file: str, command: str) -> None:
    arguments = shlex.split(command.replace("...", ""))
    for dataset in options(arguments, "--dataset"):
        name, _, split = dataset.partition(":")
        if not dataset.endswith(".json") and "/" not in dataset and name.islower():
            assert name in DATASET_NAMES
            splits = ("train", "val") if name in SHAPES else SOURCES.get(name, SOURCES["o365v1"]).splits
            assert split in ("", *splits)
    for backbone in options(arguments, "--backbone"):
        assert backbone in PRESETS or backbone.endswith(".yaml") or not backbone.islower()


def test_the_guide_uses_every_step() -> None:
    verbs = {command.split()[0] for file, command in COMMANDS if file == "zero-to-table1.md"}
    assert verbs >= {"import", "extract", "status", "verify", "train", "eval", "reproduce"}


@pytest.mark.parametrize(
    "path", sorted({p for t in TEXTS.values() for p in re.findall(r"configs/[\w/.-]+", t)})
)
def test_named_configs_exist(path: str) -> None:
    assert (ROOT / path.rstrip(".")).exists()


@pytest.mark.parametrize("path", sorted(set(re.findall(rf"{DATA}([\w/.*-]+\.\w+)", GUIDE))))
def test_files_of_the_guide_are_where_the_readers_look(path: str) -> None:
    if path.endswith(".jpg"):
        folders = {root for source in SOURCES.values() for root in source.roots}
        assert any(path.startswith(f"{folder}/") for folder in folders)
        return
    patterns = [place for source in SOURCES.values() for place in source.annotations]
    places = {
        place.format(split=split)
        for place in (*patterns, *OPENIMAGES_CLASSES, *OPENIMAGES_SIZES)
        for split in ("train", "val")
    }
    assert path in places


def test_the_guide_shows_images_as_the_catalog_does() -> None:
    shown = [line for line in GUIDE.splitlines() if line.startswith(DATA) and line.endswith(".jpg")]
    wanted = ("objects365/train/*.jpg", "coco/train2017/*.jpg", "coco/val2017/*.jpg", "V3Det/images/*/*.jpg")
    for pattern in wanted:
        assert any(fnmatch(line.removeprefix(DATA), pattern) for line in shown), pattern


@pytest.mark.parametrize("url", sorted(set(re.findall(r"https?://[^\s`|)]+[^\s`|).,;]", GUIDE))))
def test_addresses_are_those_of_the_code(url: str) -> None:
    known = " ".join(
        text.format(split=split) if "{split}" in text else text
        for text in (source.origin for source in SOURCES.values())
        for split in ("train", "val")
    )
    assert url in known or url.startswith("https://arxiv.org/")


def test_weight_files_are_those_that_are_fetched() -> None:
    assert SAM_FILES["vit_b"].name in GUIDE
    assert DETECTOR_FILE.name in GUIDE


def cells(label: str, occurrence: int) -> list[str]:
    """The cells after the label in the n-th table row that begins with it."""
    rows = [line for line in GUIDE.splitlines() if line.startswith(f"| {label} |")]
    return [cell.strip() for cell in rows[occurrence].split("|")[2:-1]]


def row_bytes(tokens: int, width: int) -> tuple[int, int]:
    """Bytes of a map, and of a box with its token, from the layout of the store."""
    shape = PlanShape(num_images=8, num_boxes=8, partition_size=8, max_boxes=8, max_text=8)
    arrays = {"clip": map_array(tokens=tokens, width=width), "sam": box_array("transformer", 256)}
    clip, sam = (
        part_arrays(PartSpec(name=name, arrays=(array,), fingerprint={}), shape)
        for name, array in arrays.items()
    )
    boxes = plan_arrays(shape)
    return (
        sum(clip[name].row_bytes for name in ("map", "map_scale")),
        sum(sam[name].row_bytes for name in ("transformer", "transformer_scale")) + boxes["boxes"].row_bytes,
    )


@pytest.mark.parametrize("label", SIZES)
def test_cache_sizes_follow_from_the_layout(label: str) -> None:
    images, boxes = SIZES[label]
    expected = []
    for tokens, width in MAPS:
        of_map, of_box = row_bytes(tokens, width)
        assert f"{of_map:,}" in GUIDE
        assert of_box == 256 + 2 + 16
        expected.append(f"{(images * of_map + boxes * of_box) / 1e9:,.0f}")
    assert cells(label, 0) == expected


@pytest.mark.parametrize("label", SIZES)
def test_projected_hours_follow_from_the_limits(label: str) -> None:
    hours = [[SIZES[label][0] / (share * limit) / 3600 for share in (0.5, 0.4)] for limit in LIMITS]
    assert cells(label, 1) == [f"{low:.2f} to {high:.2f}" for low, high in hours]


def test_projected_reading_follows_from_the_schedule() -> None:
    maps = [row_bytes(*size)[0] for size in MAPS]
    assert cells("bytes read, TB", 0) == [f"{900_000 * 16 * size / 1e12:.1f}" for size in maps]
    label = "reading that 500 steps a second need, GB/s"
    assert cells(label, 0) == [f"{500 * 16 * size / 1e9:.1f}" for size in maps]


def test_counts_of_the_guide_are_the_ones_computed_with() -> None:
    for images, boxes in SIZES.values():
        for count in (images, boxes):
            millions = f"{count / 1e6:.1f} million"
            assert f"{count:,}" in GUIDE or millions in GUIDE


CHANGES = TEXTS["design.md"].partition("## Where a change goes")[2].partition("\n## ")[0]
ROWS = [line for line in CHANGES.splitlines()[4:] if line.startswith("| ")]


@pytest.mark.parametrize("row", ROWS, ids=[row.split("|")[1].strip() for row in ROWS])
def test_a_change_names_at_most_three_files_and_what_is_in_them(row: str) -> None:
    files = re.findall(r"`((?:pipeline|regionspot_cache)/[\w/]+\.py)`(?: \(([^)]*)\))?", row)
    assert len(files) <= 3
    for path, inside in files:
        text = (ROOT / path).read_text(encoding="utf-8")
        for name in re.findall(r"`(\w+)`", inside):
            assert re.search(rf"^ *(?:def|class) {name}\b|^{name}\b.*=", text, re.MULTILINE), (path, name)


def test_the_table_of_changes_has_rows() -> None:
    assert len(ROWS) == 10


TREES = re.findall(r"```\{toctree\}\n(.*?)```", TEXTS["index.md"], re.DOTALL)
ENTRIES = [line for tree in TREES for line in tree.splitlines() if line and not line.startswith(":")]


def in_tree(page: str, entry: str) -> bool:
    return page.count("/") == entry.count("/") and fnmatch(page, entry)


def test_every_page_is_in_the_contents_of_the_site() -> None:
    docs = ROOT / "docs"
    pages = {page.relative_to(docs).with_suffix("").as_posix() for page in docs.rglob("*.md")}
    pages = {page for page in pages if not page.startswith("_build/")} - {"index"}
    assert len(pages) > 15
    assert {page for page in pages if not any(in_tree(page, entry) for entry in ENTRIES)} == set()
    assert [entry for entry in ENTRIES if not any(in_tree(page, entry) for page in pages)] == []


PUBLIC = (
    *(f"regionspot_cache.store.{name}" for name in ("Cache", "open_cache")),
    *("regionspot_cache.extraction.extract", "regionspot_cache.training.train"),
    "regionspot_cache.backbones.Encoder",
)
MODULES = ("", ".datasets", ".recognition", ".recognition.predictor", ".errors")


def test_the_python_pages_have_the_public_names() -> None:
    text = "\n".join(file.read_text(encoding="utf-8") for file in (ROOT / "docs" / "api").glob("*.md"))
    directives = re.findall(r"^\.\. auto\w+:: (\S+)", text, re.MULTILINE)
    assert {*PUBLIC, *(f"regionspot_cache{module}" for module in MODULES)} <= set(directives)
    for path in directives:
        resolve_name(path)
