"""The end of the training of a latent model: its bound on pixels, samples, and the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from rich.console import Console
from torch import Tensor

from nelbo.commands.common import MESSAGES, mention_files
from nelbo.commands.evaluation_progress import cost_json, evaluate_with_progress, levels_to_evaluate
from nelbo.commands.sample import all_classes
from nelbo.commands.training.final_samples import LATENT_STEPS, FinalSamples
from nelbo.data import ImageData
from nelbo.diffusion import Pixels
from nelbo.evidence.file_sizes import file_sizes, sizes_json
from nelbo.evidence.sample_reading import READ_AT_END, read_samples
from nelbo.latent import LatentDiffusion
from nelbo.latent_bound import LatentBound
from nelbo.report.captions import prompt_grid
from nelbo.report.grids import image_grid, save_image
from nelbo.report.latent_report import LatentReport, write_latent_report
from nelbo.report.tables import bound_json, bound_table
from nelbo.report.training_facts import settings_that_apply, training_facts
from nelbo.samplers import DDIM
from nelbo.training.run_directory import RunDirectory

PROMPTS_FILE = "prompts.txt"
# How the samples of a run are drawn, and what its scheduler describes.
SAMPLER = DDIM(LATENT_STEPS, spacing="trailing", steps_offset=1)
_SHOWN = 32


def finish_latent(
    run: RunDirectory,
    model: LatentDiffusion,
    *,
    train: ImageData,
    test: ImageData,
    levels: int | Literal["all"],
    images: int,
    samples: FinalSamples,
    guidance: float,
    seed: int,
    table_to: Console,
) -> dict[str, Any]:
    """Evaluate, sample, and write evaluation.json, samples/ and report.html.

    Args:
        run: where to.
        model: the trained model.
        train: the images it was trained on.
        test: images held out, with the captions or labels that the model is told.
        levels: levels of the prior an image for the bound, or "all".
        images: how many images at most.
        samples: what to draw.
        guidance: of the samples.
        seed: source of all noise.
        table_to: where to print the bound.
    """
    shown = test.subset(images, seed)
    bound = evaluate_with_progress(
        model,
        shown,
        "Evaluating test",
        levels=levels_to_evaluate(levels, model),
        seed=seed,
    )
    assert isinstance(bound, LatentBound)
    summary = bound.mean()
    table_to.print(bound_table({"test": summary}))
    files = file_sizes(shown.images, shown.levels)
    mention_files({"test": files}, table_to)
    evaluation: dict[str, Any] = {
        "test": {**cost_json(bound, model), **bound_json(summary), "files": sizes_json(files)}
    }
    run.write_evaluation(evaluation)
    prompts = held_out_prompts(test) if model.text is not None else []
    with MESSAGES.status("Sampling"):
        n, steps = samples.sample_images, samples.steps(LATENT_STEPS, model.prior.num_levels)
        drawn = draw_samples(model, n, prompts, steps=steps, guidance=guidance, seed=seed)
    asked = [prompts[i % len(prompts)] for i in range(n)] if prompts else []
    grid = prompt_grid(drawn, asked, test.levels) if asked else image_grid(drawn, test.levels)
    save_image(grid, run.samples / "final.png")
    if asked:
        (run.samples / PROMPTS_FILE).write_text("\n".join(asked) + "\n", encoding="utf-8")
    reading = read_samples(drawn, train, test, most=READ_AT_END, seed=seed)
    if reading is not None:
        evaluation["samples"] = {**reading.to_json(), "steps": steps, "guidance": guidance}
        run.write_evaluation(evaluation)
    notes = run.notes()
    trained, metrics = notes["trained"], run.metrics()
    told = {"guidance of the samples": guidance} if prompts or model.num_classes else {}
    report = LatentReport(
        title=f"nelbo · {run.path.resolve().name}",
        subtitle=f"A latent diffusion model of {test.source}",
        model=model,
        bound=bound,
        evaluated=shown,
        samples=drawn[:_SHOWN],
        prompts=asked[:_SHOWN],
        beside=_images_of(test, asked[:_SHOWN]) if asked else None,
        facts={**training_facts(notes, metrics), **told},
        metrics=metrics,
        settings=settings_that_apply(
            {"run": {"source": notes["source"], **trained}, **notes.get("settings", {})}
        ),
        files=files,
        reading=reading,
    )
    write_latent_report(report, run.report)
    return {"evaluation": evaluation, "report": str(run.report)}


def draw_samples(
    model: LatentDiffusion,
    n: int,
    prompts: Sequence[str],
    *,
    steps: int = LATENT_STEPS,
    guidance: float,
    seed: int,
) -> Tensor:
    """(n, C, H, W) uint8 of each prompt or class in turn, guided where the model is told any."""
    assert isinstance(model.data, Pixels)
    condition = all_classes(model.prior, n)
    if condition is not None:
        condition = condition.to(next(model.parameters()).device)
    samples = model.sample(
        n,
        replace(SAMPLER, steps=min(steps, model.prior.num_levels)),
        condition=condition,
        prompt=[prompts[i % len(prompts)] for i in range(n)] if prompts else None,
        guidance=guidance if prompts or condition is not None else 1.0,
        generator=torch.Generator().manual_seed(seed),
    )
    return model.data.to_levels(samples).byte().cpu()


def held_out_prompts(data: ImageData) -> list[str]:
    """Captions of held-out images, in an order that is the same each time."""
    captions = sorted({caption for caption in data.captions or () if caption})
    order = torch.randperm(len(captions), generator=torch.Generator().manual_seed(0))
    return [captions[i] for i in order.tolist()]


def _images_of(data: ImageData, captions: Sequence[str]) -> Tensor:
    """The first image with each of these captions."""
    assert data.captions is not None
    return data.images[torch.tensor([data.captions.index(caption) for caption in captions])]
