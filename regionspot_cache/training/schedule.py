"""Learning rate as a pure function of the step."""

import math

from regionspot_cache.training.config import Stage


def learning_rate(stage: Stage, step: int) -> float:
    """Rate of step `step` (0-based) of a stage: linear warm-up times the stage's decay."""
    warmup = 1.0
    if step < stage.warmup:
        warmup = stage.warmup_factor + (1 - stage.warmup_factor) * step / stage.warmup
    return stage.learning_rate * warmup * _decay(stage, step)


def _decay(stage: Stage, step: int) -> float:
    if stage.schedule == "multistep":
        return 0.1 ** sum(step >= drop for drop in stage.drops)
    if stage.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * step / stage.steps))
    return 1.0
