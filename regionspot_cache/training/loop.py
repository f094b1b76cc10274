"""The training loop: a run is a function of its config and caches, also when it is interrupted.

Every step's images, learning rate and dropout are functions of (seed, step), and a checkpoint holds weights
and moments, so a resumed run equals an undisturbed one bit for bit on the same machine.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from regionspot_cache.backbones.arithmetic import choose
from regionspot_cache.errors import InputError, RegionSpotError
from regionspot_cache.hashing import random64
from regionspot_cache.identity import require_same
from regionspot_cache.training.checkpoint import (
    load_tensors,
    newest_checkpoint,
    publish_model,
    read_state,
    save_checkpoint,
)
from regionspot_cache.training.config import Stage, TrainConfig
from regionspot_cache.training.distributed import (
    Interruptible,
    ProcessGroup,
    join_processes,
    local_device,
)
from regionspot_cache.training.folder import claim_folder
from regionspot_cache.training.graphs import CudaGraphs, StageSteps, why_not
from regionspot_cache.training.loader import Batch, make_batch, read_ahead
from regionspot_cache.training.metrics import MetricsLog, StepReport
from regionspot_cache.training.order import slice_of_rank
from regionspot_cache.training.setup import RunData, StageData, initial_head, run_identity
from regionspot_cache.training.sources import FeatureSource, model_metadata
from regionspot_cache.training.step import HeadStep, seed_dropout

OnStep = Callable[[StepReport], None]
OnNote = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a finished run leaves."""

    folder: Path  # holds the finished head (`RegionHead.from_pretrained`), checkpoints and metrics
    steps: int  # of all stages
    resumed_from: int  # steps that were already done when this call started
    left_out: Mapping[str, Counter[str]]  # per source, images that could not be trained on, by reason
    seconds: float  # wall time of this call


def train(
    sources: Sequence[FeatureSource],
    config: TrainConfig,
    out_dir: Path | str,
    *,
    device: str | torch.device = "cpu",
    on_step: OnStep | None = None,
    on_note: OnNote | None = None,
) -> TrainResult:
    """Train a head, or continue the run that `out_dir` holds.

    Under torchrun every process calls this with the same arguments.

    Args:
        on_step: called by the main process with a report every `config.log_every` steps.
        on_note: called by the main process with sentences on where maps are read from, and on CUDA how
            steps are done.

    The first Ctrl-C or SIGTERM ends the run after its step, with a checkpoint, in a KeyboardInterrupt.

    Raises:
        InputError: unusable sources, config or folder.
        IdentityError: `out_dir` holds a run with another config, other caches or another label space, or
            `config.init_from` does not fit.
        RegionSpotError: the loss or its gradient is no longer finite.
    """
    started = time.monotonic()
    device = local_device(device)
    arithmetic = choose(config.precision, device).arithmetic
    config = replace(config, precision=arithmetic)  # what is done here, not "auto", is the run's identity
    folder = Path(out_dir)
    cuda = [device] if device.type == "cuda" else []
    with join_processes(device) as group, claim_folder(folder, group), torch.random.fork_rng(devices=cuda):
        data = RunData.prepare(sources, config, device)
        run = _Run(data, config, folder, device, group, on_step)
        resumed_from = run.resume()
        if on_note and group.is_main:
            for note in run.notes():
                on_note(note)
        with run.interruptible:
            run.finish_all_stages()
        group.barrier(device)
    return TrainResult(
        folder=folder,
        steps=config.total_steps,
        resumed_from=resumed_from,
        left_out=data.left_out,
        seconds=time.monotonic() - started,
    )


class _Run:
    """The state of a run: weights, moments, the number of steps done, losses not yet reported."""

    def __init__(
        self,
        data: RunData,
        config: TrainConfig,
        folder: Path,
        device: torch.device,
        group: ProcessGroup,
        on_step: OnStep | None,
    ) -> None:
        self.data, self.config, self.folder = data, config, folder
        self.device, self.group, self.on_step = device, group, on_step
        self.identity = run_identity(data.sources, config)
        self.metadata = {**model_metadata(data.sources), "precision": config.precision}
        self.head = initial_head(data.sources, config).to(device).train()
        self.head_step = HeadStep(self.head, config, device, group)
        self.no_graphs = why_not(device, group, config)
        self.graphs = None if self.no_graphs else CudaGraphs(device)
        self.step = 0
        # Losses and gradient norms since the last report; on the device until someone looks.
        self.settled: list[tuple[float, float]] = []
        self.pending: list[Tensor] = []
        self.saved_at = time.monotonic()
        self.saved: Path | None = None
        self.interruptible = Interruptible()

    def resume(self) -> int:
        """Load the newest checkpoint, if any; returns the steps done."""
        found = newest_checkpoint(self.folder)
        self._agree_on(found)
        if found is None:
            return 0
        state = read_state(found)
        require_same(
            state["identity"],
            self.identity,
            what=str(found),
            wanted_by="this run",
            remedy="use the settings of that run, or train into another folder: --out DIR",
        )
        self.step, self.saved = state["step"], found
        fresh = self.step in self._stage_starts()
        load_tensors(found, self.head, None if fresh else self.head_step.optimizer)
        self.settled = [tuple(pair) for pair in state["unreported"]]
        return self.step

    def notes(self) -> Iterator[str]:
        """Where maps are read from, and on CUDA how steps are done."""
        for reader in self.data.readers:
            where = f"in memory, {self.device}" if reader.held else "read from the cache in every epoch"
            yield f"maps of {reader.source.name}: {where}"
        if self.device.type == "cuda":
            how = f"no CUDA graphs: {self.no_graphs}" if self.no_graphs else "CUDA graphs, but for captions"
            yield f"steps: {how}"

    def finish_all_stages(self) -> None:
        """Do what is left of every stage and publish the head."""
        log = MetricsLog(self.folder, self.step, self.config) if self.group.is_main else None
        try:
            for index, start in enumerate(self._stage_starts()):
                if self.step < start + self.config.stages[index].steps:
                    self._finish_stage(index, start, log)
        finally:
            if log:
                log.close()
        if self.group.is_main:
            publish_model(self.folder, self.head, self.metadata)

    def _finish_stage(self, index: int, start: int, log: MetricsLog | None) -> None:
        stage, data = self.config.stages[index], self.data.stage(index, self.device)
        if self.step == start:
            self.head_step.forget_moments()
        fixed = [objective.fixed for objective in data.objectives]
        run = StageSteps(partial(self.head_step, data=data), fixed, self.device, self.graphs)
        clock = _Clock(self.step)
        steps = range(self.step - start, stage.steps)
        config, threads = self.config, self.config.reader_threads
        with read_ahead(
            self._reading(data, start, run), steps, threads=threads, ahead=config.batches_ahead
        ) as batches:
            for batch in clock.timed(batches):
                self._train_step(batch, run, stage.rate(batch.step))
                last = self.step == start + stage.steps
                if self.step % config.log_every == 0 or last:
                    self._report(stage, data, batch.step, clock, log)
                asked = self.interruptible.asked
                self._save_if_due(force=last or asked)
                if asked:
                    raise KeyboardInterrupt

    def _reading(self, data: StageData, start: int, run: StageSteps) -> Callable[[int], Batch]:
        def make(step: int) -> Batch:
            source, images = data.order.batch(step)
            share = slice_of_rank(images, self.group.rank, self.group.world)
            how = {"pin": self.device.type == "cuda", "fixed": run.fixes(source)}
            key = int(random64(self.config.seed, start + step))  # of all that is drawn for this step
            return make_batch(step, source, data.readers[source], share, len(images), key=key, **how)

        return make

    def _train_step(self, batch: Batch, run: StageSteps, rate: float) -> None:
        seed = np.random.SeedSequence([self.config.seed, self.step, self.group.rank])
        seed_dropout(int(seed.generate_state(1, np.uint64)[0] >> 1), self.device)
        self.head_step.rate.fill_(rate)
        self.pending.append(run(batch))
        self.step += 1

    def _report(
        self, stage: Stage, data: StageData, stage_step: int, clock: "_Clock", log: MetricsLog | None
    ) -> None:
        self._settle()
        speed, waiting = clock.lap(self.step)
        report = StepReport(
            stage=stage.name,
            step=self.step,
            total_steps=self.config.total_steps,
            epoch=data.order.epoch_of(stage_step + 1),
            loss=float(np.mean([loss for loss, _ in self.settled])),
            learning_rate=stage.rate(stage_step),
            gradient_norm=self.settled[-1][1],
            steps_per_second=speed,
            samples_per_second=speed * self.config.batch_size,
            waiting=waiting,
            seconds_left=(self.config.total_steps - self.step) / speed,
        )
        self.settled.clear()
        if log:
            log.write(report)
            if self.on_step:
                self.on_step(report)

    def _save_if_due(self, *, force: bool) -> None:
        due = time.monotonic() - self.saved_at >= self.config.checkpoint_seconds
        if not (self.group.is_main and (due or force)):
            return
        self._settle()  # never save weights that a non-finite gradient has touched
        state = {"step": self.step, "unreported": self.settled, "identity": self.identity}
        self.saved = save_checkpoint(
            self.folder,
            self.head,
            self.head_step.optimizer,
            state,
            self.metadata,
            self.config.keep_checkpoints,
        )
        self.saved_at = time.monotonic()

    def _settle(self) -> None:
        if self.pending:
            self.settled += [tuple(pair) for pair in torch.stack(self.pending).tolist()]
            self.pending.clear()
        bad = next((i for i, pair in enumerate(self.settled) if not np.isfinite(pair).all()), None)
        if bad is None:
            return
        step = self.step - len(self.settled) + bad + 1
        loss, norm = self.settled[bad]
        good = f"the last good checkpoint is {self.saved}" if self.saved else "there is no checkpoint yet"
        raise RegionSpotError(
            f"step {step}: the loss is {loss} and the norm of its gradient {norm}; {good}",
            "finite numbers",
            "lower the learning rate and train into another folder, with init_from set to a good checkpoint",
        )

    def _agree_on(self, checkpoint: Path | None) -> None:
        steps = int(checkpoint.name.removeprefix("step-")) if checkpoint else 0
        of_main = int(self.group.broadcast(torch.tensor(steps, device=self.device)))
        if steps != of_main:
            raise InputError(
                f"process {self.group.rank} finds a checkpoint of step {steps}, the main one of {of_main}",
                "one output folder that all processes see",
                "put --out on a shared file system",
            )

    def _stage_starts(self) -> list[int]:
        return [0, *accumulate(stage.steps for stage in self.config.stages)][:-1]


class _Clock:
    """Speed and time spent waiting for data since the last lap."""

    def __init__(self, step: int) -> None:
        self._step, self._since, self._waited = step, time.perf_counter(), 0.0

    def timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            self._waited += time.perf_counter() - start
            if batch is None:
                return
            yield batch

    def lap(self, step: int) -> tuple[float, float]:
        """Steps per second and the share of waiting."""
        now = time.perf_counter()
        seconds = max(now - self._since, 1e-9)
        result = (step - self._step) / seconds, self._waited / seconds
        self._step, self._since, self._waited = step, now, 0.0
        return result
