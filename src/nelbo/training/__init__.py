"""Training: the loop, the moving average, and the run directory."""

from nelbo.training.config import TrainingConfig
from nelbo.training.model_config import ModelConfig, build_model
from nelbo.training.moving_average import ExponentialMovingAverage
from nelbo.training.run_directory import RunDirectory
from nelbo.training.trainer import DivergedError, Step, Trainer

__all__ = [
    "DivergedError",
    "ExponentialMovingAverage",
    "ModelConfig",
    "RunDirectory",
    "Step",
    "Trainer",
    "TrainingConfig",
    "build_model",
]
