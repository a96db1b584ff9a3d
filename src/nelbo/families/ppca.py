r"""Probabilistic principal component analysis (Tipping & Bishop 1999), a linear VAE.

.. math::
    p(z) &= N(0, I_q) \\
    p(x|z) &= N(W z + \mu,\, \sigma^2 I) \\
    p(x) &= N(\mu, C), \qquad C = W W^\top + \sigma^2 I \\
    p(z|x) &= N(M^{-1} W^\top (x - \mu),\, \sigma^2 M^{-1}), \qquad M = W^\top W + \sigma^2 I

Maximum likelihood is closed form: with the eigenvectors :math:`U_q` and eigenvalues
:math:`\lambda_1 \ge \lambda_2 \ge \dots` of the covariance of the data (divisor N),

.. math::
    \mu = \bar x, \quad \sigma^2 = \frac{1}{D-q} \sum_{j>q} \lambda_j, \quad
    W = U_q (\Lambda_q - \sigma^2 I)^{1/2}.

EM reaches the same, and allows missing values: each example has the M of the values that it has.

**A linear VAE.** The decoder is p(x|z). The encoder p(z|x) is of the family N(Vx + b, S), so the
best encoder of a VAE is the posterior itself, and the bound is tight (Lucas et al. 2019).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from nelbo.base.arguments import check_choice, check_counts
from nelbo.base.errors import NelboError
from nelbo.chain.bound import Bound
from nelbo.chain.data_space import DataSpace
from nelbo.chain.distributions import draw, normal, randn_like
from nelbo.chain.evidence import Costs, Evidence
from nelbo.chain.examples import check_examples
from nelbo.families.arguments import check_not_negative
from nelbo.families.examples import Examples
from nelbo.families.family import Family
from nelbo.families.fitting import Budget, FitStep, Steps, iterate
from nelbo.families.linear_chain import LinearChain
from nelbo.families.linear_gaussian import (
    LinearGaussian,
    Posterior,
    em_step,
    log_density,
    maximum_likelihood,
    posterior,
)
from nelbo.families.one_latent import bound_of_one_latent
from nelbo.families.rounding import (
    expected_log_density,
    least_variance,
    nearest_pixels,
    pixel_bound,
)

# The closed form decomposes a matrix of this many rows at most, in about a minute of one core.
LARGEST_MATRIX = 4096
METHODS = ("closed_form", "em")


class PPCA(Family):
    """Probabilistic PCA.

    Its evidence is exact for continuous data. Pixels have the bound of `nelbo.families.rounding`,
    for PPCA's own density rounded to pixel levels, without Monte Carlo noise.

    Compared with `sklearn.decomposition.PCA`, which divides by N − 1, every variance is smaller by
    the factor (N − 1)/N of maximum likelihood; and with fewer images than values σ² is the mean of
    all D − q eigenvalues that are left out, of which it averages those that are not zero.

    Args:
        latents: q, the number of latents, below the number of values of an image.
        method: "closed_form", or "em", which allows values that are missing (nan in a tensor).
        tolerance: EM ends where an iteration gains less than this many nats a value.
        data: what the values of a tensor are; see `Family.fit`.
    """

    weight: Tensor
    mean: Tensor
    variance: Tensor

    def __init__(
        self,
        latents: int,
        *,
        method: str = "closed_form",
        tolerance: float = 1e-7,
        data: DataSpace | None = None,
    ) -> None:
        super().__init__(data, latents=latents, method=method, tolerance=tolerance)
        check_counts(latents=latents)
        check_not_negative(tolerance=tolerance)
        check_choice("method", method, METHODS)
        self.latents, self.method, self.tolerance = latents, method, tolerance

    @property
    def allows_missing(self) -> bool:
        """Only EM allows missing values."""
        return self.method == "em"

    @property
    def latent_chain(self) -> LinearChain:
        """x ← z, along which pixels are coded."""
        return LinearChain(*self.linear_gaussian, self.image_shape, self.data)

    @property
    def linear_gaussian(self) -> LinearGaussian:
        """W, μ and σ²."""
        return LinearGaussian(self.weight, self.mean, self.variance)

    def build(self) -> None:
        """W, μ and σ² in float64."""
        if self.latents >= self.dims:
            raise NelboError(
                f"PPCA needs fewer latents than an image has values, got {self.latents} latents "
                f"for {self.dims} values"
            )
        wide = torch.float64
        self.register_buffer("weight", torch.zeros(self.dims, self.latents, dtype=wide))
        self.register_buffer("mean", torch.zeros(self.dims, dtype=wide))
        self.register_buffer("variance", torch.ones((), dtype=wide))

    def fitting(self, examples: Examples, budget: Budget, generator: torch.Generator) -> Steps:
        """One step in closed form, or the iterations of EM."""
        x = examples.all.flatten(1).double()
        least = least_variance(self.data)
        if self.method == "closed_form":
            if min(x.shape) > LARGEST_MATRIX:
                raise NelboError(
                    f"PPCA in closed form decomposes a matrix of at most {LARGEST_MATRIX} rows, "
                    f"{examples.source} has {len(x)} images of {x.shape[1]} values: use "
                    "method='em', smaller images, or fewer of them"
                )
            self._set(maximum_likelihood(x, self.latents, least))
            yield FitStep(1, 1.0, -float(log_density(self.linear_gaussian, x).mean()))
            return
        yield from self._em(x, least, budget, generator)

    def _em(self, x: Tensor, least: float, budget: Budget, generator: torch.Generator) -> Steps:
        missing = x.isnan()
        known = ~missing if missing.any() else None
        if missing.all(0).any():
            raise NelboError(
                f"{int(missing.all(0).sum())} values are missing in every image: leave them out"
            )
        mean = x.nanmean(0)
        variance = (x - mean).square().nanmean().clamp(min=least)
        x = x.nan_to_num()
        weight = randn_like(self.weight, generator)
        self._set(LinearGaussian(weight * (variance / self.latents).sqrt(), mean, variance))

        def step() -> tuple[None, float, float]:
            self._set(em_step(self.linear_gaussian, x, known, least))
            return None, -float(log_density(self.linear_gaussian, x, known).mean()), math.nan

        yield from iterate(step, lambda _: None, self.tolerance * self.dims, budget, patience=1)

    def _set(self, p: LinearGaussian) -> None:
        self.weight.copy_(p.weight)
        self.mean.copy_(p.mean)
        self.variance.copy_(p.variance)

    def encoder(self, x: Float[Tensor, "batch channels height width"]) -> MultivariateNormal:
        """q(z|x) of the VAE that PPCA is, which is the posterior p(z|x) itself."""
        self.check_shape(x)
        q = posterior(self.linear_gaussian, x.flatten(1).double())
        return MultivariateNormal(q.mean, q.covariance)

    def decoder(self, z: Float[Tensor, "batch latents"]) -> Normal:
        """p(x|z), float64, of the shape of images."""
        check_examples(z=z)
        if z.shape[1:] != (self.latents,):
            raise NelboError(f"z has shape {tuple(z.shape)}, expected {(len(z), self.latents)}")
        mean = (z.double() @ self.weight.T + self.mean).unflatten(1, self.image_shape)
        return normal(mean, self.variance.sqrt().expand_as(mean))

    def bound(self, x_0: Float[Tensor, "batch channels height width"]) -> Bound:
        """The bound of the VAE that PPCA is, for the density of `x_0`: equal to log p(x_0)."""
        self.check_data(x_0)
        x, q = x_0.flatten(1).double(), self.encoder(x_0)
        mean, variance = self._noiseless(Posterior(q.mean, q.covariance_matrix))
        reconstruction = expected_log_density(x, mean, variance, self.variance).sum(1)
        kl = 0.5 * (
            q.mean.square().sum(1)
            + q.variance.sum(1)
            - self.latents
            - torch.logdet(q.covariance_matrix)
        )
        return bound_of_one_latent(reconstruction, kl, self.dims)

    def costs(self, x_0: Tensor, generator: torch.Generator | None) -> Evidence:
        """log p(x) itself; a bound for pixels."""
        p, x = self.linear_gaussian, x_0.flatten(1).double()
        density = log_density(p, x)
        if self.data.is_density:
            return Costs.of("exact", {"likelihood": -density}, x_0)
        mean, variance = self._noiseless(posterior(p, x))
        return pixel_bound(x, density, mean, variance, p.variance, self.data.shown_levels)

    def _noiseless(self, q: Posterior) -> tuple[Tensor, Tensor]:
        """The mean and variance of W z + μ under q, value by value."""
        w = self.weight
        variance = torch.einsum("di,nij,dj->nd", w, q.covariance, w)
        return q.mean @ w.T + self.mean, variance

    def draws(self, n: int, generator: torch.Generator | None) -> Tensor:
        """Draw z, then x; of pixels, rounded."""
        z = randn_like(self.weight.new_empty(n, self.latents), generator)
        return nearest_pixels(draw(self.decoder(z), generator), self.data)
