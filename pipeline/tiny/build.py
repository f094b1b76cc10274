"""Train all parts of the tiny world and write the assets: `python -m pipeline.tiny.build`.

SAM and CLIP train side by side, one thread each; the region proposal network follows, as it reads SAM. A killed
build continues where it was when it is started again with the same --work folder.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from pipeline.tiny.common import ASSETS


def stage(name: str, work: Path, assets: Path) -> subprocess.Popen[bytes]:
    arguments = ["--work", str(work), "--assets", str(assets)]
    return subprocess.Popen([sys.executable, "-m", f"pipeline.tiny.{name}", *arguments])


def build(work: Path, assets: Path) -> int:
    """Run the trainings; the first exit status that is not 0, or 0."""
    clip = stage("clip", work, assets)
    status = stage("sam", work, assets).wait() or stage("rpn", work, assets).wait()
    return clip.wait() or status


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("rs-cache-data/tiny"))
    parser.add_argument("--assets", type=Path, default=ASSETS)
    arguments = parser.parse_args()
    sys.exit(build(arguments.work, arguments.assets))


if __name__ == "__main__":
    main()
