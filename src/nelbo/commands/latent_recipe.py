"""Diffusion models of latents in `nelbo train`, with the text encoder of their captions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from nelbo.commands.common import MESSAGES, show
from nelbo.commands.evaluation_progress import cost_json, evaluate_with_progress, levels_to_evaluate
from nelbo.commands.recipe import Recipe
from nelbo.commands.sample import all_classes
from nelbo.data import ImageData
from nelbo.diffusers_format import load
from nelbo.diffusion import Pixels
from nelbo.errors import NelboError
from nelbo.latent import LatentDiffusion
from nelbo.networks import AutoencoderKL
from nelbo.report.grids import image_grid, save_grid
from nelbo.report.tables import bound_json, bound_table
from nelbo.samplers import DDIM
from nelbo.text import TextEncoder
from nelbo.training.autoencoder_evaluation import fit_scale
from nelbo.training.build_latent import build_latent_model
from nelbo.training.config import LatentSettings
from nelbo.training.latents import LatentData, PriorObjective, encode_data
from nelbo.training.run_directory import RunDirectory, save_pipeline
from nelbo.training.validation import Validation

if TYPE_CHECKING:
    from PIL.Image import Image

CONDITIONS = ("auto", "text", "label", "none")
PROMPTS_FILE = "prompts.txt"
_GRID, _GRID_STEPS = 16, 25
_SAMPLES = 64


class LatentRecipe(Recipe):
    """A prior of the latents of an autoencoder.

    Every image is encoded here, once.

    Args:
        settings: which prior and text encoder.
        autoencoder: trained; it stays as it is.
        data: the images to train on, with captions or labels for a prior that is told of them.
        test: the images held out.
        objective: what the prior minimises.
        condition_dropout: share of captions or labels that are withheld.

    Raises:
        NelboError: settings that do not fit together, the autoencoder or the images.
    """

    def __init__(
        self,
        settings: LatentSettings,
        autoencoder: AutoencoderKL,
        data: ImageData,
        test: ImageData,
        *,
        objective: str = "simple",
        condition_dropout: float = 0.1,
    ) -> None:
        self.settings = settings
        self.test = test
        told = _condition(settings, data)
        captions = [caption or "" for caption in data.captions or ()] if told == "text" else None
        self.label_names = data.label_names if told == "label" else ()
        text = None
        if captions is not None:
            text = TextEncoder.for_captions(
                captions,
                width=settings.text_width,
                layers=settings.text_layers,
                heads=settings.text_heads,
                vocabulary=settings.vocabulary,
            )
        autoencoder = autoencoder.eval().requires_grad_(False)
        device = next(autoencoder.parameters()).device
        with MESSAGES.status("Encoding the images"):
            self._latent_model = build_latent_model(
                autoencoder,
                data,
                captions,
                widths=settings.widths,
                layers=settings.layers,
                heads=settings.heads,
                levels=settings.levels,
                text=text,
                num_classes=len(self.label_names),
            ).to(device)
            self._latent_model.decoder_scale = fit_scale(autoencoder, data)
            self.data: LatentData = encode_data(
                self._latent_model, data, captions, generator=torch.Generator().manual_seed(0)
            )
        self.model: PriorObjective = PriorObjective(
            self._latent_model, objective=objective, condition_dropout=condition_dropout
        )
        self._validation = Validation(test)
        self._shown = _prompts(test) if told == "text" else []

    def whole(self, trained: PriorObjective) -> LatentDiffusion:
        """The autoencoder with this prior and text encoder."""
        frame = self._latent_model
        return LatentDiffusion(
            frame.autoencoder,
            trained.prior,
            text=trained.text,
            scale=frame.scale,
            data=frame.data,
            decoder_scale=frame.decoder_scale,
        ).eval()

    def save(self, model: PriorObjective, directory: Path, notes: Mapping[str, Any]) -> None:
        """A pipeline of latents."""
        save_pipeline(self.whole(model), directory, notes)

    def validation(self, model: PriorObjective) -> float:
        """The bound on pixels of a few held-out images with their captions or labels."""
        return self._validation(self.whole(model))

    def picture(self, model: PriorObjective, seed: int) -> Image:
        """Samples, of the captions of held-out images or of every class."""
        return image_grid(self._samples(self.whole(model), _GRID, seed), self.test.levels)

    def finish(
        self,
        run: RunDirectory,
        *,
        levels: int | Literal["all"],
        images: int,
        seed: int,
        device: torch.device,
    ) -> dict[str, Any]:
        """The bound on pixels of held-out images, and samples with their prompts."""
        model = load(run.path)
        assert isinstance(model, LatentDiffusion)
        model = model.to(device)
        bound = evaluate_with_progress(
            model,
            self.test.subset(images, seed),
            "Evaluating test",
            levels=levels_to_evaluate(levels, model),
            seed=seed,
        )
        summary = bound.mean()
        show(bound_table({"test": summary}))
        evaluation = {"test": {**cost_json(bound, model), **bound_json(summary)}}
        run.write_evaluation(evaluation)
        samples = self._samples(model, _SAMPLES, seed)
        save_grid(samples, run.samples / "final.png", self.test.levels)
        if self._shown:
            prompts = [self._shown[i % len(self._shown)] for i in range(_SAMPLES)]
            (run.samples / PROMPTS_FILE).write_text("\n".join(prompts) + "\n", encoding="utf-8")
        return {"evaluation": evaluation}

    def _samples(self, model: LatentDiffusion, n: int, seed: int) -> Tensor:
        """(n, C, H, W) uint8, with guidance where the model is told anything."""
        assert isinstance(model.data, Pixels)
        condition = all_classes(model.prior, n)
        if condition is not None:
            condition = condition.to(next(model.parameters()).device)
        told = condition is not None or bool(self._shown)
        samples = model.sample(
            n,
            DDIM(min(_GRID_STEPS, model.prior.num_levels), spacing="trailing"),
            condition=condition,
            prompt=[self._shown[i % len(self._shown)] for i in range(n)] if self._shown else None,
            guidance=self.settings.guidance if told else 1.0,
            generator=torch.Generator().manual_seed(seed),
        )
        return model.data.to_levels(samples).byte().cpu()


def read_autoencoder(path: Path) -> AutoencoderKL | None:
    """The autoencoder of a run or pipeline, or one by itself; None where there is none."""
    for folder in ("vae", "vqvae", ""):
        if (path / folder / "config.json").is_file():
            return AutoencoderKL.from_pretrained(path, folder or None)
    return None


def _condition(settings: LatentSettings, data: ImageData) -> str:
    """What the prior is told: "text", "label" or "none"."""
    has = {
        "text": data.captions is not None and any(data.captions),
        "label": bool(data.num_classes),
        "none": True,
    }
    if settings.condition == "auto":
        return next(kind for kind, there in has.items() if there)
    if settings.condition not in CONDITIONS:
        raise NelboError(
            f"unknown condition {settings.condition!r}: expected one of {', '.join(CONDITIONS)}"
        )
    if not has[settings.condition]:
        missing = "captions" if settings.condition == "text" else "labels"
        raise NelboError(f"{data.source} has no {missing}: --condition {settings.condition} cannot")
    return settings.condition


def _prompts(data: ImageData) -> list[str]:
    """Captions of held-out images, in an order that is the same each time."""
    captions = sorted({caption for caption in data.captions or () if caption})
    order = torch.randperm(len(captions), generator=torch.Generator().manual_seed(0))
    return [captions[i] for i in order.tolist()]
