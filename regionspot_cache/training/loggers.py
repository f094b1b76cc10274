"""Where the curves of a run are shown: TensorBoard, Weights & Biases; more are classes in `LOGGERS`."""

import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from torch.utils.tensorboard import SummaryWriter

from regionspot_cache.errors import InputError
from regionspot_cache.files import replacing

RUN_FILE = "wandb-run-id.txt"


class Logger(Protocol):
    """Shows the curves of one run."""

    def write(self, values: Mapping[str, float], step: int) -> None:
        """Values by curve after `step` steps."""

    def close(self) -> None:
        """Nothing more is written."""


class TensorBoard:
    """Event files in FOLDER/tensorboard."""

    def __init__(self, folder: Path, resumed_at: int, settings: Mapping[str, Any]) -> None:
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=resumed_at + 1)

    def write(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        self._board.close()


class WeightsAndBiases:
    """A run at Weights & Biases; its id is kept in the folder, so that a resumed run continues it.

    What was done twice is sent twice, and the service keeps the first. Raises InputError: it refuses the run.
    """

    def __init__(self, folder: Path, resumed_at: int, settings: Mapping[str, Any]) -> None:
        wandb = import_module("wandb")
        file = folder / RUN_FILE
        if not file.exists():
            with replacing(file) as staging:
                staging.write_text(uuid4().hex, encoding="utf-8")
        try:
            self._run = wandb.init(
                id=file.read_text(encoding="utf-8").strip(),
                resume="allow",
                project=os.environ.get("WANDB_PROJECT", "regionspot-cache"),
                name=os.environ.get("WANDB_NAME", folder.name),
                dir=str(folder),
                config=dict(settings),
                settings=wandb.Settings(silent=True, console="off"),
            )
        except wandb.Error as error:
            raise InputError(
                f"Weights & Biases: {error}",
                "An account to log to, or no network: WANDB_MODE=offline.",
                "wandb login, or --set training.loggers=[tensorboard]",
            ) from error

    def write(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


LOGGERS = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}
