"""Fitted variances on disk: nelbo reads them back, diffusers reads the pipeline."""

from __future__ import annotations

import json

import diffusers
import pytest
import torch

import nelbo
from nelbo import NelboError, NoiseSchedule, Pixels, UNet, fit_variance
from nelbo.diffusion.profile import PROFILE_FILE


@pytest.fixture(params=[1, 2], ids=["fixed", "learned"])
def fitted(request) -> nelbo.Diffusion:
    torch.manual_seed(0)
    network = UNet(
        sample_size=4,
        in_channels=1,
        out_channels=request.param,
        block_out_channels=(8,),
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        norm_num_groups=4,
        layers_per_block=1,
    )
    model = nelbo.Diffusion(
        network,
        NoiseSchedule.linear(8, 0.05, 0.4),
        variance="fixed_small" if request.param == 1 else "learned_range",
        data=Pixels(5),
        shape=(1, 4, 4),
        clip_sample=True,
    ).eval()
    x_0 = model.data.to_network(torch.randint(0, 5, (20, 1, 4, 4)))
    return fit_variance(model, x_0, levels=None)


@pytest.mark.parametrize("sampler", [None, nelbo.samplers.DDIM(4)], ids=["ddpm", "ddim"])
def test_fitted_variance_travels_with_the_checkpoint(fitted, sampler, tmp_path):
    nelbo.save(fitted, tmp_path, sampler=sampler)
    loaded = nelbo.load(tmp_path)
    assert loaded.variance == "analytic"
    x_t = torch.randn(2, 1, 4, 4)
    with torch.no_grad():
        for before, after in ((fitted, loaded), (fitted.respace([2, 5]), loaded.respace([2, 5]))):
            for t in range(1, before.num_levels + 1):
                expected, found = before.p_step(x_t, t), after.p_step(x_t, t)
                torch.testing.assert_close(found.mean, expected.mean)
                torch.testing.assert_close(found.variance, expected.variance)

    if fitted.network.config.out_channels == 2 and sampler is not None:
        return  # DDIM of diffusers takes no learned variance
    pipeline = diffusers.DiffusionPipeline.from_pretrained(tmp_path)
    shown = pipeline(batch_size=1, num_inference_steps=4, output_type="np").images
    assert shown.shape == (1, 4, 4, 1)


def test_diffusers_is_told_the_closest_variance(fitted, tmp_path):
    nelbo.save(fitted, tmp_path)
    config = json.loads((tmp_path / "scheduler" / "scheduler_config.json").read_text())
    if fitted.network.config.out_channels == 2:
        assert config["variance_type"] == "learned_range"
        return
    schedule = fitted.schedule
    x = torch.zeros(1, 1, 4, 4)
    own = torch.stack([fitted.p_step(x, t).variance.flatten()[0] for t in range(2, 9)]).double()
    small = (schedule.posterior_variance[2:] / own).log().abs().sum()
    large = (schedule.betas[2:] / own).log().abs().sum()
    assert config["variance_type"] == ("fixed_small" if small < large else "fixed_large")


def test_profile_stays_beside_a_model_with_another_variance(fitted, tmp_path):
    assert fitted.profile is not None
    variance = "fixed_small" if fitted.network.config.out_channels == 1 else "learned_range"
    nelbo.save(fitted.with_profile(fitted.profile, variance=variance), tmp_path)
    loaded = nelbo.load(tmp_path)
    assert loaded.variance == variance
    assert loaded.profile is not None
    assert torch.equal(loaded.profile.squared_error, fitted.profile.squared_error)

    # saved without one, an old profile goes
    plain = nelbo.Diffusion(
        fitted.network, fitted.schedule, variance=variance, data=fitted.data, shape=fitted.shape
    )
    nelbo.save(plain, tmp_path)
    assert not (tmp_path / PROFILE_FILE).exists()
    assert nelbo.load(tmp_path).profile is None


def test_missing_damaged_or_foreign_profiles_are_named(fitted, tmp_path):
    nelbo.save(fitted, tmp_path)
    file = tmp_path / PROFILE_FILE
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(NelboError, match=f"{PROFILE_FILE} is not a level profile"):
        nelbo.load(tmp_path)
    file.unlink()
    with pytest.raises(NelboError, match="variance='analytic' is measured on data"):
        nelbo.load(tmp_path)
    file.write_bytes(content)
    scheduler = tmp_path / "scheduler" / "scheduler_config.json"
    config = json.loads(scheduler.read_text())
    scheduler.write_text(json.dumps(config | {"beta_end": 0.5}))
    with pytest.raises(NelboError, match="level profile is of another chain"):
        nelbo.load(tmp_path)
