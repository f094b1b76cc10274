"""The code of docs/python.md, as it stands there, with small networks."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from regionspot_cache import Prediction, RegionPredictor

TEXT = (Path(__file__).parents[1] / "docs" / "python.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_the_page(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    image = Image.open(finished / "rs-cache-data/datasets/shapes/images/val/000001.jpg").convert("RGB")
    image.save("street.jpg")
    for name in ("old tram", "new tram"):
        (Path("mine") / name).mkdir(parents=True)
        for k in range(2):
            image.crop((0, 0, 90 + k, 90)).save(Path("mine") / name / f"{k}.jpg")
    code = "\n".join(BLOCKS).replace("rs-cache-data/runs/bl", str(finished / "rs-cache-data/runs/small"))
    code = code.replace('"tiny"', f'"{finished / "small.yaml"}"')
    names: dict[str, Any] = {}
    exec(compile(code, "docs", "exec"), names)
    said = capsys.readouterr().out
    assert said.count("(10.0, 20.0, 200.0, 180.0)") == 1
    assert "('new tram', 'old tram') Counter()" in said
    with Image.open("named.png") as picture:
        assert picture.size == (1024, 1024)
    assert isinstance(names["prediction"], Prediction)
    assert np.abs(names["similarities"].numpy()).max() <= 1.001
    assert names["similarities"].shape == (1, 2)


def test_every_public_step_of_a_predictor_is_on_the_page() -> None:
    public = {name for name in vars(RegionPredictor) if not name.startswith("_")} - {"inputs"}
    assert {name for name in public if name not in TEXT} == set()
    forms = {name for name in vars(Prediction) if name.startswith("to_")}
    assert {name for name in forms if name not in TEXT} == set()
