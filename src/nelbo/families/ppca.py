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
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from nelbo.base.errors import NelboError
from nelbo.chain.bound import Bound
from nelbo.chain.data_space import DataSpace, Pixels
from nelbo.chain.distributions import normal
from nelbo.chain.evidence import Costs, Evidence
from nelbo.families.examples import Examples
from nelbo.families.family import Family
from nelbo.families.fitting import Budget, FitStep, Patience, Steps
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


class LinearGaussian(NamedTuple):
    """The parameters of PPCA, float64.

    Attributes:
        weight: W, (D, q).
        mean: μ, (D,).
        variance: σ², a scalar.
    """

    weight: Float[Tensor, "dims latents"]
    mean: Float[Tensor, " dims"]
    variance: Float[Tensor, ""]


class Posterior(NamedTuple):
    """p(z|x): means (B, q), and covariances (B, q, q), or (1, q, q) where they are all the same."""

    mean: Float[Tensor, "batch latents"]
    covariance: Float[Tensor, "any latents latents"]


def maximum_likelihood(
    x: Float[Tensor, "batch dims"], latents: int, least: float
) -> LinearGaussian:
    """The closed form.

    Args:
        x: data.
        latents: q.
        least: what σ² is kept above; the solution is the best with at least that.
    """
    n, dims = x.shape
    mean = x.mean(0)
    centred = x - mean
    # The eigenvectors of the smaller of the two products; the other has the same eigenvalues.
    if n < dims:
        values, vectors = torch.linalg.eigh(centred @ centred.T / n)
        vectors = centred.T @ vectors / (n * values.clamp(min=1e-300)).sqrt()
    else:
        values, vectors = torch.linalg.eigh(centred.T @ centred / n)
    top = min(latents, len(values))
    largest = values[-top:].flip(0).clamp(min=0)
    rest = (centred.square().sum() / n - largest.sum()) / (dims - latents)
    variance = rest.clamp(min=least)
    weight = x.new_zeros(dims, latents)
    weight[:, :top] = vectors[:, -top:].flip(1) * (largest - variance).clamp(min=0).sqrt()
    return LinearGaussian(weight, mean, variance)


def posterior(
    p: LinearGaussian, x: Float[Tensor, "batch dims"], known: Tensor | None = None
) -> Posterior:
    """p(z|x), or p(z | the values of x that are known)."""
    return _posterior(p, *_centred(p, x, known))[0]


def log_density(
    p: LinearGaussian, x: Float[Tensor, "batch dims"], known: Tensor | None = None
) -> Float[Tensor, " batch"]:
    """log p(x) in nats, of the values that are known; by M, so that nothing is of size D × D.

    Args:
        p: the parameters.
        x: data; what is not known may be anything.
        known: which values are, (B, D) bool; None for all.
    """
    centred, mask = _centred(p, x, known)
    q, chol = _posterior(p, centred, mask)
    dims = x.shape[1] if mask is None else mask.sum(1)
    explained = ((centred @ p.weight) * q.mean).sum(1)
    log_det = 2 * chol.diagonal(dim1=1, dim2=2).log().sum(1)
    latents = p.weight.shape[1]
    return -0.5 * (
        dims * math.log(2 * math.pi)
        + (dims - latents) * p.variance.log()
        + log_det
        + (centred.square().sum(1) - explained) / p.variance
    )


def em_step(
    p: LinearGaussian, x: Float[Tensor, "batch dims"], known: Tensor | None, least: float
) -> LinearGaussian:
    r"""One iteration of EM, which never lowers the likelihood of what is known.

    With :math:`\tilde z = (z, 1)` and :math:`\tilde w_d = (w_d, \mu_d)` the M-step regresses each
    dimension on the latents of the examples that have it:

    .. math::
        \tilde w_d = \Big(\sum_n E[\tilde z_n \tilde z_n^\top]\Big)^{-1} \sum_n x_{nd} E[\tilde z_n]

    Args:
        p: the parameters.
        x: data; what is not known may be anything.
        known: which values are, (B, D) bool; None for all.
        least: what σ² is kept above.
    """
    q = posterior(p, x, known)
    x = x if known is None else torch.where(known, x, 0.0)
    one = torch.ones_like(q.mean[:, :1])
    z = torch.cat([q.mean, one], 1)
    second = z[:, :, None] * z[:, None, :]
    second[:, :-1, :-1] += q.covariance
    if known is None:
        moments, count = second.sum(0, keepdim=True), x.numel()
    else:
        mask = known.to(x.dtype)
        moments, count = torch.einsum("nd,nij->dij", mask, second), int(known.sum())
    cross = x.T @ z
    weight = torch.linalg.solve(moments, cross[:, :, None])[:, :, 0]
    explained = (weight * cross).sum()  # wᵀ A w = wᵀ b at the solution
    variance = ((x.square().sum() - explained) / count).clamp(min=least)
    return LinearGaussian(weight[:, :-1], weight[:, -1], variance)


def _centred(p: LinearGaussian, x: Tensor, known: Tensor | None) -> tuple[Tensor, Tensor | None]:
    if known is None:
        return x - p.mean, None
    return torch.where(known, x - p.mean, 0.0), known.to(x.dtype)


def _posterior(p: LinearGaussian, centred: Tensor, mask: Tensor | None) -> tuple[Posterior, Tensor]:
    """The posterior, and the Cholesky factor of M."""
    w = p.weight
    gram = (w.T @ w)[None] if mask is None else torch.einsum("nd,di,dj->nij", mask, w, w)
    chol = torch.linalg.cholesky(gram + p.variance * torch.eye(w.shape[1], dtype=w.dtype))
    mean = torch.cholesky_solve((centred @ w)[:, :, None], chol)[:, :, 0]
    return Posterior(mean, p.variance * torch.cholesky_inverse(chol)), chol


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
        if latents < 1:
            raise NelboError(f"latents must be at least 1, got {latents}")
        if method not in METHODS:
            raise NelboError(f"unknown method {method!r}: expected one of {', '.join(METHODS)}")
        self.latents, self.method, self.tolerance = latents, method, tolerance

    @property
    def allows_missing(self) -> bool:
        """Only EM allows missing values."""
        return self.method == "em"

    @property
    def parameters_(self) -> LinearGaussian:
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
            yield FitStep(1, 1.0, -float(log_density(self.parameters_, x).mean()))
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
        weight = torch.randn(self.dims, self.latents, generator=generator, dtype=torch.float64)
        self._set(LinearGaussian(weight * (variance / self.latents).sqrt(), mean, variance))
        patience, number = Patience(self.tolerance * self.dims), 0
        while True:
            number += 1
            self._set(em_step(self.parameters_, x, known, least))
            nats = -float(log_density(self.parameters_, x, known).mean())
            yield FitStep(number, float(number), nats)
            if budget.is_over or patience.is_over(nats):
                return

    def _set(self, p: LinearGaussian) -> None:
        self.weight.copy_(p.weight)
        self.mean.copy_(p.mean)
        self.variance.copy_(p.variance)

    def encoder(self, x: Float[Tensor, "batch channels height width"]) -> MultivariateNormal:
        """q(z|x) of the VAE that PPCA is, which is the posterior p(z|x) itself."""
        q = posterior(self.parameters_, x.flatten(1).double())
        return MultivariateNormal(q.mean, q.covariance)

    def decoder(self, z: Float[Tensor, "batch latents"]) -> Normal:
        """p(x|z), float64, of the shape of images."""
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
        p, x = self.parameters_, x_0.flatten(1).double()
        density = log_density(p, x)
        if not isinstance(self.data, Pixels):
            return Costs.of("exact", {"likelihood": -density}, x_0)
        mean, variance = self._noiseless(posterior(p, x))
        return pixel_bound(x, density, mean, variance, p.variance, self.data.levels)

    def _noiseless(self, q: Posterior) -> tuple[Tensor, Tensor]:
        """The mean and variance of W z + μ under q, value by value."""
        w = self.weight
        variance = torch.einsum("di,nij,dj->nd", w, q.covariance, w)
        return q.mean @ w.T + self.mean, variance

    def draws(self, n: int, generator: torch.Generator | None) -> Tensor:
        """Draw z, then x; of pixels, rounded."""
        z = torch.randn(n, self.latents, generator=generator, dtype=torch.float64)
        noise = torch.randn(n, *self.image_shape, generator=generator, dtype=torch.float64)
        p = self.decoder(z)
        x = p.mean + p.stddev * noise
        return nearest_pixels(x, self.data)
