"""Train all parts of the tiny world and write the assets: `python -m pipeline.tiny.build`.

SAM and CLIP train side by side, one thread each; the region proposal network follows, as it reads SAM. A
killed build continues where it was when it is started again with the same --work folder.
"""

import subprocess
import sys
from pathlib import Path

from pipeline.tiny.common import parser


def stage(name: str, work: Path, *options: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", f"pipeline.tiny.{name}", "--work", str(work), *options])


def build(work: Path, threads: int) -> int:
    """Run the trainings, the measurement and the card; the first exit status that is not 0, or 0."""
    count = ("--threads", str(threads))
    clip = stage("clip", work, *count)
    status = stage("sam", work, *count).wait() or stage("rpn", work, *count).wait()
    status = clip.wait() or status
    return status or stage("measure", work, *count, "--keep").wait() or stage("card", work).wait()


def main() -> None:
    options = parser(__doc__).parse_args()
    sys.exit(build(options.work, options.threads))


if __name__ == "__main__":
    main()
