"""What the training of a prior leaves to machine, latents and time, chosen once for a new run."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch

from nelbo.data import ImageData
from nelbo.networks import AutoencoderKL
from nelbo.training.config import TrainingConfig
from nelbo.training.images import TrainingImages
from nelbo.training.kinds.autoencoder.build import autoencoder_at, build_autoencoder
from nelbo.training.kinds.latent.build import build_latent_model
from nelbo.training.kinds.latent.latents import check_not_streamed, encode_data, shown_first
from nelbo.training.kinds.latent.making import new_latent_model
from nelbo.training.kinds.latent.objective import PriorObjective
from nelbo.training.kinds.latent.options import LatentSettings, TrainLatent
from nelbo.training.kinds.latent.task import PriorTask
from nelbo.training.kinds.network_size import Widths, fitting_network
from nelbo.training.kinds.transformer import WIDTHS
from nelbo.training.processes import Processes
from nelbo.training.trainer import Trainer

# Channels of a UNet at the first resolution; the second has a quarter more, as by default.
BASES = (16, 32, 48, 64, 96, 128, 192, 256)


def with_choices(options: TrainLatent, images: TrainingImages, processes: Processes) -> TrainLatent:
    """The options with widths that fit the time, where they are left open.

    Before an autoencoder is trained, a step on a few images shows what does not fit.
    """
    train = images.train
    check_not_streamed(train)
    path = options.autoencoder
    if path is None:
        _rehearse(options, images, processes)
    if options.model.widths or options.training.seconds is None:
        return options
    taken = options.first_stage() if path is None else None
    seconds = options.training.seconds - ((taken and taken.seconds) or 0.0)
    autoencoder = build_autoencoder(train) if path is None else autoencoder_at(path)
    task_of = partial(timed_task, options.model, autoencoder.to(processes.device), train)
    found = fitting_network(
        width_choices(options.model), task_of, options, train, seconds, processes
    )
    return options.with_settings(replace(options.model, widths=found.widths))


def _rehearse(options: TrainLatent, images: TrainingImages, processes: Processes) -> None:
    """Take a step of the second stage on a few images: what does not fit shows itself before the
    first stage begins."""
    train = images.train
    few = train.take(shown_first(train)[: options.training.batch_size])
    autoencoder = build_autoencoder(few).to(processes.device)
    model, latents = new_latent_model(
        options.model,
        autoencoder,
        replace(images, train=few),
        mirrored=options.training.horizontal_flip,
    )
    training = replace(options.training, precision="fp32")
    objective = PriorObjective(model, condition_dropout=training.label_dropout)
    Trainer(PriorTask(objective, latents, training), processes=processes).rehearse()


def width_choices(settings: LatentSettings) -> list[Widths]:
    """What a time is fitted with, from the narrowest on."""
    if settings.network == "dit":
        return [(width,) for width in WIDTHS]
    return [(base, base + base // 4) for base in BASES]


def timed_task(
    settings: LatentSettings,
    autoencoder: AutoencoderKL,
    data: ImageData,
    widths: Widths,
    training: TrainingConfig,
) -> PriorTask:
    """The training of a prior of these widths on as many of the images as a step has.

    The autoencoder may be trained or not.
    """
    shown = shown_first(data)
    few = data.take(shown[torch.arange(training.batch_size) % len(shown)])
    model = build_latent_model(autoencoder, few, replace(settings, widths=widths))
    objective = PriorObjective(model, condition_dropout=training.label_dropout)
    return PriorTask(objective, encode_data(model, few), training)
