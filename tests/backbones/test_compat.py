"""A torchvision that does not load beside torch gives one clear error."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAM = """
from regionspot_cache.errors import RegionSpotError
try:
    from regionspot_cache.backbones import load_sam
except RegionSpotError as error:
    print(error)
"""


def test_a_torchvision_of_another_build_is_explained(tmp_path: Path) -> None:
    fake = tmp_path / "torchvision"
    fake.mkdir()
    (fake / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}", "PATH": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    found, expected, remedy = done.stdout.splitlines()
    assert "operator torchvision::nms does not exist" in found
    assert "torch and torchvision of one release" in expected
    assert "make setup" in remedy
    assert done.stderr == ""
