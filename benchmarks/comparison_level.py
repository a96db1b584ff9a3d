"""How often tests of a mean difference find one between equal models, by the distribution.

    python benchmarks/comparison_level.py [--samples 4000] [--resamples 1999]

Prints the share of samples with p < 0.05 where the mean is zero: of the test of `nelbo compare`,
and of Student's t-test. All samples of a cell share their resamples, which takes seconds.
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy import stats

SIZES = (5, 10, 20, 50, 100, 200)
DISTRIBUTIONS = {
    "normal": lambda g, size: g.standard_normal(size),
    "Student's t, 3": lambda g, size: g.standard_t(3, size=size),
    "exponential": lambda g, size: g.exponential(size=size) - 1,
    "lognormal": lambda g, size: g.lognormal(size=size) - np.exp(0.5),
    "5% large losses": lambda g, size: (
        np.where(g.random(size) < 0.05, 0.95, -0.05) + 0.01 * g.standard_normal(size)
    ),
}


def p_values(values: np.ndarray, resamples: int, g: np.random.Generator) -> np.ndarray:
    """As `nelbo.evidence.comparison.mean_test`, of each row of (samples, n)."""
    n = values.shape[1]
    mean, variance = values.mean(1), values.var(1, ddof=1)
    centred = values - mean[:, None]
    t = mean / np.sqrt(variance)
    counts = g.multinomial(n, np.full(n, 1 / n), size=resamples).astype(float)
    average = centred @ counts.T / n
    spread = (np.square(centred) @ counts.T / n - average**2) * n / (n - 1)
    star = average / np.sqrt(np.maximum(spread, 1e-12 * variance[:, None]))

    def share(found: np.ndarray) -> np.ndarray:
        return (1 + found.sum(1)) / (resamples + 1)

    tails = np.minimum(share(star <= t[:, None]), share(star >= t[:, None]))
    return np.maximum(2 * tails, share(abs(star) >= abs(t)[:, None]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--resamples", type=int, default=1999)
    arguments = parser.parse_args()
    g = np.random.default_rng(1)
    print(f"{'':18s}" + "".join(f"{n:>16,}" for n in SIZES) + "   (bootstrap, t-test)")
    for name, draw in DISTRIBUTIONS.items():
        cells = []
        for n in SIZES:
            values = draw(g, (arguments.samples, n))
            own = (p_values(values, arguments.resamples, g) < 0.05).mean()
            student = (stats.ttest_1samp(values, 0.0, axis=1).pvalue < 0.05).mean()
            cells.append(f"{own:.3f}, {student:.3f}")
        print(f"{name:18s}" + "".join(f"{cell:>16s}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
