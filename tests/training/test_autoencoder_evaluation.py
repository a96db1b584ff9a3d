"""The figures of an autoencoder have errors over images."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from nelbo import NelboError
from nelbo.data import ImageData
from nelbo.evidence.autoencoder import AutoencoderRun, evaluate_autoencoder
from nelbo.networks import AutoencoderKL


def pictures(n: int) -> ImageData:
    generator = torch.Generator().manual_seed(0)
    shade = torch.randint(0, 256, (n, 1, 1, 1), generator=generator)
    noise = torch.randint(-40, 40, (n, 3, 8, 8), generator=generator)
    images = (shade + noise).clamp(0, 255).to(torch.uint8)
    return ImageData("made", images, 256, tuple(f"{i}.png" for i in range(n)))


def small(**fields) -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        **fields,
    ).eval()


@pytest.fixture(scope="module")
def autoencoder() -> AutoencoderKL:
    return small()


@pytest.mark.parametrize(
    ("size", "shape"), [(8, (3, 8, 8)), ((8, 12), (3, 8, 12)), ([16, 8], (3, 16, 8))]
)
def test_a_run_is_read_with_its_size_and_its_levels(size, shape, tmp_path):
    made = small(sample_size=size)
    made.save_pretrained(tmp_path / "vae")
    (tmp_path / "nelbo.json").write_text(json.dumps({"pixels": {"kind": "pixels", "levels": 17}}))
    run = AutoencoderRun.load(tmp_path)
    assert (run.shape, run.data.levels) == (shape, 17)
    assert not run.autoencoder.training
    x = torch.rand(1, *shape)
    assert torch.equal(run.autoencoder.encode(x).mean, made.encode(x).mean)


def test_a_run_without_a_size_or_of_no_pixels_is_refused(tmp_path):
    small().save_pretrained(tmp_path / "vae")
    notes, config = tmp_path / "nelbo.json", tmp_path / "vae/config.json"
    with pytest.raises(NelboError, match=r"nelbo\.json.*pixels"):
        AutoencoderRun.load(tmp_path)
    notes.write_text(json.dumps({"pixels": {"kind": "continuous"}}))
    with pytest.raises(NelboError, match="must be pixels"):
        AutoencoderRun.load(tmp_path)
    notes.write_text(json.dumps({"pixels": {"kind": "pixels", "levels": 17}}))
    config.write_text(json.dumps(json.loads(config.read_text()) | {"sample_size": None}))
    with pytest.raises(NelboError, match=r"config\.json has no sample_size"):
        AutoencoderRun.load(tmp_path)


def test_every_figure_has_the_error_that_many_samples_of_images_show(autoencoder):
    """Its errors are those by which the figures of parts of the data differ."""
    data, size = pictures(400), 25
    whole = evaluate_autoencoder(autoencoder, data, 0.3)
    parts = [
        evaluate_autoencoder(autoencoder, data.take(slice(i, i + size)), 0.3)
        for i in range(0, len(data), size)
    ]
    for name, error in whole.standard_errors.items():
        found = torch.tensor([getattr(part, name) for part in parts]).double()
        expected = found.std().item() * (size / len(data)) ** 0.5
        # 16 parts tell a deviation to about a fifth.
        assert error == pytest.approx(expected, rel=0.6), name
    assert whole.warnings == ()


def test_few_images_are_warned_of_and_one_has_no_error(autoencoder):
    few = evaluate_autoencoder(autoencoder, pictures(5), 0.3)
    assert any("5 images are few" in line for line in few.warnings)
    one = evaluate_autoencoder(autoencoder, pictures(1), 0.3)
    assert set(one.standard_errors.values()) == {None}
    json.dumps(asdict(one), allow_nan=False)


class Constant(torch.nn.Module):
    """Whose latents are of one normal, and whose pictures are of one shade, brighter than white."""

    def __init__(self) -> None:
        super().__init__()
        self.shade = torch.nn.Parameter(torch.tensor(1.1))
        self.mean, self.std = torch.tensor([0.5, -1.0, 2.0]), torch.tensor([0.3, 1.0, 1.7])

    def encode(self, x: Tensor) -> Normal:
        shape = (len(x), 3, 2, 2)
        return Normal(*(part.view(1, 3, 1, 1).expand(shape) for part in (self.mean, self.std)))

    def decode(self, z: Tensor) -> Tensor:
        return self.shade.expand(len(z), 3, 8, 8)


def test_figures_are_those_of_their_formulas():
    """The peak of [−1, 1] is 2; a bin of 17 levels has the half-width 1/16, the last no end."""
    levels, scale, model = 17, 0.3, Constant()
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(8, levels, (5, 3, 8, 8), generator=generator).byte()
    images[3] = levels - 1
    data = ImageData("made", images, levels, tuple("abcde"))
    found = evaluate_autoencoder(model, data, scale, batch_size=2)

    x = images.numpy() / 8.0 - 1
    errors = ((x - 1) ** 2).mean((1, 2, 3))
    psnr = 10 * np.log10(4 / np.maximum(errors, 1e-12))
    upper = np.where(images.numpy() == levels - 1, np.inf, (x + 1 / 16 - 1.1) / scale)
    bins = norm.cdf(upper) - norm.cdf((x - 1 / 16 - 1.1) / scale)
    nats = -np.log(bins).sum((1, 2, 3))
    unit = Normal(torch.zeros(3), torch.ones(3))
    by_channel = (4 * kl_divergence(Normal(model.mean, model.std), unit)).tolist()

    bits = 1 / (3 * 8 * 8 * np.log(2))
    assert found.psnr == pytest.approx(psnr.mean(), rel=1e-6)
    assert found.psnr_of_mean == pytest.approx(10 * np.log10(4 / errors.mean()), rel=1e-6)
    assert found.reconstruction == pytest.approx(bits * nats.mean(), rel=1e-5)
    assert found.divergence_by_channel == pytest.approx(by_channel, rel=1e-6)
    assert found.divergence_nats == pytest.approx(sum(by_channel), rel=1e-6)
    assert found.divergence == pytest.approx(bits * sum(by_channel), rel=1e-6)
    assert found.bits_per_dim == pytest.approx(bits * (nats.mean() + sum(by_channel)), rel=1e-5)
    assert found.standard_errors["psnr"] == pytest.approx(psnr.std(ddof=1) / 5**0.5, rel=1e-6)
    assert found.standard_errors["psnr_of_mean"] == pytest.approx(
        10 / np.log(10) * errors.std(ddof=1) / 5**0.5 / errors.mean(), rel=1e-6
    )
    for name in ("reconstruction", "bits_per_dim"):
        error = bits * nats.std(ddof=1) / 5**0.5
        assert found.standard_errors[name] == pytest.approx(error, rel=1e-4)
