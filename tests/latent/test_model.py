"""Latent diffusion: the scale, and clear errors for what a model has no use for."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

import nelbo
from nelbo import Condition, Continuous, Diffusion, LatentDiffusion, NelboError, NoiseSchedule
from nelbo.chain.estimators import Uniform
from nelbo.editing import Inpainting
from nelbo.evidence.likelihood import log_likelihood
from nelbo.networks import AutoencoderKL, ControlNet
from nelbo.samplers import DDIM, DDPM, DPMSolver, Heun
from tests import typechecking
from tests.diffusion.test_model import Network
from tests.formats import tiny
from tests.networks.test_controlnet_behaviour import trained

SHAPE = (4, 8, 8)


def make(scale: float = 0.5, shape=SHAPE) -> LatentDiffusion:
    fields = {name: value for name, value in tiny.LAYERS.items() if name != "layers_per_block"}
    autoencoder = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        **fields,
    )
    prior = Diffusion(
        Network(dtype=torch.float32), NoiseSchedule.linear(20), data=Continuous(), shape=shape
    )
    return LatentDiffusion(autoencoder.eval(), prior, scale=scale)


@pytest.fixture(scope="module")
def stable(tmp_path_factory):
    path = tmp_path_factory.mktemp("stable")
    tiny.stable_diffusion(path)
    return nelbo.load(path / "pipeline")


def test_the_prior_sees_scaled_latents(generator):
    model = make(scale=0.5)
    x = torch.rand(2, 3, 16, 16, generator=generator) * 2 - 1
    q, unscaled = model.encode(x), model.autoencoder.encode(x)
    assert q.mean.shape == (2, *SHAPE)
    torch.testing.assert_close(q.mean, 0.5 * unscaled.mean)
    torch.testing.assert_close(q.variance, 0.25 * unscaled.variance)
    torch.testing.assert_close(model.decode(q.mean), model.autoencoder(x))


@pytest.mark.parametrize("mixed", [True, False])
def test_the_bound_around_an_autoencoder_in_16_bits_is_of_float32(mixed, generator):
    """In mixed precision, or with weights of 16 bits: sums over an image keep their digits."""
    model = make(scale=0.5)
    model.decoder_scale = 0.2
    if not mixed:
        model.autoencoder.bfloat16()
    x = model.data.to_network(torch.randint(0, 256, (2, 3, 16, 16), generator=generator))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        bound = model.elbo(x, levels=Uniform(3), generator=generator)
        q = model.autoencoder.encode(x)
    assert {value.dtype for _, value in bound.tensors()} == {torch.float32, torch.int64}
    assert q.stddev.dtype == torch.bfloat16
    exact = torch.log(0.5 * q.stddev.double() * math.sqrt(2 * math.pi * math.e))
    torch.testing.assert_close(bound.entropy.double(), exact.flatten(1).sum(1), rtol=1e-6, atol=0)
    assert torch.equal(bound.weights, torch.full((2, 3), 19 / 3))


def test_the_loss_is_the_priors_at_a_draw_of_the_latents():
    model = make(scale=0.5)
    x = torch.rand(4, 3, 16, 16) * 2 - 1
    loss = nelbo.loss(model, x, objective="bound", generator=torch.Generator().manual_seed(1))
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        q = model.autoencoder.encode(x)
        z = 0.5 * (q.mean + q.stddev * torch.randn(4, *SHAPE, generator=g))
    torch.testing.assert_close(loss, nelbo.loss(model.prior, z, objective="bound", generator=g))
    loss.backward()
    assert all(p.grad is None for p in model.autoencoder.parameters())


def test_the_loss_of_a_model_of_text_without_prompts_is_the_unconditional_one(stable):
    x = torch.rand(2, *stable.shape) * 2 - 1
    empty = stable.condition_on([None, None])
    losses = [
        nelbo.loss(stable, x, condition, generator=torch.Generator().manual_seed(1))
        for condition in (None, empty)
    ]
    torch.testing.assert_close(*losses)


def test_a_condition_without_a_prompt_has_that_of_no_prompt(stable):
    """As the control of a ControlNet alone: a network that attends to a prompt refused it."""
    net = trained(ControlNet.from_unet(stable.prior.network))
    model = stable.with_controlnets(net)
    model.decoder_scale = 0.5
    x = model.data.to_network(torch.randint(0, 256, (2, *stable.shape)))
    control = torch.rand(2, *model.control_shape)
    x_T = torch.randn(2, *model.prior.shape)
    seen = []
    for condition in (
        Condition(control=control),
        replace(model.condition_on([None, None]), control=control),
        None,
    ):
        g = torch.Generator().manual_seed(0)
        with torch.no_grad():
            bound = model.elbo(x, condition, levels=2, generator=g)
            loss = nelbo.loss(model, x, condition, generator=g)
        drawn = model.sample(2, DDIM(2), condition=condition, x_T=x_T)
        seen.append((bound.total, loss, drawn))
    alone, without_prompt, without_control = seen
    torch.testing.assert_close(alone, without_prompt)
    assert all(not torch.equal(a, b) for a, b in zip(alone, without_control, strict=True))


def test_a_model_without_levels_has_no_loss():
    x = torch.rand(20, 1, 2, 2)
    with pytest.raises(NelboError, match=r"^a PPCA has no chain of levels .* fit\(data\)"):
        nelbo.loss(nelbo.families.PPCA(1).fit(x), x)


@pytest.mark.parametrize("sampler", [None, DDPM(5), DDIM(5), DPMSolver(5, 3), Heun(5, S_churn=1.0)])
def test_sampling_is_the_prior_and_then_the_decoder(sampler):
    model = make()
    x = model.sample(3, sampler, generator=torch.Generator().manual_seed(0))
    z = model.prior.sample(3, sampler, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(x, model.decode(z).clamp(-1, 1))
    assert x.shape == (3, 3, 16, 16)
    assert x.abs().max() <= 1


def test_guidance_takes_a_negative_condition_for_each_example_or_for_all():
    model = Diffusion(Network(), NoiseSchedule.linear(5), shape=SHAPE)
    x = torch.randn(2, *SHAPE, dtype=torch.float64)
    condition = Condition(label=torch.tensor([3, 8]))
    away = Condition(label=torch.tensor([1, 5]))
    guided = model.guided(3.0, away).predict(x, 3, condition).epsilon
    towards, from_ = (model.predict(x, 3, c).epsilon for c in (condition, away))
    torch.testing.assert_close(guided, from_ + 3 * (towards - from_))
    one = model.guided(3.0, away[:1]).predict(x, 3, condition).epsilon
    torch.testing.assert_close(one[0], guided[0])
    with pytest.raises(NelboError, match="batch of 2, expected 3"):
        model.guided(3.0, away).predict(
            torch.cat([x, x[:1]]), 3, Condition(label=torch.tensor([1, 2, 3]))
        )


def test_one_prompt_or_one_each(stable):
    settings = {"guidance": 3.0, "x_T": torch.randn(2, *SHAPE)}
    same = stable.sample(2, DDIM(2), prompt="cat", negative_prompt="dog", **settings)
    listed = stable.sample(
        2, DDIM(2), prompt=["cat", "cat"], negative_prompt=["dog", "dog"], **settings
    )
    torch.testing.assert_close(same, listed)
    empty = stable.sample(2, DDIM(2), x_T=settings["x_T"])
    torch.testing.assert_close(empty, stable.sample(2, DDIM(2), prompt="", x_T=settings["x_T"]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompt": ["cat"]}, "prompt is a list of 1, expected one text for all samples"),
        (
            {"prompt": "cat", "guidance": 2.0, "negative_prompt": ["a"]},
            "negative_prompt is a list of 1",
        ),
        ({"prompt": "cat", "negative_prompt": "dog"}, "guidance other than 1"),
        ({"guidance": 2.0}, "needs a prompt"),
        ({"control": torch.zeros(2, 3, 16, 16)}, "without a ControlNet"),
        ({"x_T": torch.zeros(2, 3, 8, 8)}, "x_T has shape"),
    ],
)
def test_mistakes_with_text(stable, settings, message):
    with pytest.raises(NelboError, match=message):
        stable.sample(2, DDIM(2), **settings)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("given", [1, 3])
def test_a_condition_is_of_as_many_examples(stable, given, guidance):
    condition = stable.condition_on(["cat"] * given)
    with pytest.raises(NelboError, match=f"condition has batch size {given}, expected 2"):
        stable.sample(2, DDIM(2), condition=condition, guidance=guidance)
    label = Condition(label=torch.zeros(given, dtype=torch.int64))
    with pytest.raises(NelboError, match=f"condition has batch size {given}, expected 2"):
        make().prior.sample(2, DDIM(2), condition=label)


def test_mistakes_without_text():
    model = make()
    with pytest.raises(NelboError, match="without a text encoder"):
        model.sample(1, DDIM(2), prompt="cat")
    label = Condition(label=torch.zeros(1, dtype=torch.int64))
    with pytest.raises(NelboError, match="without a text encoder"):
        model.sample(1, DDIM(2), condition=label, negative_prompt="cat", guidance=2.0)
    with pytest.raises(NelboError, match="at least 1"):
        model.sample(0)
    with pytest.raises(NelboError, match="scale must be positive"):
        make(scale=0.0)
    with pytest.raises(NelboError, match="over 3 channels"):
        make(shape=(3, 8, 8))


def test_arguments_of_another_type_are_refused_by_name(monkeypatch):
    monkeypatch.setattr(typechecking, "MOST_CHECKS", 0)  # which would find them first
    model = make()
    model.decoder_scale = 0.1
    autoencoder, prior, x, z = model.autoencoder, model.prior, torch.zeros(1, 3, 16, 16), 0.0
    mistakes = [
        (lambda: LatentDiffusion(None, prior), "autoencoder is None"),
        (lambda: LatentDiffusion(autoencoder, None), "prior is None"),
        (lambda: LatentDiffusion(autoencoder, prior, data=256), "data is int 256"),
        (lambda: LatentDiffusion(autoencoder, prior, scale="1"), "scale must be a number"),
        (lambda: LatentDiffusion(autoencoder, prior, scale=math.inf), "scale must be positive"),
        (lambda: LatentDiffusion(autoencoder, prior, decoder_scale=""), "decoder_scale must be"),
        (lambda: model.encode(None), "x is None"),
        (lambda: model.decode(z), "z is float"),
        (lambda: model.path_elbo(None), "x_0 is None"),
        (lambda: model.decoder_log_prob(x[:, :, 1:], torch.zeros(1, *SHAPE)), "images have shape"),
        (lambda: model.edit(x, None), "edit is None"),
        (lambda: model.edit(x, DDIM(2)), "edit is DDIM"),
        (lambda: model.sample(1, prompt=3), "prompt is int 3"),
        (lambda: model.sample(1, guidance=torch.zeros(0)), "guidance must be a number"),
    ]
    for mistake, message in mistakes:
        with pytest.raises(NelboError, match=message):
            mistake()


def test_edits_of_images_that_are_no_squares_are_cut_to_the_range_of_pixels(generator):
    """The half that is kept is that of the image, the other that of the decoder, cut to ±1."""
    model = make(shape=(4, 8, 12))
    with torch.no_grad():
        for p in model.autoencoder.decoder.conv_out.parameters():
            p.mul_(50)
    x = torch.rand(1, 3, 16, 24, generator=generator) * 2 - 1
    mask = torch.zeros(16, 24, dtype=torch.bool)
    mask[:, 12:] = True
    edit = Inpainting(mask, DDPM(5))
    found = model.edit(x, edit, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        z = edit.of_latents((8, 12)).edit(
            model.prior, model.encode(x).mean, generator=torch.Generator().manual_seed(0)
        )
        decoded = model.decode(z)
    assert decoded.min() < -1.5
    assert decoded.max() > 1.5
    torch.testing.assert_close(found[..., 12:], decoded.clamp(-1, 1)[..., 12:])
    assert torch.equal(found[..., :12], x[..., :12])


def test_a_condition_is_not_guided_unless_asked_for(stable):
    prior, _ = stable.conditioned(1, prompt="cat")
    assert prior.network is stable.prior.network


def test_a_likelihood_without_a_condition_is_that_of_no_prompt(stable, generator):
    """Of one image, whose flow is counted as its network is called."""
    pytest.importorskip("torchdiffeq")
    x = stable.data.to_network(torch.randint(0, 256, (1, *stable.shape), generator=generator))
    scale, stable.decoder_scale = stable.decoder_scale, 0.5
    calls = []
    handle = stable.prior.network.register_forward_hook(lambda *_: calls.append(1))
    try:
        options = {"method": "adaptive_heun", "rtol": 0.1, "atol": 0.1}
        found, again = (
            log_likelihood(stable, x, c, generator=torch.Generator().manual_seed(0), **options)
            for c in (None, stable.condition_for(1))
        )
    finally:
        handle.remove()
        stable.decoder_scale = scale
    assert found.dims == x[0].numel()
    assert found.evaluations + again.evaluations == len(calls)
    torch.testing.assert_close(found.log_likelihood, again.log_likelihood)
