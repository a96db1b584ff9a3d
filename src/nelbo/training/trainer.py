"""The training loop: a generator that takes a step and says what happened.

A progress bar, a notebook and a test drive the same loop::

    trainer = Trainer(model, data, TrainingConfig(steps=1000))
    for step in trainer.run():
        print(step.bits_per_dim)
    trainer.average.model.sample(16)

Every random draw derives from (seed, step), so there is no random state to keep: `state` and
`restore` carry a run to another process, which then takes the very steps this one would have. It
is drawn for the whole batch of a step, of which each of several processes computes its part.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Generic, cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from nelbo.base.errors import NelboError
from nelbo.chain.distributions import generator_for
from nelbo.data import ImageData
from nelbo.diffusion.objectives import BatchPart, TrainingTerms
from nelbo.runs.checkpoints import Checkpoint
from nelbo.training.config import TrainingConfig
from nelbo.training.latents import LatentData
from nelbo.training.loss_watch import EXPLOSION_FACTOR, ExplosionWatch, RunningMean
from nelbo.training.memory import recompute_activations
from nelbo.training.moving_average import ExponentialMovingAverage, PowerAverages
from nelbo.training.order import DataOrder, StreamOrder
from nelbo.training.precision import DTYPES, Autocast, bf16_pays
from nelbo.training.processes import Processes, assign, clip_gradients, whole
from nelbo.training.task import Module, Terms, task_for

# Smoothing of the running loss and bound that are shown.
_SMOOTHING = 0.98
# Steps in a row that fp16 may skip: each halves the loss scale, from 2^16.
_MOST_SKIPPED = 32
# The share of the learning rate that a warm-up begins with, where it is not known by steps.
_LEAST_RATE = 0.02
# Images that show which precision is faster.
_REHEARSED = 16


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


class Trainer(Generic[Module]):
    """Trains a diffusion model on images, or what `nelbo.training.task.task_for` knows besides.

    Args:
        model: the model or objective, trained in place; `average.model` is its moving average.
        data: the images, whose levels must be the model's, or latents.
        config: how to train. `precision="auto"` is float32 until `choose_precision` is called.
        device: where to, for a process alone.
        processes: who trains, where it is not this process alone.
        weights: how often to show each example, relative to the average one, (N,); all alike by
            default. See `nelbo.training.balance`.

    Raises:
        NelboError: data of another shape or number of levels than the model's, or settings that
            make no sense.
    """

    def __init__(
        self,
        model: Module,
        data: ImageData | LatentData,
        config: TrainingConfig,
        device: torch.device | str = "cpu",
        processes: Processes | None = None,
        weights: Tensor | None = None,
    ) -> None:
        config.check()
        self.config = config
        self.processes = processes or Processes(torch.device(device))
        self.device = self.processes.device
        self.data = data
        self.task = task_for(model, data, config)
        self._parts = self.processes.parts(config.batch_size, config.gradient_accumulation)
        self.model = model.to(self.device).train()
        self.average = ExponentialMovingAverage(self.model, config.ema_decay)
        # What the whole of a sharded model looks like, without its weights.
        self._skeleton = copy.deepcopy(model).to("meta") if self.processes.sharded else model
        for each in (self.model, self.average.model):
            for network in self.task.networks(each):
                self.processes.shard(network)
        self.power_averages = PowerAverages(self.model) if config.snapshot_every else None
        self.optimizer = _adamw(self.model, config)
        if config.checkpoint_activations:
            recompute_activations(self.model)
        self.use_precision("fp32" if config.precision == "auto" else config.precision)
        self._order = (
            DataOrder(self.task.examples, config.batch_size, config.seed, weights)
            if self.task.stream is None
            else StreamOrder(config.batch_size)
        )

        # One that learns from the losses has a state to keep.
        sampler = self.task.level_sampler
        self._learning_sampler = sampler if sampler is not None and sampler.learns else None

        self.step = 0
        self.seconds = 0.0
        self.rate_scale = 1.0
        self._running_loss, self._running_bits = RunningMean(_SMOOTHING), RunningMean(_SMOOTHING)
        self._watch = ExplosionWatch()
        self._skipped = 0

    @property
    def fraction(self) -> float:
        """How much of the run is done, 0..1."""
        return self._fraction(self.step, self.seconds)

    @property
    def is_exploding(self) -> bool:
        """Whether the loss is far above what it was; no state to keep."""
        return self._watch.suspicious

    def use_precision(self, precision: str) -> None:
        """Compute the network in "fp32", "bf16" or "fp16"; weights stay float32.

        Raises:
            NelboError: fp16 where only some of the weights are sharded.
        """
        kinds = {isinstance(weight, DTensor) for weight in self.model.parameters()}
        if precision == "fp16" and len(kinds) > 1:
            raise NelboError(
                "the gradient scaler of fp16 does not take sharded weights beside others, such as "
                "a learned scale or schedule: use --precision bf16 or fp32, or leave --shard out"
            )
        self.precision = precision
        self._computed = self.processes.replicate(self._variant(precision))
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")

    def choose_precision(self) -> str:
        """With `precision="auto"`, measure whether bf16 is faster here, and use it if so."""
        if self.config.precision == "auto":
            variants = {name: self._variant(name) for name in ("fp32", "bf16")}
            steps = {name: partial(self.rehearse, v, _REHEARSED) for name, v in variants.items()}
            # What is sharded takes all processes to be computed.
            takes_part = self.processes.is_main or self.processes.sharded
            agreed = self.processes.of_first if self.processes.sharded else float
            pays = takes_part and bf16_pays(steps, agreed)
            # Every process goes by what the first one measured.
            pays = bool(self.processes.of_first(float(pays)))
            self.use_precision("bf16" if pays else "fp32")
        return self.precision

    def averaged(self) -> Module:
        """The averaged model as a whole; every process must ask for it."""
        if not self.processes.sharded:
            return self.average.model
        model = copy.deepcopy(self._skeleton)
        weights = {k: whole(v).cpu() for k, v in self.average.model.state_dict().items()}
        model.load_state_dict(weights, assign=True)
        # Those that are not part of the state have no values yet.
        for module, kept in zip(model.modules(), self.average.model.modules(), strict=True):
            buffers = {k: b.cpu() for k, b in kept._buffers.items() if b is not None}
            module._buffers.update(buffers)
        return model

    def rehearse(self, model: nn.Module | None = None, most: int | None = None) -> None:
        """A step's work that changes nothing, to time it or to warm up.

        Args:
            model: what computes it, by default as in training.
            most: at most so many images of each part, all by default.
        """
        for part in self._parts:
            if most is not None:
                part = part._replace(stop=min(part.stop, part.start + most))
            self._terms(model or self._computed, self.step, part).loss.backward()
        self.optimizer.zero_grad(set_to_none=True)

    def run(self, stop: Callable[[], bool] | None = None) -> Iterator[Step]:
        """Take steps until the steps or the time are used up, from where the last ones ended.

        Args:
            stop: asked after every step whether to end early; one process that says so is enough.

        Raises:
            DivergedError: the loss or its gradient is not a number, or the loss has grown far
                beyond what it was; where it is not a number, the weights are those before that
                step.
            LostProcessError: another process is gone.
        """
        stream, parts = self.task.stream, [part.slice for part in self._parts]
        with nullcontext() if stream is None else stream.reading_ahead(parts):
            yield from self._run(stop)

    def _run(self, stop: Callable[[], bool] | None) -> Iterator[Step]:
        config = self.config
        begun = time.perf_counter() - self.seconds
        stopped = False
        while self.fraction < 1.0 and not stopped:
            rate = config.learning_rate * self.rate_scale
            rate *= _rate_factor(self.step, self.fraction, config)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            loss, nats, norm, stopped, seconds = self._step(begun, stop)
            self.step += 1
            self.seconds = seconds
            running_loss = self._running_loss.update(loss)
            # Before others see the step: they ask `is_exploding`, and may save.
            exploded = self._watch.exploded(loss, running_loss)
            yield Step(
                step=self.step,
                seconds=seconds,
                fraction=self.fraction,
                loss=loss,
                running_loss=running_loss,
                bits_per_dim=self._running_bits.update(nats * self.task.bits),
                learning_rate=rate,
                gradient_norm=norm,
            )
            if exploded:
                raise self._diverged(
                    self.step,
                    f"the loss is {loss:.4g}, more than {EXPLOSION_FACTOR} times its best",
                )

    def state(self) -> Checkpoint:
        """All that the run needs to go on; every process must ask for it."""
        names = dict(self.model.named_parameters())
        moments: dict[str, Tensor] = {}
        updates = 0.0
        for name, parameter in names.items():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                if key == "step":
                    updates = float(value)
                else:
                    moments[f"{key}.{name}"] = whole(value)
        tensors = {
            "model": {k: whole(v) for k, v in self.model.state_dict().items()},
            "average": {k: whole(v) for k, v in self.average.model.state_dict().items()},
            "optimizer": moments,
        }
        if self.task.keys is not None:
            tensors["data"] = {"keys": self.task.keys}
        if self.power_averages is not None:
            tensors["power_averages"] = self.power_averages.named()
        if self._learning_sampler is not None:
            tensors["level_sampler"] = self._learning_sampler.state()
        progress = {
            "seconds": self.seconds,
            "rate_scale": self.rate_scale,
            "average_updates": self.average.updates,
            "optimizer_updates": updates,
            "running_loss": vars(self._running_loss),
            "running_bits": vars(self._running_bits),
            "watch": vars(self._watch),
            "precision": self.precision,
            "loss_scaler": self._scaler.state_dict(),
            "threads": torch.get_num_threads(),
            "processes": self.processes.count,
        }
        if (stream := self.task.stream) is not None:
            progress["stream"] = [stream.epoch, stream.first]
        return Checkpoint(self.step, tensors, progress)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a state, as if training had never stopped.

        Raises:
            NelboError: a state of another model or of other settings.
        """
        tensors, progress = checkpoint.tensors, checkpoint.progress
        _load(self.model.state_dict(), tensors["model"])
        _load(self.average.model.state_dict(), tensors["average"])
        self.optimizer.state.clear()
        for name, parameter in self.model.named_parameters():
            if f"exp_avg.{name}" not in tensors["optimizer"]:
                continue
            state = self.optimizer.state[parameter]
            state["step"] = torch.tensor(progress["optimizer_updates"], device=parameter.device)
            for key in ("exp_avg", "exp_avg_sq"):
                state[key] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
                assign(state[key], tensors["optimizer"][f"{key}.{name}"])
        if self.power_averages is not None:
            if "power_averages" not in tensors:
                raise NelboError(
                    "the run has kept no averages to take snapshots of: leave snapshot_every out"
                )
            self.power_averages.load(tensors["power_averages"], checkpoint.step)
        if self._learning_sampler is not None:
            if "level_sampler" not in tensors:
                raise NelboError(
                    "the checkpoint holds no losses of levels: it is of a run with another "
                    f"level_sampler than {self.config.level_sampler!r}"
                )
            self._learning_sampler.restore(tensors["level_sampler"])
        self.step = checkpoint.step
        self.seconds = progress["seconds"]
        self.rate_scale = progress["rate_scale"]
        self.average.updates = progress["average_updates"]
        for mine, kept in (
            (self._running_loss, progress["running_loss"]),
            (self._running_bits, progress["running_bits"]),
            (self._watch, progress["watch"]),
        ):
            vars(mine).update(kept)
        if self.config.precision == "auto" and progress["precision"] != self.precision:
            self.use_precision(progress["precision"])
        self._scaler.load_state_dict(progress["loss_scaler"])
        if (stream := self.task.stream) is not None:
            stream.seek(*progress.get("stream", (0, 0)))

    def _step(
        self, begun: float, stop: Callable[[], bool] | None
    ) -> tuple[float, float, float, bool, float]:
        """One optimisation step: loss, negative bound in nats, gradient norm, stop, seconds."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = nats = 0.0
        levels, level_losses = [0.0] * self.config.batch_size, [0.0] * self.config.batch_size
        with self.processes.together():
            for part in self._parts:
                share = (part.stop - part.start) / part.batch
                with self._synchronised(part is self._parts[-1]):
                    terms = self._terms(self._computed, self.step, part)
                    # Processes average their gradients: the shares are to be summed.
                    weight = self.task.loss_scale * share * self.processes.count
                    self._scaler.scale(terms.loss * weight).backward()
                loss += share * terms.loss.item()
                nats += share * terms.nelbo.mean().item()
                if self._learning_sampler is not None:
                    assert isinstance(terms, TrainingTerms)
                    levels[part.slice] = terms.levels.tolist()
                    level_losses[part.slice] = terms.level_losses.tolist()
            self.processes.average_gradients(self.model)
            self._scaler.unscale_(self.optimizer)
            norm = clip_gradients(self.model, self.config.gradient_clip)
        stopping = stop is not None and stop()
        seconds = time.perf_counter() - begun if self.processes.is_main else 0.0
        loss, nats, stops, seconds = self.processes.sum([loss, nats, float(stopping), seconds])
        # An infinite gradient in fp16 is a loss scale too high, which the scaler lowers.
        if not (math.isfinite(loss) and (math.isfinite(norm) or self.precision == "fp16")):
            raise self._diverged(self.step + 1, f"loss {loss}, gradient norm {norm}")
        # One that no loss scale makes finite is not of the scale.
        self._skipped = 0 if math.isfinite(norm) else self._skipped + 1
        if self._skipped > _MOST_SKIPPED:
            raise self._diverged(
                self.step + 1,
                f"the gradients of {self._skipped} steps in a row were not finite in fp16, at a "
                f"loss scale down to {self._scaler.get_scale():g}; use --precision bf16 or fp32",
            )
        if self._learning_sampler is not None:
            # Each process knows its own examples; all are to draw the same levels.
            known = torch.tensor(self.processes.sum([*levels, *level_losses])).chunk(2)
            self._learning_sampler.update(known[0].long(), known[1])
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self.average.update(self.model)
        if self.power_averages is not None:
            self.power_averages.update(self.model)
        return loss, nats, norm, stops > 0, seconds

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
        self.processes.synchronise(self.task.networks(self.model), last)
        yield

    def _variant(self, precision: str) -> nn.Module:
        """The model with the same weights, as it is computed."""

        def wrap(network: nn.Module) -> nn.Module:
            if precision != "fp32":
                network = Autocast(network, DTYPES[precision])
            return cast(nn.Module, torch.compile(network)) if self.config.compile else network

        return self.task.variant(wrap)

    def _terms(self, model: nn.Module, step: int, part: BatchPart) -> Terms:
        index = self._order.batch(step)
        generator = generator_for(self.config.seed, 1, step, device=self.device)
        cuda = [self.device] if self.device.type == "cuda" else []
        # Dropout knows only the global generator: it is seeded for the step, then put back. The
        # parts of a batch drop other values than the whole would.
        with torch.random.fork_rng(cuda):
            torch.manual_seed(generator.initial_seed() + part.start)
            return self.task.terms(model, step, index, part, generator)

    def _fraction(self, step: int, seconds: float) -> float:
        budget = self.config.seconds
        by_steps = step / self.config.steps if self.config.steps is not None else 0.0
        by_time = seconds / budget if budget is not None else 0.0
        return min(1.0, max(by_steps, by_time))


def _rate_factor(step: int, fraction: float, config: TrainingConfig) -> float:
    """Linear warm-up, over a share of the run or some steps, times a cosine to zero over the run.

    Args:
        step: how many steps are done.
        fraction: how much of the run is done.
        config: how long the warm-up is.
    """
    if config.warmup_steps is not None:
        warmup = (step + 1) / (config.warmup_steps + 1)
    elif config.warmup == 0:
        warmup = 1.0
    else:
        # Where the run is after this step; of the first one that is known by its steps alone.
        first = 0.0 if config.steps is None else 1 / config.steps
        after = fraction * (step + 1) / step if step else first
        warmup = max(_LEAST_RATE, after / config.warmup)
    return min(1.0, warmup) * 0.5 * (1 + math.cos(math.pi * fraction))


def _load(state: dict[str, Tensor], kept: Mapping[str, Tensor]) -> None:
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    found = {name: tuple(value.shape) for name, value in kept.items()}
    if shapes != found:
        differ = sorted(name for name in shapes | found if shapes.get(name) != found.get(name))
        raise NelboError(
            f"the checkpoint is of another model: {len(differ)} tensors differ, such as "
            f"{differ[0]} (found {found.get(differ[0])}, expected {shapes.get(differ[0])})"
        )
    for name, value in state.items():
        assign(value, kept[name])


def _adamw(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    # Gains and biases are not decayed. What is sharded is not updated in one call with what is not.
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        kind = parameter.ndim >= 2, isinstance(parameter, DTensor)
        groups.setdefault(kind, []).append(parameter)
    device = next(model.parameters()).device.type
    return torch.optim.AdamW(
        [
            {"params": weights, "weight_decay": config.weight_decay if is_matrix else 0.0}
            for (is_matrix, _), weights in groups.items()
        ],
        lr=config.learning_rate,
        betas=(0.9, config.beta2),
        fused=device in ("cpu", "cuda"),
    )
