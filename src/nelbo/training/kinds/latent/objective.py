r"""The objective of the prior of latent diffusion.

The prior and, unless it is frozen, the text encoder learn together from

.. math:: E_{q(z_0|x)}[\, L(z_0, c)\, ]

with L the objective of the diffusion model and c the caption, which is withheld from a share of the
examples, so that one network is both halves of classifier-free guidance (Ho & Salimans 2022,
algorithm 1).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from nelbo.base.errors import NelboError
from nelbo.chain.conditioning import Condition
from nelbo.chain.distributions import drawn_on
from nelbo.diffusion.objectives import BatchPart, Objective, TrainingTerms, part_of_noise
from nelbo.latent import LatentDiffusion
from nelbo.training.kinds.latent.latents import LatentData, trainable


class PriorObjective(nn.Module):
    """The objective of a batch of latents; its parameters are the prior's and text encoder's.

    A text encoder is frozen, and no part of this, where none of its weights requires a gradient.

    Args:
        model: whose prior, and text encoder if it has one, to train.
        condition_dropout: share of examples whose prompt or label is dropped.

    Raises:
        NelboError: a share outside [0, 1), or two text encoders to train.
    """

    empty_tokens: Tensor

    def __init__(
        self,
        model: LatentDiffusion,
        *,
        condition_dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if not 0 <= condition_dropout < 1:
            raise NelboError(f"condition_dropout must lie in [0, 1), got {condition_dropout}")
        self.prior = model.prior
        frozen = model.text is None or model.text.frozen
        self.text = None if model.text is None or frozen else trainable(model.text)
        self.reads_captions = model.text is not None and frozen
        self.condition_dropout = condition_dropout
        empty = None if self.text is None else self.text.tokens([""])
        self.register_buffer("empty_tokens", empty, persistent=False)

    def forward(
        self,
        latents: LatentData,
        *,
        objective: Objective = Objective(),  # noqa: B008 - frozen
        generator: torch.Generator | None = None,
        part: BatchPart | None = None,
    ) -> TrainingTerms:
        """The objective of a batch or a part of one, in nats per latent where it is the bound.

        Where the cost beside the prior is known, `nelbo` is the whole bound of each image.

        Latents, the conditions that are dropped, and noise are drawn with `generator`, in this
        order.

        Args:
            latents: the batch, or a part of it.
            objective: of the prior.
            generator: the source of all draws.
            part: which part `latents` is.

        Raises:
            NelboError: latents of another shape than the prior's.
        """
        if self.prior.shape is not None and tuple(latents.mean.shape[1:]) != self.prior.shape:
            raise NelboError(
                f"latents have shape {tuple(latents.mean.shape[1:])}, the prior is over "
                f"{self.prior.shape}"
            )
        z = latents.mean + latents.stddev * part_of_noise(latents.mean, part, generator)
        condition = self._condition(latents, generator, part or BatchPart(0, len(z), len(z)))
        terms = objective(self.prior, z, condition, generator=generator, part=part)
        return terms if latents.cost is None else terms._replace(nelbo=terms.nelbo + latents.cost)

    def _condition(
        self, latents: LatentData, generator: torch.Generator | None, part: BatchPart
    ) -> Condition | None:
        self._check_condition(latents)
        if latents.tokens is None and latents.captions is None and latents.labels is None:
            return None
        device = latents.mean.device
        source = drawn_on(generator, device)
        chance = torch.rand(part.batch, generator=generator, device=source)[part.slice]
        dropped = chance.to(device) < self.condition_dropout
        condition = latents.condition(dropped)
        if self.text is not None and latents.tokens is not None:
            tokens = torch.where(dropped[:, None], self.empty_tokens, latents.tokens)
            condition = replace(condition or Condition(), text=self.text(tokens))
        return condition

    def _check_condition(self, latents: LatentData) -> None:
        if self.text is not None and latents.tokens is None:
            raise NelboError("a text encoder that learns needs latents with tokens")
        if self.reads_captions and latents.captions is None:
            raise NelboError("a frozen text encoder needs latents with embedded captions")
