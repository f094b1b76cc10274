"""A run in a process of its own: `python -m tests.training.run_fake OUT STEPS DROPOUT SECONDS_PER_STEP
[captions]`."""

import dataclasses
import sys
import time
from pathlib import Path

import torch

from regionspot_cache.training import StepReport, TrainConfig, train
from tests.training.fake import make_config, make_source
from tests.training.fake_captions import make_caption_source


def config_of(steps: int, dropout: float, **changes: object) -> TrainConfig:
    config = make_config(steps, log_every=1, checkpoint_seconds=0.0, **changes)
    return dataclasses.replace(config, head=dataclasses.replace(config.head, dropout=dropout))


def main() -> None:
    out, steps, dropout, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
    torch.set_num_threads(1)

    def on_step(report: StepReport) -> None:
        time.sleep(pause)

    captions = "captions" in sys.argv[5:]
    sources = [make_source(), make_caption_source()] if captions else [make_source()]
    train(sources, config_of(steps, dropout), out, on_step=on_step)
    assert not gloo_threads(), "threads of the process group outlive it, and may abort the interpreter's end"


def gloo_threads() -> list[str]:
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    return [name for name in names if "gloo" in name]


if __name__ == "__main__":
    main()
