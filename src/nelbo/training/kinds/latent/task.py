"""The training of a prior of latents."""

from __future__ import annotations

from torch import nn

from nelbo.base.errors import NelboError
from nelbo.training.config import TrainingConfig
from nelbo.training.kinds.latent.latents import LatentData
from nelbo.training.kinds.latent.objective import PriorObjective
from nelbo.training.task import Batch, Task, Terms, bits_per_nat, flips, objective_of


class PriorTask(Task):
    """The prior of latents, with the text encoder of its captions."""

    def __init__(self, objective: PriorObjective, data: LatentData, config: TrainingConfig) -> None:
        self.module = self.objective = objective
        # A text encoder that learns is a part of it.
        self.networks = ("prior.network", *([] if objective.text is None else ["text"]))
        self.data = data
        self.of_prior = objective_of(config, objective.prior.num_levels)
        self.level_sampler = self.of_prior.level_sampler
        self.config = config
        self.examples = len(data) // 2 if data.mirrored else len(data)
        if config.horizontal_flip and not data.mirrored:
            raise NelboError(
                "horizontal_flip needs the latents of the mirror images as well: encode the images "
                "with encode_data(..., mirrored=True)"
            )
        self.keys = None if data.keys is None else data.keys.cpu()
        shape = data.mean.shape[1:]
        self.bits = bits_per_nat(shape if data.dims is None else [data.dims])
        if config.objective == "bound":
            self.loss_scale = bits_per_nat(shape)

    def terms(self, module: nn.Module, batch: Batch) -> Terms:
        """`PriorObjective`."""
        step, index, part, generator = batch
        index = index + self.examples * flips(self.config, step, len(index))
        latents = self.data.take(index[part.slice].to(self.data.mean.device))
        return module(latents, objective=self.of_prior, generator=generator, part=part)
