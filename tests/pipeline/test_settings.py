"""Settings of the verbs, and the files that set them."""

from pathlib import Path

import pytest

from pipeline.places import CONFIGS, shipped
from pipeline.reproduce.rows import TABLE_FILE, PaperTable, Row
from pipeline.verbs.demo import DemoSettings
from pipeline.verbs.evaluate import EvalSettings
from pipeline.verbs.extract import ExtractSettings
from pipeline.verbs.plan import PlanSettings
from pipeline.verbs.reproduce import ReproduceSettings
from pipeline.verbs.train import TrainSettings
from regionspot_cache.backbones import load_preset
from regionspot_cache.config import load_config
from regionspot_cache.errors import UsageError

KINDS = {"extract": ExtractSettings, "train": TrainSettings, "eval": EvalSettings}
FILES = sorted(CONFIGS.rglob("*.yaml"))


def test_there_are_files_of_every_kind() -> None:
    assert {file.parent.name for file in FILES} >= {*KINDS, "backbones"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(CONFIGS)))
def test_every_shipped_file_loads(file: Path) -> None:
    folder = file.relative_to(CONFIGS).parent.name
    if folder == "backbones":
        assert load_preset(file).name == file.stem
    elif folder in KINDS:
        settings = load_config(KINDS[folder], file)
        assert settings != KINDS[folder]() or "shapes" in file.name  # those repeat the defaults
    elif folder == "plan":
        load_config(PlanSettings, file)
    elif folder == "worlds":
        assert load_config(ReproduceSettings, file).world == file.stem
    elif file.parents[1].name == "reproduce":
        load_config(PaperTable if file.name == TABLE_FILE else Row, file)
    elif file.stem == "demo":
        load_config(DemoSettings, file)
    else:
        raise AssertionError(f"{file} is of no kind that a verb takes")


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(CONFIGS)))
def test_every_shipped_file_says_what_it_is(file: Path) -> None:
    assert file.read_text(encoding="utf-8").startswith("#")


def test_shipped_files_by_name() -> None:
    assert shipped("train/shapes.yaml").is_file()
    assert shipped("reproduce/table1/05-regionspot-bl-gt.yaml").is_file()
    with pytest.raises(UsageError, match=r"no/such\.yaml"):
        shipped("no/such.yaml")


@pytest.mark.parametrize(
    "values",
    [
        {"partition_size": 0},
        {"batch_size": -1},
        {"decode_threads": 0},
        {"workers": -1},
        {"limit": 0},
        {"max_failed": 1.5},
        {"workers": 1, "scheduler": "tcp://a:1"},
    ],
)
def test_settings_that_make_no_sense(values: dict) -> None:
    with pytest.raises(UsageError):
        load_config(ExtractSettings, **values)
