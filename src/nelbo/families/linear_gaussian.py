r"""The density, the posterior, and maximum likelihood of a linear-Gaussian model with one latent.

The model is that of `nelbo.families.ppca`; these are pure functions of its parameters and data.
Everything goes by the q × q matrix M, so that nothing but the closed form is of size D × D.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


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
    largest, vectors = values.flip(0)[:top].clamp(min=0), vectors.flip(1)[:, :top]
    rest = (centred.square().sum() / n - largest.sum()) / (dims - latents)
    variance = rest.clamp(min=least)
    weight = x.new_zeros(dims, latents)
    weight[:, :top] = vectors * (largest - variance).clamp(min=0).sqrt()
    return LinearGaussian(weight, mean, variance)


def posterior(
    p: LinearGaussian, x: Float[Tensor, "batch dims"], known: Tensor | None = None
) -> Posterior:
    """p(z|x), or p(z | the values of x that are known)."""
    return _posterior(p, *_centred(p, x, known))[0]


def log_density(
    p: LinearGaussian, x: Float[Tensor, "batch dims"], known: Tensor | None = None
) -> Float[Tensor, " batch"]:
    r"""log p(x) in nats, of the values that are known; by M, so that nothing is of size D × D.

    With m the mean of the posterior the squared distance is a sum of squares, in which nothing
    cancels where σ² is small:

    .. math:: (x-\mu)^\top C^{-1} (x-\mu) = \|x - \mu - W m\|^2 / \sigma^2 + \|m\|^2

    Args:
        p: the parameters.
        x: data; what is not known may be anything.
        known: which values are, (B, D) bool; None for all.
    """
    centred, mask = _centred(p, x, known)
    q, chol = _posterior(p, centred, mask)
    dims = x.shape[1] if mask is None else mask.sum(1)
    rest = centred - q.mean @ p.weight.T
    rest = rest if mask is None else mask * rest
    log_det = 2 * chol.diagonal(dim1=1, dim2=2).log().sum(1)
    latents = p.weight.shape[1]
    return -0.5 * (
        dims * math.log(2 * math.pi)
        + (dims - latents) * p.variance.log()
        + log_det
        + rest.square().sum(1) / p.variance
        + q.mean.square().sum(1)
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
    if mask is None:
        gram = (w.T @ w)[None]
    else:
        gram = torch.einsum("nd,dij->nij", mask, w[:, :, None] * w[:, None, :])
    eye = torch.eye(w.shape[1], dtype=w.dtype, device=w.device)
    chol = torch.linalg.cholesky(gram + p.variance * eye)
    mean = torch.cholesky_solve((centred @ w)[:, :, None], chol)[:, :, 0]
    return Posterior(mean, p.variance * torch.cholesky_inverse(chol)), chol
