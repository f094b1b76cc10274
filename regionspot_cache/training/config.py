"""Every number of a training run, with the paper's values as defaults."""

import dataclasses
import math
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Literal

from regionspot_cache.backbones.arithmetic import Precision
from regionspot_cache.errors import UsageError
from regionspot_cache.training.head_config import HeadOptions

# Settings that change how fast or how safely a run goes, never its result: they may differ on resume.
RUNTIME_FIELDS = frozenset(
    {
        "loggers",
        "log_every",
        "checkpoint_seconds",
        "keep_checkpoints",
        "memory_bytes",
        "reader_threads",
        "batches_ahead",
    }
)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One schedule over one mixture of caches; it starts from the weights of the stage before."""

    name: str = "stage1"
    sources: tuple[str, ...] = ()  # names of the training sources, each equally likely; empty means all
    steps: int = 450_000
    learning_rate: float = 2.5e-5
    # "multistep" multiplies the rate by 0.1 at each milestone, "cosine" ends at 0
    schedule: Literal["multistep", "cosine", "constant"] = "multistep"
    # of "multistep"; after 7/9 and 14/15 of the steps when not given, as in the paper
    milestones: tuple[int, ...] | None = None
    # the rate rises linearly from `warmup_factor` of its value; when not given the paper's 1,000, but at most
    # a twentieth of the steps
    warmup_steps: int | None = None
    warmup_factor: float = 0.01

    def __post_init__(self) -> None:
        late = [step for step in (self.warmup, *self.drops) if step >= max(self.steps, 1)]
        if late and self.steps >= 1:
            raise UsageError(
                f"stage {self.name} ends after {self.steps} steps, before step {late[0]} of its schedule",
                "warmup_steps and milestones below steps",
                "leave them out: they then follow the number of steps",
            )

    @property
    def warmup(self) -> int:
        """Steps of the warm-up."""
        return min(1000, self.steps // 20) if self.warmup_steps is None else self.warmup_steps

    @property
    def drops(self) -> tuple[int, ...]:
        """Steps at which the rate falls to a tenth."""
        if self.schedule != "multistep":
            return ()
        return (self.steps * 7 // 9, self.steps * 14 // 15) if self.milestones is None else self.milestones

    def rate(self, step: int) -> float:
        """Learning rate of step `step` (0-based): linear warm-up times the decay of the schedule."""
        decay = 0.1 ** sum(step >= drop for drop in self.drops)
        if self.schedule == "cosine":
            decay = 0.5 * (1 + math.cos(math.pi * step / self.steps))
        warmup = 1.0
        if step < self.warmup:
            warmup = self.warmup_factor + (1 - self.warmup_factor) * step / self.warmup
        return self.learning_rate * warmup * decay


@dataclass(frozen=True, kw_only=True)
class CaptionWeights:
    """Of the three losses on captions; RegionCLIP's."""

    contrastive: float = 1.0  # every region against the concepts of the batch
    distillation: float = 1.0  # the teacher's distribution over the pool
    image_text: float = 1.0  # the whole picture and its caption


@dataclass(frozen=True, kw_only=True)
class CaptionOptions:
    """How a head learns from regions without labels; the defaults are RegionCLIP's."""

    temperature: float = 0.01  # of all cosines, the teacher's too
    threshold: float = 0.1  # a region counts whose likeliest concept is above
    regions: int = 100  # of an image in a step, drawn anew each time
    weights: CaptionWeights = field(default_factory=CaptionWeights)

    def __post_init__(self) -> None:
        if not (self.temperature > 0 and 0 <= self.threshold < 1 and self.regions >= 1):
            raise UsageError(
                f"temperature {self.temperature}, threshold {self.threshold}, regions {self.regions}",
                "temperature > 0, 0 <= threshold < 1, regions >= 1",
            )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A whole run."""

    head: HeadOptions = field(default_factory=HeadOptions)
    stages: tuple[Stage, ...] = (Stage(),)
    batch_size: int = 16  # images of a step, over all processes
    seed: int = 40244023
    init_from: str | None = None  # folder of a trained head whose weights the first stage starts from
    # decay of the weights towards those of `init_from`, beside `weight_decay` towards zero; see `Anchor`
    towards_initial: float = 0.0
    # weight of what the head of `init_from` says among the classes that it knew; see `Memory`
    distillation: float = 0.0
    weight_decay: float = 1e-4  # on every parameter, norms and biases included, as in the paper's code
    betas: tuple[float, float] = (0.9, 0.999)
    gradient_clip: float = 1.0
    # of boxes with labels: "sigmoid" is RegionSpot's focal loss, "softmax" RegionCLIP's cross entropy of base
    # classes, whose focal_gamma is 0.5 on COCO and 0 on LVIS
    loss: Literal["sigmoid", "softmax"] = "sigmoid"
    focal_alpha: float = 0.25  # of "sigmoid"
    focal_gamma: float = 2.0
    # "window" shuffles within windows of partitions, "global" over the whole cache
    shuffle: Literal["window", "global"] = "window"
    # size of such a window of maps; part of the order, so never changed on resume
    window_bytes: int = 2 * 2**30
    # of caches with extra views, "sample" shows one view of every image an epoch, "original" only the images
    # as they are
    views: Literal["sample", "original"] = "sample"
    # "auto" is bfloat16 autocast where the hardware multiplies bfloat16 matrices, else float32
    precision: Precision = "auto"
    loggers: tuple[Literal["tensorboard", "wandb"], ...] = ("tensorboard",)  # beside metrics.jsonl
    log_every: int = 20
    checkpoint_seconds: float = 60.0  # time between checkpoints; also the most work that a crash can cost
    keep_checkpoints: int = 2
    # caches whose maps together fit are read once and kept in the memory of the device; by default 4 GB, of a
    # GPU 0.6 of what is free, and never more of a GPU than that
    memory_bytes: int | None = None
    # on one CUDA device, each step is one graph: fixed shapes, so other draws of dropout than without
    graphs: bool = True
    reader_threads: int = 4
    batches_ahead: int = 8  # batches read in advance

    def __post_init__(self) -> None:
        positive = ("batch_size", "log_every", "keep_checkpoints", "reader_threads", "batches_ahead")
        for name in positive:
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}", "at least 1", f"--set training.{name}=1")
        if "wandb" in self.loggers and find_spec("wandb") is None:
            raise UsageError(
                "training.loggers names wandb, which is not installed.",
                "The package of Weights & Biases, the extra `wandb`.",
                "uv pip install wandb, or --set training.loggers=[tensorboard]",
            )
        for name in ("towards_initial", "distillation"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} is {getattr(self, name)}", "0 or more")
        if not self.stages or any(stage.steps < 1 for stage in self.stages):
            raise UsageError("a run without steps", "at least one stage of at least one step")

    @property
    def total_steps(self) -> int:
        return sum(stage.steps for stage in self.stages)

    def identity(self) -> dict[str, Any]:
        """JSON-able values that decide the result; a resumed run must have the same."""
        values = dataclasses.asdict(self)
        return {name: value for name, value in values.items() if name not in RUNTIME_FIELDS}
