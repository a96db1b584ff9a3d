"""Diffusion models of latents in `nelbo train`, with the text encoder of their captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from rich.console import Console
from torch import Tensor

from nelbo.base.errors import NelboError
from nelbo.base.suggestions import unknown
from nelbo.chain.model import Model
from nelbo.commands.common import MESSAGES
from nelbo.commands.training.final_samples import LATENT_STEPS, FinalSamples
from nelbo.commands.training.latent_run import (
    SAMPLER,
    draw_samples,
    error_of,
    finish_latent,
    held_out_prompts,
)
from nelbo.commands.training.recipe import Recipe, grid_of
from nelbo.commands.training.refinement import Asked
from nelbo.commands.training.session import TrainingImages
from nelbo.data import ImageData
from nelbo.formats import load
from nelbo.latent import LatentDiffusion
from nelbo.networks import AutoencoderKL
from nelbo.report.grids import image_grid
from nelbo.runs.run_directory import RunDirectory, save_pipeline
from nelbo.text import TEXT_ENCODER, TextEncoder
from nelbo.training.autoencoder_evaluation import fit_scale
from nelbo.training.build_latent import build_latent_model
from nelbo.training.config import LatentSettings
from nelbo.training.latents import (
    LatentData,
    PriorObjective,
    check_not_streamed,
    encode_data,
    unit_scale,
)
from nelbo.training.trainer import Step
from nelbo.training.validation import Validation

CONDITIONS = ("auto", "text", "label", "none")


class LatentRecipe(Recipe):
    """A prior of the latents of an autoencoder, and the text encoder that tells it of captions.

    Args:
        settings: which prior and text encoder.
        latent_model: what to train, of which the autoencoder stays as it is; see `new_latent_model`
            and `trained_latent_model`.
        latents: the images to train on, encoded by it.
        images: what it is trained, chosen and reported on, with captions or labels for a prior that
            is told of them.
        condition_dropout: share of captions or labels that are withheld.
        samples: what the end of the run draws.

    Raises:
        NelboError: a model and images that do not fit together.
    """

    def __init__(
        self,
        settings: LatentSettings,
        latent_model: LatentDiffusion,
        latents: LatentData,
        images: TrainingImages,
        *,
        condition_dropout: float = 0.1,
        samples: FinalSamples = FinalSamples(),  # noqa: B008 - frozen
    ) -> None:
        self.samples = samples
        self.settings = _found_again(settings)
        self.train, self.test = images.train, images.reported
        self.label_names = images.train.label_names if latent_model.num_classes else ()
        self.data: LatentData = latents
        self._latent_model = latent_model
        self.model: PriorObjective = PriorObjective(
            latent_model, condition_dropout=condition_dropout
        )
        self._validation = Validation(images.validation)
        self._shown = held_out_prompts(self.test) if latent_model.text is not None else []

    def whole(self, trained: PriorObjective) -> LatentDiffusion:
        """The autoencoder with this prior and text encoder."""
        frame = self._latent_model
        return LatentDiffusion(
            frame.autoencoder,
            trained.prior,
            text=trained.text or frame.text,
            scale=frame.scale,
            data=frame.data,
            decoder_scale=frame.decoder_scale,
        ).eval()

    def save(self, model: PriorObjective, directory: Path, notes: Mapping[str, Any]) -> None:
        """A pipeline of latents."""
        save_pipeline(self.whole(model), directory, notes, SAMPLER)

    def validation(self, model: PriorObjective) -> float:
        """The bound on pixels of a few validation images with their captions or labels."""
        return self._validation(self.whole(model))

    def progress(self, step: Step, objective: str) -> str:
        """The loss alone: a bound from one level an image jumps too far to be followed."""
        if objective != "simple":
            return f"loss {step.running_loss:.4f}"
        of = error_of(self._latent_model.prior.prediction)
        return f"mean squared error of {of} {step.running_loss:.4f} per latent value"

    def reading(self, model: PriorObjective, images: int) -> Tensor:
        """As `validation`, of each of some images."""
        return self._validation.each(self.whole(model), images)

    def picture(self, model: PriorObjective, seed: int, calls: int | None = None) -> Image:
        """Samples, of the captions of held-out images or of every class."""
        guidance = self.settings.guidance
        whole = self.whole(model)
        n, steps = grid_of(
            None if calls is None else calls // 2, min(LATENT_STEPS, whole.prior.num_levels)
        )
        samples = draw_samples(whole, n, self._shown, steps=steps, guidance=guidance, seed=seed)
        return image_grid(samples, self.test.levels)

    def finish(
        self,
        run: RunDirectory,
        *,
        asked: Asked,
        seconds: float,
        seed: int,
        device: torch.device,
        table_to: Console,
    ) -> dict[str, Any]:
        """The bound on pixels of held-out images, samples with their prompts, and the report."""
        model = load(run.path)
        assert isinstance(model, LatentDiffusion)
        return finish_latent(
            run,
            model.to(device),
            train=self.train,
            test=self.test,
            asked=asked,
            seconds=seconds,
            samples=self.samples,
            guidance=self.settings.guidance,
            seed=seed,
            table_to=table_to,
        )


def new_latent_model(
    settings: LatentSettings,
    autoencoder: AutoencoderKL,
    images: TrainingImages,
    *,
    mirrored: bool = False,
    resumed: Path | None = None,
) -> tuple[LatentDiffusion, LatentData]:
    """A fresh prior of an autoencoder's latents, where the autoencoder is, and these latents.

    Args:
        settings: which prior and text encoder.
        autoencoder: trained.
        images: what to train on and to fit the decoder's scale to.
        mirrored: encode their mirror images as well.
        resumed: the run that this goes on with, whose text encoder is used; None for a new one.

    Raises:
        NelboError: settings that do not fit together, the autoencoder or the images.
    """
    data = images.train
    told = _condition(settings, data)
    captions = [caption or "" for caption in data.captions or ()] if told == "text" else None
    text = None if captions is None else _text_encoder(settings, captions, resumed)
    model = build_latent_model(
        autoencoder,
        data,
        captions,
        widths=settings.widths,
        layers=settings.layers,
        heads=settings.heads,
        levels=settings.levels,
        text=text,
        num_classes=data.num_classes if told == "label" else 0,
        scale=1.0,
    ).to(next(autoencoder.parameters()).device)
    latents = _encode(model, images, mirrored)
    model.scale = unit_scale(latents)
    return model, latents.scaled(model.scale)


def trained_latent_model(
    model: Model,
    settings: LatentSettings,
    images: TrainingImages,
    *,
    mirrored: bool = False,
    resumed: bool = False,
) -> tuple[LatentDiffusion, LatentData]:
    """A trained model made ready to be trained on, as its images tell and the settings ask, and
    their latents.

    Raises:
        NelboError: it reads captions that the images do not have, or nothing at all where its text
            encoder is to be trained; or the images are streamed.
    """
    assert isinstance(model, LatentDiffusion)
    if model.text is not None:
        if not images.train.has_captions:
            raise NelboError(
                f"{images.train.source} has no captions, which the model to start from reads"
            )
        model.text.requires_grad_(settings.train_text_encoder)
    elif settings.train_text_encoder:
        raise NelboError("--train-text-encoder: the model to start from has no text encoder")
    if not resumed:
        model.decoder_scale = None  # that of these images is fitted
    return model, _encode(model, images, mirrored)


def _encode(model: LatentDiffusion, images: TrainingImages, mirrored: bool) -> LatentData:
    """The latents of the images to train on, what the prior is told, and what else each costs."""
    data = images.train
    check_not_streamed(data)
    model.autoencoder.eval().requires_grad_(False)
    with MESSAGES.status("Encoding the images"):
        if model.decoder_scale is None:
            model.decoder_scale = fit_scale(model.autoencoder, images.for_fits)
        generator = torch.Generator().manual_seed(0)
        return encode_data(model, data, mirrored=mirrored, generator=generator)


def _text_encoder(
    settings: LatentSettings, captions: Sequence[str], resumed: Path | None
) -> TextEncoder:
    """A trained one, frozen unless it is to learn on, or a new one of these captions."""
    if settings.text_encoder is None:
        return TextEncoder.for_captions(
            captions,
            width=settings.text_width,
            layers=settings.text_layers,
            heads=settings.text_heads,
            vocabulary=settings.vocabulary,
        )
    own = resumed is not None and (resumed / TEXT_ENCODER).is_dir()
    text = TextEncoder.from_pretrained(resumed if own and resumed else settings.text_encoder)
    return text.requires_grad_(settings.train_text_encoder)


def _found_again(settings: LatentSettings) -> LatentSettings:
    """With the path of a text encoder as it is found from another directory."""
    path = settings.text_encoder
    if path is None or not Path(path).exists():  # the latter may be a Hub id
        return settings
    return replace(settings, text_encoder=str(Path(path).resolve()))


def _condition(settings: LatentSettings, data: ImageData) -> str:
    """What the prior is told: "text", "label" or "none"."""
    has = {
        "text": data.has_captions,
        "label": bool(data.num_classes),
        "none": True,
    }
    if settings.train_text_encoder and settings.text_encoder is None:
        raise NelboError("--train-text-encoder is for --text-encoder: a new one is trained anyway")
    asked = settings.condition
    if asked not in CONDITIONS:
        raise NelboError(unknown("condition", asked, CONDITIONS))
    if settings.text_encoder is not None:
        if asked not in ("auto", "text"):
            raise NelboError(f"--text-encoder reads captions, but --condition is {asked}")
        asked = "text"
    if asked == "auto":
        return next(kind for kind, there in has.items() if there)
    if not has[asked]:
        missing = "captions" if asked == "text" else "labels"
        option = "--text-encoder" if settings.text_encoder else f"--condition {asked}"
        raise NelboError(f"{data.source} has no {missing}, which {option} needs")
    return asked
