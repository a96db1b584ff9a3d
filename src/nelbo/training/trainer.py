"""The training loop: a generator that takes a step and yields what happened.

A progress bar, a notebook and a test drive the same loop::

    trainer = Trainer(PixelTask(model, data, TrainingConfig(steps=1000)))
    for step in trainer.run():
        print(step.bits_per_dim)
    trainer.average.model.sample(16)

Every random draw derives from (seed, step), so there is no random state to keep:
`nelbo.training.state` carries a run to another process, which then takes the very steps this one
would have. Noise is drawn for the whole batch of a step, of which each of several processes
computes its part.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from nelbo.base.errors import NelboError
from nelbo.chain.distributions import generator_for
from nelbo.diffusion.objectives import BatchPart, TrainingTerms
from nelbo.networks.sharding import is_sharded
from nelbo.training.loss_watch import EXPLOSION_FACTOR, ExplosionWatch, RunningMean
from nelbo.training.memory import recompute_activations
from nelbo.training.moving_average import ExponentialMovingAverage, PowerAverages
from nelbo.training.optimizer import optimizer_of, rate_factor
from nelbo.training.order import DataOrder, StreamOrder
from nelbo.training.precision import DTYPES, Autocast
from nelbo.training.processes import Processes, clip_gradients
from nelbo.training.task import Batch, Task, Terms

# Smoothing of the running loss and bound that are shown.
_SMOOTHING = 0.98
# Steps in a row that fp16 may skip: each halves the loss scale, from 2^16.
_MOST_SKIPPED = 32


class DivergedError(NelboError):
    """Training produced a loss or gradient that is not a number, or a loss that exploded."""


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
    """Trains the module of a task.

    Args:
        task: what to train, on what, and how; its module is trained in place. `precision="auto"`
            is float32 until `nelbo.training.rehearsal.choose_precision` is called.
        device: where to, for a process alone.
        processes: who trains, where it is not this process alone.
        weights: how often to show each example, relative to the average one, (N,); all alike by
            default. See `nelbo.training.balance`.

    Attributes:
        model: the module.
        average: its moving average; `average.model` is the module with averaged weights.
        power_averages: averages to reconstruct others from, where snapshots are kept.
        step: how many steps are done.
        seconds: how long they took.
        rate_scale: a factor of the learning rate.
        watch: whether the loss explodes.

    Raises:
        NelboError: settings that make no sense.
    """

    def __init__(
        self,
        task: Task,
        device: torch.device | str = "cpu",
        processes: Processes | None = None,
        weights: Tensor | None = None,
    ) -> None:
        self.task, self.config = task, task.config
        config = self.config
        config.check()
        self.processes = processes or Processes(torch.device(device))
        self.device = self.processes.device
        self.parts = self.processes.parts(config.batch_size, config.gradient_accumulation)
        self.model = task.module.to(self.device).train()
        self.average = ExponentialMovingAverage(self.model, config.ema_decay)
        # What the whole of a sharded module looks like, without its weights.
        sharded = self.processes.sharded
        self.skeleton = copy.deepcopy(self.model).to("meta") if sharded else self.model
        for module in (self.model, self.average.model):
            for network in task.networks_of(module):
                self.processes.shard(network)
        self.power_averages = PowerAverages(self.model) if config.snapshot_every else None
        self.optimizer = optimizer_of(self.model, config)
        if config.checkpoint_activations:
            recompute_activations(self.model)
        self.use_precision("fp32" if config.precision == "auto" else config.precision)
        self._order = (
            DataOrder(task.examples, config.batch_size, config.seed, weights)
            if task.stream is None
            else StreamOrder(config.batch_size)
        )
        self.step, self.seconds, self.rate_scale = 0, 0.0, 1.0
        self.running_loss, self.running_bits = RunningMean(_SMOOTHING), RunningMean(_SMOOTHING)
        self.watch = ExplosionWatch()
        self._skipped = 0

    def run(self, stop: Callable[[], bool] | None = None) -> Iterator[Step]:
        """Take steps until the steps or the time are used up, from where the last ones ended.

        Args:
            stop: called after every step, whether to end early; one process is enough.

        Raises:
            DivergedError: the loss or its gradient is not a number, or the loss has grown far
                beyond what it was; where it is not a number, the weights are those before that
                step.
            LostProcessError: another process is gone.
        """
        begun, stopped = time.perf_counter() - self.seconds, False
        with self.task.reading_ahead([part.slice for part in self.parts]):
            while self.fraction < 1.0 and not stopped:
                rate = self._set_rate()
                loss, nats, norm, drawn = self._gradients()
                asked = float(stop is not None and stop())
                seconds = time.perf_counter() - begun if self.processes.is_main else 0.0
                loss, nats, asked, seconds = self.processes.sum([loss, nats, asked, seconds])
                self._check_finite(loss, norm)
                self._update(drawn)
                self.step, self.seconds, stopped = self.step + 1, seconds, asked > 0
                running_loss = self.running_loss.update(loss)
                # Before others see the step: they ask the watch, and may save.
                exploded = self.watch.exploded(loss, running_loss)
                yield Step(
                    step=self.step,
                    seconds=seconds,
                    fraction=self.fraction,
                    loss=loss,
                    running_loss=running_loss,
                    bits_per_dim=self.running_bits.update(nats * self.task.bits),
                    learning_rate=rate,
                    gradient_norm=norm,
                )
                if exploded:
                    above = f"more than {EXPLOSION_FACTOR} times its best"
                    raise self._diverged(self.step, f"the loss is {loss:.4g}, {above}")

    @property
    def fraction(self) -> float:
        """How much of the run is done, 0..1."""
        steps, budget = self.config.steps, self.config.seconds
        by_steps = self.step / steps if steps is not None else 0.0
        by_time = self.seconds / budget if budget is not None else 0.0
        return min(1.0, max(by_steps, by_time))

    def rehearse(self, model: nn.Module | None = None, most: int | None = None) -> None:
        """A step's work that changes nothing, to time it or to warm up.

        Args:
            model: what computes it, by default as in training.
            most: at most this number of images of each part, all by default.
        """
        for part in self.parts:
            if most is not None:
                part = part._replace(stop=min(part.stop, part.start + most))
            self.terms(part, model).loss.backward()
        self.optimizer.zero_grad(set_to_none=True)

    def terms(self, part: BatchPart, model: nn.Module | None = None) -> Terms:
        """The objective of a part of the next step's batch, computed by `model` if given.

        Of a part of a smaller batch than the step's, no other images are drawn.
        """
        index = self._order.batch(self.step, part.batch)
        generator = generator_for(self.config.seed, 1, self.step, device=self.device)
        cuda = [self.device] if self.device.type == "cuda" else []
        # Dropout knows only the global generator: it is seeded for the step, then put back. The
        # parts of a batch drop other values than the whole would.
        with torch.random.fork_rng(cuda):
            torch.manual_seed(generator.initial_seed() + part.start)
            batch = Batch(self.step, index, part, generator)
            return self.task.terms(model or self._computed, batch)

    def use_precision(self, precision: str) -> None:
        """Compute the network in "fp32", "bf16" or "fp16"; weights stay float32.

        Raises:
            NelboError: fp16 where only some of the weights are sharded.
        """
        kinds = {is_sharded(weight) for weight in self.model.parameters()}
        if precision == "fp16" and len(kinds) > 1:
            raise NelboError(
                "the gradient scaler of fp16 does not take sharded weights beside others, such as "
                "a learned scale or schedule: use --precision bf16 or fp32, or leave --shard out"
            )
        self.precision = precision
        self._computed = self.processes.replicate(self.variant(precision))
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")

    def variant(self, precision: str) -> nn.Module:
        """The module with the same weights, as it is computed in a precision."""

        def wrap(network: nn.Module) -> nn.Module:
            if precision != "fp32":
                network = Autocast(network, DTYPES[precision])
            return cast(nn.Module, torch.compile(network)) if self.config.compile else network

        return self.task.variant(wrap)

    def _set_rate(self) -> float:
        rate = self.config.learning_rate * self.rate_scale
        rate *= rate_factor(self.step, self.fraction, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def _gradients(self) -> tuple[float, float, float, Tensor]:
        """The gradients of a batch, clipped: its loss, negative bound in nats, gradient norm, and
        the levels of its examples with the loss of each, (2, batch), where a sampler learns."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = nats = 0.0
        drawn = torch.zeros(2, self.config.batch_size)
        with self.processes.together():
            for part in self.parts:
                share = (part.stop - part.start) / part.batch
                with self._synchronised(part is self.parts[-1]):
                    terms = self.terms(part)
                    # Processes average their gradients: the shares are to be summed.
                    weight = self.task.loss_scale * share * self.processes.count
                    self.scaler.scale(terms.loss * weight).backward()
                loss += share * terms.loss.item()
                nats += share * terms.nelbo.mean().item()
                if self.task.learning_sampler is not None:
                    at_levels = cast(TrainingTerms, terms)
                    drawn[0, part.slice] = at_levels.levels
                    drawn[1, part.slice] = at_levels.level_losses
            self.processes.average_gradients(self.model)
            self.scaler.unscale_(self.optimizer)
            norm = clip_gradients(self.model, self.config.gradient_clip)
        return loss, nats, norm, drawn

    def _check_finite(self, loss: float, norm: float) -> None:
        # An infinite gradient in fp16 is a loss scale too high, which the scaler lowers.
        if not (math.isfinite(loss) and (math.isfinite(norm) or self.precision == "fp16")):
            raise self._diverged(self.step + 1, f"loss {loss}, gradient norm {norm}")
        # One that no loss scale makes finite is not of the scale.
        self._skipped = 0 if math.isfinite(norm) else self._skipped + 1
        if self._skipped > _MOST_SKIPPED:
            raise self._diverged(
                self.step + 1,
                f"the gradients of {self._skipped} steps in a row were not finite in fp16, at a "
                f"loss scale down to {self.scaler.get_scale():g}; use --precision bf16 or fp32",
            )

    def _update(self, drawn: Tensor) -> None:
        """Take the step, and let averages and the level sampler follow."""
        if self.task.learning_sampler is not None:
            # Each process knows its own examples; all are to draw the same levels.
            levels, losses = torch.tensor(self.processes.sum(drawn.flatten().tolist())).chunk(2)
            self.task.learning_sampler.update(levels.long(), losses)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.average.update(self.model)
        if self.power_averages is not None:
            self.power_averages.update(self.model)

    def _diverged(self, step: int, what: str) -> DivergedError:
        rate = self.config.learning_rate * self.rate_scale
        return DivergedError(
            f"training diverged at step {step}: {what}; try a lower learning rate than {rate:g}"
        )

    @contextmanager
    def _synchronised(self, last: bool) -> Iterator[None]:
        """Average gradients over the processes after the last part of a batch only."""
        if isinstance(self._computed, nn.parallel.DistributedDataParallel) and not last:
            with self._computed.no_sync():
                yield
            return
        self.processes.synchronise(self.task.networks_of(self.model), last)
        yield
