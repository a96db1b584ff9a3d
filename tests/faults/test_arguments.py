"""Arguments of another type or range than the API takes: an error that names them, nothing else."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import jaxtyping
import numpy as np
import pytest
import torch
from PIL import Image

import nelbo
from nelbo import Continuous, Diffusion, NelboError, NoiseSchedule, Pixels, coding, loss
from nelbo.data import load_data
from nelbo.diffusion import ContinuousDiffusion, flow
from nelbo.editing import ImageToImage, Inpainting, Interpolation, Inversion
from nelbo.evidence import classify, excess_bits
from nelbo.evidence.calibration import fit_decoder_scale
from nelbo.evidence.evaluation import evaluate, evaluate_to_error
from nelbo.evidence.file_sizes import file_sizes
from nelbo.evidence.modes import count_modes
from nelbo.evidence.nearest import nearest_training
from nelbo.evidence.sample_quality import frechet_distance, kernel_distance, sample_quality
from nelbo.families import HMM, LDS, PPCA
from nelbo.samplers import DDIM, DDPM, DPMSolver, Heun
from nelbo.samplers.batches import sample_in_batches
from nelbo.training.snapshots import reconstruct_average


@pytest.fixture(autouse=True)
def _as_users_call_it():
    """Without the checks of types that the tests add, which would come first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


X = torch.full((2, 3, 4, 4), -1.0)
DATA = load_data("digits", "test").subset(40, seed=0)
PAINT = torch.ones(4, 4, dtype=torch.bool)


def chain(network=lambda x, t, c: 0.1 * x, **options) -> Diffusion:
    schedule = options.pop("schedule", NoiseSchedule.linear(10, 0.01, 0.6))
    return Diffusion(network, schedule, **{"shape": (3, 4, 4)} | options)


def own(**options) -> Diffusion:
    usual = {
        "alpha": lambda t: 1 - t,
        "sigma": lambda t: t,
        "times": (0.1, 0.9),
        "shape": (3, 4, 4),
    }
    return nelbo.from_score(lambda x, t, c: -x, **usual | options)


MODEL = chain()
PIXELS = chain(shape=(1, 8, 8), data=Pixels(17))
FLOATS = PIXELS.data.to_network(DATA.images)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        # Levels of the chain.
        (lambda: MODEL.predict(X, -1), "t is int -1, expected a level in 1..10"),
        (lambda: MODEL.p_step(X, 0), "t is int 0"),
        (lambda: MODEL.p_step(X, 11), "t is int 11"),
        (lambda: MODEL.q_step(X, 0), "t is int 0"),
        (lambda: MODEL.q_marginal(X, -1), "t is int -1, expected a level in 0..10"),
        (lambda: MODEL.q_posterior(X, X, 11), "t is int 11"),
        (lambda: MODEL.predict(X, 1.0), "t is float 1.0"),
        (lambda: MODEL.predict(X, [1, 2]), r"t is list \[1, 2\]"),
        (lambda: MODEL.predict(X, torch.tensor([1.0, 2.0])), "type torch.float32"),
        (lambda: MODEL.predict(X, torch.tensor([1, 2, 3])), r"shape \(3,\) .*example, \(2,\)"),
        (lambda: MODEL.predict(X, torch.tensor([0, 2])), "t has levels 0..2"),
        (lambda: MODEL.score_matching(X, X, torch.tensor([2, 11])), "t has levels 2..11"),
        (lambda: MODEL.predict(X, True), "t is bool True, expected a level"),
        (lambda: MODEL.score_matching(X, X, 1), r"t is int 1, expected a level in 2\.\.10"),
        # Examples.
        (lambda: MODEL.elbo(None), r"x_0 is None, expected a tensor \(B, ...\)"),
        (lambda: MODEL.elbo(X.numpy()), "x_0 is a ndarray of shape"),
        (lambda: MODEL.elbo(X.bool()), "x_0 is a Tensor .* torch.bool, .*data.to_network"),
        (lambda: loss(MODEL, X[:0]), "a batch of no images has no loss"),
        (lambda: MODEL.predict(X[0, 0, 0], 1), r"x_t is a Tensor of shape \(4,\)"),
        (lambda: MODEL.q_posterior(X, X[:, :1], 3), r"x_0 has shape \(2, 1, 4, 4\) and x_t has"),
        (lambda: MODEL.reconstruction(X[:1], X), r"x_1 has shape \(2, .* x_0 has \(1, 3, 4, 4\)"),
        (lambda: MODEL.sample(2, DDIM(2), x_T=[1, 2]), r"x_T is list \[1, 2\]"),
        (lambda: MODEL.importance_weighted_elbo("x", paths=2), "x_0 is str 'x'"),
        (lambda: ImageToImage(DDIM(3)).edit(MODEL, None), "x_0 is None"),
        (lambda: loss(MODEL, 3), "x_0 is int 3"),
        (lambda: PPCA(1).fit(DATA).evidence([1]), r"x_0 is list \[1\]"),
        # Numbers.
        (lambda: MODEL.elbo(X, levels=torch.tensor([1, 2])), "levels must be a whole number"),
        (lambda: MODEL.elbo(X, levels=10**30), r"levels must be below 2\^63"),
        (lambda: NoiseSchedule.linear(10, "x"), "beta_start must be a number, got str 'x'"),
        (lambda: NoiseSchedule.scaled_linear(10, 0.1, None), "beta_end must be a number"),
        (lambda: NoiseSchedule.cosine(10, offset=[1]), "offset must be a number"),
        (lambda: NoiseSchedule.geometric(10, 10**400), "first_noise must be a number"),
        (lambda: NoiseSchedule.cosine(10, max_beta=10**30), "max_beta must be a number"),
        (lambda: MODEL.p_prior((2, -1)), "each side of shape must be at least 0, got -1"),
        (lambda: own(alpha=0.5), r"alpha is float 0.5, expected a function of times"),
        (lambda: own(times=(0.1,)), r"times must be the first and the last time, got tuple"),
        (lambda: own(times=(0, "x")), r"times\[1\] must be a number, got str 'x'"),
        (lambda: own(T=None), "levels T must be a whole number"),
        (lambda: NoiseSchedule.flow_matching(10, torch.ones(2)), "shift must be a number"),
        (lambda: NoiseSchedule.mixed(10, share=True), "share must be a number, got bool True"),
        (lambda: NoiseSchedule.from_betas({"a": 1}), "betas must be a list of numbers"),
        (lambda: NoiseSchedule.from_levels(0.5), "alphas_cumprod must be a list"),
        (lambda: MODEL.respace(None), "levels must be a list of whole levels, got None"),
        (lambda: MODEL.respace(5), "levels must be a list of whole levels, got int 5"),
        (lambda: MODEL.respace(torch.ones(2, 2)), "levels must be a list of whole levels, got a T"),
        (lambda: DDIM(5, eta="x"), "eta must be a number"),
        (lambda: ImageToImage(DDIM(5), strength=None), "strength must be a number"),
        (lambda: DPMSolver(5, torch.ones(2)), "order must be a whole number"),
        (lambda: Heun(5, S_churn="x"), "S_churn must be a number, got str 'x'"),
        (lambda: Heun(5, S_tmin=torch.ones(2)), "S_tmin must be a number"),
        (lambda: MODEL.sample(2, DDIM(2, steps_offset="1")), "steps_offset must be a number"),
        (
            lambda: MODEL.sample(2, Heun(2, noise_levels="flow", shift="x")),
            "shift must be a number",
        ),
        # Names.
        (lambda: chain(prediction=None), "unknown prediction None: expected one of"),
        (lambda: chain(variance=["fixed"]), r"unknown variance \['fixed'\]"),
        (lambda: MODEL.sample(2, DDIM(2, spacing=3)), "unknown spacing 3"),
        (lambda: MODEL.sample(2, DDIM(2, spacing=torch.ones(2))), "unknown spacing tensor"),
        (lambda: MODEL.sample(2, DPMSolver(2, spacing=torch.ones(2))), "unknown spacing tensor"),
        (lambda: MODEL.sample(2, Heun(2, noise_levels=torch.ones(2))), "unknown noise levels"),
        (lambda: MODEL.sample(2, DPMSolver(2, noise_levels=torch.ones(2))), "unknown noise levels"),
        (lambda: loss(MODEL, X, objective=None), "unknown objective None"),
        (lambda: load_data("digits", None), "unknown split None"),
        (lambda: load_data(""), "unknown data ''"),
        (lambda: load_data(3), "source is int 3, expected a path or a name"),
        (lambda: nelbo.load(None), "path is None, expected a path"),
        (lambda: nelbo.save(None, "x"), "no format for a NoneType"),
        (lambda: nelbo.save(MODEL, None), "path is None"),
        (lambda: coding.decompress(MODEL, "x"), "data is str 'x', expected the bytes"),
        (lambda: MODEL.sample(2.0), "number of samples must be a whole number, got float 2.0"),
        (lambda: MODEL.sample(2, DDIM(2.5)), "steps must lie in 1..10, .* got 2.5"),
        (lambda: MODEL.elbo(X, levels="all"), "levels must be a whole number, got str 'all'"),
        (lambda: MODEL.elbo(X, levels=2.0), "levels must be a whole number"),
        (lambda: MODEL.elbo(X, levels=True), "levels must be a whole number, got bool True"),
        (lambda: MODEL.respace([1.5, 3.0]), r"increasing whole levels, got \[1.5, 3.0\]"),
        (lambda: MODEL.sample(2, DDIM(2), guidance="7"), "guidance must be a number, got str '7'"),
        (lambda: MODEL.importance_weighted_elbo(X, paths=1.5), "paths must be a whole number"),
        (lambda: NoiseSchedule.linear(10.0), "levels T must be a whole number"),
        (lambda: NoiseSchedule.scaled_linear(10, -1.0, 0.1), "beta at level 1 is nan"),
        (lambda: NoiseSchedule.from_alphas_cumprod([0.9, math.nan, 0.1]), "nan"),
        (lambda: NoiseSchedule.from_alphas_cumprod([math.nan, 0.1]), "nan"),
        (lambda: Pixels(2.5), "pixel levels must be a whole number"),
        (lambda: Pixels(256).to_network(torch.rand(2)), "integers in 0..255, found torch.float32"),
        (lambda: PPCA(2.5), "latents must be a whole number, got float 2.5"),
        (lambda: LDS(0), "latents must be at least 1, got 0"),
        (lambda: HMM("4"), "states must be a whole number, got str"),
        (lambda: Interpolation(1), "frames must be at least 2, got 1"),
        (lambda: Inversion(DDIM(2), refinements=-1), "refinements must be at least 0"),
        (lambda: Inpainting(PAINT, DDPM(2), jump_length=0), "jump_length must be at least 1"),
        # Objects.
        (lambda: MODEL.sample(2, "ddim"), "sampler is str 'ddim', expected one of nelbo.samplers"),
        (lambda: MODEL.sample(2, DDIM), "sampler is the class DDIM"),
        (lambda: ImageToImage("ddim"), "sampler is str 'ddim'"),
        (lambda: Interpolation(3, "ddim"), "sampler is str 'ddim'"),
        (lambda: Inversion(Heun(3)), "sampler is Heun.*expected nelbo.samplers.DDIM"),
        (lambda: Inpainting(PAINT, DDIM(3)), r"sampler is DDIM\(.* expected nelbo.samplers.DDPM"),
        (lambda: Inpainting(np.ones((4, 4), bool)), "mask is a ndarray of shape"),
        (lambda: MODEL.elbo(X, levels=2, generator=0), "generator is int 0, expected a torch.Gen"),
        (lambda: MODEL.sample(2, generator=np.random), "generator is module"),
        (lambda: loss(MODEL, X, generator=0), "generator is int 0"),
        (lambda: chain(data=256), r"data is int 256, expected Pixels\(levels\) or Continuous"),
        (lambda: chain(thresholding=1.0), "thresholding is float 1.0"),
        (lambda: chain(schedule=[0.1, 0.2]), "schedule is list"),
        (lambda: chain(profile=3), "profile is int 3, expected what nelbo.level_profile measures"),
        (lambda: chain(shape=3), "shape is int 3, expected the sides"),
        (lambda: chain(shape=()), "the number of sides of shape must be at least 1"),
        (lambda: chain(clip_sample="no"), "clip_sample is str 'no', expected True or False"),
        (lambda: loss(None, X), "model is None, expected a model"),
        (lambda: coding.compress(MODEL, None), "images is None, expected a tensor"),
        (lambda: chain(None), "network is None"),
        (lambda: chain(shape=(3, -4, 4)), "each side of shape must be at least 1, got -4"),
        (lambda: MODEL.elbo(X[:0]), "a batch of no images has no bound"),
        (lambda: MODEL.elbo(X.byte()), "type torch.uint8, .* model.data.to_network"),
        (lambda: MODEL.elbo(X[0]), r"shape \(4, 4\) in a batch of shape \(3, 4, 4\), the model"),
        # What networks return.
        (
            lambda: chain(lambda x, t, c: (x,)).elbo(X),
            "the network returned tuple .* a tensor",
        ),
        (
            lambda: chain(lambda x, t, c: SimpleNamespace(sample=x)).sample(2, DDIM(2)),
            "the network returned SimpleNamespace .*such as .sample",
        ),
    ],
)
def test_the_error_names_the_argument(call, message):
    with pytest.raises(NelboError, match=message):
        call()


BOUND = MODEL.elbo(X, levels=2)
LABELS = nelbo.Condition(label=torch.arange(2))
FEATURES = torch.rand(5, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: list(evaluate(None, DATA)), "model is None, expected a model"),
        (lambda: list(evaluate(MODEL, X)), "data is a Tensor of shape .*expected ImageData"),
        (lambda: list(evaluate(PIXELS, DATA, batch_size=-1)), "batch_size must be at least 1"),
        (lambda: list(evaluate_to_error(MODEL, X, 0.1)), "data is a Tensor of shape"),
        (lambda: list(evaluate_to_error(PIXELS, DATA, "1")), "error must be a number, got str"),
        (lambda: list(classify(None, X)), "model is None, expected a model"),
        (lambda: list(classify(MODEL, X.numpy(), LABELS)), "x_0 is a ndarray of shape"),
        (lambda: list(classify(MODEL, X, LABELS, batch_size=0)), "batch_size must be at least 1"),
        (lambda: list(classify(MODEL, X, LABELS, margin="3")), "margin must be a number, got str"),
        (lambda: list(classify(MODEL, X, LABELS, draws=1)), "draws must be at least 2, got 1"),
        (lambda: excess_bits(None, DATA), "bound is None, expected what the elbo"),
        (lambda: excess_bits(BOUND, X), "data is a Tensor of shape"),
        (lambda: excess_bits(BOUND, DATA), "the bound is of 2 images, and data holds 40"),
        (lambda: fit_decoder_scale(PIXELS, DATA), "model is a Diffusion, expected a LatentDiff"),
        (lambda: nelbo.level_profile(MODEL, X, levels=2.5), "levels must be a whole number"),
        (lambda: nelbo.level_profile(MODEL, X, batch_size=0), "batch_size must be at least 1"),
        (lambda: ContinuousDiffusion("chain"), "model is str 'chain', expected a Diffusion"),
        (lambda: flow.encode(MODEL, X.numpy()), "x_1 is a ndarray of shape"),
        (lambda: flow.decode(MODEL, X[:0]), "x_T is a batch of no states"),
        (lambda: flow.decode(MODEL, X[:, :1]), r"x_T has shape \(2, 1, 4, 4\), expected \(2, 3,"),
        (lambda: flow.log_likelihood(MODEL, X, dequantization=0), "unknown dequantization 0"),
        # Samples in [-1, 1] in place of pixel levels: figures of something else.
        (lambda: sample_quality(FLOATS, DATA.images, 17), "samples is .*model.data.shown makes"),
        (lambda: sample_quality(DATA.images, FLOATS, 17), "real is a Tensor of shape"),
        (lambda: count_modes(FLOATS, DATA.images, 17), "samples is a Tensor of shape"),
        (lambda: nearest_training(FLOATS, DATA.images, None, 17), "samples is a Tensor of shape"),
        (lambda: file_sizes(FLOATS, 17), "images is a Tensor of shape"),
        (lambda: frechet_distance(FEATURES.numpy(), FEATURES), "a is a ndarray of shape"),
        (lambda: kernel_distance(FEATURES, FEATURES[:, :1]), "needs the same features, got 2 and"),
        # What makes network space of pixels takes no arrays either.
        (lambda: Pixels(17).to_network(DATA.images.numpy()), "k is a ndarray .*torch.from_numpy"),
        (lambda: Pixels(17).to_levels([0.5]), r"x is list \[0.5\], expected a tensor"),
        (lambda: Continuous().to_levels(None), "x is None, expected a tensor"),
        (
            lambda: nelbo.from_denoiser(lambda x, s: x, shape=(1, 8, 8), data=17),
            r"data is int 17, expected Pixels\(levels\) or Continuous",
        ),
        (lambda: reconstruct_average(3, 0.05), "run is int 3, expected"),
    ],
)
def test_the_error_names_the_argument_of_what_stands_beside_a_model(call, message):
    with pytest.raises(NelboError, match=message):
        call()


def test_more_samples_than_the_memory_holds_are_refused_after_the_first_batch():
    with pytest.raises(NelboError, match=r"images of 3×4×4 take [\d,.]+ GB, .* draw fewer"):
        sample_in_batches(MODEL, DDIM(1), 10**15, batch_size=2)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e30])
@pytest.mark.parametrize("data", [Pixels(256), Continuous()])
def test_a_bound_that_is_not_finite_is_an_error_that_names_the_level(bad, data):
    """With gradients and in training mode, too, where predictions are not looked at."""

    def network(x, t, c):
        return torch.where((t == 5)[:, None, None, None], bad, x)

    model = chain(network, data=data)
    assert model.training
    assert torch.is_grad_enabled()
    with pytest.raises(NelboError, match=r"2 of 18 terms of the bound .* the first at level 6"):
        model.elbo(X)


def test_terms_are_nan_where_an_example_is_and_the_bound_refuses_it():
    bad = X.clone()
    bad[0, 0, 0, 0] = math.nan
    for term in (MODEL.prior_matching(bad), MODEL.score_matching(bad, X, 5)):
        assert term.isnan().tolist() == [True, False]
    with pytest.raises(NelboError, match="data holds 1 values that are not finite"):
        MODEL.elbo(bad)


def test_levels_may_be_any_whole_numbers():
    """Those of NumPy, of one value for all, and of any integer type."""
    expected = MODEL.predict(X, 3).x_0
    for t in (np.int64(3), torch.tensor(3), torch.tensor([3]), torch.tensor([3, 3]).int()):
        assert torch.equal(MODEL.predict(X, t).x_0, expected)
    assert torch.equal(MODEL.q_marginal(X, 0).mean, X)


def test_a_source_may_be_a_path(tmp_path):
    for i in range(3):
        Image.new("RGB", (4, 4), (i, 0, 0)).save(tmp_path / f"{i}.png")
    assert load_data(Path(tmp_path), "all", size=4).shape == (3, 4, 4)
