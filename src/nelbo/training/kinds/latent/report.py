"""The end of the training of a latent model: its bound on pixels, samples, and the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from nelbo.base.console import MESSAGES
from nelbo.data import ImageData
from nelbo.evidence.extremes import Extremes
from nelbo.evidence.given import data_facts
from nelbo.formats.files import usual_guidance
from nelbo.latent import LatentDiffusion
from nelbo.report.captions import prompt_grid
from nelbo.report.formatting import number
from nelbo.report.grids import image_grid, save_image
from nelbo.report.page import write_report
from nelbo.report.run_report import RunReport
from nelbo.report.tables import BITS_DECIMALS
from nelbo.report.training_facts import run_settings, training_facts
from nelbo.samplers import DDIM
from nelbo.training.kinds.autoencoder.report import beside_reconstructions
from nelbo.training.kinds.drawing import all_classes
from nelbo.training.kinds.final_samples import LATENT_STEPS
from nelbo.training.kinds.refinement import sizes_of
from nelbo.training.kinds.run_end import Evaluations, RunEnd

PROMPTS_FILE = "prompts.txt"
# How the samples of a run are drawn, and what its scheduler describes, in diffusers as well.
SAMPLER = DDIM(LATENT_STEPS, spacing="trailing", steps_offset=1, even_stride=True)
_SHOWN = 32
# Held-out images that are shown with their reconstructions.
_RECONSTRUCTED = 16


class LatentEnd(RunEnd):
    """The bound on pixels of held-out images, and samples with their prompts."""

    model: LatentDiffusion
    splits = ("test",)
    shares = (0.5, 0.5, 0.8)
    extremes = 8
    _steps = 0

    @cached_property
    def guidance(self) -> float:
        """The scale of the guidance of samples that are conditional."""
        return usual_guidance(self.run.notes)

    @cached_property
    def prompts(self) -> list[str]:
        """What samples are drawn for; nothing for a model without text."""
        return held_out_prompts(self.ending.test) if self.model.text is not None else []

    @property
    def calls(self) -> int:
        """Network calls of all samples, where there is time."""
        levels = self.model.prior.num_levels
        return self._calls_of_a_step * self.ending.samples.calls(LATENT_STEPS, levels)

    @property
    def _calls_of_a_step(self) -> int:
        return 2 if self._is_guided else 1

    @property
    def _is_guided(self) -> bool:
        return self.guidance != 1.0 and bool(self.prompts or self.model.num_classes)

    def draw(self, calls: float) -> Tensor:
        """Samples of every prompt or class in turn, as pixel levels; kept in samples/."""
        model, run = self.model, self.run
        n, steps = self.ending.samples.plan(
            LATENT_STEPS, model.prior.num_levels, calls / self._calls_of_a_step
        )
        self._steps = steps
        with MESSAGES.status("Sampling"):
            drawn = draw_samples(
                model, n, self.prompts, steps=steps, guidance=self.guidance, seed=self.ending.seed
            )
        asked = self.asked(n)
        levels = self.ending.test.levels
        grid = prompt_grid(drawn, asked, levels) if asked else image_grid(drawn, levels)
        save_image(grid, run.samples / "final.png")
        if asked:
            (run.samples / PROMPTS_FILE).write_text("\n".join(asked) + "\n", encoding="utf-8")
        return drawn

    def asked(self, n: int) -> list[str]:
        """The prompt of each of n samples; none for a model without text."""
        return [self.prompts[i % len(self.prompts)] for i in range(n)] if self.prompts else []

    def remark(self, evaluations: Evaluations) -> str:
        """The part of the total that is the autoencoder's."""
        summary = evaluations["test"].bound.mean()
        floor = summary.floor_in_bits
        assert floor is not None
        latents = summary.in_bits["total"].mean - floor.mean
        return (
            f"Of the total {number(floor.mean, BITS_DECIMALS)} bits/dim are the "
            f"autoencoder's floor, the reconstruction of pixels, which no prior can lower; the "
            f"latents cost {number(latents, BITS_DECIMALS)}."
        )

    def write(
        self,
        evaluations: Evaluations,
        drawn: Tensor,
        closer: tuple[Extremes, Extremes] | None = None,
        calls: float = 0.0,
    ) -> dict[str, Any]:
        """As `RunEnd.write`."""
        run, model, evaluated = self.run, self.model, evaluations["test"]
        test, seed = self.ending.test, self.ending.seed
        evaluation, reading = self.judged(
            evaluations, drawn, closer, steps=self._steps, guidance=self.guidance
        )
        run.write_evaluation(evaluation)
        asked = self.asked(len(drawn))
        notes = run.notes
        guidance = {"guidance of the samples": self.guidance}
        report = RunReport(
            title=f"nelbo · {run.path.resolve().name}",
            subtitle=f"A latent diffusion model of {test.source}",
            model=model,
            bounds={"test": evaluated.bound},
            evaluated=evaluated.data,
            samples=drawn[:_SHOWN],
            prompts=asked[:_SHOWN],
            beside=_images_of(test, asked[:_SHOWN]) if asked else None,
            pairs=beside_reconstructions(model.autoencoder, test.subset(_RECONSTRUCTED, seed)),
            closer=closer,
            facts=training_facts(notes, run.course())
            | data_facts(model, evaluated.data)
            | (guidance if self.prompts or model.num_classes else {}),
            metrics=run.course(),
            loss=_loss(notes, model),
            settings=run_settings(notes),
            files=sizes_of(evaluated),
            reading=reading,
            coded=None if closer is None else self.rate_distortion(),
        )
        write_report(report, run.report)
        return evaluation


def error_of(prediction: str) -> str:
    """What the loss `simple` is a mean squared error of."""
    names = {"v_prediction": "v", "epsilon": "ε", "sample": "z_0", "velocity": "ε − z_0"}
    return names.get(prediction, "the prediction")


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
