r"""How much a set of samples looks like a set of real pictures, in a space of features.

- *Fréchet distance* (Heusel et al. 2017): of the normals with the means and covariances of the two
  sets, :math:`\|\mu_1-\mu_2\|^2 + \mathrm{tr}(\Sigma_1+\Sigma_2-2(\Sigma_1\Sigma_2)^{1/2})`. With n
  pictures it is too large by about c/n, so figures compare only at equal numbers; `extrapolated`
  takes that bias off (Chong & Forsyth 2020), from random halves of both sets.
- *Kernel distance* (Bińkowski et al. 2018): the squared maximum mean discrepancy with the kernel
  :math:`(x\cdot y/d + 1)^3`, without bias, and so negative now and then.
- *Precision and recall* (Kynkäänniemi et al. 2019): the share of samples within the balls around
  real pictures that reach to their third neighbour, and the share of real pictures within those of
  samples.
- *Density and coverage* (Naeem et al. 2020): how many balls of real pictures, to their fifth
  neighbour, hold a sample, as a multiple of five; and the share of them that hold any.

Each stands beside its value for real pictures: as many as there are samples, at most half of them,
against the others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from nelbo.base.arguments import described
from nelbo.base.errors import NelboError
from nelbo.base.files import finite
from nelbo.chain.estimate import Estimate
from nelbo.evidence.feature_spaces import (
    FeatureSpace,
    features_of,
    principal_components,
    random_convolutions,
    some_of,
)
from nelbo.evidence.inputs import check_pictures

# Real pictures that samples are compared with at most, drawn at random.
MOST_REAL = 5_000
# Random halves that errors and bias come from, and divisions of the real pictures in two.
_HALVES = 20
_DIVISIONS = 5
_CHUNK = 1024


@dataclass(frozen=True)
class Likeness:
    """How alike two sets of pictures are.

    Attributes:
        images: how many were compared.
        reference: with how many.
        frechet: Fréchet distance.
        frechet_error: its standard error, from random halves.
        frechet_extrapolated: to any number of pictures.
        kernel: kernel distance.
        kernel_error: its standard error, by the jackknife.
        precision: share of the images among the reference.
        recall: share of the reference among the images.
        density: see the module.
        coverage: see the module.
    """

    images: int
    reference: int
    frechet: float
    frechet_error: float
    frechet_extrapolated: float
    kernel: float
    kernel_error: float
    precision: float
    recall: float
    density: float
    coverage: float


@dataclass(frozen=True)
class SpaceQuality:
    """The figures of samples in one feature space, and of real pictures beside them.

    Attributes:
        space: the name of the feature space.
        samples: the samples against the real pictures.
        real: as many real pictures as samples, at most half of them, against the others; the mean
            over random divisions.
    """

    space: str
    samples: Likeness
    real: Likeness

    def to_json(self) -> dict[str, Any]:
        """For a file; what is not finite is null."""
        return finite(asdict(self))


def sample_quality(
    samples: UInt8[Tensor, "n channels height width"],
    real: UInt8[Tensor, "m channels height width"],
    levels: int,
    *,
    spaces: Sequence[FeatureSpace] | None = None,
    most: int = MOST_REAL,
    seed: int = 0,
) -> list[SpaceQuality]:
    """The figures of samples in each feature space.

    Args:
        samples: pixel levels 0..levels−1, (N, C, H, W).
        real: those trained on, alike; at most `most` of them, drawn at random, are used.
        levels: how many levels a pixel has.
        spaces: where to compare; by default principal components and random convolutions, fitted on
            the real pictures.
        most: how many real pictures to look at; the time goes with its square.
        seed: of the divisions in halves.

    Raises:
        NelboError: fewer than 2 samples or 4 real pictures, or pictures of two sizes.
    """
    check_pictures(samples=samples, real=real)
    if samples.shape[1:] != real.shape[1:]:
        raise NelboError(
            f"samples of shape {tuple(samples.shape[1:])} cannot be compared with pictures of "
            f"shape {tuple(real.shape[1:])}"
        )
    if len(samples) < 2 or len(real) < 4:
        raise NelboError(
            "sample quality needs at least 2 samples and 4 real pictures, got "
            f"{len(samples)} and {len(real)}"
        )
    real = some_of(real, most, seed)
    if spaces is None:
        spaces = (principal_components(real, levels), random_convolutions(real, levels))
    count = min(len(samples), len(real) // 2)
    found = []
    for space in spaces:
        generator = torch.Generator().manual_seed(seed)
        drawn, kept = features_of(space, samples, real)
        beside = []
        for _ in range(_DIVISIONS):
            order = torch.randperm(len(kept), generator=generator)
            beside.append(
                likeness(kept[order[:count]], kept[order[count:]], space.unit, count, generator)
            )
        compared = likeness(drawn, kept, space.unit, count, generator)
        found.append(SpaceQuality(space.name, compared, _mean(beside)))
    return found


def likeness(
    points: Float[Tensor, "n features"],
    reference: Float[Tensor, "m features"],
    unit: float = 1.0,
    neighbours_of: int | None = None,
    generator: torch.Generator | None = None,
) -> Likeness:
    """All figures of one set of features against another.

    Args:
        points: the features to judge, (N, D).
        reference: those of real pictures, (M, D).
        unit: what the kernel distance divides features by.
        neighbours_of: how many of each set precision, recall, density and coverage look at, so
            that two sets are as dense; by default the smaller number.
        generator: the source of all draws.
    """
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    value, error, extrapolated = frechet_with_error(points, reference, generator)
    kernel = kernel_distance(points / unit, reference / unit)
    count = neighbours_of or min(len(points), len(reference))
    few, among = _some(points, count, generator), _some(reference, count, generator)
    precision, recall = precision_recall(among, few)
    density, coverage = density_coverage(among, few)
    return Likeness(
        images=len(points),
        reference=len(reference),
        frechet=value,
        frechet_error=error,
        frechet_extrapolated=extrapolated,
        kernel=kernel.mean,
        kernel_error=kernel.standard_error,
        precision=precision,
        recall=recall,
        density=density,
        coverage=coverage,
    )


def frechet_distance(a: Float[Tensor, "n features"], b: Float[Tensor, "m features"]) -> float:
    r"""Squared Fréchet distance of the normals with the two sets' means and covariances.

    With :math:`\Sigma_i = R_i^\top R_i` the trace of :math:`(\Sigma_1\Sigma_2)^{1/2}` is the sum
    of the singular values of :math:`R_1 R_2^\top`, which needs no root of a matrix.

    Raises:
        NelboError: fewer than two vectors in a set.
    """
    _check_sets("a Fréchet distance", a, b)
    (mean_a, root_a), (mean_b, root_b) = _moments(a), _moments(b)
    between = (mean_a - mean_b).square().sum()
    spread = root_a.square().sum() + root_b.square().sum()
    shared = torch.linalg.svdvals(root_a @ root_b.T).sum()
    return max(float(between + spread - 2 * shared), 0.0)


def _check_sets(what: str, a: Any, b: Any) -> None:
    """Raise `NelboError` unless there are the same features of two pictures or more in each set."""
    for name, features in {"a": a, "b": b}.items():
        if not isinstance(features, Tensor) or features.ndim != 2:
            raise NelboError(f"{name} is {described(features)}, expected features (N, F)")
    if a.shape[1] != b.shape[1]:
        raise NelboError(f"{what} needs the same features, got {a.shape[1]} and {b.shape[1]}")
    if min(len(a), len(b)) < 2:
        raise NelboError(f"{what} needs at least 2 pictures in each set, got {len(a)} and {len(b)}")


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """The mean, and a root R of the covariance RᵀR with as few rows as there can be."""
    mean = x.double().mean(0)
    root = (x.double() - mean) / math.sqrt(len(x) - 1)
    return mean, torch.linalg.qr(root, mode="r").R if len(x) > x.shape[1] else root


def frechet_with_error(
    a: Float[Tensor, "n features"],
    b: Float[Tensor, "m features"],
    generator: torch.Generator | None = None,
) -> tuple[float, float, float]:
    """The Fréchet distance, its standard error, and its extrapolation to any number of pictures.

    The spread over random halves of both sets is the error (Shao & Wu 1989: deleting half of a set
    at random needs no factor). As the bias goes with 1/n, that of the halves is twice that of the
    whole, and twice the whole less the halves' mean has none to this order. Every second half of an
    odd number is the larger one.
    """
    value = frechet_distance(a, b)
    if min(len(a), len(b)) < 4:
        return value, math.nan, math.nan
    halves = torch.tensor(
        [
            frechet_distance(
                _some(a, (len(a) + extra) // 2, generator),
                _some(b, (len(b) + extra) // 2, generator),
            )
            for extra in (0, 1) * (_HALVES // 2)
        ],
        dtype=torch.float64,
    )
    return value, float(halves.std()), 2 * value - float(halves.mean())


def kernel_distance(a: Float[Tensor, "n features"], b: Float[Tensor, "m features"]) -> Estimate:
    r"""Squared maximum mean discrepancy with the kernel (x·y/d + 1)³, unbiased.

    The standard error is that of the jackknife over both sets; where the two are alike it is too
    large by a factor of about √2.

    Raises:
        NelboError: fewer than two vectors in a set.
    """
    _check_sets("a kernel distance", a, b)

    def sums(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The kernel summed over y for each x, and over x for each y."""
        over_y, over_x = [], torch.zeros(len(y), dtype=torch.float64)
        for some in x.double().split(_CHUNK):
            kernel = (some @ y.double().T / x.shape[1] + 1) ** 3
            over_y.append(kernel.sum(1))
            over_x += kernel.sum(0)
        return torch.cat(over_y), over_x

    def others(x: Tensor) -> Tensor:
        """The kernel of each x summed over all others."""
        own = (x.double().square().sum(1) / x.shape[1] + 1) ** 3
        return sums(x, x)[0] - own

    n, m = len(a), len(b)
    in_a, in_b = others(a), others(b)
    of_a, of_b = sums(a, b)

    def estimate(within_a: Any, n: int, within_b: Any, m: int, between: Any) -> Any:
        return within_a / (n * (n - 1)) + within_b / (m * (m - 1)) - 2 * between / (n * m)

    total_a, total_b, total = in_a.sum(), in_b.sum(), of_a.sum()
    mean = float(estimate(total_a, n, total_b, m, total))
    if min(n, m) < 3:
        return Estimate(mean, math.nan)
    without = (
        estimate(total_a - 2 * in_a, n - 1, total_b, m, total - of_a),
        estimate(total_a, n, total_b - 2 * in_b, m - 1, total - of_b),
    )
    variance = sum(float(x.var(correction=0)) * (len(x) - 1) for x in without)
    return Estimate(mean, math.sqrt(variance))


def precision_recall(
    real: Float[Tensor, "n features"], fake: Float[Tensor, "m features"], neighbours: int = 3
) -> tuple[float, float]:
    """Precision and recall of Kynkäänniemi et al. (2019); nan where a set is too small."""
    if min(len(real), len(fake)) <= neighbours:
        return math.nan, math.nan
    found, lost = among(fake, real, neighbours), among(real, fake, neighbours)
    return float(found.double().mean()), float(lost.double().mean())


def among(
    points: Float[Tensor, "n features"], others: Float[Tensor, "m features"], neighbours: int = 3
) -> Bool[Tensor, " n"]:
    """Whether each point lies in the ball around some other that reaches to its third neighbour.

    Args:
        points: those that are asked about.
        others: at least one more than `neighbours`.
        neighbours: which neighbour among the others a ball reaches to.
    """
    return _within(points, others, _radii(others, neighbours)).any(1)


def density_coverage(
    real: Float[Tensor, "n features"], fake: Float[Tensor, "m features"], neighbours: int = 5
) -> tuple[float, float]:
    """Density and coverage of Naeem et al. (2020); nan where there are too few real pictures."""
    if len(real) <= neighbours or len(fake) == 0:
        return math.nan, math.nan
    found = _within(fake, real, _radii(real, neighbours))
    return float(found.double().sum(1).mean() / neighbours), float(found.any(0).double().mean())


def _radii(x: Tensor, neighbours: int) -> Float[Tensor, " n"]:
    """How far it is from each to its so manieth neighbour among the others."""
    return torch.cat(
        [
            torch.cdist(some, x, compute_mode="donot_use_mm_for_euclid_dist")
            .kthvalue(neighbours + 1, dim=1)
            .values
            for some in x.split(_CHUNK)
        ]
    )


def _within(points: Tensor, centres: Tensor, radii: Tensor) -> Bool[Tensor, "points centres"]:
    """Whether each point lies in the ball around each centre."""
    return torch.cat(
        [
            torch.cdist(some, centres, compute_mode="donot_use_mm_for_euclid_dist") <= radii
            for some in points.split(_CHUNK)
        ]
    )


def _some(x: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """`count` of the rows, without order; all where there are no more."""
    return x if len(x) <= count else x[torch.randperm(len(x), generator=generator)[:count]]


def _mean(some: Sequence[Likeness]) -> Likeness:
    """The mean of each figure."""
    counts = ("images", "reference")
    means: dict[str, Any] = {
        f.name: sum(getattr(x, f.name) for x in some) / len(some)
        for f in fields(Likeness)
        if f.name not in counts
    }
    return replace(some[0], **means)
