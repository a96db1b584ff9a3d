"""The training loop: a generator that takes a step and says what happened.

A progress bar, a notebook and a test drive the same loop::

    trainer = Trainer(model, data, TrainingConfig(steps=1000))
    for step in trainer.run():
        print(step.bits_per_dim)
    trainer.average.model.sample(16)

Every random draw derives from (seed, step), so there is no random state to keep.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nelbo.conditioning import Condition
from nelbo.data import ImageData
from nelbo.diffusion import Diffusion, Pixels
from nelbo.diffusion.objectives import OBJECTIVES, TrainingTerms
from nelbo.errors import NelboError
from nelbo.evaluation import check_fits
from nelbo.training.config import TrainingConfig
from nelbo.training.moving_average import ExponentialMovingAverage
from nelbo.training.order import DataOrder, generator_for

# Smoothing of the running loss and bound that are shown.
_SMOOTHING = 0.98


class DivergedError(NelboError):
    """Training produced a loss or gradient that is not a number."""


@dataclass(frozen=True)
class Step:
    """What happened at one step.

    Attributes:
        step: how many steps are done.
        seconds: time since training began.
        fraction: how much of the run is done, 0..1.
        loss: the objective of this batch.
        running_loss: the objective, smoothed over steps.
        bits_per_dim: the negative bound on the training data, smoothed over steps.
        learning_rate: of this step.
        gradient_norm: before clipping.
    """

    step: int
    seconds: float
    fraction: float
    loss: float
    running_loss: float
    bits_per_dim: float
    learning_rate: float
    gradient_norm: float


class Trainer:
    """Trains a diffusion model on images in memory.

    Args:
        model: the model, trained in place; `average.model` is its moving average.
        data: the images; their levels must be the model's.
        config: how to train.
        device: where to.

    Raises:
        NelboError: data of another shape or number of levels than the model's.
    """

    def __init__(
        self,
        model: Diffusion,
        data: ImageData,
        config: TrainingConfig,
        device: torch.device | str = "cpu",
    ) -> None:
        config.check()
        check_fits(model, data)
        if config.objective not in OBJECTIVES:
            raise NelboError(
                f"unknown objective {config.objective!r}: expected one of {OBJECTIVES}"
            )
        assert isinstance(model.data, Pixels)
        self.config = config
        self.device = torch.device(device)
        self.model = model.to(self.device).train()
        self.data = data
        self.average = ExponentialMovingAverage(self.model, config.ema_decay)
        self.optimizer = _adamw(self.model, config)
        self._order = DataOrder(len(data), config.batch_size, config.seed)
        self._images = model.data.to_network(data.images)
        # A bound is in nats per image; gradients are clipped in bits per dimension, whatever the
        # size of an image.
        dims = self._images[0].numel()
        self._bits = 1.0 / (dims * math.log(2.0))
        self._loss_scale = self._bits if config.objective == "bound" else 1.0

    def rehearse(self) -> None:
        """A step's work that changes nothing, to time it or to warm up."""
        terms = self._terms(0)
        terms.loss.backward()
        self.optimizer.zero_grad(set_to_none=True)

    def run(self) -> Iterator[Step]:
        """Take steps until the steps or the time are used up.

        Raises:
            DivergedError: the loss or its gradient is not a number; the weights are those before
                that step.
        """
        config = self.config
        running_loss, running_bits = _RunningMean(_SMOOTHING), _RunningMean(_SMOOTHING)
        start, step, fraction = time.perf_counter(), 0, 0.0
        while fraction < 1.0:
            rate = config.learning_rate * _rate_factor(step, fraction, config.warmup_steps)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            loss, nats, norm = self._step(step)
            step += 1
            seconds = time.perf_counter() - start
            fraction = self._fraction(step, seconds)
            yield Step(
                step=step,
                seconds=seconds,
                fraction=fraction,
                loss=loss,
                running_loss=running_loss.update(loss),
                bits_per_dim=running_bits.update(nats * self._bits),
                learning_rate=rate,
                gradient_norm=norm,
            )

    def _step(self, step: int) -> tuple[float, float, float]:
        """One optimisation step; loss, mean negative bound in nats, and gradient norm."""
        terms = self._terms(step)
        self.optimizer.zero_grad(set_to_none=True)
        (terms.loss * self._loss_scale).backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.gradient_clip)
        loss = terms.loss.item()
        if not (math.isfinite(loss) and math.isfinite(norm.item())):
            raise DivergedError(
                f"training diverged at step {step + 1}: loss {loss}, gradient norm {norm.item()}; "
                f"try a lower learning rate than {self.config.learning_rate:g}"
            )
        self.optimizer.step()
        self.average.update(self.model)
        return loss, terms.nelbo.mean().item(), norm.item()

    def _terms(self, step: int) -> TrainingTerms:
        index = self._order.batch(step)
        generator = generator_for(self.config.seed, 1, step, device=self.device)
        x_0 = self._images[index].to(self.device, non_blocking=True)
        condition = self._condition(index, generator)
        cuda = [self.device] if self.device.type == "cuda" else []
        # Dropout knows only the global generator: it is seeded for the step, then put back.
        with torch.random.fork_rng(cuda):
            torch.manual_seed(generator.initial_seed())
            return self.model(x_0, condition, objective=self.config.objective, generator=generator)

    def _condition(self, index: Tensor, generator: torch.Generator) -> Condition | None:
        condition = self.data.condition(index) if self.model.num_classes else None
        if condition is None or condition.label is None:
            return None
        chance = torch.rand(len(index), generator=generator, device=self.device)
        label = condition.label.to(self.device)
        return Condition(label=label.masked_fill(chance < self.config.label_dropout, -1))

    def _fraction(self, step: int, seconds: float) -> float:
        budget = self.config.seconds
        by_steps = step / self.config.steps if self.config.steps is not None else 0.0
        by_time = seconds / budget if budget is not None else 0.0
        return min(1.0, max(by_steps, by_time))


class _RunningMean:
    """An exponential moving average without the bias towards its start."""

    def __init__(self, smoothing: float) -> None:
        self.smoothing, self.total, self.weight = smoothing, 0.0, 0.0

    def update(self, value: float) -> float:
        self.total = self.smoothing * self.total + (1 - self.smoothing) * value
        self.weight = self.smoothing * self.weight + (1 - self.smoothing)
        return self.total / self.weight


def _rate_factor(step: int, fraction: float, warmup_steps: int) -> float:
    """Linear warm-up in steps times a cosine to zero over the run."""
    warmup = min(1.0, (step + 1) / (warmup_steps + 1))
    return warmup * 0.5 * (1 + math.cos(math.pi * fraction))


def _adamw(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    # Gains and biases are not decayed.
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    device = next(model.parameters()).device.type
    return torch.optim.AdamW(
        groups,
        lr=config.learning_rate,
        betas=(0.9, config.beta2),
        fused=device in ("cpu", "cuda"),
    )
