r"""How good an autoencoder is: errors of its reconstructions, and its bound as a plain VAE.

.. math::
    \log p(x) \ge E_{q(z|x)}[\log p_\sigma(x|z)] - KL(q(z|x) \,\|\, N(0, I))

with p(x|z) a probability of pixel levels, and σ fitted or learned on training images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from nelbo.base.errors import NelboError
from nelbo.base.files import finite
from nelbo.chain.distributions import draw
from nelbo.chain.estimate import Estimate
from nelbo.chain.terms import per_example
from nelbo.data import ImageData
from nelbo.diffusion import Pixels
from nelbo.evidence.calibration import reconstruction_scale
from nelbo.formats import NELBO_FILE
from nelbo.formats.config_fields import ConfigFields
from nelbo.formats.data_space import parse_data_space
from nelbo.formats.files import read_own
from nelbo.formats.model_directory import AUTOENCODER
from nelbo.latent import LatentDiffusion
from nelbo.networks import AutoencoderKL
from nelbo.networks.encoding import Autoencoder

# Pixels lie in [−1, 1].
_PEAK = 2.0
# Images that are enough to fit a scale.
FITTED = 256


@dataclass(frozen=True)
class AutoencoderReading:
    """Means over images.

    Attributes:
        psnr: of the reconstruction from the mean latent, clipped, dB, averaged over images.
        psnr_of_mean: the same of the mean squared error of all images, dB.
        reconstruction: −E log p(x|z), bits per dimension.
        divergence: KL(q(z|x) || N(0, I)), bits per dimension.
        bits_per_dim: their sum, the negative bound.
        divergence_nats: the divergence in nats per image.
        divergence_by_channel: what each channel of the latents has of it, nats per image.
        standard_errors: of each of the others, from the spread over images; None for one image.
        warnings: why the error of `bits_per_dim` may not be trusted; see `Estimate.warnings`.
    """

    psnr: float
    psnr_of_mean: float
    reconstruction: float
    divergence: float
    bits_per_dim: float
    divergence_nats: float
    divergence_by_channel: tuple[float, ...]
    standard_errors: dict[str, float | None] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class AutoencoderRun:
    """The autoencoder of a run, with what it is of.

    Attributes:
        autoencoder: the averaged weights.
        shape: (C, H, W) of an image.
        data: what pixels are.
    """

    autoencoder: AutoencoderKL
    shape: tuple[int, int, int]
    data: Pixels

    @classmethod
    def load(cls, path: str | Path) -> AutoencoderRun:
        """The run at `path`.

        Raises:
            NelboError: a file is missing or damaged.
        """
        autoencoder = AutoencoderKL.from_pretrained(path, AUTOENCODER).eval()
        own = ConfigFields(Path(path) / NELBO_FILE, read_own(path) or {})
        data = parse_data_space(own, "pixels")
        if not isinstance(data, Pixels):
            raise NelboError(f"{path}/{NELBO_FILE}: the data of an autoencoder must be pixels")
        size = autoencoder.config.sample_size
        if size is None:
            raise NelboError(f"{path}/{AUTOENCODER}/config.json has no sample_size")
        height, width = (size, size) if isinstance(size, int) else size
        return cls(autoencoder, (autoencoder.config.in_channels, height, width), data)

    def to(self, device: torch.device) -> AutoencoderRun:
        """The same on a device."""
        self.autoencoder.to(device)
        return self


def fit_scale(model: Autoencoder | LatentDiffusion, data: ImageData, images: int = FITTED) -> float:
    """The σ under which some of the images are most likely, each given one draw of its latent.

    Drawn at random, since folders have one class after the other; the same ones every time.
    """
    generator = torch.Generator().manual_seed(0)
    return reconstruction_scale(model, data.subset(images, seed=0), generator=generator)


@torch.no_grad()
def evaluate_autoencoder(
    autoencoder: AutoencoderKL, data: ImageData, scale: float, *, batch_size: int = 64
) -> AutoencoderReading:
    """Read an autoencoder on all images.

    Args:
        autoencoder: what to read.
        data: the images.
        scale: σ, in units of x in [−1, 1].
        batch_size: images at a time.
    """
    generator = torch.Generator().manual_seed(0)
    pixels, device = Pixels(data.levels), next(autoencoder.parameters()).device
    errors, reconstructions, divergences = [], [], []
    for batch in data.batches(batch_size):
        x = pixels.to_network(batch.images).to(device)
        q = autoencoder.encode(x)
        shown = autoencoder.decode(q.mean).clamp(-1, 1)
        errors.append((x - shown).double().square().flatten(1).mean(1))
        mean = autoencoder.decode(draw(q, generator))
        p = pixels.likelihood(mean, mean.new_tensor(scale))
        reconstructions.append(-per_example(p.log_prob(x)).double())
        variance = q.stddev.square()
        divergence = 0.5 * (q.mean.square() + variance - 1 - variance.log())
        divergences.append(divergence.double().flatten(2).sum(2))
    error, costs = torch.cat(errors), torch.cat(reconstructions)
    divergence_of = torch.cat(divergences)
    by_channel = divergence_of.mean(0)
    nats = float(by_channel.sum())
    bits = 1 / (math.prod(data.shape) * math.log(2.0))
    reconstruction = bits * float(costs.mean())
    total = Estimate.of(bits * (costs + divergence_of.sum(1)))
    estimates = {
        "psnr": Estimate.of(_psnr(error)),
        # d psnr = −10/ln 10 · d error/error
        "psnr_of_mean": Estimate.of(error) * float(10 / math.log(10) / error.mean().clamp(1e-12)),
        "reconstruction": Estimate.of(bits * costs),
        "divergence": Estimate.of(bits * divergence_of.sum(1)),
        "bits_per_dim": total,
        "divergence_nats": Estimate.of(divergence_of.sum(1)),
    }
    return AutoencoderReading(
        psnr=float(_psnr(error).mean()),
        psnr_of_mean=float(_psnr(error.mean())),
        reconstruction=reconstruction,
        divergence=bits * nats,
        bits_per_dim=reconstruction + bits * nats,
        divergence_nats=nats,
        divergence_by_channel=tuple(by_channel.tolist()),
        standard_errors=finite({name: e.standard_error for name, e in estimates.items()}),
        warnings=tuple(total.warnings(data.names)),
    )


def _psnr(mean_squared_error: Tensor) -> Tensor:
    return 10 * torch.log10(_PEAK**2 / mean_squared_error.clamp(min=1e-12))
