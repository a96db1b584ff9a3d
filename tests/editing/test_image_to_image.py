"""Image to image against diffusers' pipeline and its steps, and what strength means."""

from __future__ import annotations

import dataclasses

import diffusers
import pytest
import torch

import nelbo
from nelbo import Diffusion, NelboError, NoiseSchedule
from nelbo.editing import ImageToImage
from nelbo.editing.image_to_image import last_steps
from nelbo.samplers import DDIM, DDPM, DPMSolver, Euler, Heun
from tests.diffusion.test_model import SHAPE, Network, make
from tests.formats import tiny


@pytest.fixture(scope="module")
def stable(tmp_path_factory):
    path = tmp_path_factory.mktemp("stable")
    return tiny.stable_diffusion(path), nelbo.load(path / "pipeline")


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("strength", [0.02, 0.29, 0.6, 0.75, 1.0])
@pytest.mark.parametrize("kind", ["DDIM", "DDPM"])
def test_timesteps_equal_diffusers(kind, strength, spacing):
    scheduler = getattr(diffusers, f"{kind}Scheduler")(1000, timestep_spacing=spacing)
    scheduler.set_timesteps(50)
    pipeline = diffusers.StableDiffusionImg2ImgPipeline
    asked = type("Asked", (), {"scheduler": scheduler})()
    times, steps = pipeline.get_timesteps(asked, 50, strength, "cpu")
    schedule = NoiseSchedule.linear()
    sampler = last_steps(getattr(nelbo.samplers, kind)(50, spacing=spacing), schedule, strength)
    assert sampler.timesteps(schedule) == times.tolist()
    assert ImageToImage(DDIM(50, spacing=spacing), strength).num_states(schedule) == steps


@pytest.mark.parametrize(("strength", "guidance"), [(0.5, 1.0), (0.8, 4.0)])
def test_equals_diffusers_pipeline_on_latents(stable, strength, guidance):
    pipeline, model = stable
    theirs_pipeline = diffusers.StableDiffusionImg2ImgPipeline(
        **pipeline.components, requires_safety_checker=False
    )
    theirs_pipeline.set_progress_bar_config(disable=True)
    z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    theirs = theirs_pipeline(
        ["cat", "red"],
        image=z,
        strength=strength,
        num_inference_steps=10,
        guidance_scale=guidance,
        generator=torch.Generator().manual_seed(0),
        output_type="latent",
    ).images
    sampler = DDIM(10, spacing="leading", steps_offset=1, set_alpha_to_one=False)
    prior, condition = model.conditioned(2, prompt=["cat", "red"], guidance=guidance)
    ours = ImageToImage(sampler, strength).edit(
        prior, z, condition=condition, generator=torch.Generator().manual_seed(0)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_latent_model_edits_images(stable):
    model = stable[1]
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    edit = ImageToImage(DDIM(10), 0.5)
    generator = torch.Generator().manual_seed(0)
    edited = model.edit(x, edit, prompt="cat", guidance=2.0, generator=generator)
    prior, condition = model.conditioned(2, prompt="cat", guidance=2.0)
    with torch.no_grad():
        z = edit.edit(
            prior,
            model.encode(x).mean,
            condition=condition,
            generator=torch.Generator().manual_seed(0),
        )
        torch.testing.assert_close(edited, model.decode(z).clamp(-1, 1))
    assert model.shape == (3, 16, 16)


@pytest.mark.parametrize(
    "sampler", [DDPM(), DDPM(6, spacing="trailing"), DDIM(6), DDIM(12, eta=1.0)]
)
def test_full_strength_takes_every_step(sampler):
    model = make()
    x_0 = torch.rand(2, *SHAPE, dtype=torch.float64) * 2 - 1
    ours = ImageToImage(sampler, 1.0).edit(model, x_0, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(x_0.shape, generator=generator, dtype=x_0.dtype)
    level = max(sampler.visited(model.schedule))
    signal = model.schedule.alphas_cumprod[level]
    x_T = signal.sqrt() * x_0 + (1 - signal).sqrt() * noise
    torch.testing.assert_close(ours, sampler.sample(model, x_T, generator=generator))


def test_the_image_is_kept_the_more_the_lower_the_strength():
    torch.manual_seed(0)
    model = Diffusion(Network(), NoiseSchedule.linear(1000), shape=SHAPE, clip_sample=True)
    x_0 = torch.rand(8, *SHAPE, dtype=torch.float64) * 2 - 1
    changes = [
        (ImageToImage(DDIM(50), s).edit(model, x_0, generator=torch.Generator().manual_seed(0)))
        .sub(x_0)
        .abs()
        .mean()
        .item()
        for s in (0.02, 0.1, 0.3)
    ]
    assert changes == sorted(changes)
    assert changes[0] < 0.1


def test_skipping_steps_starts_within_the_walk():
    model = make()
    states = list(DDPM(6).iterate(model, model.start(2), generator=torch.Generator()))
    for sampler, whole in ((DDPM(6, skip=2), DDPM(6)), (DDIM(6, skip=2), DDIM(6))):
        assert sampler.timesteps(model.schedule) == whole.timesteps(model.schedule)[2:]
        assert sampler.visited(model.schedule) == whole.visited(model.schedule)[:-2]
    x = torch.randn(2, *SHAPE, dtype=torch.float64)
    whole = [state.x for state in DDIM(6).iterate(model, x)]
    assert torch.equal(DDIM(6, skip=2).sample(model, whole[1]), whole[-1])
    assert len(states) == 6


@pytest.mark.parametrize(
    "sampler",
    [
        DPMSolver(6, order=1),
        DPMSolver(6, order=1, spacing="linspace"),
        Euler(6, noise_levels="spaced"),
        Heun(6, noise_levels="spaced"),
    ],
)
def test_solvers_start_within_their_walk(sampler):
    model = make()
    x = torch.randn(2, *SHAPE, dtype=torch.float64)
    whole = [state.x for state in sampler.iterate(model, x)]
    assert len(whole) == len(sampler.path(model.schedule)) == 6
    later = dataclasses.replace(sampler, skip=2)
    assert later.path(model.schedule) == sampler.path(model.schedule)[2:]
    torch.testing.assert_close(later.sample(model, whole[1]), whole[-1])
    edited = ImageToImage(sampler, 0.5).edit(model, x)
    assert edited.isfinite().all()


@pytest.mark.parametrize("sampler", [Heun(6), DPMSolver(6), Euler(6, noise_levels="log_snr")])
def test_an_edit_may_start_between_two_levels_of_the_chain(sampler):
    model = make()
    x_0 = torch.rand(2, *SHAPE, dtype=torch.float64) * 2 - 1
    ours = ImageToImage(sampler, 0.5).edit(model, x_0, generator=torch.Generator().manual_seed(0))
    # The noise level that is half of the six on, from the ends of the chain.
    sigma = model.schedule.snr[1:].rsqrt()
    smallest, largest = float(sigma[0]), float(sigma[-1])
    ramp = 3 / 5
    if isinstance(sampler, Heun):  # even in σ^(1/7)
        start = (largest ** (1 / 7) * (1 - ramp) + smallest ** (1 / 7) * ramp) ** 7
    else:  # even in log σ
        start = largest ** (1 - ramp) * smallest**ramp
    noise = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(0), dtype=x_0.dtype)
    x_t = (x_0 + start * noise) / (1 + start**2) ** 0.5
    later = dataclasses.replace(sampler, skip=3)
    torch.testing.assert_close(ours, later.sample(model, x_t))


@pytest.mark.parametrize("strength", [0.0, -0.5, 1.01, float("nan")])
def test_strength_outside_is_refused(strength):
    with pytest.raises(NelboError, match=r"strength must lie in \(0, 1\]"):
        ImageToImage(DDIM(5), strength)


def test_mistakes_are_explained():
    model, x_0 = make(), torch.zeros(1, *SHAPE).double()
    with pytest.raises(NelboError, match=r"strength 0\.1 leaves none of 5 steps"):
        ImageToImage(DDIM(5), 0.1).edit(model, x_0)
    with pytest.raises(NelboError, match=r"images to edit have shape \(1, 2, 4, 4\), expected"):
        ImageToImage(DDIM(5)).edit(model, torch.zeros(1, 2, 4, 4).double())
    for skip in (5, -1):
        with pytest.raises(NelboError, match=r"skip must lie in 0\.\.4"):
            DDIM(5, skip=skip).sample(model, x_0)


@pytest.mark.usefixtures("without_shape_checks")
def test_images_of_any_size_are_edited_by_a_model_without_a_shape_and_others_refused():
    edit, model = ImageToImage(DDIM(4), 0.5), Diffusion(Network(), NoiseSchedule.linear(12))
    generator = torch.Generator().manual_seed(0)
    for size in (SHAPE, (2, 5, 4)):
        x_0 = torch.zeros(3, *size, dtype=torch.float64)
        assert edit.edit(model, x_0, generator=generator).shape == x_0.shape
    for shape in (SHAPE, (3, 1, *SHAPE)):
        with pytest.raises(NelboError, match="the images to edit have shape"):
            edit.edit(model, torch.zeros(shape, dtype=torch.float64))
    with pytest.raises(NelboError, match=r"expected \(n, 2, 3, 3\)"):
        edit.edit(make(), torch.zeros(3, 2, 3, 4, dtype=torch.float64))
