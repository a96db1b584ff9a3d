"""The condition of the prior of a latent model, of prompts and control, and its guidance.

A prompt becomes the vectors that the prior attends to; where its network takes the size of the
picture as well, that of a whole one goes with it. The unconditional model is the empty prompt's, or
what stands for it in SDXL.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from nelbo.base.arguments import check_count, check_kind
from nelbo.base.errors import NelboError
from nelbo.chain.conditioning import Condition, check_condition
from nelbo.diffusion import Diffusion
from nelbo.diffusion.control import under_control
from nelbo.networks.control import AnyControl
from nelbo.networks.guidance import Guidance
from nelbo.text import PromptEncoder

# One for all, or one each; None among these is no prompt, the unconditional model.
Prompt = str | Sequence[str | None]


@dataclass(frozen=True)
class PriorCondition:
    """Makes conditions of prompts, control and guidance.

    Attributes:
        prior: the diffusion model of latents.
        text: what embeds prompts for it, if it reads any.
        shape: (C, H, W) of a whole picture, where it is known.
    """

    prior: Diffusion
    text: PromptEncoder | None
    shape: tuple[int, ...] | None

    def of_prompts(self, prompts: Sequence[str | None]) -> Condition:
        """The condition of a batch with these prompts, one an example; None is no prompt.

        Raises:
            NelboError: a prior that reads none.
        """
        if self.text is None:
            raise NelboError("a prompt was given to a model without a text encoder")
        return self._with_size(self.text.condition(prompts))

    def between(self, first: str | None, second: str | None, frames: int) -> Condition:
        """The conditions on the straight way from one prompt to another, ends included.

        Raises:
            NelboError: fewer than two frames, or as `of_prompts`.
        """
        check_count("frames", frames, least=2)
        ends = self.of_prompts([first, second])
        return ends[:1].between(ends[1:], torch.linspace(0.0, 1.0, frames))

    def guided(
        self,
        n: int,
        *,
        condition: Condition | None = None,
        prompt: Prompt | None = None,
        negative_prompt: Prompt | None = None,
        control: AnyControl | None = None,
        guidance: float | Guidance = 1.0,
    ) -> tuple[Diffusion, Condition | None]:
        """The prior with its guidance, and the condition of `n` latents.

        Args and errors as `LatentDiffusion.sample`.
        """
        check_condition(condition, n)
        guidance = guidance if isinstance(guidance, Guidance) else Guidance(guidance)
        prior, scale = self.prior, guidance.scale
        if prior.embedded_guidance is not None and negative_prompt is None:
            prior, guidance, scale = self._embedded(guidance), Guidance(1.0), 1.0
        if condition is not None and prompt is not None:
            raise NelboError("give either a condition, or a prompt")
        goal = self.of_batch(n, condition) if prompt is None else self._embed(n, prompt, "prompt")
        prior, given = under_control(prior, n, control, goal)
        # In guess mode the control is a goal of its own.
        has_goal = prompt is not None or condition is not None or prior.guesses
        unconditional = self._unconditional(n, has_goal, negative_prompt, scale)
        return prior.guided(guidance, unconditional), given

    def of_batch(self, n: int, condition: Condition | None) -> Condition | None:
        """The condition of the prior for `n` images: `condition`, with no prompt where it has none.

        Raises:
            NelboError: a condition of another number of examples.
        """
        check_condition(condition, n)
        if self.text is None or (condition is not None and condition.text is not None):
            return condition
        unconditional = self.of_prompts([None] * n)
        if condition is None:
            return unconditional
        return replace(unconditional, label=condition.label, control=condition.control)

    def _embedded(self, guidance: Guidance) -> Diffusion:
        """A guidance-distilled prior at this guidance; at its own where none is asked for."""
        if guidance.interval is not None or guidance.rescale:
            raise NelboError(
                "the guidance of this model is an input of its network, without an interval or "
                "rescale: these are of classifier-free guidance, which a negative prompt asks for"
            )
        if guidance.scale == 1.0:
            return self.prior
        return self.prior.with_embedded_guidance(guidance.scale)

    def _unconditional(
        self, n: int, has_goal: bool, negative_prompt: Prompt | None, guidance: float
    ) -> Condition | None:
        if guidance == 1.0:
            if negative_prompt is not None:
                raise NelboError("a negative prompt takes effect with guidance other than 1 only")
            return None
        if not has_goal:
            raise NelboError(f"guidance {guidance} needs a prompt or label to guide towards")
        # One for all is kept as one, so that the samples can be drawn in batches of any size.
        of_all = negative_prompt is None or isinstance(negative_prompt, str)
        return self._embed(1 if of_all else n, negative_prompt, "negative_prompt")

    def _embed(self, n: int, prompt: Prompt | None, name: str) -> Condition | None:
        if self.text is None and prompt is None:
            return None
        prompts = [prompt] * n if prompt is None or isinstance(prompt, str) else prompt
        check_kind(name, prompts, Sequence, "a text, or a list of one a sample")
        if len(prompts) != n:
            raise NelboError(
                f"{name} is a list of {len(prompts)}, expected one text for all samples or a list "
                f"of {n}"
            )
        if name == "negative_prompt" and self.text is not None:
            return self._with_size(self.text.negative(prompts))
        return self.of_prompts(prompts)

    def _with_size(self, condition: Condition) -> Condition:
        """With the size of a whole picture, where the network takes one."""
        config = getattr(self.prior.network, "config", None)
        if not getattr(config, "takes_size", False):
            return condition
        if self.shape is None:
            raise NelboError("the prior has no shape, so its size is not known: give it shape=...")
        _, height, width = self.shape
        numbers = torch.tensor([height, width, 0, 0, height, width], dtype=torch.float32)
        device = next(self.prior.parameters()).device
        return replace(condition, size=numbers.to(device).expand(condition.batch_size, -1))
