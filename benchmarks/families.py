"""EM and the Kalman filter beside hmmlearn and statsmodels, from the same parameters.

    python benchmarks/families.py [--iterations 10] [--json FILE]

Each row is one task on the digits, done by both in this process, with what they find in the end,
which must agree, and the ratio of processor times, nelbo's over the peer's:

    EM of an HMM with categorical emissions, pixels in raster order (hmmlearn.CategoricalHMM)
    EM of an HMM with diagonal Gaussian emissions, rows (hmmlearn.GaussianHMM)
    the likelihood of the rows of every digit under an LDS (statsmodels' KalmanFilter)
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from hmmlearn import hmm
from rich.console import Console
from rich.table import Table
from statsmodels.tsa.statespace.kalman_filter import KalmanFilter
from torch import Tensor

from nelbo.chain.data_space import Continuous, Pixels
from nelbo.data import load_data
from nelbo.families import LDS
from nelbo.families.emissions import Categorical, Emission, Gaussian
from nelbo.families.hmm_em import Chain, expect, maximise
from nelbo.families.kalman import kalman_filter
from nelbo.families.raster import to_rows

CONSOLE = Console(width=110)
STATES = 16


def timed(task: Callable[[], float]) -> tuple[float, float]:
    """What a task finds, and the seconds of processor time that it takes."""
    start = time.process_time()
    found = task()
    return found, time.process_time() - start


def random_chain(emission: Emission, values: int, x: Tensor) -> Chain:
    g = torch.Generator().manual_seed(0)
    if isinstance(emission, Categorical):
        parameters = torch.rand(STATES, values, 17, generator=g, dtype=torch.float64) + 0.5
        parameters /= parameters.sum(2, keepdim=True)
    else:
        flat = x.flatten(0, 1)
        some = torch.randperm(len(flat), generator=g)[:STATES]
        parameters = torch.stack([flat[some], flat.var(0).clamp(min=0.05).expand(STATES, -1)])
    transition = torch.rand(STATES, STATES, generator=g, dtype=torch.float64) + 0.5
    transition /= transition.sum(1, keepdim=True)
    return Chain(torch.full((STATES,), 1 / STATES, dtype=torch.float64), transition, parameters)


def em_of(x: Tensor, emission: Emission, peer, iterations: int) -> dict[str, float]:
    """EM from one start by both; what is found is the log-likelihood of the last iteration."""
    start = random_chain(emission, x.shape[2], x)
    peer.startprob_, peer.transmat_ = start.initial.numpy(), start.transition.numpy()
    if isinstance(emission, Categorical):
        peer.emissionprob_ = start.emission[:, 0].numpy()
        data = emission.space.to_levels(x).flatten(0, 1).numpy()
    else:
        peer.means_, peer.covars_ = (part.numpy().copy() for part in start.emission)
        data = x.flatten(0, 1).numpy()
    lengths = [x.shape[1]] * len(x)

    def theirs() -> float:
        peer.fit(data, lengths)
        return peer.monitor_.history[-1] / len(x)

    def ours() -> float:
        p = start
        for _ in range(iterations):
            expected = expect(p, emission, x)
            p = maximise(expected, emission)
        return float(expected.log_likelihood) / len(x)

    return side_by_side(ours, theirs)


def likelihood_of(x: Tensor) -> dict[str, float]:
    """The mean log-likelihood of all sequences under one fitted LDS."""
    system = LDS(4).fit(x[:, None]).system

    def theirs() -> float:
        q, m = system.transition.shape[0], x.shape[2]
        noise, root = np.diag(system.noise.numpy()), np.eye(q)
        total = 0.0
        # A filter that is bound to a second sequence keeps the first: one for each.
        for sequence in (x - system.offset).numpy():
            peer = KalmanFilter(k_endog=m, k_states=q, k_posdef=q)
            peer.bind(sequence.copy())
            peer["design"], peer["obs_cov"] = system.observation.numpy(), noise
            peer["transition"], peer["selection"] = system.transition.numpy(), root
            peer["state_cov"] = system.process.numpy()
            peer.initialize_known(np.zeros(q), system.initial.numpy())
            total += peer.loglike()
        return total / len(x)

    return side_by_side(lambda: float(kalman_filter(system, x).log_likelihood.mean()), theirs)


def side_by_side(ours: Callable[[], float], theirs: Callable[[], float]) -> dict[str, float]:
    (our, our_time), (their, their_time) = timed(ours), timed(theirs)
    return {"nelbo": our, "peer": their, "seconds": our_time, "peer seconds": their_time}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    space = Pixels(17)
    rows = to_rows(space.to_network(load_data("digits", "train").images).double())
    # Constant pixels have no variance: a little noise keeps both from their own floors.
    noise = torch.randn(rows.shape, generator=torch.Generator().manual_seed(0)) / 16
    n = options.iterations
    categorical = hmm.CategoricalHMM(
        STATES, n_features=17, n_iter=n, tol=-np.inf, init_params="", implementation="scaling"
    )
    gaussian = hmm.GaussianHMM(
        STATES, "diag", n_iter=n, tol=-np.inf, init_params="", covars_prior=0, covars_weight=0,
        means_weight=0, implementation="scaling",
    )  # fmt: skip
    found = {
        "EM, categorical, pixels": em_of(
            rows.reshape(len(rows), -1, 1), Categorical(space), categorical, n
        ),
        "EM, Gaussian, rows": em_of(rows + noise, Gaussian(Continuous()), gaussian, n),
        "likelihood of an LDS": likelihood_of(rows + noise),
    }
    table = Table("task", "nelbo, nats", "peer, nats", "nelbo, s", "peer, s", "ratio of times")
    for task, row in found.items():
        ratio = row["seconds"] / row["peer seconds"]
        table.add_row(
            task,
            f"{row['nelbo']:.6f}",
            f"{row['peer']:.6f}",
            f"{row['seconds']:.2f}",
            f"{row['peer seconds']:.2f}",
            f"{ratio:.2f}",
        )
    CONSOLE.print(table)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
