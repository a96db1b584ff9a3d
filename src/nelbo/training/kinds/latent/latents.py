r"""The latents of images, encoded once, as the prior of latent diffusion is trained on them.

The autoencoder is done, so each image is encoded once and for all; what is kept is the mean and
standard deviation of :math:`q(z_0|x)`, from which :math:`z_0` is drawn anew each time. What a
frozen text encoder makes of the captions is computed once, like the latents.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nelbo.base.console import MESSAGES
from nelbo.base.errors import NelboError
from nelbo.base.memory import available_memory
from nelbo.chain.conditioning import Condition
from nelbo.data import ImageData
from nelbo.evidence.autoencoder import fit_scale
from nelbo.evidence.inputs import check_fits
from nelbo.latent import LatentDiffusion
from nelbo.text import PromptEncoder, TextEncoder
from nelbo.training.images import TrainingImages

_CAPTIONS_AT_A_TIME = 64
_GIGA = 1e9


@dataclass(frozen=True)
class LatentData:
    """The latents of a set of images, as a distribution each, with the conditions of the prior.

    Attributes:
        mean: of q(z_0|x), scaled as the prior sees it, (N, C, H, W).
        stddev: of q(z_0|x), likewise, (N, C, H, W).
        tokens: the tokens of each caption, (N, L) int64, for a text encoder that learns; or None.
        captions: what a frozen text encoder makes of the distinct captions, after that of no
            caption; or None.
        caption_index: which of them is the caption of each image, (N,) int64; or None.
        labels: the class of each image, (N,) int64, −1 for none; or None.
        cost: what each image costs beside the prior of its latents,
            −E log p(x|z_0) − H[q(z_0|x)], nats, (N,); or None.
        dims: how many values an image has, where its cost is known.
        keys: `ImageData.keys` of the images, (N, 2) int64; or None.
        mirrored: whether the second half of all is the mirror images of the first half, of which
            alone the keys are.
    """

    mean: Float[Tensor, "n channels height width"]
    stddev: Float[Tensor, "n channels height width"]
    tokens: Int[Tensor, "n tokens"] | None = None
    captions: Condition | None = None
    caption_index: Int[Tensor, " n"] | None = None
    labels: Int[Tensor, " n"] | None = None
    cost: Float[Tensor, " n"] | None = None
    dims: int | None = None
    keys: Int[Tensor, "images 2"] | None = None
    mirrored: bool = False

    def __len__(self) -> int:
        return len(self.mean)

    def take(self, index: Tensor | slice) -> LatentData:
        """Some of them, in the order of `index`, without their keys."""
        each = ("mean", "stddev", "tokens", "caption_index", "labels", "cost")
        values = {name: getattr(self, name) for name in each}
        taken = {k: v[index] for k, v in values.items() if v is not None}
        return replace(self, **taken, keys=None, mirrored=False)

    def condition(self, dropped: Bool[Tensor, " n"]) -> Condition | None:
        """The embedded captions and labels, dropped from some; None where there are neither."""
        condition = Condition()
        if self.captions is not None and self.caption_index is not None:
            condition = self.captions[self.caption_index.masked_fill(dropped, 0)]
        if self.labels is not None:
            condition = replace(condition, label=self.labels.masked_fill(dropped, -1))
        return condition if condition.batch_size else None

    def scaled(self, factor: float) -> LatentData:
        """The latents as a prior of another scale sees them, `factor` times as large."""
        cost = self.cost
        if cost is not None:  # the entropy is that of a density
            cost = cost - self.mean[0].numel() * math.log(factor)
        return replace(self, mean=factor * self.mean, stddev=factor * self.stddev, cost=cost)


def check_not_streamed(data: ImageData) -> None:
    """Raise `NelboError` for a stream: latents are encoded once, and kept."""
    if data.stream is not None:
        raise NelboError(
            f"{data.source} is a stream, and latents are encoded once: leave stream= out, or bound "
            "the set with max_images="
        )


def encode_images(
    model: LatentDiffusion,
    images: TrainingImages,
    captions: Sequence[str | None] | None = None,
    *,
    mirrored: bool,
) -> LatentData:
    """The latents of the images to train on, with their conditions and what else each costs.

    The autoencoder is done, and the scale of its decoder is fitted where it is not known.
    Arguments and errors are those of `encode_data`.
    """
    check_not_streamed(images.train)
    model.autoencoder.eval().requires_grad_(False)
    with MESSAGES.status("Encoding the images"):
        if model.decoder_scale is None:
            model.decoder_scale = fit_scale(model.autoencoder, images.for_fits)
        generator = torch.Generator().manual_seed(0)
        return encode_data(model, images.train, captions, mirrored=mirrored, generator=generator)


@torch.no_grad()
def encode_data(
    model: LatentDiffusion,
    data: ImageData,
    captions: Sequence[str | None] | None = None,
    *,
    mirrored: bool = False,
    batch_size: int = 64,
    generator: torch.Generator | None = None,
) -> LatentData:
    """The latents of all images, for `PriorObjective`; kept where the model is.

    With a decoder scale also what each image costs beside the prior, from one draw of its latent.

    Args:
        model: whose encoder to use, with its scale.
        data: the images.
        captions: a text for each, or None, for a model of text; by default those of `data`.
        mirrored: also of the mirror images, left to right, after those of all images.
        batch_size: images at a time.
        generator: the source of the draws.

    Raises:
        NelboError: images of another shape or number of levels than the model's; another number of
            captions than images, captions for a model without text, or none for one with; more
            captions than there is memory for.
    """
    check_fits(model, data)
    check_not_streamed(data)
    if captions is None and model.text is not None and data.captions is not None:
        captions = data.captions
    check_captions(data, captions, model.text)
    device = next(model.parameters()).device
    parts, costs = [], []
    halves = (False, True) if mirrored else (False,)
    for flipped in halves:
        for batch in data.batches(batch_size):
            images = batch.images.flip(-1) if flipped else batch.images
            x = model.data.to_network(images).to(device)
            q = model.encode(x)
            parts.append((q.mean, q.stddev))
            if model.decoder_scale is not None:
                costs.append(model.autoencoder_cost(x, q, generator)[1])
    conditions: dict[str, Tensor] = {}
    embedded = None
    if captions is not None and model.text is not None:
        if model.text.frozen:
            embedded, conditions["caption_index"] = _embed(model, captions, device)
        else:
            tokens = trainable(model.text).tokens([caption or "" for caption in captions])
            conditions["tokens"] = tokens.to(device)
    if model.num_classes and data.labels is not None:
        conditions["labels"] = data.labels.to(device)
    each = {k: v.repeat(len(halves), *[1] * (v.ndim - 1)) for k, v in conditions.items()}
    means, stddevs = zip(*parts, strict=True)
    return LatentData(
        torch.cat(means),
        torch.cat(stddevs),
        **each,
        captions=embedded,
        cost=torch.cat(costs).float() if costs else None,
        dims=math.prod(data.shape) if costs else None,
        keys=data.keys.to(device),
        mirrored=mirrored,
    )


def shown_first(data: ImageData) -> Tensor:
    """Which images a few of are tried: those with captions, or any where none has one."""
    captioned = [i for i, caption in enumerate(data.captions or ()) if caption]
    return torch.tensor(captioned or range(len(data)))


def check_captions(
    data: ImageData, captions: Sequence[str | None] | None, text: PromptEncoder | None
) -> None:
    """Raise `NelboError` unless there is a caption for each image where there is a text encoder."""
    if captions is not None and len(captions) != len(data):
        raise NelboError(
            f"{data.source} has {len(data)} images but {len(captions)} captions; expected one each"
        )
    if (captions is not None) != (text is not None):
        raise NelboError(
            "captions were given for a model without a text encoder"
            if text is None
            else "a model with a text encoder needs a caption for each image"
        )


def _embed(
    model: LatentDiffusion, captions: Sequence[str | None], device: torch.device
) -> tuple[Condition, Tensor]:
    """The fields `captions` and `caption_index`, each distinct caption embedded once."""
    distinct = list(dict.fromkeys([None, *captions]))
    parts = []
    for start in range(0, len(distinct), _CAPTIONS_AT_A_TIME):
        parts.append(model.condition_on(distinct[start : start + _CAPTIONS_AT_A_TIME]))
        if start == 0:
            _check_room(parts[0], len(distinct), device)
    place = {caption: i for i, caption in enumerate(distinct)}
    index = torch.tensor([place[caption] for caption in captions])
    return Condition.join(parts), index.to(device)


def _check_room(some: Condition, count: int, device: torch.device) -> None:
    needed = some.nbytes // some.batch_size * count
    available = available_memory(device)
    if 2 * needed > available:  # they are joined once
        raise NelboError(
            f"{count} captions embedded take {needed / _GIGA:.1f} GB twice, for a moment; "
            f"{available / _GIGA:.1f} GB are free on {device}. Train on fewer different captions, "
            "or train the text encoder, which keeps their tokens only"
        )


def trainable(text: PromptEncoder) -> TextEncoder:
    """The text encoder, if it is one that can be trained.

    Raises:
        NelboError: two text encoders, which cannot.
    """
    if not isinstance(text, TextEncoder):
        raise NelboError(
            "two text encoders cannot be trained, only used: freeze them with "
            "model.text.requires_grad_(False)"
        )
    return text


def unit_scale(latents: LatentData) -> float:
    """What to multiply these latents by for them to have unit variance (Rombach et al. 2022, G).

    The variance is that of draws, over images, channels and places together.
    """
    variance = latents.mean.double().var(correction=0) + latents.stddev.double().square().mean()
    return float(variance.rsqrt())
