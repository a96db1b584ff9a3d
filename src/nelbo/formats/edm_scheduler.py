"""The schedulers of EDM: diffusers' `EDMEulerScheduler` and `EDMDPMSolverMultistepScheduler`.

Their network is the raw one that a denoiser is made of (Karras et al. 2022, eq. 7). The chain is
`NoiseSchedule.variance_exploding` through the noise levels that they name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from nelbo.base.errors import NelboError, explained
from nelbo.diffusion import Diffusion, NoiseSchedule, StaticThreshold
from nelbo.diffusion.prediction import RawDenoiser
from nelbo.formats.scheduler import ContinuousScheduler, SchedulerConfig
from nelbo.networks.pretrained import DIFFUSERS_VERSION
from nelbo.samplers import Euler, Sampler

_EULER, _SOLVER = "EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"
_DEFAULTS: dict[str, Any] = {
    "sigma_min": 0.002,
    "sigma_max": 80.0,
    "sigma_data": 0.5,
    "sigma_schedule": "karras",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "rho": 7.0,
    "final_sigmas_type": "zero",
}
_STEPS = 50
_NOISE_LEVELS = {"karras": "karras", "exponential": "log_snr"}
# The sign of what the network answers.
_SIGNS = {"epsilon": 1.0, "v_prediction": -1.0}


class EDMScheduler(ContinuousScheduler):
    """A scheduler of EDM: the chain of a raw network, walked by Euler's method."""

    defaults = _DEFAULTS

    @classmethod
    def unsupported(cls, name: str, found: Mapping[str, Any]) -> str | None:
        """A field that changes the chain in a way that is not supported: thresholding."""
        return "thresholding" if found.get("thresholding") else None

    @property
    def schedule(self) -> NoiseSchedule:
        """The noise levels, even in σ^{1/ρ} or in log σ."""
        karras = self.choice("sigma_schedule", _NOISE_LEVELS) == "karras"
        rho = self.number("rho") if karras else math.inf
        T = self.integer("num_train_timesteps", 1)
        ends = self.number("sigma_min"), self.number("sigma_max")
        with explained(self.file):
            return replace(NoiseSchedule.variance_exploding(T, *ends, rho), config={"rho": rho})

    @property
    def chain_options(self) -> dict[str, Any]:
        """Prediction and variance: that which suits fine levels, for the class names none."""
        sigma_data = self.positive("sigma_data")
        # A negative σ_d, which is squared everywhere else, turns the sign of the answer.
        prediction = RawDenoiser(self.choice("prediction_type", _SIGNS) * sigma_data)
        return {"prediction": prediction, "variance": "fixed_large"}

    @property
    def unmatched(self) -> str | None:
        """Another solver than Euler's method, or one that does not end at the data."""
        name, ends = self.fields["_class_name"], self.fields["final_sigmas_type"]
        if name != _EULER:
            return str(name)
        return None if ends == "zero" else f"final_sigmas_type={ends!r}"

    def walk(self, steps: int | None) -> Euler:
        """Euler's method through the noise levels of the class."""
        steps = min(_STEPS, self.integer("num_train_timesteps", 1)) if steps is None else steps
        levels = self.choice("sigma_schedule", _NOISE_LEVELS)
        return Euler(steps, noise_levels=levels, rho=self.number("rho"))


def edm_config(model: Diffusion, sampler: Sampler | None) -> dict[str, Any]:
    """The contents of a scheduler config of the chain of a raw network.

    Raises:
        NelboError: a sampler that diffusers has no class for on such a chain, or a threshold.
    """
    kind, schedule = model.parameterization, model.schedule
    assert isinstance(kind, RawDenoiser)
    low, high = (float(schedule.sigmas[t]) for t in (1, -1))
    rho = float(str((schedule.config or {}).get("rho", _DEFAULTS["rho"])))
    spread = "exponential" if rho == math.inf else "karras"
    rho = _DEFAULTS["rho"] if rho == math.inf else rho
    described = Euler(getattr(sampler, "steps", 1), noise_levels=_NOISE_LEVELS[spread], rho=rho)
    if sampler is not None and sampler != described:
        raise NelboError(
            f"the {_EULER} of diffusers walks by {described} alone, found {sampler}: save the "
            "model without a sampler"
        )
    if model.threshold not in (None, StaticThreshold()):
        raise NelboError(f"the {_EULER} of diffusers has no {type(model.threshold).__name__}")
    return {
        "_class_name": _EULER,
        "_diffusers_version": DIFFUSERS_VERSION,
        "num_train_timesteps": schedule.num_levels,
        "sigma_min": low,
        "sigma_max": high,
        "sigma_data": abs(kind.sigma_data),
        "sigma_schedule": spread,
        "rho": rho,
        "prediction_type": "epsilon" if kind.sigma_data > 0 else "v_prediction",
    }


EDM_READERS: dict[str, type[SchedulerConfig]] = dict.fromkeys((_EULER, _SOLVER), EDMScheduler)
