"""Fits beside hmmlearn, statsmodels and pythae, from the same parameters.

    python benchmarks/families.py [--iterations 10] [--steps 400] [--json FILE]

Each row is one task on the digits, done by both in this process, with what they find in the end,
which must agree for all but the VAE, and the ratio of processor times, nelbo's over the peer's:

    EM of an HMM with categorical emissions, pixels in raster order (hmmlearn.CategoricalHMM)
    EM of an HMM with diagonal Gaussian emissions, rows (hmmlearn.GaussianHMM)
    the likelihood of the rows of every digit under an LDS (statsmodels' KalmanFilter)
    EM of that LDS: both E-steps, of statsmodels by KalmanSmoother, with one and the same M-step
    steps of a VAE with the same networks and images, taken in turn; bits/dim of the test images
        (pythae, where it is installed: pip install -c constraints.txt pythae)
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hmmlearn import hmm
from rich.console import Console
from rich.table import Table
from statsmodels.tsa.statespace.kalman_filter import KalmanFilter
from statsmodels.tsa.statespace.kalman_smoother import KalmanSmoother
from torch import Tensor

from nelbo.chain.data_space import Continuous, Pixels
from nelbo.data import load_data
from nelbo.families import LDS, VAE
from nelbo.families.emissions import Categorical, Emission, Gaussian
from nelbo.families.hmm_em import Chain, expect, maximise
from nelbo.families.kalman import (
    Smoothed,
    States,
    System,
    kalman_filter,
    kalman_smoother,
    maximise_system,
)
from nelbo.families.optimizers import adam_of
from nelbo.families.raster import to_rows
from nelbo.families.training import shuffled

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


def filters(kind: type, system: System, x: Tensor) -> Iterator[Any]:
    """A filter or smoother of statsmodels for each sequence: one that is bound to a second keeps
    the first."""
    q, m = system.transition.shape[0], x.shape[2]
    for sequence in (x - system.offset).numpy():
        peer = kind(k_endog=m, k_states=q, k_posdef=q)
        peer.bind(sequence.copy())
        peer["design"] = system.observation.numpy()
        peer["obs_cov"] = np.diag(system.noise.numpy())
        peer["transition"], peer["selection"] = system.transition.numpy(), np.eye(q)
        peer["state_cov"] = system.process.numpy()
        peer.initialize_known(np.zeros(q), system.initial.numpy())
        yield peer


def likelihood_of(system: System, x: Tensor) -> dict[str, float]:
    """The mean log-likelihood of all sequences under one fitted LDS."""

    def theirs() -> float:
        return sum(peer.loglike() for peer in filters(KalmanFilter, system, x)) / len(x)

    return side_by_side(lambda: float(kalman_filter(system, x).log_likelihood.mean()), theirs)


def lds_em_of(start: System, x: Tensor, iterations: int) -> dict[str, float]:
    """EM from one start by both; what is found is the mean log-likelihood before the last step."""

    def smoothed(p: System, x: Tensor) -> Smoothed:
        """What `kalman_smoother` finds, by statsmodels."""
        found = [peer.smooth() for peer in filters(KalmanSmoother, p, x)]
        first = found[0]
        # Its covariance of lag one is of z_{t+1} and z_t at t.
        pairs = torch.from_numpy(first.smoothed_state_autocov).permute(2, 0, 1)[:-1]
        return Smoothed(
            States(
                torch.stack([torch.from_numpy(each.smoothed_state).T for each in found]),
                torch.from_numpy(first.smoothed_state_cov).permute(2, 0, 1),
            ),
            pairs,
            torch.tensor([each.llf for each in found], dtype=torch.float64),
        )

    def fitted(smooth: Callable[[System, Tensor], Smoothed]) -> float:
        p = start
        for _ in range(iterations):
            expected = smooth(p, x)
            p = maximise_system(p, x, expected, 1e-8)
        return float(expected.log_likelihood.mean())

    return side_by_side(lambda: fitted(kalman_smoother), lambda: fitted(smoothed))


def vae_of(steps: int) -> dict[str, float] | None:
    """A VAE by both, steps in turn from the same weights; bits/dim of the test images."""
    try:
        from _pythae_vae import bits_per_dim, pythae_vae, stepper
    except ImportError:
        return None
    train, space = load_data("digits", "train"), Pixels(17)
    parts = [load_data("digits", split).images for split in ("train", "validation", "test")]
    images, held_out, test = (space.to_network(part) for part in parts)
    model, seconds = VAE(), {"nelbo": 0.0, "pythae": 0.0}
    adam = partial(adam_of, betas=(0.9, 0.99))  # which pythae has, too
    model.recipe = replace(model.recipe, optimizer=adam)
    ours = model.fit_steps(train, device="cpu")
    next(ours)  # the networks and their optimiser are there now
    peer = pythae_vae(model.hierarchy, model.image_shape).train()
    step = stepper(peer, model.recipe.learning_rate)
    batches = shuffled(len(images), model.recipe.batch_size, torch.Generator().manual_seed(0))
    for _ in range(steps):
        seconds["nelbo"] += timed(lambda: next(ours).nats)[1]
        x = images[next(batches)]
        seconds["pythae"] += timed(lambda x=x: step(x))[1]
    ours.close()
    with torch.no_grad():
        evidence = model.evidence(test, generator=torch.Generator().manual_seed(0))
    return {
        "nelbo": float(evidence.bits_per_dim.mean()),
        "peer": float(bits_per_dim(peer, space, test, held_out).mean()),
        "seconds": seconds["nelbo"],
        "peer seconds": seconds["pythae"],
    }


def side_by_side(ours: Callable[[], float], theirs: Callable[[], float]) -> dict[str, float]:
    (our, our_time), (their, their_time) = timed(ours), timed(theirs)
    return {"nelbo": our, "peer": their, "seconds": our_time, "peer seconds": their_time}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--steps", type=int, default=400)
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
    system = LDS(4).fit((rows + noise)[:, None], device="cpu").system
    start = system._replace(transition=0.5 * system.transition, noise=2 * system.noise)
    found: dict[str, dict[str, float] | None] = {
        "EM, categorical, pixels": em_of(
            rows.reshape(len(rows), -1, 1), Categorical(space), categorical, n
        ),
        "EM, Gaussian, rows": em_of(rows + noise, Gaussian(Continuous()), gaussian, n),
        "likelihood of an LDS": likelihood_of(system, rows + noise),
        "EM of an LDS": lds_em_of(start, rows + noise, n),
        "VAE, bits/dim": vae_of(options.steps),
    }
    table = Table("task", "nelbo", "peer", "nelbo, s", "peer, s", "ratio of times")
    for task, row in found.items():
        if row is None:
            table.add_row(task, "", "not installed")
            continue
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
