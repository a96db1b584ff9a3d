"""RePaint against diffusers, and against the closed-form conditional of Gaussian pixels."""

from __future__ import annotations

import diffusers
import pytest
import torch

from nelbo import Condition, Diffusion, NelboError, NoiseSchedule
from nelbo.editing import Inpainting
from nelbo.editing.inpainting import jump_levels
from nelbo.samplers import DDPM
from tests.diffusion.test_model import PREDICTIONS, SHAPE, MixingNetwork, make
from tests.oracles.correlated import correlated_model

MASK = torch.zeros(SHAPE[1:], dtype=torch.bool)
MASK[:, : SHAPE[2] // 2] = True


def peer(T: int, steps: int, length: int, samples: int, **fields) -> diffusers.RePaintScheduler:
    scheduler = diffusers.RePaintScheduler(T, eta=1.0, clip_sample=False, **fields)
    scheduler.set_timesteps(steps, length, samples)
    return scheduler


@pytest.mark.parametrize(
    ("steps", "length", "samples"), [(250, 10, 10), (50, 10, 3), (50, 7, 2), (20, 1, 4), (30, 5, 1)]
)
def test_walk_equals_diffusers(steps, length, samples):
    ours = jump_levels(steps, length, samples)
    theirs = (peer(1000, steps, length, samples).timesteps // (1000 // steps)).tolist()
    # a network time is that of the level above, on the way down
    assert ours == [steps, *theirs]


def peer_inpaint(model: Diffusion, x_0, mask, scheduler, generator) -> torch.Tensor:
    """The loop of diffusers' RePaintPipeline, where 1 marks what is known."""
    known = (~mask).float()
    x = torch.randn(x_0.shape, generator=generator, dtype=x_0.dtype)
    last = scheduler.timesteps[0] + 1
    for time in scheduler.timesteps:
        if time < last:
            output = model.network(x, time.expand(len(x)), None)
            # the last step down draws noise that it does not use, which we do not draw
            source = generator if time > 0 else torch.Generator()
            x = scheduler.step(output, time, x, x_0, known, source).prev_sample
        else:
            x = scheduler.undo_step(x, last, generator)
        last = time
    return x


@pytest.mark.parametrize(("length", "samples"), [(5, 3), (1, 1)])
def test_equals_diffusers(length, samples):
    T = 24
    network = MixingNetwork(dtype=torch.float32)
    model = Diffusion(network, NoiseSchedule.linear(T, 0.01, 0.3), shape=SHAPE)
    x_0 = torch.rand(3, *SHAPE) * 2 - 1
    edit = Inpainting(MASK, DDPM(), length, samples)
    ours = edit.edit(model, x_0, generator=torch.Generator().manual_seed(1))
    scheduler = peer(T, T, length, samples, trained_betas=model.schedule.betas[1:].numpy())
    with torch.no_grad():
        theirs = peer_inpaint(model, x_0, MASK, scheduler, torch.Generator().manual_seed(1))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_known_pixels_come_back_exactly(prediction):
    model = make(prediction=prediction)
    x_0 = torch.rand(2, *SHAPE, dtype=torch.float64) * 2 - 1
    masks = torch.stack([MASK, ~MASK])[:, None]
    edit = Inpainting(masks, DDPM(6), 2, 2)
    states = list(edit.iterate(model, x_0, condition=Condition(label=torch.tensor([1, 2]))))
    assert len(states) == edit.num_states(model.schedule)
    assert [state.t for state in states][-1] == 0
    assert {state.t for state in states} <= {0, *DDPM(6).visited(model.schedule)}
    result = states[-1].x
    assert torch.equal(result[~masks.expand_as(result)], x_0[~masks.expand_as(x_0)])
    assert (result - x_0)[masks.expand_as(x_0)].abs().min() > 0


def missing_pixel(samples: int, known: float) -> tuple[float, float]:
    """Mean and variance of the painted one of two pixels with correlation 0.9."""
    model = correlated_model(0.9, NoiseSchedule.linear(100, 0.001, 0.12), "fixed_large")
    x_0 = torch.tensor([known, 0.0], dtype=torch.float64).view(1, 1, 1, 2).expand(2000, 1, 1, 2)
    edit = Inpainting(torch.tensor([[False, True]]), DDPM(), 5, samples)
    painted = edit.edit(model, x_0, generator=torch.Generator().manual_seed(0))[..., 1]
    return painted.mean().item(), painted.var().item()


def test_resampling_approaches_the_closed_form_conditional():
    """x_2 | x_1 = 1.5 is N(0.9 · 1.5, 1 − 0.9²)."""
    exact_mean, exact_variance = 0.9 * 1.5, 1 - 0.9**2
    found = {samples: missing_pixel(samples, 1.5) for samples in (1, 3, 10)}
    mean_errors = [abs(mean - exact_mean) for mean, _ in found.values()]
    variance_errors = [abs(variance - exact_variance) for _, variance in found.values()]
    assert mean_errors == sorted(mean_errors, reverse=True), found
    assert variance_errors == sorted(variance_errors, reverse=True), found
    assert mean_errors[0] > 0.2, found
    assert mean_errors[-1] < 0.05, found
    assert variance_errors[-1] < 0.02, found


def test_an_image_depends_on_its_generator_alone():
    model = make()
    x_0 = torch.rand(3, *SHAPE, dtype=torch.float64) * 2 - 1
    edit = Inpainting(MASK, DDPM(5), 2, 2)

    def seeded(*seeds):
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    together = edit.edit(model, x_0, generator=seeded(5, 6, 7))
    alone = edit.edit(model, x_0[1:2], generator=seeded(6))
    torch.testing.assert_close(together[1:2], alone)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.zeros(4, 3, dtype=torch.bool), r"mask has shape \(4, 3\), expected"),
        (torch.zeros(3, 1, *SHAPE[1:], dtype=torch.bool), "mask has shape"),
        (torch.zeros(SHAPE[1:]), "must be boolean"),
        (torch.zeros(SHAPE, dtype=torch.bool), "must be boolean, .* of shape"),
    ],
)
def test_masks_that_do_not_fit(mask, message):
    with pytest.raises(NelboError, match=message):
        Inpainting(mask, DDPM(5)).edit(make(), torch.zeros(2, *SHAPE).double())


def test_other_mistakes():
    with pytest.raises(NelboError, match="jump_length must be at least 1"):
        Inpainting(MASK, jump_length=0)
    with pytest.raises(NelboError, match="jump_n_sample must be at least 1"):
        Inpainting(MASK, jump_n_sample=0)
    with pytest.raises(NelboError, match=r"steps must lie in 1\.\.12"):
        Inpainting(MASK, DDPM(13)).edit(make(), torch.zeros(2, *SHAPE).double())
    with pytest.raises(NelboError, match="images to edit have shape"):
        Inpainting(MASK, DDPM(5)).edit(make(), torch.zeros(2, 1, 4, 4).double())


def test_a_latent_is_painted_where_any_of_its_pixels_is():
    """Of 2×3 pixels each, by hand; one mask for all images, and one for each."""
    mask = torch.zeros(4, 9, dtype=torch.bool)
    mask[1, 2] = mask[2, 3] = mask[3, 8] = True
    expected = [[True, False, False], [False, True, True]]
    assert Inpainting(mask).of_latents((2, 3)).mask.tolist() == [[expected]]
    each = torch.stack([mask, ~mask, torch.zeros_like(mask)])[:, None]
    found = Inpainting(each, jump_length=3, jump_n_sample=2).of_latents((2, 3))
    all_of_them, nothing = ([[value] * 3] * 2 for value in (True, False))
    assert found.mask.tolist() == [[expected], [all_of_them], [nothing]]
    assert (found.jump_length, found.jump_n_sample) == (3, 2)
