"""The public names of the package."""

from regionspot_cache.training.config import Stage, TrainConfig
from regionspot_cache.training.loop import TrainResult, train
from regionspot_cache.training.metrics import StepReport
from regionspot_cache.training.sources import TrainingSource

__all__ = ["Stage", "StepReport", "TrainConfig", "TrainResult", "TrainingSource", "train"]
