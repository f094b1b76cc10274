"""The example of docs/own-backbone.md, as it stands there, from extraction to prediction."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from regionspot_cache.backbones import ClipEncoder, load_clip, load_preset
from regionspot_cache.store import open_cache
from tests.backbones.small import picture
from tests.running import rs_cache

TEXT = (Path(__file__).parents[1] / "docs" / "own-backbone.md").read_text(encoding="utf-8")
BLOCKS = {
    kind: re.search(rf"```{kind}\n(.*?)```", TEXT, re.DOTALL).group(1) for kind in ("python", "yaml", "toml")
}
CACHE = "rs-cache-data/caches/shapes-train-my-clip"
SIZE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def save_small_clip(folder: Path) -> None:
    """A CLIP of transformers with random weights and a tokenizer of a few words."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    words = ["[PAD]", "[EOS]", "[UNK]", "a", "photo", "of", "red", "star"]
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    end = tokenizers.processors.TemplateProcessing(single="$A [EOS]", special_tokens=[("[EOS]", 1)])
    tokenizer.post_processor = end
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", eos_token="[EOS]", model_max_length=16
    ).save_pretrained(folder)
    ends = {"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0}
    config = transformers.CLIPConfig(
        text_config=SIZE | ends | {"vocab_size": len(words), "max_position_embeddings": 16},
        vision_config=SIZE | {"image_size": 48, "patch_size": 16},
        projection_dim=24,
    )
    torch.manual_seed(0)
    transformers.CLIPModel(config).save_pretrained(folder)


@pytest.fixture
def place(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A workplace with the files of the document, but small networks; `code` can be imported."""
    save_small_clip(workplace / "weights")
    code = workplace / "code"
    code.mkdir()
    (code / "my_clip.py").write_text(BLOCKS["python"])
    text = BLOCKS["yaml"].replace("openai/clip-vit-base-patch16", "weights")
    text = text.replace("{model: vit_b}", '{model: packaged, weights: "random:1"}')
    (workplace / "my.yaml").write_text(text)
    (workplace / "installed.yaml").write_text(text.replace("my_clip:MyClip", "my-clip"))
    monkeypatch.syspath_prepend(str(code))
    yield workplace
    sys.modules.pop("my_clip", None)


def install(code: Path) -> None:
    """What an installer makes of the entry points of the document."""
    group, name, value = re.fullmatch(
        r'\[project\.entry-points\."(.+)"\]\n(\S+) = "(.+)"\n', BLOCKS["toml"]
    ).groups()
    info = code / "my_clip-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-clip\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {value}\n")


def train(backbone: str, out: str) -> None:
    ran = rs_cache(
        *("train", "--config", "train.yaml", "--cache", CACHE, "--out", out),
        *("--set", f"backbone={backbone}", "--set", "training.stages=[{name: a, steps: 2}]"),
    )
    assert ran.code == 0, ran.err


def predict(folder: str, *more: str) -> int:
    image = next(Path("rs-cache-data/datasets/shapes").rglob("*.jpg"))
    return rs_cache(
        *("predict", image, "--checkpoint", folder, "--boxes", "10,10,60,60", "--classes", "red star,a"),
        *more,
    ).code


def test_the_example_is_short() -> None:
    assert len(BLOCKS["python"].splitlines()) < 40


def test_the_example_by_import_path_and_by_entry_point(place: Path) -> None:
    clip: ClipEncoder = load_clip(load_preset("my.yaml").clip)
    pixels = clip.preprocess(picture(30, 50))[None]
    assert clip.encode_map(pixels).shape == (1, *clip.map_shape) == (1, 10, 32)
    assert clip.encode_image(pixels).shape == clip.encode_text(["red star"]).shape == (1, 24)

    extract = ("extract", "--limit", "6", "--set", "partition_size=4", "--cache", CACHE)
    ran = rs_cache(*extract, "--backbone", "my.yaml")
    assert ran.code == 0, ran.err
    assert open_cache(CACHE, expect={"clip": clip.fingerprint()}).read_map(0).shape == (10, 32)
    train("my.yaml", "mine")
    assert json.loads(Path("mine/config.json").read_text())["clip"] == clip.fingerprint()
    assert predict("mine") == 2  # the folder may not choose code to run
    assert predict("mine", "--backbone", "my.yaml") == 0

    install(place / "code")
    listed = rs_cache("backbones", "my-clip-missing")
    assert "my-clip" in listed.error["expected"]
    train("installed.yaml", "named")  # the same network, so the same cache
    assert predict("named") == 0
