"""Names that options take."""

from pathlib import Path

import huggingface_hub
import pytest

from pipeline.verbs.evaluate import EvalSettings
from pipeline.verbs.label import LabelSettings
from pipeline.verbs.train import TrainSettings
from regionspot_cache.config import load_config


def test_heads_are_folders_or_hub_ids(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo, **_: f"/fetched/{repo}")
    given = {"source": "a.json", "classes": "n.txt", "out": "b.json"}
    for name, folder in (("me/street", "/fetched/me/street"), ("runs/bl", "runs/bl"), ("bl", "bl")):
        assert load_config(LabelSettings, checkpoint=name, **given).checkpoint == Path(folder)
        assert load_config(TrainSettings, init=name).init == Path(folder)
        assert load_config(EvalSettings, checkpoints=[name]).checkpoints == (Path(folder),)
