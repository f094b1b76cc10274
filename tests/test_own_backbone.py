"""The example of docs/own-backbone.md, as it stands there, from extraction to prediction."""

import hashlib
import json
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from regionspot_cache.backbones import load_part, load_preset
from regionspot_cache.datasets.images import read_image
from regionspot_cache.identity import for_reading
from regionspot_cache.store import open_cache
from regionspot_cache.training.head import read_model_config
from tests.backbones.small import picture
from tests.running import rs_cache

TEXT = (Path(__file__).parents[1] / "docs" / "own-backbone.md").read_text(encoding="utf-8")


def block(kind: str) -> str:
    [found] = re.findall(rf"```{kind}\n(.*?)```", TEXT, re.DOTALL)
    return found


CACHE = Path("rs-cache-data/caches/shapes-train-tiny")
SHORT = {  # of each verb, what makes the commands of the page short
    "extract": ("--limit", "6", "--set", "partition_size=4"),
    "train": (
        *("--set", "training.stages=[{name: a, steps: 2}]", "--set", "training.batch_size=2"),
        *("--set", "prompts.templates=single"),  # of 320 classes, whose embedding is most of the time
    ),
    "eval": ("--limit", "4", "--set", "details=false"),
}


@pytest.fixture
def place(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A workplace with the files of the page; `code` can be imported."""
    code = workplace / "code"
    code.mkdir()
    (code / "my_dino.py").write_text(block("python"))
    (workplace / "tiny-dino.yaml").write_text(block("yaml"))
    (workplace / "installed.yaml").write_text(block("yaml").replace("my_dino:Dino", "my-dino"))
    monkeypatch.syspath_prepend(str(code))
    yield workplace
    sys.modules.pop("my_dino", None)


def install(code: Path) -> None:
    """What an installer makes of the entry points of the page."""
    found = re.fullmatch(r'\[project\.entry-points\."(.+)"\]\n(\S+) = "(.+)"\n', block("toml"))
    assert found
    group, name, value = found.groups()
    info = code / "my_dino-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-dino\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {value}\n")


def run(command: str) -> str:
    """What it prints; a command of the page, made short."""
    _, verb, *arguments = shlex.split(command)
    ran = rs_cache(verb, *arguments, *SHORT.get(verb, ()))
    assert ran.code == 0, f"{command}\n{ran.err}"
    return ran.out


def stored(cache: Path) -> dict[str, str]:
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for part in ("plan", "parts/sam", "parts/clip")
        for path in sorted((cache / part).rglob("*"))
        if path.is_file()
    }


def predict(folder: str, *more: str) -> int:
    image = next(Path("rs-cache-data/datasets/shapes").rglob("*.jpg"))
    return rs_cache(
        *("predict", image, "--checkpoint", folder, "--boxes", "10,10,60,60", "--classes", "red star,a"),
        *more,
    ).code


def test_the_example_is_short() -> None:
    assert len(block("python").splitlines()) <= 40


def test_the_commands_of_the_page(place: Path) -> None:
    commands = [line for line in block("sh").splitlines() if line.startswith("rs-cache ")]
    first, listed, added, *others = commands
    run(first)
    before = stored(CACHE)
    assert "my_dino:Dino" in run(listed)
    run(added)
    assert before.items() <= stored(CACHE).items()
    for command in others:
        run(command)

    cache, network = open_cache(CACHE), load_part(load_preset("tiny-dino.yaml").parts["dino"])
    assert list(cache.parts) == ["clip", "dino", "sam"]
    assert cache.parts["dino"].fingerprint == network.fingerprint() | {"decoder": "pillow"}
    for i in range(len(cache)):
        image = read_image(Path(cache.image_root) / cache.file_names[i])
        made = network.encode(network.preprocess(image)[None], [cache.boxes(i)], [image.shape[:2]])
        expected, found = made["map"][0].numpy(), cache.read("dino/map", i)
        assert found.shape == network.arrays["map"].shape == (196, 192)
        assert np.abs(expected - found).max() < np.abs(expected).max() / 127
    both, alone = (read_model_config(Path(name)) for name in ("both-maps", "dino-alone"))
    assert both["inputs"] == {"query": "sam/transformer", "memory": ["clip/map", "dino/map"]}
    assert alone["inputs"] == {"query": "sam/transformer", "memory": ["dino/map"]}
    assert both["networks"]["dino"] == for_reading(network.fingerprint())

    assert predict("both-maps") == 2  # the folder may not choose code to run
    assert predict("both-maps", "--backbone", "tiny-dino.yaml") == 0
    install(place / "code")
    names = json.loads(rs_cache("backbones", "installed.yaml", "--json").out)["registered"]
    assert names == ["my-dino"]
    run(others[0].replace("tiny-dino.yaml", "installed.yaml").replace("both-maps", "named"))
    assert predict("named") == 0


def test_its_weights_can_be_a_file(place: Path) -> None:
    spec = load_preset("tiny-dino.yaml").parts["dino"]
    network = load_part(spec)
    other = load_part(replace(spec, weights="random:1"))
    assert other.fingerprint() != network.fingerprint()
    torch.save(network.state_dict(), "dino.pth")
    again = load_part(replace(spec, weights="dino.pth"))
    assert again.fingerprint() == network.fingerprint()
    batch = network.preprocess(picture(30, 50))[None]
    mine, same, different = (n.encode(batch, [], [])["map"] for n in (network, again, other))
    assert torch.equal(mine, same)
    assert not torch.allclose(mine, different, atol=0.1)
