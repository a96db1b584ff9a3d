"""diffusers' schedulers beside nelbo's samplers: the same network, the same noise."""

from __future__ import annotations

import inspect
import math
from typing import Any

import diffusers
import torch

from nelbo import Diffusion, NoiseSchedule
from nelbo.formats.scheduler import scheduler_config
from nelbo.samplers import Sampler
from tests.diffusion.test_model import SHAPE, MixingNetwork

SPACINGS = ("leading", "linspace", "trailing")


def model_of(prediction: str = "epsilon", schedule: NoiseSchedule | None = None, **options: Any):
    """A float32 model of 1,000 levels with a smooth network."""
    multiple = 2 if options.get("variance") == "learned_range" else 1
    return Diffusion(
        MixingNetwork(multiple, torch.float32),
        schedule or NoiseSchedule.scaled_linear(1000),
        prediction=prediction,
        shape=SHAPE,
        **options,
    )


def scheduler_of(model: Diffusion, sampler: Sampler, steps: int) -> Any:
    """The scheduler that nelbo would save for this model and sampler, as diffusers reads it."""
    config = scheduler_config(model, sampler)
    scheduler = getattr(diffusers, config["_class_name"]).from_config(config)
    if getattr(sampler, "noise_levels", "spaced") != "spaced":
        # Its times between levels are interpolated from float32 tables, in which 1 − ᾱ has lost
        # digits: they are up to 0.002 off, and what the network says there with them.
        scheduler.alphas_cumprod = model.schedule.alphas_cumprod[1:].clamp(min=2.0**-24)
    scheduler.set_timesteps(steps)
    return scheduler


@torch.no_grad()
def peer_sample(
    scheduler: Any, model: Diffusion, x: torch.Tensor, generator: torch.Generator, **options: Any
) -> torch.Tensor:
    """x_0 by diffusers, from the state x_T of preserved variance that nelbo starts from."""
    accepted = inspect.signature(scheduler.step).parameters
    options = {k: v for k, v in (options | {"generator": generator}).items() if k in accepted}
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)
    if "Euler" in type(scheduler).__name__ or "Heun" in type(scheduler).__name__:
        x = x * math.sqrt(1 + float(scheduler.sigmas[0]) ** 2)
    for time in scheduler.timesteps:
        scaled = scheduler.scale_model_input(x, time)
        output = model.network(scaled, time.expand(len(x)), None)
        if "DPMSolver" in type(scheduler).__name__:  # it takes the first three for the mean
            output = output[:, : x.shape[1]]
        step = scheduler.step(output, time, x, **options)
        x = step.prev_sample
    # Where the last time visited is not 0, it adds noise to the data.
    return step.pred_original_sample if "DDPM" in type(scheduler).__name__ else x


def compare(model: Diffusion, sampler: Sampler, steps: int, **options: Any) -> None:
    """Assert equal timesteps and, to 1e-4, equal samples."""
    scheduler = scheduler_of(model, sampler, steps)
    ours, theirs = sampler.timesteps(model.schedule), scheduler.timesteps
    if theirs.dtype == torch.int64:
        assert list(ours) == theirs.tolist()
    else:
        torch.testing.assert_close(torch.tensor(ours), theirs, rtol=0, atol=1e-4)
    x_T = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0))
    ours = model.sample(3, sampler, x_T=x_T, generator=torch.Generator().manual_seed(1))
    theirs = peer_sample(scheduler, model, x_T, torch.Generator().manual_seed(1), **options)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
