"""Model folders from and to the hub, without a network: the hub's library is replaced."""

import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import HFValidationError, HTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

from regionspot_cache.errors import IdentityError, InputError, MissingFileError, RegionSpotError, UsageError
from regionspot_cache.models import hub
from regionspot_cache.models.card import model_card
from regionspot_cache.recognition.predictor import RegionPredictor
from regionspot_cache.training.checkpoint import publish_model
from regionspot_cache.training.head import HeadConfig, RegionHead

SIZES = {
    "token_dim": 6,
    "map_dim": 16,
    "text_dim": 5,
    "maps": ((1, 2, 2),),
    "num_heads": 2,
    "ffn_dim": 8,
    "depth": 1,
}


@pytest.fixture
def head() -> RegionHead:
    torch.manual_seed(0)
    return RegionHead(HeadConfig(**SIZES)).eval()


class FakeHub:
    """Repositories as folders; records what is asked for."""

    def __init__(self, root: Path) -> None:
        self.root, self.asked, self.error, self.token = root, [], None, "secret"

    def snapshot_download(self, repo_id: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        self.asked.append((repo_id, revision, allow_patterns))
        if self.error:
            raise self.error
        return str(self.root / repo_id)

    def make_api(self, token: str | None) -> "FakeHub":
        self.asked.append(("token", token))
        return self

    def create_repo(self, repo_id: str, *, private: bool | None, exist_ok: bool) -> str:
        if self.error:
            raise self.error
        self.asked.append(("create", repo_id, private, exist_ok))
        return f"https://hub/{repo_id}"

    def upload_folder(
        self, *, repo_id: str, folder_path: Path, allow_patterns: Any, commit_message: str
    ) -> None:
        assert commit_message
        target = self.root / repo_id
        target.mkdir(parents=True)
        for path in huggingface_hub.utils.filter_repo_objects(
            [str(p.relative_to(folder_path)) for p in folder_path.rglob("*") if p.is_file()],
            allow_patterns=allow_patterns,
        ):
            shutil.copy(folder_path / path, target / path)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake.snapshot_download)
    monkeypatch.setattr(huggingface_hub, "HfApi", fake.make_api)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: fake.token)
    return fake


def test_a_pushed_head_comes_back_equal(head: RegionHead, fake: FakeHub, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    head.save_pretrained(folder, {"trained_on": {"shapes": {"classes": 7, "images": 90}}})
    for stray in ("notes.txt", "checkpoints/step-1/model.safetensors", "checkpoint.pth", "metrics.jsonl"):
        (folder / stray).parent.mkdir(parents=True, exist_ok=True)
        (folder / stray).write_text("stays here")
    address = hub.push_to_hub(folder, "me/street", private=True, token="mine")
    assert address == "https://hub/me/street"
    assert fake.asked == [("token", "mine"), ("create", "me/street", True, True)]
    uploaded = sorted(p.name for p in (fake.root / "me/street").rglob("*"))
    assert uploaded == ["README.md", "config.json", "model.safetensors"]
    loaded = RegionHead.from_pretrained("me/street@v1.0")
    assert fake.asked[-1] == ("me/street", "v1.0", list(hub.MODEL_FILES))
    tokens, feature_map = torch.randn(1, 3, 6), torch.randn(1, 5, 16)
    assert torch.equal(loaded(tokens, feature_map), head(tokens, feature_map))


def test_a_head_alone_is_pushed_from_memory(head: RegionHead, fake: FakeHub) -> None:
    assert (
        head.push_to_hub("me/bare", {"inputs": {"query": "sam/mlp", "memory": ["clip/map"]}}, private=False)
        == "https://hub/me/bare"
    )
    assert ("create", "me/bare", False, True) in fake.asked
    assert RegionHead.from_pretrained("me/bare").config == head.config


def test_nothing_else_than_model_files_is_fetched_and_none_is_a_pickle() -> None:
    assert {Path(name).suffix for name in hub.MODEL_FILES} == {
        ".json",
        ".safetensors",
        ".yaml",
        ".txt",
        ".md",
    }


def test_a_local_folder_wins(
    head: RegionHead, fake: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    head.save_pretrained("runs/bl")
    assert RegionHead.from_pretrained("runs/bl").config == head.config
    for local in (Path("runs/none"), "runs/none", "./runs/none", "runs", "/runs/none", "runs/a/b", "../a/b"):
        with pytest.raises(MissingFileError, match=r"config\.json"):
            RegionHead.from_pretrained(local)
    assert fake.asked == []


def test_loading_from_the_hub_is_strict(head: RegionHead, fake: FakeHub) -> None:
    head.push_to_hub("me/wide")
    other = RegionHead(HeadConfig(**SIZES | {"text_dim": 6}))
    other.save_pretrained(fake.root / "other")
    shutil.copy(fake.root / "other/config.json", fake.root / "me/wide/config.json")
    with pytest.raises(IdentityError, match=r"projector\.bias"):
        RegionHead.from_pretrained("me/wide")


def test_a_predictor_comes_from_the_hub(finished: Path, fake: FakeHub) -> None:
    hub.push_to_hub(finished / "rs-cache-data/runs/small", "me/whole")
    assert (fake.root / "me/whole/backbone.yaml").is_file()
    image = finished / "rs-cache-data/datasets/shapes/images/val/000001.jpg"
    found, expected = (
        RegionPredictor.from_pretrained(source)
        .set_image(image)
        .predict([[10, 10, 60, 60]], ["red star", "b"])
        for source in ("me/whole", str(finished / "rs-cache-data/runs/small"))
    )
    assert found.probabilities.tolist() == expected.probabilities.tolist()


@pytest.mark.parametrize(
    "error",
    [
        LocalEntryNotFoundError("no network"),
        OfflineModeIsEnabled("offline mode is on"),
        HTTPError("connect failed\nand much more"),
        HFValidationError("no such name"),
        ConnectionError(),
    ],
)
def test_hub_errors_have_three_lines(
    error: Exception, head: RegionHead, fake: FakeHub, tmp_path: Path
) -> None:
    head.save_pretrained(tmp_path / "run")
    fake.error = error
    with pytest.raises(MissingFileError) as fetching:
        RegionHead.from_pretrained("me/street")
    with pytest.raises(InputError) as pushing:
        hub.push_to_hub(tmp_path / "run", "me/street")
    for caught in (fetching, pushing):
        assert "me/street" in caught.value.found
        assert len(str(caught.value).splitlines()) == 3
        assert caught.value.__cause__ is error
    assert "hf auth login" in fetching.value.remedy


def test_what_cannot_be_pushed(head: RegionHead, fake: FakeHub, tmp_path: Path) -> None:
    def refused(kind: type[RegionSpotError], name: str) -> str:
        with pytest.raises(kind) as caught:
            hub.push_to_hub(tmp_path, name)
        assert len(str(caught.value).splitlines()) >= 2
        return str(caught.value)

    assert "config.json" in refused(MissingFileError, "me/street")
    head.save_pretrained(tmp_path)
    for name in ("street", "me/street@v1", "a/b/c", "/me/street", "https://hub/me/street"):
        assert name in refused(UsageError, name)
    fake.token = None
    assert "hf auth login" in refused(InputError, "me/street")
    assert fake.asked == []


def test_the_card_tells_what_the_config_knows() -> None:
    config = {
        "head": HeadConfig(**SIZES).to_dict(),
        "networks": {
            "sam": {"model": "vit_b", "weights_sha256": "ab" * 32, "preprocess": "longest side 1024"},
            "clip": {"model": "ViT-L-14"},
        },
        "inputs": {"query": "sam/transformer", "memory": ["clip/map"]},
        "text": {"templates": ["a | b {}"], "cleaning": "raw", "average": "raw-mean"},
        "trained_on": {"o365": {"classes": 365, "images": 600_000}, "a|b\n# c": {"classes": 1, "images": 2}},
    }
    protocol = {"dataset": "shapes", "proposals": "gt"}
    card = model_card(
        config, [{"protocol": protocol, "metrics": {"box": {"AP": 0.25, "APr": -1.0, "boxes": 4}}}]
    )
    assert card.startswith("---\nlibrary_name: regionspot-cache\n")
    assert "| sam | vit_b | abababababababab | longest side 1024 |" in card
    assert "| clip | ViT-L-14 | not recorded |  |" in card
    assert "relates sam/transformer of every box (6 wide) to clip/map (2 x 2 patches, 16 wide)" in card
    assert "| o365 | 365 | 600000 |" in card
    assert "| a\\|b # c | 1 | 2 |" in card
    assert "| self_attention | True |" in card
    assert "- box: AP 25.0, APr -, boxes 4 (dataset shapes; proposals gt)" in card
    assert 'RegionPredictor.from_pretrained("ORG/NAME")' in card
    assert "## Licence" in card
    bare = model_card({"head": config["head"]})
    assert not [
        title for title in ("Networks", "training data", "Prompts", "Metrics") if f"## {title}" in bare
    ]
    imported = model_card(config | {"imported_from": {"file": "bl.pth", "sha256": "cd"}})
    assert "CC BY-NC" in imported
    assert "bl.pth" in imported


def test_publishing_writes_the_card_before_the_config(
    head: RegionHead, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced = []
    replace = shutil.os.replace
    monkeypatch.setattr("os.replace", lambda a, b: (replaced.append(Path(b).name), replace(a, b)))
    publish_model(tmp_path, head, {"trained_on": {"here": {"classes": 3, "images": 9}}})
    assert replaced == ["model.safetensors", "README.md", "config.json"]
    assert "| here | 3 | 9 |" in (tmp_path / "README.md").read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(replaced)
