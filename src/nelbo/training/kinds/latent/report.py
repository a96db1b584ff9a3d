"""The end of the training of a latent model: its bound on pixels, samples, and the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nelbo.base.console import MESSAGES, say
from nelbo.data import ImageData
from nelbo.evidence.extremes import Extremes, find_extremes
from nelbo.evidence.given import data_facts, given_of
from nelbo.evidence.sample_reading import READ_AT_END, read_samples
from nelbo.evidence.timed_evaluation import TimedEvaluation
from nelbo.latent import LatentDiffusion
from nelbo.report.captions import prompt_grid
from nelbo.report.formatting import duration, number
from nelbo.report.grids import image_grid, save_image
from nelbo.report.page import write_report
from nelbo.report.run_report import RunReport
from nelbo.report.tables import BITS_DECIMALS, bound_table
from nelbo.report.training_facts import settings_that_apply, training_facts
from nelbo.runs.run_directory import RunDirectory
from nelbo.samplers import DDIM
from nelbo.training.allowance import EARLY, SOON, Allowance
from nelbo.training.kinds.autoencoder.report import beside_reconstructions
from nelbo.training.kinds.drawing import all_classes
from nelbo.training.kinds.final_samples import LATENT_STEPS, FinalSamples
from nelbo.training.kinds.kind import Ending
from nelbo.training.kinds.refinement import (
    Asked,
    evaluated_text,
    evaluation_json,
    print_files,
    refine,
    sizes_of,
)

PROMPTS_FILE = "prompts.txt"
# How the samples of a run are drawn, and what its scheduler describes, in diffusers as well.
SAMPLER = DDIM(LATENT_STEPS, spacing="trailing", steps_offset=1, even_stride=True)
_SHOWN = 32
# How many of the least, and of the most, surprising images are shown.
_EXTREME_IMAGES = 8
# Held-out images that are shown with their reconstructions.
_RECONSTRUCTED = 16
# The part of the time that is left for each thing in turn.
_BOUND, _SAMPLES, _EXTREMES = 0.5, 0.5, 0.8


def report(run: RunDirectory, model: LatentDiffusion, ending: Ending) -> dict[str, Any]:
    """Evaluate, sample, and write evaluation.json, samples/ and report.html.

    Where that takes its time, a first report is written early. See `Kind.report`.
    """
    asked, seed, seconds, table_to = ending.asked, ending.seed, ending.seconds, ending.table_to
    test = ending.test
    guidance = run.notes.get("settings", {}).get("model", {}).get("guidance", 1.0)
    allowance = Allowance(seconds)
    splits = {"test": test}
    end = _End(run, model, ending.train, test, ending.samples, guidance, seed)
    first = Asked().of(model, "test", test, seed)
    refine({"test": first}, 0.0)  # what a call takes
    call = first.call_seconds
    whole = first if asked == Asked() else asked.of(model, "test", test, seed)
    if call * (whole.expected_calls + end.calls) > SOON:
        refine({"test": first}, EARLY / 2 * seconds)
        end.write(first, end.draw(EARLY / 2 * seconds / call))
        say(
            f"A first report is in {run.report}; to refine it may take "
            f"{duration(round(allowance.left))} more"
        )
    refine({"test": whole}, _BOUND * allowance.left)
    summary = whole.bound.mean()
    floor = summary.floor_in_bits
    assert floor is not None
    table_to.print(bound_table({"test": summary}))
    if line := given_of(model, whole.data).line:
        table_to.print(line, soft_wrap=True)
    table_to.print(evaluated_text({"test": whole}, splits), soft_wrap=True)
    print_files({"test": sizes_of(whole)}, table_to)
    bits = summary.in_bits
    table_to.print(
        f"Of the total {number(floor.mean, BITS_DECIMALS)} bits/dim are the "
        f"autoencoder's floor, the reconstruction of pixels, which no prior can lower; the latents "
        f"cost {number(bits['total'].mean - floor.mean, BITS_DECIMALS)}.",
        soft_wrap=True,
    )
    drawn = end.draw(_SAMPLES * allowance.left / whole.call_seconds)
    closer = find_extremes(
        model,
        whole.data,
        whole.bound,
        whole.proposal,
        shown=_EXTREME_IMAGES,
        seconds=_EXTREMES * allowance.left,
        seed=seed,
    )
    return {"evaluation": end.write(whole, drawn, closer), "report": str(run.report)}


@dataclass
class _End:
    """Draws and writes what there is to see of a finished run."""

    run: RunDirectory
    model: LatentDiffusion
    train: ImageData
    test: ImageData
    samples: FinalSamples
    guidance: float
    seed: int
    steps: int = 0

    def __post_init__(self) -> None:
        self.prompts = held_out_prompts(self.test) if self.model.text is not None else []

    @property
    def calls(self) -> int:
        """Network calls of all samples, where there is time."""
        levels = self.model.prior.num_levels
        return self._calls_of_a_step * self.samples.calls(LATENT_STEPS, levels)

    @property
    def _calls_of_a_step(self) -> int:
        return 2 if self._is_guided else 1

    @property
    def _is_guided(self) -> bool:
        return self.guidance != 1.0 and bool(self.prompts or self.model.num_classes)

    def draw(self, calls: float) -> Tensor:
        """Samples, as pixel levels, from about `calls` network calls; kept in samples/."""
        model, run = self.model, self.run
        n, steps = self.samples.plan(
            LATENT_STEPS, model.prior.num_levels, calls / self._calls_of_a_step
        )
        self.steps = steps
        with MESSAGES.status("Sampling"):
            drawn = draw_samples(
                model, n, self.prompts, steps=steps, guidance=self.guidance, seed=self.seed
            )
        asked = self.asked(n)
        levels = self.test.levels
        grid = prompt_grid(drawn, asked, levels) if asked else image_grid(drawn, levels)
        save_image(grid, run.samples / "final.png")
        if asked:
            (run.samples / PROMPTS_FILE).write_text("\n".join(asked) + "\n", encoding="utf-8")
        return drawn

    def asked(self, n: int) -> list[str]:
        """The prompt of each of n samples; none for a model without text."""
        return [self.prompts[i % len(self.prompts)] for i in range(n)] if self.prompts else []

    def write(
        self,
        evaluated: TimedEvaluation,
        drawn: Tensor,
        closer: tuple[Extremes, Extremes] | None = None,
    ) -> dict[str, Any]:
        """evaluation.json, whose content is returned, and the report with what there is."""
        run, model, test, bound = self.run, self.model, self.test, evaluated.bound
        evaluation = evaluation_json({"test": evaluated}, {"test": test})
        reading = None
        if closer is not None:  # the first report does without
            reading = read_samples(drawn, self.train, test, most=READ_AT_END, seed=self.seed)
        if reading is not None:
            drawn_as = {"steps": self.steps, "guidance": self.guidance}
            evaluation["samples"] = {**reading.to_json(), **drawn_as}
        run.write_evaluation(evaluation)
        asked = self.asked(len(drawn))
        notes = run.notes
        guidance = {"guidance of the samples": self.guidance}
        report = RunReport(
            title=f"nelbo · {run.path.resolve().name}",
            subtitle=f"A latent diffusion model of {test.source}",
            model=model,
            bounds={"test": bound},
            evaluated=evaluated.data,
            samples=drawn[:_SHOWN],
            prompts=asked[:_SHOWN],
            beside=_images_of(test, asked[:_SHOWN]) if asked else None,
            pairs=beside_reconstructions(model.autoencoder, test.subset(_RECONSTRUCTED, self.seed)),
            closer=closer,
            facts=training_facts(notes, run.course())
            | data_facts(model, evaluated.data)
            | (guidance if self.prompts or model.num_classes else {}),
            metrics=run.course(),
            loss=_loss(notes, model),
            settings=settings_that_apply(
                {
                    "run": {"source": notes["source"], **notes["trained"]},
                    **notes.get("settings", {}),
                }
            ),
            files=sizes_of(evaluated),
            reading=reading,
        )
        write_report(report, run.report)
        return evaluation


def error_of(prediction: str) -> str:
    """What the loss `simple` is a mean squared error of."""
    return {"v_prediction": "v", "epsilon": "ε", "sample": "z_0"}.get(prediction, "the prediction")


def _loss(notes: Mapping[str, Any], model: LatentDiffusion) -> str:
    """What the loss of a run is, with its unit."""
    objective = notes.get("settings", {}).get("training", {}).get("objective")
    if objective != "simple":
        return "The objective that the optimiser lowered."
    return (
        f"The objective that the optimiser lowered: the mean squared error of "
        f"{error_of(model.prior.prediction)}, per latent value, over all levels alike."
    )


def draw_samples(
    model: LatentDiffusion,
    n: int,
    prompts: Sequence[str],
    *,
    steps: int = LATENT_STEPS,
    guidance: float,
    seed: int,
) -> Tensor:
    """(n, C, H, W) uint8 of each prompt or class in turn, guided if the model is conditional."""
    condition = all_classes(model, n)
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
