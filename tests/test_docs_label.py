"""The commands of docs/label.md, as they stand there, on the built-in world with small networks."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from tests.running import rs_cache

TEXT = (Path(__file__).parents[1] / "docs" / "label.md").read_text(encoding="utf-8")
COMMANDS = [
    line for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL) for line in block.strip().splitlines()
]
WORDS = re.findall(r"```text\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture
def place(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three pictures with boxes, the words of the page and those of the world, an example."""
    monkeypatch.chdir(tmp_path)
    shapes = finished / "rs-cache-data" / "datasets" / "shapes"
    values = json.loads((shapes / "val.json").read_text())
    values["images"] = values["images"][:3]
    known = {image["id"] for image in values["images"]}
    values["annotations"] = [box for box in values["annotations"] if box["image_id"] in known]
    Path("boxes.json").write_text(json.dumps(values))
    Path("photos").mkdir()
    for image in values["images"]:
        [file] = [
            path for path in (shapes / "images").rglob(Path(image["file_name"]).name) if "val" in path.parts
        ]
        shutil.copy(file, "photos")
    names = [category["name"] for category in values["categories"]]
    Path("names.txt").write_text(WORDS[0] + "\n".join(names))
    Path("examples", names[0]).mkdir(parents=True)
    shutil.copy(file, Path("examples", names[0]))
    shutil.copytree(finished / "rs-cache-data" / "runs" / "small", "runs/bl")
    shutil.copy(finished / "small.yaml", "small.yaml")
    return tmp_path


def test_the_commands_of_the_page(place: Path) -> None:
    assert len(COMMANDS) == 8
    for command in COMMANDS:
        _, *arguments = shlex.split(command.replace("--backbone bl", "--backbone small.yaml"))
        ran = rs_cache(*arguments, "--json")
        assert ran.code == 0, f"{command}\n{ran.err}"
        assert Path(ran.json["out"]).exists()
        assert ran.json["boxes"] == ran.json["named"] + ran.json["none_of_these"] > 0
    assert Path("new-relabel.csv").exists()
    assert len(json.loads(Path("tasks.json").read_text())) == 3
    assert {path.name for path in place.glob(".*")} == set()
