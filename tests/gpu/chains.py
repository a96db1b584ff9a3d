"""The bound and every sampler, on the device and on the CPU with the same noise."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

import nelbo
from nelbo import Condition, Diffusion, NoiseSchedule, samplers
from nelbo.networks import UNet
from nelbo.samplers import DDIM, SAMPLERS, DPMSolver, Euler, Heun, Sampler
from tests.formats import tiny
from tests.gpu.check import Check, difference, exact_products, placed, within

SHAPE = (3, 8, 8)
LEVELS, STEPS = 20, 6
# Of float64 and of float32, whose rounding a walk amplifies.
DOUBLE, SINGLE = 1e-8, 1e-3

# Beside the defaults of each class.
VARIANTS = {
    "DDIM eta 1": DDIM(STEPS, eta=1.0),
    "DPMSolver order 1": DPMSolver(STEPS, 1),
    "DPMSolver order 3": DPMSolver(STEPS, 3),
    "DPMSolver stochastic": DPMSolver(STEPS, 2, stochastic=True),
    "DPMSolver karras": DPMSolver(STEPS, 2, noise_levels="karras"),
    "Euler log_snr": Euler(STEPS, noise_levels="log_snr"),
    "Heun churn": Heun(STEPS, S_churn=1.0),
}


def every_sampler() -> dict[str, Sampler]:
    """One of each class in `nelbo.samplers.SAMPLERS`, and the variants."""
    kinds = [getattr(samplers, name) for name in SAMPLERS.values()]
    return {kind.__name__: kind(STEPS) for kind in kinds} | VARIANTS


def model_of(
    prediction: str = "epsilon", variance: str = "fixed_small", **options: Any
) -> Diffusion:
    """A float64 model of labelled images with random weights."""
    doubled = 2 if variance == "learned_range" else 1
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = tiny.randomise(
            UNet(
                **tiny.LAYERS,
                sample_size=8,
                out_channels=3 * doubled,
                down_block_types=("DownBlock2D", "AttnDownBlock2D"),
                up_block_types=("AttnUpBlock2D", "UpBlock2D"),
                num_class_embeds=4,
            )
        )
    schedule = NoiseSchedule.cosine(LEVELS)
    model = Diffusion(
        network, schedule, prediction=prediction, variance=variance, shape=SHAPE, **options
    )
    return model.double().eval()


def images(n: int = 3) -> torch.Tensor:
    """Random pixels in [-1, 1], float64."""
    values = torch.randint(0, 256, (n, *SHAPE), generator=_generator())
    return values.double() * (2 / 255) - 1


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _labels() -> Condition:
    return Condition(label=torch.tensor([0, 3, -1]))


def _bound(prediction: str, variance: str, device: torch.device) -> str:
    model = model_of(prediction, variance)

    def terms(device: torch.device, dtype: torch.dtype, levels: int | None) -> torch.Tensor:
        x_0, condition = placed([images(), _labels()], device, dtype)
        with torch.no_grad():
            bound = placed(model, device, dtype).elbo(
                x_0, condition, levels=levels, generator=_generator()
            )
        parts = bound.reconstruction, bound.prior_matching, bound.score_matching
        return torch.cat([part.double().cpu().flatten() for part in parts])

    figures = []
    with exact_products():
        for levels in (None, 4):
            for dtype, limit in ((torch.float64, DOUBLE), (torch.float32, SINGLE)):
                expected = terms(torch.device("cpu"), dtype, levels)
                found = terms(device, dtype, levels)
                which = f"{str(dtype).removeprefix('torch.')}, {levels or 'all'} levels,"
                figures.append(within(which, difference(found, expected), limit))
    return "; ".join(figures)


def _sampler(sampler: Sampler, device: torch.device) -> str:
    model = model_of(clip_sample=True)
    x_T = torch.randn(3, *SHAPE, generator=_generator(), dtype=torch.float64)

    def walk(device: torch.device, dtype: torch.dtype, guidance: float, each: bool) -> torch.Tensor:
        start, condition = placed([x_T, _labels()], device, dtype)
        noise: Any = [_generator(i) for i in range(3)] if each else _generator()
        return placed(model, device, dtype).sample(
            3, sampler, x_T=start, condition=condition, guidance=guidance, generator=noise
        )

    figures = []
    with exact_products():
        for guidance, each in ((1.0, True), (3.0, False)):
            for dtype, limit in ((torch.float64, DOUBLE), (torch.float32, SINGLE)):
                expected = walk(torch.device("cpu"), dtype, guidance, each)
                found = walk(device, dtype, guidance, each)
                which = f"{str(dtype).removeprefix('torch.')}, guidance {guidance:g},"
                figures.append(within(which, difference(found, expected), limit))
    return "; ".join(figures)


def _emoji(device: torch.device) -> str:
    """The Stable Diffusion that ships: prompts, guidance, latents, decoder and bound."""
    model = nelbo.pretrained("emoji")
    prior = model.prior.shape

    def values(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        moved = placed(model, device)
        x_T = torch.randn(2, *prior, generator=_generator()).to(device)
        x = moved.sample(2, DDIM(4), prompt="red apple", guidance=2.0, x_T=x_T)
        pixels = torch.randint(0, 256, x.shape, generator=_generator()).to(device)
        with torch.no_grad():
            condition = moved.condition_on(["red apple", "green apple"])
            bound = moved.elbo(
                moved.data.to_network(pixels), condition, levels=2, generator=_generator()
            )
        return x, bound.elbo

    with exact_products():
        expected, found = values(torch.device("cpu")), values(device)
    figures = [
        within(which, difference(*pair), SINGLE)
        for which, pair in zip(("sample", "bound"), zip(found, expected, strict=True), strict=True)
    ]
    return ", ".join(figures)


def checks() -> list[Check]:
    """The bound for each prediction and variance, each sampler, and a model that ships."""
    kinds = [
        ("epsilon", "learned_range"),
        ("epsilon", "fixed_large"),
        ("sample", "fixed_small"),
        ("v_prediction", "fixed_small"),
    ]
    bounds = [Check(f"bound/{p} {v}", partial(_bound, p, v)) for p, v in kinds]
    walks = [Check(f"sampler/{name}", partial(_sampler, s)) for name, s in every_sampler().items()]
    return [*bounds, *walks, Check("latent/emoji", _emoji)]
