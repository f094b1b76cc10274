"""The commands of docs/caches.md, as they stand there, on the built-in world; and its numbers."""

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from regionspot_cache.backbones import SamSpec, load_preset
from regionspot_cache.backbones.costs import without_values
from regionspot_cache.extraction.features import part_spec
from regionspot_cache.store import open_cache
from regionspot_cache.store.layout import PlanShape, part_arrays
from tests.running import rs_cache

TEXT = (Path(__file__).parents[1] / "docs" / "caches.md").read_text(encoding="utf-8")
STEPS = [block.splitlines() for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)]
BACKBONE = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
CACHE = Path("rs-cache-data/caches/my-small")
SHORT = {"extract": ("--set", "partition_size=4"), "train": ("--config", "train.yaml"), "convert": ()}


def run(command: str) -> tuple[Any, str]:
    """Result and messages of a command of the page, with small networks."""
    small = re.sub(r"(?<=my-)bl\b", "small", command)
    small = re.sub(r"(?<=--backbone )bl\b|(?<=backbone=)bl\b", "small.yaml", small)
    _, verb, *arguments = shlex.split(small)
    ran = rs_cache(verb, *SHORT[verb], *arguments, "--json")
    assert ran.code == 0, f"{small}\n{ran.err}"
    return ran.json, ran.err


def contents() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in CACHE.rglob("*") if path.is_file()}


@pytest.fixture
def annotations(workplace: Path) -> dict[str, Any]:
    """Those of my.json, whose pictures are in photos/; its last two pictures are left out."""
    shutil.copytree("rs-cache-data/datasets/shapes", "photos")
    found = json.loads(Path("photos/train.json").read_text(encoding="utf-8"))
    known = {image["id"] for image in found["images"][:-2]}
    here = [box for box in found["annotations"] if box["image_id"] in known]
    write("my.json", found | {"images": found["images"][:-2], "annotations": here})
    return found


def write(name: str, values: dict[str, Any]) -> None:
    Path(name).write_text(json.dumps(values), encoding="utf-8")


def renamed(values: dict[str, Any]) -> dict[str, Any]:
    return values | {"categories": [c | {"name": f"my {c['name']}"} for c in values["categories"]]}


def test_labels_at_use_and_updates(annotations: dict[str, Any]) -> None:
    [[extract, first, _, again], [other], [dry, update], [dense]] = STEPS
    assert run(extract)[0]["images"] == len(annotations["images"]) - 2
    before = contents()
    run(first)
    write("my.json", renamed(json.loads(Path("my.json").read_text(encoding="utf-8"))))
    run(again)
    assert Path("relabelled/classes.txt").read_text().startswith("my ")
    assert not Path("first/classes.txt").read_text().startswith("my ")

    write("other.json", annotations)
    found, said = run(other)
    assert found["left_out"]["my-small"]["image not in the cache"] == 2
    assert "left out 2 image not in the cache" in said
    assert contents() == before

    write("my.json", renamed(annotations))
    refused = rs_cache("extract", *SHORT["extract"], *shlex.split(extract.replace("bl", "small.yaml"))[2:])
    assert refused.code == 4
    assert "--update" in refused.error["next"]
    assert run(dry)[0]["images_left"] == 2
    assert contents() == before
    assert run(update)[0]["computed_images"] == 2
    assert {name: data for name, data in contents().items() if name in before} == before
    assert open_cache(CACHE).live.sum() == len(annotations["images"])
    info = rs_cache("info", CACHE, "--json").json
    assert (info["segments"], info["removed_images"], info["boxes"]) == (
        2,
        0,
        len(annotations["annotations"]),
    )
    assert Path(info["annotations"]["dataset"]).name == "my.json"
    held = contents()
    run(dense)
    assert contents() == held
    converted = rs_cache("info", f"{CACHE}-int4", "--json").json
    assert (converted["segments"], converted["boxes"]) == (info["segments"], info["boxes"])


def test_the_stored_embedding(tmp_path: Path) -> None:
    [text] = BACKBONE
    (tmp_path / "own.yaml").write_text(text)
    spec = load_preset(tmp_path / "own.yaml").first(SamSpec)
    assert spec.store == ("transformer", "embedding")
    sam = without_values(spec)
    tokens, width = sam.arrays["embedding"].shape
    shape = PlanShape(num_images=8, num_boxes=8, partition_size=8, max_boxes=8, max_text=8)
    arrays = part_arrays(part_spec("sam", sam, "int8", with_fingerprint=False), shape)
    size = sum(arrays[name].row_bytes for name in ("embedding", "embedding_scale"))
    assert f"takes {size:,} bytes an image ({tokens:,} cells of {width} numbers" in TEXT
