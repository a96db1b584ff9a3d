"""nelbo likelihood: the likelihood of images by the flow, beside their bound."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

import tyro

from nelbo.base.errors import NelboError
from nelbo.base.suggestions import unknown
from nelbo.commands.common import (
    choose_device,
    counting_progress,
    print_json,
    show,
)
from nelbo.commands.decoder_scale import fit_missing_scale
from nelbo.commands.options import Computing, at_least_one
from nelbo.commands.run_data import check_run, load_with_data


@dataclass(frozen=True)
class Likelihood:
    """Compute the log-likelihood of images by the probability-flow ODE, beside their bound."""

    run_path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(name="run", metavar="RUN")]
    """A run, a diffusers pipeline directory, or a Hub id."""
    data: str | None = None
    """As in `nelbo train`; by default what the run was trained on."""
    split: str = "test"
    """Which images: train, validation, test or all."""
    keep_duplicates: bool = False
    """Keep test images whose pixels are those of images that the run was trained or chosen on."""
    images: int = 32
    """At most so many images, drawn at random by the seed."""
    resize: bool = False
    """Crop and resize images of another size than the model's."""
    batch_size: int = 32
    """Images at a time; they share the integrator's steps."""
    dequantization: str | None = None
    """How pixels become real numbers: decoder, the default, truncated_normal or uniform. Latents
    are real numbers, and start the flow themselves (none) or through level 1 (decoder)."""
    trace: str = "rademacher"
    """The divergence: rademacher or normal probes, or exact for small images."""
    draws: int = 1
    """Dequantised states or latents an image, which tighten the bound; more than one needs the
    exact trace."""
    tolerance: float = 1e-3
    """Relative and absolute tolerance of the integrator."""
    levels: int = 100
    """Levels an image for the bound beside it."""
    computing: Computing = field(default_factory=Computing)

    def run(self) -> None:
        """Print both, with their standard errors and network evaluations."""
        self.computing.check()
        at_least_one(
            images=self.images, batch_size=self.batch_size, draws=self.draws, levels=self.levels
        )
        if not self.tolerance > 0:
            raise NelboError(f"--tolerance must be positive, got {self.tolerance:g}")

        import torch

        from nelbo.chain.bound import Bound
        from nelbo.chain.estimate import Estimate
        from nelbo.commands.evaluation_progress import levels_that_matter
        from nelbo.diffusion import Diffusion, Pixels, flow
        from nelbo.diffusion.dequantization import DEQUANTIZATIONS, default_dequantization
        from nelbo.evidence.evaluation import chain_of, check_fits, condition_for
        from nelbo.evidence.file_sizes import file_sizes, sizes_json
        from nelbo.evidence.given import given_of
        from nelbo.latent import flow as latent_flow
        from nelbo.report.tables import likelihood_table

        if self.dequantization not in (None, *DEQUANTIZATIONS):
            raise NelboError(unknown("--dequantization", self.dequantization, DEQUANTIZATIONS))
        if self.trace not in flow.TRACES:
            raise NelboError(unknown("--trace", self.trace, flow.TRACES))
        flow.check_draws(self.draws, self.trace)
        source = check_run(
            self.run_path, self.data, self.split, keep_duplicates=self.keep_duplicates
        )
        device = choose_device(self.computing.device)
        model, data = load_with_data(
            source,
            device,
            resize=self.resize,
            images=self.images,
            seed=self.computing.seed,
        )
        model.eval()
        check_fits(model, data)
        fit_missing_scale(self.run_path, model, data, self.computing.seed)
        assert isinstance(model.data, Pixels)
        generator = torch.Generator().manual_seed(self.computing.seed)
        dequantization = self.dequantization or default_dequantization(chain_of(model))
        options: dict[str, Any] = {
            "dequantization": dequantization,
            "trace": self.trace,
            "draws": self.draws,
            "rtol": self.tolerance,
            "atol": self.tolerance,
            "generator": generator,
        }
        levels = levels_that_matter(self.levels, model, data, self.computing.seed)
        bounds, bits, evaluations = [], [], 0
        with counting_progress() as progress:
            task = progress.add_task(f"Flow of {data.source}", total=len(data), status="")
            for batch in data.batches(self.batch_size):
                x_0 = model.data.to_network(batch.images).to(device)
                condition = condition_for(model, batch)
                if isinstance(model, Diffusion):
                    found = flow.log_likelihood(model, x_0, condition, **options)
                else:
                    found = latent_flow.log_likelihood(model, x_0, condition, **options)
                with torch.no_grad():
                    bound = model.elbo(x_0, condition, levels=levels, generator=generator)
                bounds.append(bound.to("cpu"))
                bits.append(found.bits_per_dim.cpu())
                evaluations += found.evaluations * len(batch)
                mean = torch.cat(bits).mean()
                progress.update(task, advance=len(batch), status=f"{mean:.3f} bits/dim")
        bound = Bound.cat(bounds)
        rows = {
            "flow": (Estimate.of(torch.cat(bits)), evaluations / len(data)),
            "bound": (bound.mean().bits_per_dim, float(bound.calls.double().mean())),
            "difference": (Estimate.of(torch.cat(bits) - bound.bits_per_dim), None),
        }
        given = given_of(model, data)
        files = file_sizes(data.images, data.levels)
        if not self.computing.json:
            show(likelihood_table(rows, unit=f"bits/dim{given.suffix}"))
            if given.line:
                show(given.line)
            if files is not None:
                show(files.line)
            return
        print_json(
            {
                "run": self.run_path,
                "data": data.source,
                "split": self.split,
                **given.to_json(),
                "duplicates_left_out": data.left_out,
                "examples": len(data),
                "dequantization": dequantization,
                "trace": self.trace,
                "draws": self.draws,
                **{
                    name: {
                        "bits_per_dim": value.mean,
                        "standard_error": value.standard_error if len(data) > 1 else None,
                        **({} if calls is None else {"evaluations": calls}),
                    }
                    for name, (value, calls) in rows.items()
                },
                "files": sizes_json(files),
            }
        )
