r"""A linear dynamical system of the rows of an image.

.. math::
    z_1 \sim N(0, P_1), \quad z_t = A z_{t-1} + N(0, Q), \quad
    x_t = C z_t + d_t + N(0, \mathrm{diag}(r)),

with x_t the t-th row and d the mean image, which is its maximum likelihood. The rest is fitted by
EM; the algorithms are those of `nelbo.families.kalman`. It is a PPCA whose latents go on from row
to row (Roweis & Ghahramani 1999), and the forward process of a diffusion model is one of its kind.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nelbo.base.arguments import check_counts
from nelbo.base.errors import NelboError
from nelbo.chain.data_space import DataSpace
from nelbo.chain.distributions import randn_like
from nelbo.chain.evidence import Costs, Evidence
from nelbo.families.arguments import check_not_negative
from nelbo.families.examples import Examples
from nelbo.families.family import Family
from nelbo.families.fitting import Budget, Steps, iterate
from nelbo.families.kalman import System, em_step, kalman_filter, kalman_smoother, root
from nelbo.families.linear_chain import LinearChain
from nelbo.families.linear_gaussian import maximum_likelihood
from nelbo.families.raster import from_raster, from_rows, to_rows
from nelbo.families.rounding import least_variance, nearest_pixels, pixel_bound

# The widest row, whose covariance is inverted at every step.
LARGEST_ROW = 1024
# Where EM starts: states that remember this share of the one before.
_MEMORY = 0.9


class LDS(Family):
    """A linear dynamical system, one state a row.

    Its evidence is exact for continuous data. Pixels have the bound of `nelbo.families.rounding`,
    for its own density rounded to pixel levels, without Monte Carlo noise.

    Args:
        latents: q, the number of values of a state.
        tolerance: EM ends where the held-out images gain less than this many nats a value in 5
            iterations; the best are kept.
        data: what the values of a tensor are; see `Family.fit`.
    """

    initial: Tensor
    transition: Tensor
    process: Tensor
    observation: Tensor
    offset: Tensor
    noise: Tensor

    def __init__(
        self, latents: int, *, tolerance: float = 1e-4, data: DataSpace | None = None
    ) -> None:
        super().__init__(data, latents=latents, tolerance=tolerance)
        check_counts(latents=latents)
        check_not_negative(tolerance=tolerance)
        self.latents, self.tolerance = latents, tolerance

    @property
    def system(self) -> System:
        """The parameters."""
        return System(*(getattr(self, name) for name in System._fields))

    @property
    def latent_chain(self) -> LinearChain:
        """x ← the states of all rows, rotated so that they are independent given x."""
        rows, mean = self.system.joint()
        values = from_raster(rows.T, self.image_shape).flatten(1).T
        return LinearChain.rotated(
            values,
            from_raster(mean[None], self.image_shape).flatten(),
            from_raster(self.noise.repeat(len(self.offset))[None], self.image_shape).flatten(),
            self.image_shape,
            self.data,
        )

    def build(self) -> None:
        """P_1, A, Q, C, d and r, float64."""
        channels, height, width = self.image_shape
        row, q = channels * width, self.latents
        if row > LARGEST_ROW:
            raise NelboError(
                f"an LDS takes rows of at most {LARGEST_ROW} values, these have {row}: use smaller "
                "images, or grey ones"
            )
        eye = torch.eye(q, dtype=torch.float64)
        start = System(
            initial=eye,
            transition=_MEMORY * eye,
            process=(1 - _MEMORY**2) * eye,
            observation=torch.zeros(row, q, dtype=torch.float64),
            offset=torch.zeros(height, row, dtype=torch.float64),
            noise=torch.ones(row, dtype=torch.float64),
        )
        for name, value in start._asdict().items():
            self.register_buffer(name, value)

    def fitting(self, examples: Examples, budget: Budget, generator: torch.Generator) -> Steps:
        """The iterations of EM, from the PPCA of single rows."""
        train = to_rows(examples.train.double())
        least = least_variance(self.data)
        self.offset.copy_(train.mean(0))
        centred = (train - self.offset).flatten(0, 1)
        some = min(self.latents, centred.shape[1] - 1)
        rows = maximum_likelihood(centred, some, least)
        self.observation[:, :some] = rows.weight
        rest = self.observation[:, some:]
        rest.copy_(0.1 * randn_like(rest, generator))
        self.noise.fill_(float(rows.variance))

        def step() -> tuple[System, float, float]:
            system, likelihood = em_step(self.system, train, least)
            self._set(system)
            held = float(self.costs(examples.held_out, None).total.mean())
            return system, -float(likelihood.mean()), held

        yield from iterate(step, self._set, self.tolerance * self.dims, budget)

    def _set(self, system: System) -> None:
        for name, value in system._asdict().items():
            getattr(self, name).copy_(value)

    def costs(self, x_0: Tensor, generator: torch.Generator | None) -> Evidence:
        """log p(x) itself; a bound for pixels."""
        system, x = self.system, to_rows(x_0.double())
        if self.data.is_density:
            found = kalman_filter(system, x).log_likelihood
            return Costs.of("exact", {"likelihood": -found}, x_0)
        (means, covariances), _, likelihood = kalman_smoother(system, x)
        c = system.observation
        variance = torch.einsum("mi,tij,mj->tm", c, covariances, c)
        mean = means @ c.T + system.offset
        return pixel_bound(x, likelihood, mean, variance, system.noise, self.data.shown_levels)

    def draws(self, n: int, generator: torch.Generator | None) -> Tensor:
        """The states one after the other, and the row of each."""
        system = self.system
        initial, process = root(system.initial), root(system.process)

        def noise(size: int) -> Tensor:
            return randn_like(system.initial.new_empty(n, size), generator)

        z, rows = noise(self.latents) @ initial.T, []
        for t, offset in enumerate(system.offset):
            if t:
                z = z @ system.transition.T + noise(self.latents) @ process.T
            rows.append(
                z @ system.observation.T + offset + noise(len(offset)) * system.noise.sqrt()
            )
        return nearest_pixels(from_rows(torch.stack(rows, 1), self.image_shape), self.data)
