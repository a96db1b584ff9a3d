"""The digits' bound for a few network calls: the error of each estimator, and of MONAI's.

    python benchmarks/evidence.py --run RUN [--seeds 20] [--json FILE]
    python benchmarks/evidence.py --monai --run RUN

RUN is a model of the embedded digits (`nelbo train digits --out RUN --time-budget 120s`). The first
form prints, for each way to draw levels, the Monte Carlo standard error that it claims and the root
mean square error it makes over the seeds, against a reference of many draws of all levels; the
reference is kept in the file `--reference` if that is given.

The second sets nelbo beside `monai.inferers.DiffusionInferer.get_likelihood`, which evaluates all
T levels with one noise an image: same network, images, betas and variance (`fixed_small`, since it
cannot use a learned one for more than one pixel). Its number is the mean over dimensions without
the prior matching term, and its last step has variance 10⁻²⁰ in place of β̃_2, which makes its
reconstruction term a constant of its clamping; so the score matching parts are compared, which are
the same sum of KLs. The pilot is part of nelbo's time.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from pathlib import Path

import torch
from _digits import digits_run
from rich.console import Console
from rich.table import Table
from torch import Tensor

import nelbo
from nelbo.chain.bound import Bound
from nelbo.chain.estimators import (
    Estimator,
    EveryLevel,
    Importance,
    Stratified,
    Uniform,
    proposal_from,
)
from nelbo.chain.evidence import joined
from nelbo.data import ImageData, load_data
from nelbo.diffusion import Diffusion
from nelbo.evidence.evaluation import evaluate, evaluate_to_error
from nelbo.evidence.pilot import pilot

CONSOLE = Console(width=110)
WAYS = ["uniform", "stratified", "importance", "importance, antithetic", "error", "one noise"]


def with_seed(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def reference_of(model: Diffusion, data: ImageData, draws: int, path: Path | None) -> Tensor:
    """(mean, error) of the bound in bits/dim, from all levels `draws` times."""
    if path is not None and path.exists():
        return torch.load(path, weights_only=True)
    estimator = EveryLevel(reconstructions=64)
    rounds = [
        joined(evaluate(model, data, levels=estimator, generator=with_seed(10_000 + i)))
        for i in range(draws)
    ]
    bits = Bound.merge(rounds).mean().bits_per_dim
    found = torch.tensor([bits.mean, bits.monte_carlo_error], dtype=torch.float64)
    if path is not None:
        torch.save(found, path)
    return found


def one_noise(model: Diffusion, data: ImageData, generator: torch.Generator) -> Tensor:
    """The bound of each image in bits/dim by all levels with one noise, as MONAI does, (N,)."""
    x_0 = model.data.to_network(data.images)
    noise = torch.randn(x_0.shape, generator=generator)
    total = model.prior_matching(x_0) - model.reconstruction(x_0, model.diffuse(x_0, noise, 1))
    for t in range(2, model.num_levels + 1):
        total = total + model.score_matching(x_0, model.diffuse(x_0, noise, t), t)
    return total / (x_0[0].numel() * math.log(2.0))


def digits_table(model: Diffusion, data: ImageData, arguments: argparse.Namespace) -> list[dict]:
    """Every estimator at 16 calls an image, the `--error` mode, and the peers' way."""
    exact, exact_error = reference_of(model, data, arguments.draws, arguments.reference).tolist()
    print(f"reference {exact:.4f} ± {exact_error:.4f} bits/dim")

    def importance(seed: int, levels: int, **options: object) -> tuple[Estimator, int]:
        square, calls = pilot(model, data, with_seed(seed + 500))
        return Importance(levels, proposal_from(square), **options), calls

    ways = {
        "uniform": lambda seed: (Uniform(14), 0),
        "stratified": lambda seed: (Stratified(14), 0),
        "importance": lambda seed: importance(seed, 12),
        "importance, antithetic": lambda seed: importance(
            seed, 6, antithetic=True, reconstructions=1
        ),
    }
    rows = []

    def add(name: str, means: list[float], claims: list[float], calls: list[float]) -> None:
        errors = [mean - exact for mean in means]
        rows.append(
            {
                "estimator": name,
                "calls_per_image": statistics.mean(calls),
                "claimed_error": statistics.mean(claims) if claims else None,
                "rms_error": math.sqrt(statistics.mean(e * e for e in errors)),
                "mean_error": statistics.mean(errors),
                "seeds": len(means),
            }
        )
        print(rows[-1], flush=True)

    for name, make in ways.items():
        if name not in arguments.only:
            continue
        results = []
        for seed in range(arguments.seeds):
            estimator, tried = make(seed)
            bound = joined(evaluate(model, data, levels=estimator, generator=with_seed(seed)))
            results.append((bound.mean().bits_per_dim, tried + int(bound.calls.sum())))
        claims = [b.monte_carlo_error for b, _ in results]
        add(
            name,
            [b.mean for b, _ in results],
            [c for c in claims if math.isfinite(c)],
            [calls / len(data) for _, calls in results],
        )
    if "error" in arguments.only:
        results = []
        for seed in range(arguments.seeds):
            *_, last = evaluate_to_error(model, data, 0.01, generator=with_seed(seed))
            results.append((last.bound.mean().bits_per_dim, last.calls / len(data)))
        add(
            "--error 0.01",
            [b.mean for b, _ in results],
            [b.monte_carlo_error for b, _ in results],
            [calls for _, calls in results],
        )
    if "one noise" in arguments.only:
        # Images have independent noise, so that a few of them give the error of all.
        few = data.take(slice(arguments.one_noise_images))
        with torch.no_grad():
            draws = torch.stack(
                [one_noise(model, few, with_seed(seed)).double() for seed in range(3)]
            )
        rows.append(
            {
                "estimator": "all levels, one noise",
                "calls_per_image": model.num_levels,
                "claimed_error": None,
                "rms_error": math.sqrt(draws.var(0).mean().item() / len(data)),
                "mean_error": None,
                "seeds": 3,
            }
        )
        print(rows[-1], flush=True)
    return rows


class MonaiNetwork(torch.nn.Module):
    """A nelbo network behind MONAI's call signature, its variance channels dropped."""

    def __init__(self, model: Diffusion) -> None:
        super().__init__()
        self.network, self.channels = model.network, model.shape[0]

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor | None = None) -> Tensor:
        return self.network(x, timesteps, None)[:, : self.channels]


def monai_terms(model: Diffusion, x_0: Tensor, generator_seed: int) -> tuple[Tensor, float]:
    """MONAI's score matching part of each image in bits/dim, (N,), and the seconds it took."""
    from monai.inferers import DiffusionInferer
    from monai.networks.schedulers import DDPMScheduler

    T = model.num_levels
    scheduler = DDPMScheduler(
        num_train_timesteps=T,
        variance_type="fixed_small",
        clip_sample=model.threshold is not None,
        prediction_type=model.prediction,
    )
    scheduler.betas = model.schedule.betas[1:].float()
    scheduler.alphas = 1.0 - scheduler.betas
    scheduler.alphas_cumprod = model.schedule.alphas_cumprod[1:].float()
    torch.manual_seed(generator_seed)
    start = time.perf_counter()
    with torch.no_grad():
        _, maps = DiffusionInferer(scheduler).get_likelihood(
            x_0,
            MonaiNetwork(model),
            scheduler,
            save_intermediates=True,
            original_input_range=(0, model.data.levels - 1),
            scaled_input_range=(-1, 1),
            verbose=False,
        )
    seconds = time.perf_counter() - start
    # From level T down to 2, then the reconstruction.
    kl = torch.stack([m.flatten(1).double().sum(1) for m in maps[:-1]]).sum(0)
    return kl / (x_0[0].numel() * math.log(2.0)), seconds


class FirstChannels(torch.nn.Module):
    """The network without its variance channels, for nelbo."""

    def __init__(self, network: torch.nn.Module, channels: int) -> None:
        super().__init__()
        self.network, self.channels = network, channels

    def forward(self, x: Tensor, time: Tensor, condition: object = None) -> Tensor:
        return self.network(x, time, condition)[:, : self.channels]


def against_monai(learned: Diffusion, data: ImageData, repeats: int, levels: int) -> dict:
    """Wall time for the same images, network and variance at equal or smaller error."""
    model = Diffusion(
        FirstChannels(learned.network, learned.shape[0]),
        learned.schedule,
        prediction=learned.prediction,
        data=learned.data,
        shape=learned.shape,
        thresholding=learned.threshold,
    ).eval()
    x_0 = model.data.to_network(data.images)
    bits = 1 / (x_0[0].numel() * math.log(2.0))

    # The same noise gives the same number.
    few = x_0[:8]
    theirs, _ = monai_terms(model, few, 0)
    torch.manual_seed(0)
    noise = torch.randn_like(few)
    with torch.no_grad():
        ours = sum(
            model.score_matching(few, model.diffuse(few, noise, t), t).double()
            for t in range(2, model.num_levels + 1)
        )
    agreement = ((ours * bits - theirs).abs() / theirs).max().item()
    print(f"the same noise: largest relative difference of an image {agreement:.1e}", flush=True)

    peer, own, sizes = [], [], {}
    for seed in range(repeats):
        theirs, seconds = monai_terms(model, x_0, seed)
        peer.append((theirs, seconds))
    # Their Monte Carlo error from repeats of the same images.
    draws = torch.stack([t for t, _ in peer])
    their_error = (draws.var(0).sum() / len(data) ** 2).sqrt().item()
    for seed in range(max(9, repeats)):
        generator = with_seed(seed)
        start = time.perf_counter()
        square, tried = pilot(model, data, generator)
        estimator = Importance(levels, proposal_from(square), reconstructions=1)
        bound = joined(evaluate(model, data, levels=estimator, generator=generator))
        seconds = time.perf_counter() - start
        found = bound.mean().score_matching * bits
        own.append((found.mean, found.monte_carlo_error))
        sizes.setdefault("seconds", []).append(seconds)
        sizes.setdefault("calls", []).append((tried + int(bound.calls.sum())) / len(data))
    result = {
        "same_noise_relative_difference": agreement,
        "monai_mean": draws.mean().item(),
        "monai_error": their_error,
        "monai_seconds": statistics.median(s for _, s in peer),
        "nelbo_mean": statistics.mean(m for m, _ in own),
        "nelbo_rms_between_seeds": statistics.stdev(m for m, _ in own),
        "nelbo_error": statistics.mean(e for _, e in own),
        "nelbo_seconds": statistics.median(sizes["seconds"]),
        "nelbo_calls_per_image": statistics.mean(sizes["calls"]),
    }
    result["times_faster"] = result["monai_seconds"] / result["nelbo_seconds"]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", help="a model of the digits; else trains one")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--draws", type=int, default=2, help="draws of all levels for a reference")
    parser.add_argument("--reference", type=Path, help="keep the reference here")
    parser.add_argument("--only", nargs="+", default=WAYS, choices=WAYS, help="some rows")
    parser.add_argument(
        "--one-noise-images", type=int, default=64, help="images to measure the peers' way on"
    )
    parser.add_argument("--monai", action="store_true", help="compare with MONAI instead")
    parser.add_argument("--levels", type=int, default=4, help="levels an image beside MONAI")
    parser.add_argument("--repeats", type=int, default=2, help="evaluations by MONAI")
    parser.add_argument("--images", type=int, help="largest number of images")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    model = nelbo.load(digits_run(arguments.run)).eval()
    data = load_data("digits", "test")
    if arguments.images:
        data = data.take(slice(arguments.images))
    if arguments.monai:
        result: object = against_monai(model, data, arguments.repeats, arguments.levels)
        CONSOLE.print(result)
    else:
        rows = digits_table(model, data, arguments)
        result = rows
        table = Table(title=f"{len(data)} digits, T = {model.num_levels:,}, bits/dim")
        for column in ("estimator", "calls an image", "claimed error", "RMS error"):
            table.add_column(column, justify="left" if column == "estimator" else "right")
        for row in rows:
            claim = row["claimed_error"]
            table.add_row(
                row["estimator"],
                f"{row['calls_per_image']:,.1f}",
                "—" if claim is None else f"{claim:.4f}",
                f"{row['rms_error']:.4f} ({row['seeds']} seeds)",
            )
        CONSOLE.print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
