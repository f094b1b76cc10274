"""Trains all parts of the tiny world, or some, and writes the assets: `python -m tools.tiny [PART ...]`.

SAM and CLIP train side by side; the region proposal network follows, as it reads SAM. A killed run continues
where it was when it is started again with the same --work folder. How good the map is for the head, the verbs
say: `rs-cache demo`.
"""

import argparse
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from tools.tiny import clip, measure, resnet, rpn, sam
from tools.tiny.training import start

PARTS: dict[str, Callable[[Path], None]] = {
    "sam": sam.train,
    "clip": clip.train,
    "rpn": rpn.train,
    "resnet": resnet.train,
    "measure": measure.measure,
    "card": measure.write_card,
}
SIDE_BY_SIDE = ("sam", "clip")


def run(part: str, work: Path, threads: int) -> None:
    """One part, in this process."""
    PARTS[part](start(part, work, threads))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.tiny", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all if not given")
    parser.add_argument("--work", type=Path, default=Path("rs-cache-data/tiny"), help="logs and checkpoints")
    parser.add_argument("--threads", type=int, default=1, help="of each training")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no part {min(unknown)}; one of {', '.join(PARTS)}")
    chosen = [part for part in PARTS if part in (options.parts or PARTS)]
    with ProcessPoolExecutor(len(SIDE_BY_SIDE), mp_context=get_context("spawn")) as pool:
        first = [part for part in chosen if part in SIDE_BY_SIDE]
        for done in [pool.submit(run, part, options.work, options.threads) for part in first]:
            done.result()
    for part in chosen[len(first) :]:
        run(part, options.work, options.threads)


if __name__ == "__main__":
    main()
