"""nelbo likelihood: the likelihood of images by the flow, beside their bound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from nelbo.base.arguments import check_choice
from nelbo.base.console import Counting
from nelbo.base.errors import NelboError
from nelbo.chain.estimate import Estimate
from nelbo.chain.evidence import joined
from nelbo.commands.asked import heading, load_asked
from nelbo.commands.common import answer, compute_on
from nelbo.commands.options.likelihood import Likelihood
from nelbo.diffusion import flow
from nelbo.diffusion.dequantization import DEQUANTIZATIONS, default_dequantization
from nelbo.evidence.file_sizes import file_sizes, sizes_json
from nelbo.evidence.given import given_of
from nelbo.evidence.inputs import inputs
from nelbo.evidence.likelihood import log_likelihood
from nelbo.evidence.progress import find_levels
from nelbo.report.tables import likelihood_table


def run(options: Likelihood) -> None:
    """Print both, with their standard errors and network evaluations."""
    if options.dequantization is not None:
        check_choice("--dequantization", options.dequantization, DEQUANTIZATIONS)
    check_choice("--trace", options.trace, flow.TRACES)
    flow.check_draws(options.draws, options.trace)
    model, data = load_asked(options, compute_on(options.computing))
    model.eval()
    generator = torch.Generator().manual_seed(options.computing.seed)
    if model.chain is None:
        raise NelboError(f"{options.run_path} has no chain of noise levels, and so no flow")
    dequantization = options.dequantization or default_dequantization(model.chain)
    integration: dict[str, Any] = {
        "dequantization": dequantization,
        "trace": options.trace,
        "draws": options.draws,
        "rtol": options.tolerance,
        "atol": options.tolerance,
        "generator": generator,
    }
    levels, _ = find_levels(options.levels, model, data, options.computing.seed)
    bounds, bits, evaluations = [], [], 0
    with Counting(f"Flow of {data.source}", len(data)) as progress:
        for batch in data.batches(options.batch_size):
            x_0, condition = inputs(model, batch)
            found = log_likelihood(model, x_0, condition, **integration)
            with torch.no_grad():
                bound = model.evidence(x_0, condition, levels=levels, generator=generator)
            bounds.append(bound.to("cpu"))
            bits.append(found.bits_per_dim.cpu())
            evaluations += found.evaluations * len(batch)
            mean = torch.cat(bits).mean()
            progress(len(batch), status=f"{mean:.3f} bits/dim")
    bound = joined(bounds)
    rows = {
        "flow": (Estimate.of(torch.cat(bits)), evaluations / len(data)),
        "bound": (bound.mean().bits_per_dim, float(bound.calls.double().mean())),
        "difference": (Estimate.of(torch.cat(bits) - bound.bits_per_dim), None),
    }
    given = given_of(model, data)
    warnings = _warnings({name: value for name, (value, _) in rows.items()}, data.names)
    files = file_sizes(data.images, data.levels)
    answer(
        options.computing.json,
        {
            **heading(options, data, given.to_json()),
            "examples": len(data),
            "dequantization": dequantization,
            "trace": options.trace,
            "draws": options.draws,
            **{
                name: {
                    "bits_per_dim": value.mean,
                    "standard_error": value.standard_error if len(data) > 1 else None,
                    **({} if calls is None else {"evaluations": calls}),
                }
                for name, (value, calls) in rows.items()
            },
            "files": sizes_json(files),
            "warnings": warnings,
        },
        likelihood_table(rows, unit=f"bits/dim{given.suffix}"),
        given.line,
        files.line if files else None,
        warnings=warnings,
    )


def _warnings(rows: Mapping[str, Estimate], names: Sequence[str]) -> list[str]:
    """Why the errors may be far from the truth, with the row where it is not so of all."""
    found: dict[str, list[str]] = {}
    for name, value in rows.items():
        for line in value.warnings(names):
            found.setdefault(line, []).append(name)
    return [
        line if len(of) == len(rows) else f"{' and '.join(of)}: {line}"
        for line, of in found.items()
    ]
