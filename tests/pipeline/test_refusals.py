"""What the file system or others put in the way ends in three lines: found, expected, next command."""

import json
from pathlib import Path

import pytest
import torch

from pipeline.verbs.predict import parse_boxes, parse_classes
from regionspot_cache.backbones.weights import read_state
from regionspot_cache.datasets.hierarchy import hierarchy_ignore
from regionspot_cache.errors import InputError, MissingFileError, UsageError
from regionspot_cache.models.official import read_official
from regionspot_cache.training.head import HeadConfig, RegionHead
from tests.running import rs_cache


def refused(*arguments: object, code: int = 1) -> dict[str, str]:
    """The three lines of a command that must fail."""
    ran = rs_cache(*arguments)
    assert ran.code == code, ran.err
    assert set(ran.error) == {"error", "expected", "next"}, ran.err
    assert "RS_DEBUG" not in ran.err
    return ran.error


@pytest.mark.parametrize("name", ["metrics.json", "per_class.csv", "report.html", ""])
def test_a_folder_or_a_file_where_an_evaluation_writes(name: str, workplace: Path) -> None:
    Path("theirs.json").write_text("[]")
    if name:
        Path("out", name).mkdir(parents=True)
    else:
        Path("out").write_text("a file")
    error = refused("eval", "--method", "results:theirs.json", "--out", "out")
    assert name in error["error"]
    assert "out" in error["error"]


def test_an_error_without_remedy_has_one(workplace: Path) -> None:
    assert refused("extract", "--backbone", "none", code=2)["next"] == "rs-cache extract --help"


def test_more_class_names_than_a_path_can_be_long(tmp_path: Path) -> None:
    names = [f"class {number}" for number in range(2000)]
    assert parse_classes(",".join(names), tmp_path) == names


@pytest.mark.parametrize(
    ("text", "content", "kind"),
    [("names.txt", b"\xff\xfe", InputError), ("none.txt", None, MissingFileError), (" , ", None, UsageError)],
)
def test_class_names_that_cannot_be_read(
    text: str, content: bytes | None, kind: type[Exception], workplace: Path
) -> None:
    if content:
        Path(text).write_bytes(content)
    with pytest.raises(kind):
        parse_classes(text, workplace)


@pytest.mark.parametrize("content", ["[" * 100_000, "", "{}", "[[1, 2]]", "null", "[[1, 1, 9, 9], [1]]"])
def test_files_that_hold_no_boxes(content: str, workplace: Path) -> None:
    Path("boxes.json").write_text(content)
    with pytest.raises(UsageError, match="boxes"):
        parse_boxes("boxes.json")


@pytest.mark.parametrize(
    "content", [b"hello", b"", b"PK\x03\x04" + bytes(60), b"\x80\x02.", b"(((((", b"\x00"]
)
def test_weights_that_are_none(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    for read in (read_state, read_official):
        with pytest.raises(InputError, match="cannot be read"):
            read(path)


def own_file(network: str, model: str, weights: str = "included") -> None:
    """own.yaml: the packaged networks, but for one."""
    parts = {name: f"{{network: {name}, model: packaged, weights: packaged}}" for name in ("sam", "clip")}
    parts[network] = f"{{network: {network}, model: '{model}', weights: '{weights}'}}"
    Path("own.yaml").write_text(f"parts: {{sam: {parts['sam']}, clip: {parts['clip']}}}")


def test_a_seed_that_torch_does_not_take(workplace: Path) -> None:
    own_file("sam", "packaged", "random:99999999999999999999999")
    assert "has no seed" in refused("extract", "--backbone", "own.yaml", "--part", "sam", code=2)["error"]


@pytest.mark.parametrize(
    "content", ["[]", '{"model_type": 3}', '{"model_type": "sam2", "vision_config": 3}', "["]
)
def test_folders_of_transformers_with_a_broken_config(content: str, workplace: Path) -> None:
    Path("hf").mkdir()
    Path("hf/config.json").write_text(content)
    own_file("sam", "local-dir:hf")
    refused("extract", "--backbone", "own.yaml", "--part", "sam")


def test_folders_of_open_clip_with_a_broken_config_or_a_pickle(workplace: Path) -> None:
    folder = Path("clip")
    folder.mkdir()
    own_file("clip", "local-dir:clip")
    (folder / "open_clip_config.json").write_text('{"model_cfg": 3}')
    refused("extract", "--backbone", "own.yaml", "--part", "clip")
    vision = {"image_size": 32, "layers": 1, "width": 16, "patch_size": 8, "head_width": 8}
    text = {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    config = {"model_cfg": {"embed_dim": 8, "vision_cfg": vision, "text_cfg": text}, "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.save({"trap": Trap()}, folder / "open_clip_pytorch_model.bin")
    refused("extract", "--backbone", "own.yaml", "--part", "clip")
    assert not Path("sprung").exists()


class Trap:
    """Whose unpickling would leave a mark."""

    def __reduce__(self) -> tuple:
        return Path.touch, (Path("sprung"),)


@pytest.mark.parametrize(
    "content",
    [
        "[" * 100_000,
        '{"LabelName": "a", "Subcategory": [' * 900 + '{"LabelName": "b"}' + "]}" * 900,
        '{"LabelName": "a", "Subcategory": null}',
        '{"father2child": [1], "id2name": {}}',
    ],
)
def test_class_trees_that_are_none(content: str, tmp_path: Path) -> None:
    path = tmp_path / "tree.json"
    path.write_text(content)
    with pytest.raises(InputError) as caught:
        hierarchy_ignore(path, ["cat"])
    assert caught.value.expected


@pytest.mark.parametrize("results", [3, [1], [{}], [{"protocol": 1, "metrics": 2}]])
def test_metrics_for_a_card_that_are_none(results: object, tmp_path: Path) -> None:
    head = RegionHead(HeadConfig(token_dim=4, map_dim=8, text_dim=4, maps=((1, 2, 2),), depth=1))
    head.save_pretrained(tmp_path)
    (tmp_path / "metrics.json").write_text(json.dumps({"results": results}))
    error = refused("push", tmp_path, "a/b", "--metrics", tmp_path / "metrics.json")
    assert "has no results" in error["error"]
