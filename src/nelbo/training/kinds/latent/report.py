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
from nelbo.latent import LatentDiffusion
from nelbo.report.captions import prompt_grid
from nelbo.report.formatting import number
from nelbo.report.grids import image_grid, save_image
from nelbo.report.tables import BITS_DECIMALS
from nelbo.samplers import DDIM
from nelbo.training.kinds.autoencoder.report import beside_reconstructions
from nelbo.training.kinds.final_samples import STEPS
from nelbo.training.kinds.run_end import Ends, Evaluations, GuidedEnd, class_names

PROMPTS_FILE = "prompts.txt"
# How the samples of a run are drawn, and what its scheduler describes, in diffusers as well.
SAMPLER = DDIM(STEPS, spacing="trailing", steps_offset=1, even_stride=True)
_SHOWN = 32
# Held-out images that are shown with their reconstructions.
_RECONSTRUCTED = 16


class LatentEnd(GuidedEnd):
    """The bound on pixels of held-out images, and samples with their prompts."""

    model: LatentDiffusion

    @cached_property
    def prompts(self) -> list[str]:
        """What samples are drawn for; nothing for a model without text."""
        return held_out_prompts(self.ending.test) if self.model.text is not None else []

    @property
    def is_conditional(self) -> bool:
        """Whether samples are drawn for prompts or classes."""
        return bool(self.prompts or self.model.num_classes)

    @property
    def facts(self) -> dict[str, Any]:
        """The guidance, where there is any."""
        return {"guidance of the samples": self.guidance} if self.is_conditional else {}

    def draw(self, calls: float) -> Tensor:
        """Samples of every prompt or class in turn, as pixel levels; kept in samples/."""
        run, (n, steps) = self.run, self.plan(calls)
        how: dict[str, Any] = {"guidance": self.guidance, "seed": self.ending.seed}
        with MESSAGES.status("Sampling"):
            drawn = draw_samples(self.model, n, self.prompts, steps=steps, **how)
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

    def shown(
        self, drawn: Tensor, evaluations: Evaluations, closer: Ends | None, calls: float
    ) -> dict[str, Any]:
        """As `RunEnd.shown`."""
        model, test = self.model, self.ending.test
        asked = self.asked(len(drawn))[:_SHOWN]
        few = test.subset(_RECONSTRUCTED, self.ending.seed)
        return {
            "subtitle": f"A latent diffusion model of {test.source}",
            "samples": drawn[:_SHOWN],
            "prompts": asked,
            "names": class_names(self.run.notes, model.classes_in_turn(len(drawn)))[:_SHOWN],
            "beside": _images_of(test, asked) if asked else None,
            "pairs": beside_reconstructions(model.autoencoder, few),
            "loss": _loss(self.run.notes, model),
        }


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
    steps: int,
    guidance: float,
    seed: int,
) -> Tensor:
    """(n, C, H, W) uint8 of each prompt or class in turn, guided if the model is conditional."""
    condition = model.classes_in_turn(n)
    samples = model.sample(
        n,
        replace(SAMPLER, steps=min(steps, model.prior.num_levels)),
        condition=condition,
        prompt=[prompts[i % len(prompts)] for i in range(n)] if prompts else None,
        guidance=guidance if prompts or condition is not None else 1.0,
        generator=torch.Generator().manual_seed(seed),
    )
    return model.data.shown(samples)


def held_out_prompts(data: ImageData) -> list[str]:
    """Captions of held-out images, in an order that is the same each time."""
    captions = sorted({caption for caption in data.captions or () if caption})
    order = torch.randperm(len(captions), generator=torch.Generator().manual_seed(0))
    return [captions[i] for i in order.tolist()]


def _images_of(data: ImageData, captions: Sequence[str]) -> Tensor:
    """The first image with each of these captions."""
    assert data.captions is not None
    return data.images[torch.tensor([data.captions.index(caption) for caption in captions])]
