"""The training of an autoencoder."""

from __future__ import annotations

from torch import nn

from nelbo.base.errors import NelboError
from nelbo.data import ImageData
from nelbo.training.config import TrainingConfig
from nelbo.training.kinds.autoencoder.objective import AutoencoderObjective
from nelbo.training.ranges import option
from nelbo.training.task import Batch, ImageSource, Task, Terms, device_of


class AutoencoderTask(Task):
    """An autoencoder of images; its objective is in nats a dimension already."""

    networks = ("autoencoder.encoder", "autoencoder.decoder")

    def __init__(
        self, objective: AutoencoderObjective, data: ImageData, config: TrainingConfig
    ) -> None:
        _refuse(
            config,
            "objective",
            "level_shift",
            "level_sampler",
            "input_perturbation",
            "snr_gamma",
            "sigmoid_bias",
            "label_dropout",
            why="an autoencoder has no levels and no condition; its likelihood is its objective",
        )
        _refuse(config, "horizontal_flip", why="an autoencoder is mirrored by --mirrored 0.5")
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


def _refuse(config: TrainingConfig, *names: str, why: str) -> None:
    """Raise `NelboError` for a setting that would be passed over in silence."""
    for name in names:
        if getattr(config, name) != getattr(TrainingConfig(), name):
            raise NelboError(f"{option(name)} {getattr(config, name)}: {why}; leave it out")
