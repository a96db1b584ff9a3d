"""nelbo evaluate for an autoencoder alone: PSNR, and the bound of a plain VAE."""

from __future__ import annotations

import dataclasses

from rich.table import Table

from nelbo.base.errors import NelboError
from nelbo.commands.asked import asked_source, heading
from nelbo.commands.common import answer, compute_on
from nelbo.commands.options.evaluate import Evaluate
from nelbo.data.mentions import mention
from nelbo.evidence.autoencoder import (
    AutoencoderReading,
    AutoencoderRun,
    evaluate_autoencoder,
    fit_scale,
)
from nelbo.evidence.file_sizes import file_sizes, sizes_json
from nelbo.formats.config_fields import ConfigFields
from nelbo.report.formatting import with_error
from nelbo.report.tables import new_table
from nelbo.runs.run_data import check_data, data_for_run, for_fits_of
from nelbo.runs.run_directory import EVALUATION_FILE, RunDirectory
from nelbo.training.ranges import refuse


def evaluate_autoencoder_run(options: Evaluate) -> None:
    """Read the autoencoder of a run on images, and print it.

    σ is that of the finished run; for one that was broken off it is fitted to validation images.

    Raises:
        NelboError: options of a chain, or images that do not fit.
    """
    of_chains = ("error", "levels", "steps", "out", "control", "embedded_guidance")
    why = "does not apply to an autoencoder, which has no chain of levels"
    refuse(options, *of_chains, why=why)
    if options.precision != "fp32":
        raise NelboError("an autoencoder is evaluated in fp32: leave --precision out")
    directory = RunDirectory(options.run_path)
    keep = options.keep_duplicates
    source = asked_source(options, directory, options.split, keep_duplicates=keep)
    run = AutoencoderRun.load(options.run_path).to(compute_on(options.computing))
    data = data_for_run(source, run)
    if data.levels != run.data.levels:
        raise NelboError(
            f"{data.source} has {data.levels} pixel levels, the autoencoder {run.data.levels}"
        )
    mention(data)
    recorded = ConfigFields(directory.path / EVALUATION_FILE, directory.evaluation())
    scale = recorded.if_any(recorded.positive, "decoder_scale")
    if scale is None:
        scale = fit_scale(run.autoencoder, for_fits_of(check_data(directory, None, "train"), run))
    reading = evaluate_autoencoder(run.autoencoder, data, scale, batch_size=options.batch_size)
    files = file_sizes(data.images, data.levels)
    answer(
        options.computing.json,
        {
            **heading(options, data, {"conditioned_on": None}),
            "examples": len(data),
            "decoder_scale": scale,
            **dataclasses.asdict(reading),
            "files": sizes_json(files),
        },
        _table(reading, options.split),
        files.line if files else None,
        f"{len(data)} images; scale of the decoder {scale:.4f}, in images from −1 to 1",
        warnings=reading.warnings,
    )


def _table(reading: AutoencoderReading, split: str) -> Table:
    table = new_table(
        [""],
        [split],
        caption="mean ± standard error over images;\n"
        "the bound is that of a plain VAE, with N(0, I) as the prior of its latents",
    )

    def value(name: str, decimals: int) -> str:
        return with_error(getattr(reading, name), reading.standard_errors.get(name), decimals)

    table.add_row("PSNR", f"{value('psnr', 2)} dB")
    table.add_row("PSNR of the mean error", f"{value('psnr_of_mean', 2)} dB")
    table.add_row("reconstruction", f"{value('reconstruction', 3)} bits/dim")
    nats = f"{value('divergence_nats', 1)} nats an image"
    table.add_row("divergence", f"{value('divergence', 3)} bits/dim, {nats}")
    table.add_section()
    table.add_row("total (−ELBO)", f"{value('bits_per_dim', 3)} bits/dim", style="bold")
    return table
