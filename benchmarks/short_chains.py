"""What short chains lose: the bound and the samples of K of 1,000 levels, on digits.

    python benchmarks/short_chains.py [--run RUN] [--part bounds|samples] [--out DIR]

Without a run it trains one for two minutes. The level profile is measured on training images, the
bounds on the 299 test images. All chains see the same noise, so that their differences are far
better known than the bounds themselves; both standard errors are printed. Samples are compared
with all real digits by the Fréchet distance between the features of a small classifier that is
trained here, and the same distance between two halves of the real digits is the floor.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from _digits import digits_run
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

import nelbo
from nelbo.chain.estimate import Estimate
from nelbo.data import load_data
from nelbo.report.theme import new_figure
from nelbo.samplers import DDIM, DDPM, DPMSolver, Euler, Heun, Sampler
from nelbo.samplers.grid import spaced_levels

LENGTHS = (5, 10, 25, 50, 100)
STEPS = (5, 10, 25, 50)
BASELINE, BEST = "even + fixed_small", "optimal + analytic"
Chain = tuple[str, str]  # which levels, which variance
CHAINS: dict[str, Chain] = {
    BASELINE: ("even", "fixed_small"),
    "even + learned_range": ("even", "learned_range"),
    "even + analytic": ("even", "analytic"),
    BEST: ("optimal", "analytic"),
}
COLORS = {
    BASELINE: "#9b978f",
    "even + learned_range": "#a85a9a",
    "even + analytic": "#d98014",
    BEST: "#3b7cc0",
}
OTHERS = ("#4c9a6a", "#c0504d", "#7a7772", "#b8860b", "#5b5ea6")


class Remembering:
    """The network, called once for each state that it is asked about at a level."""

    def __init__(self, network: Callable[..., Tensor]) -> None:
        self.network = network
        self.known: dict[tuple[int, int], Tensor] = {}

    def __call__(self, x_t: Tensor, time: Tensor, condition: object = None) -> Tensor:
        key = int(time[0]), hash(x_t.numpy().tobytes())
        if key not in self.known:
            self.known[key] = self.network(x_t, time, condition)
        return self.known[key]


def with_variance(model: nelbo.Diffusion, variance: str, network=None) -> nelbo.Diffusion:
    """The model with another variance; one that is not learned takes the first C channels."""
    network = network or model.network

    def mean_only(x_t: Tensor, time: Tensor, condition: object = None) -> Tensor:
        return network(x_t, time, condition)[:, : x_t.shape[1]]

    return nelbo.Diffusion(
        network if variance == "learned_range" else mean_only,
        model.schedule,
        prediction=model.prediction,
        variance=variance,
        data=model.data,
        shape=model.shape,
        thresholding=model.threshold,
        profile=model.profile,
    ).eval()


def chosen_levels(model: nelbo.Diffusion, which: str, K: int) -> list[int]:
    if which == "even":
        return spaced_levels(model.num_levels, K, "linspace")
    assert model.profile is not None
    return nelbo.optimal_levels(model.profile, K)


@torch.no_grad()
def bits(chain: nelbo.Diffusion, x_0: Tensor, noise: Tensor) -> Tensor:
    """The negative bound of each image with one noise for all levels, bits/dim."""
    nats = chain.prior_matching(x_0) - chain.reconstruction(x_0, chain.diffuse(x_0, noise, 1))
    for t in range(2, chain.num_levels + 1):
        nats = nats + chain.score_matching(x_0, chain.diffuse(x_0, noise, t), t)
    return nats / (x_0[0].numel() * math.log(2))


def measure_bounds(
    model: nelbo.Diffusion, lengths: list[int], seed: int, whole: int
) -> dict[str, dict[str, dict]]:
    """Test bits/dim by chain and length, with standard errors over images.

    `whole` levels an image are drawn of the whole chain, which is not compared with the others.
    """
    x_0 = model.data.to_network(load_data("digits", "test").images)
    noise = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(seed))
    network = Remembering(model.network)
    results: dict[str, dict[str, dict]] = {name: {} for name in CHAINS}
    for K in lengths:
        values = {}
        for name, (which, variance) in CHAINS.items():
            chain = with_variance(model, variance, network).respace(chosen_levels(model, which, K))
            values[name] = bits(chain, x_0, noise)
        for name, value in values.items():
            mean, gap = Estimate.of(value), Estimate.of(value - values[BEST])
            results[name][str(K)] = {
                "bits_per_dim": mean.mean,
                "standard_error": mean.standard_error,
                "above_optimal": gap.mean,
                "above_optimal_error": gap.standard_error,
            }
    if not whole:
        return results
    for name, (which, variance) in CHAINS.items():
        if which == "optimal":
            continue  # all levels: the same chain
        with torch.no_grad():
            generator = torch.Generator().manual_seed(seed)
            chain = with_variance(model, variance, network)
            bound = chain.elbo(x_0, levels=whole, generator=generator).mean()
        results[name][str(model.num_levels)] = {
            "bits_per_dim": bound.bits_per_dim.mean,
            "standard_error": bound.bits_per_dim.standard_error,
        }
    results[BEST][str(model.num_levels)] = results["even + analytic"][str(model.num_levels)]
    return results


# One line for each sampler: the chain and the sampler for a number of steps.
Walk = Callable[[nelbo.Diffusion, int], tuple[nelbo.Diffusion, Sampler]]


def ancestral(which: str, variance: str) -> Walk:
    return lambda model, K: (
        with_variance(model, variance).respace(chosen_levels(model, which, K)),
        DDPM(),
    )


SAMPLERS: dict[str, Walk] = {
    "DDPM, even + fixed_small": ancestral("even", "fixed_small"),
    "DDPM, even + analytic": ancestral("even", "analytic"),
    "DDPM, optimal + analytic": ancestral("optimal", "analytic"),
    "DDIM": lambda model, K: (model, DDIM(K, spacing="trailing")),
    "DPM-Solver++ 2": lambda model, K: (model, DPMSolver(K)),
    "DPM-Solver++ 2, SDE": lambda model, K: (model, DPMSolver(K, stochastic=True)),
    "Euler": lambda model, K: (model, Euler(K)),
    # Two network calls a step but for the last: as many calls in all, or one fewer.
    "Heun": lambda model, K: (model, Heun((K + 1) // 2)),
}


class Classifier(nn.Module):
    """A small classifier of digits; its last hidden layer is the feature space."""

    def __init__(self, features: int = 16) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *[nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1)],
            *[nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64 * 16, features), nn.Tanh()],
        )
        self.head = nn.Linear(features, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def train_classifier(model: nelbo.Diffusion) -> tuple[Classifier, float]:
    """The classifier and its accuracy on the test images."""
    train, test = load_data("digits", "train"), load_data("digits", "test")
    torch.manual_seed(0)
    network = Classifier()
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    x, labels = model.data.to_network(train.images), train.labels
    for _ in range(15):
        for index in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(network(x[index]), labels[index]).backward()
            optimizer.step()
    with torch.no_grad():
        guess = network(model.data.to_network(test.images)).argmax(1)
    return network.eval(), (guess == test.labels).double().mean().item()


@torch.no_grad()
def frechet(classifier: Classifier, first: Tensor, second: Tensor) -> float:
    """‖μ_1 − μ_2‖² + tr(C_1 + C_2 − 2 (C_1 C_2)^½) of normals fitted to features (Heusel 2017)."""
    (m1, c1), (m2, c2) = (
        (f.mean(0), np.cov(f, rowvar=False))
        for f in (classifier.body(x).double().numpy() for x in (first, second))
    )
    # The eigenvalues of C_1 C_2 are real and not negative, as C_1 and C_2 are.
    root = np.sqrt(np.linalg.eigvals(c1 @ c2).real.clip(min=0)).sum()
    return float(((m1 - m2) ** 2).sum() + np.trace(c1) + np.trace(c2) - 2 * root)


def measure_samples(model: nelbo.Diffusion, n: int, seed: int) -> dict:
    """Fréchet distances to the real digits by sampler and steps, and the floor."""
    classifier, accuracy = train_classifier(model)
    real = model.data.to_network(load_data("digits", "all").images)
    order = torch.randperm(len(real), generator=torch.Generator().manual_seed(seed))
    floor = frechet(classifier, real[order[:n]], real[order[n:]])
    distances: dict[str, dict[str, float]] = {}
    for name, walk in SAMPLERS.items():
        distances[name] = {}
        for K in STEPS:
            chain, sampler = walk(model, K)
            x = chain.sample(n, sampler, generator=torch.Generator().manual_seed(seed))
            rounded = model.data.to_network(model.data.to_levels(x))
            distances[name][str(K)] = frechet(classifier, rounded, real)
            print(f"{name}, {K} steps: {distances[name][str(K)]:.3f}", flush=True)
    return {"distances": distances, "floor": floor, "accuracy": accuracy, "samples": n}


def tables(results: dict) -> Iterator[Table]:
    if "bounds" in results:
        table = Table(title="test bits/dim ± standard error (above optimal + analytic)")
        table.add_column("levels", justify="right")
        for name in CHAINS:
            table.add_column(name, justify="right")
        for K in results["bounds"][BEST]:
            cells = []
            for name in CHAINS:
                cell = results["bounds"][name][K]
                text = f"{cell['bits_per_dim']:.3f} ± {cell['standard_error']:.3f}"
                if "above_optimal" in cell and name != BEST:
                    gap, error = cell["above_optimal"], cell["above_optimal_error"]
                    text += f" (+{gap:.4f} ± {error:.4f})"
                cells.append(text)
            table.add_row(K, *cells)
        yield table
    if "samples" in results:
        samples = results["samples"]
        table = Table(title=f"Fréchet distance (real against real {samples['floor']:.3f})")
        table.add_column("steps", justify="right")
        for name in samples["distances"]:
            table.add_column(name, justify="right")
        for K in map(str, STEPS):
            table.add_row(K, *(f"{row[K]:.3f}" for row in samples["distances"].values()))
        yield table


def plot_bounds(results: dict, path: Path) -> None:
    figure = new_figure(5.2, 3.4)
    figure.patch.set_facecolor("white")
    axes = figure.add_subplot()
    for name, row in results["bounds"].items():
        lengths = [int(K) for K in row]
        values = [cell["bits_per_dim"] for cell in row.values()]
        axes.plot(lengths, values, "o-", color=COLORS[name], label=name, markersize=4)
    decorate(axes, "levels of the chain", "test bits/dim")
    axes.set_yscale("log")
    ticks = [1.8, 2, 2.5, 3, 4, 5]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks(lengths, [str(K) for K in lengths])
    axes.minorticks_off()
    figure.savefig(path, dpi=160)


def plot_samples(results: dict, path: Path) -> None:
    figure = new_figure(5.2, 3.4)
    figure.patch.set_facecolor("white")
    axes = figure.add_subplot()
    samples = results["samples"]
    others = iter(OTHERS)
    for name, row in samples["distances"].items():
        color = COLORS.get(name.removeprefix("DDPM, ")) or next(others)
        lengths = [int(K) for K in row]
        axes.plot(lengths, [*row.values()], "o-", color=color, label=name, markersize=4)
    axes.axhline(samples["floor"], color="#75726d", linestyle=":", label="real against real")
    decorate(axes, "steps", "Fréchet distance", loc="lower left", bbox_to_anchor=(0, 0.06), ncols=2)
    axes.set_yscale("log")
    axes.set_xticks(STEPS, [str(K) for K in STEPS])
    ticks = [0.2, 0.5, 1, 2, 4]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    figure.savefig(path, dpi=160)


def decorate(axes, x: str, y: str, **legend: object) -> None:
    axes.set_xscale("log")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, **legend)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", help="a run on digits with a learned variance; else trains one")
    parser.add_argument("--part", choices=("all", "bounds", "samples"), default="all")
    parser.add_argument("--lengths", type=int, nargs="*", default=LENGTHS)
    parser.add_argument("--images", type=int, default=300, help="training images of the profile")
    parser.add_argument("--measured", type=int, default=60, help="levels measured for the profile")
    parser.add_argument("--whole", type=int, default=25, help="levels drawn of the whole chain")
    parser.add_argument("--samples", type=int, default=256, help="samples for each distance")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write figures and results here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = nelbo.load(digits_run(arguments.run))
    assert isinstance(model, nelbo.Diffusion)
    if model.profile is None:
        train = load_data("digits", "train")
        generator = torch.Generator().manual_seed(arguments.seed)
        index = torch.randperm(len(train), generator=generator)[: arguments.images]
        x_0 = model.data.to_network(train.images[index])
        model = model.with_profile(
            nelbo.level_profile(model, x_0, levels=arguments.measured, generator=generator)
        )
    results = {}
    if arguments.part != "samples":
        results["bounds"] = measure_bounds(
            model, arguments.lengths, arguments.seed, arguments.whole
        )
    if arguments.part != "bounds":
        results["samples"] = measure_samples(model, arguments.samples, arguments.seed)
    for table in tables(results):
        Console(width=140).print(table)
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        for part, result in results.items():
            plot = {"bounds": plot_bounds, "samples": plot_samples}[part]
            plot(results, arguments.out / f"short-chains-{part}.png")
            file = arguments.out / f"short-chains-{part}.json"
            file.write_text(json.dumps({part: result}, indent=2) + "\n")


if __name__ == "__main__":
    main()
