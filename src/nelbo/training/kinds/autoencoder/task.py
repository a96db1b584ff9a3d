"""The training of an autoencoder."""

from __future__ import annotations

from torch import nn

from nelbo.base.errors import NelboError
from nelbo.data import ImageData
from nelbo.training.config import TrainingConfig
from nelbo.training.kinds.autoencoder.objective import AutoencoderObjective
from nelbo.training.ranges import refuse
from nelbo.training.task import Batch, ImageSource, Task, Terms, device_of


class AutoencoderTask(Task):
    """An autoencoder of images; its objective is in nats a dimension already."""

    networks = ("autoencoder.encoder", "autoencoder.decoder")

    def __init__(
        self, objective: AutoencoderObjective, data: ImageData, config: TrainingConfig
    ) -> None:
        of_chains = (
            *("objective", "level_shift", "level_sampler", "input_perturbation"),
            *("snr_gamma", "sigmoid_bias", "label_dropout"),
        )
        why = "does not apply to an autoencoder, which has no levels and no condition: leave it out"
        refuse(config, *of_chains, why=why)
        refuse(config, "horizontal_flip", why="is --mirrored 0.5 of an autoencoder: leave it out")
        if objective.data.levels != data.levels:
            raise NelboError(
                f"{data.source} has {data.levels} pixel levels, the objective has "
                f"{objective.data.levels}"
            )
        self.module = self.objective = objective
        self.learn_from(ImageSource(data, config.seed), config)

    def terms(self, module: nn.Module, batch: Batch) -> Terms:
        """`AutoencoderObjective`."""
        x = self.objective.data.to_network(self.images.pixels(batch.examples, batch.part))
        return module(x.to(device_of(module)), generator=batch.generator, part=batch.part)
