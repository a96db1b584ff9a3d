"""What training minimises and at which levels, compared on digits at equal steps.

    python benchmarks/objectives.py [--steps N] [--part objectives|samplers] [--only OBJECTIVE ...]
                                    [--run RUN]

Every row is a model trained from the same weights, on the same images in the same order with the
default settings, in float32. The bound is of the test images, at 20 levels each with the same
noise. Samples are compared with all real digits by the Fréchet distance of short_chains.py, in the
features of a small classifier. The level samplers are compared on one model, that of a run or
trained by the bound: the mean loss of a batch of 64, and its standard deviation over batches.
"""

from __future__ import annotations

import argparse

import torch
from short_chains import frechet, train_classifier

import nelbo
from nelbo import Diffusion
from nelbo.data import load_data
from nelbo.diffusion.level_samplers import HISTORY, LEVEL_SAMPLERS, make_level_sampler
from nelbo.diffusion.objectives import OBJECTIVES, Objective, TrainingTerms, default_probabilities
from nelbo.samplers import DDIM
from nelbo.training.config import TrainingConfig
from nelbo.training.kinds.pixel.build import build_model
from nelbo.training.kinds.pixel.options import ModelConfig
from nelbo.training.kinds.pixel.task import pixel_task
from nelbo.training.trainer import Trainer


def train(steps: int, seed: int, **options: str) -> Trainer:
    """A trainer that has taken all steps."""
    torch.manual_seed(seed)
    data = load_data("digits", "train")
    config = TrainingConfig(steps=steps, precision="fp32", seed=seed, **options)
    trainer = Trainer(pixel_task(build_model(ModelConfig(), data), data, config))
    for _ in trainer.run():
        pass
    return trainer


@torch.no_grad()
def bits(model: Diffusion, seed: int) -> tuple[float, float]:
    """The bound of the test images, bits/dim, and its standard error."""
    x_0 = model.data.to_network(load_data("digits", "test").images)
    bound = model.elbo(x_0, levels=20, generator=torch.Generator().manual_seed(seed))
    mean = bound.mean().bits_per_dim
    return mean.mean, mean.standard_error


def distance(model: Diffusion, seed: int, n: int) -> float:
    """The Fréchet distance of n samples of 25 DDIM steps to the real digits."""
    classifier, _ = train_classifier(model)
    real = model.data.to_network(load_data("digits", "all").images)
    sampler = DDIM(25, spacing="trailing")
    x = model.sample(n, sampler, generator=torch.Generator().manual_seed(seed))
    return frechet(classifier, model.data.to_network(model.data.to_levels(x)), real)


@torch.no_grad()
def spread(model: Diffusion, objective: str, name: str, batches: int) -> tuple[float, float]:
    """Mean of the loss of 64 images and its standard deviation over batches.

    An adaptive level sampler sees the losses of the model until it knows every level.
    """
    images = model.data.to_network(load_data("digits", "train").images)
    sampler = make_level_sampler(name, default_probabilities(objective, model.num_levels))
    generator = torch.Generator().manual_seed(0)

    def terms() -> TrainingTerms:
        x_0 = images[torch.randint(len(images), (64,), generator=generator)]
        return Objective(objective, sampler)(model, x_0, generator=generator)

    while sampler.learns and int(sampler.state()["seen"].min()) < HISTORY:
        batch = terms()
        sampler.update(batch.levels, batch.level_losses)
    losses = torch.stack([terms().loss for _ in range(batches)])
    return losses.mean().item(), losses.std().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--part", choices=("objectives", "samplers"), default="objectives")
    parser.add_argument("--only", nargs="*", help="objectives")
    parser.add_argument("--run", help="a run on digits to compare level samplers on")
    parser.add_argument("--batches", type=int, default=200)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    seed = arguments.seed
    if arguments.part == "samplers":
        run = arguments.run
        model = nelbo.load(run) if run else train(arguments.steps, seed).average.model
        assert isinstance(model, Diffusion)
        model.eval()
        for objective in arguments.only or OBJECTIVES:
            for name in LEVEL_SAMPLERS:
                mean, deviation = spread(model, objective, name, arguments.batches)
                print(f"{objective:8s} {name:16s} {mean:.4g} ± {deviation / mean:.1%}", flush=True)
        return
    for objective in arguments.only or OBJECTIVES:
        model = train(arguments.steps, seed, objective=objective).average.model.eval()
        mean, error = bits(model, seed)
        far = distance(model, seed, arguments.samples)
        print(
            f"{objective:8s} {mean:.3f} ± {error:.3f} bits/dim, Fréchet distance {far:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
