"""Noise schedules against their definitions and against diffusers."""

from __future__ import annotations

import math

import diffusers
import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr

from nelbo import NelboError, NoiseSchedule

ALL = {
    "linear": NoiseSchedule.linear,
    "scaled_linear": NoiseSchedule.scaled_linear,
    "cosine": NoiseSchedule.cosine,
    "sigmoid": NoiseSchedule.sigmoid,
    "geometric": NoiseSchedule.geometric,
    "mixed": NoiseSchedule.mixed,
}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("T", [2, 50, 1000])
def test_tables_are_consistent(name, T):
    s = ALL[name](T)
    assert s.num_levels == T
    assert s.betas.dtype == s.alphas_cumprod.dtype == torch.float64
    assert s.alphas_cumprod[0] == 1
    assert s.betas[0] == 0
    assert s.network_times.tolist() == list(range(-1, T))
    for values in (s.betas, s.alphas, s.alphas_cumprod, s.snr, s.log_snr, s.posterior_variance):
        assert values.shape == (T + 1,)
    torch.testing.assert_close(s.alphas.cumprod(0), s.alphas_cumprod)
    torch.testing.assert_close(s.snr[1:], s.alphas_cumprod[1:] / (1 - s.alphas_cumprod[1:]))
    torch.testing.assert_close(s.log_snr[1:], s.snr[1:].log())
    assert s.snr[0] == math.inf
    assert (s.log_snr.diff() < 0).all()


@pytest.mark.parametrize(
    ("schedule", "name", "options"),
    [
        (NoiseSchedule.linear(), "linear", {}),
        (NoiseSchedule.linear(200, 1e-3, 0.1), "linear", {"beta_start": 1e-3, "beta_end": 0.1}),
        (
            NoiseSchedule.scaled_linear(),
            "scaled_linear",
            {"beta_start": 0.00085, "beta_end": 0.012},
        ),
        (NoiseSchedule.cosine(), "squaredcos_cap_v2", {}),
        (NoiseSchedule.sigmoid(), "sigmoid", {}),
    ],
)
def test_matches_diffusers(schedule, name, options):
    peer = diffusers.DDPMScheduler(schedule.num_levels, beta_schedule=name, **options)
    torch.testing.assert_close(schedule.betas[1:].float(), peer.betas, rtol=2e-4, atol=1e-7)
    assert schedule.config["beta_schedule"] == name
    # The fields of its file build it again, whole and without its last signal.
    for chain in (schedule, schedule.with_zero_terminal_snr()):
        again = diffusers.DDPMScheduler(chain.num_levels, **chain.config).alphas_cumprod
        torch.testing.assert_close(chain.alphas_cumprod[1:].float(), again, rtol=2e-4, atol=1e-7)
    assert "rescale_betas_zero_snr" not in schedule.config


@pytest.mark.parametrize(("shift", "first_noise"), [(1.0, None), (3.0, None), (3.0, 0.2)])
def test_the_config_of_flow_matching_builds_its_times_again(shift, first_noise):
    """A first noise of its own is none that diffusers knows: the others are its levels."""
    schedule = NoiseSchedule.flow_matching(50, shift, first_noise=first_noise)
    peer = diffusers.FlowMatchEulerDiscreteScheduler(50, **schedule.config)
    if first_noise is None:
        expected = peer.sigmas.flip(0)
        torch.testing.assert_close(schedule.flow_times[1:].float(), expected, rtol=1e-5, atol=0)
    assert peer.config.shift == shift


@pytest.mark.parametrize("rho", [7.0, 3.0])
def test_the_config_of_exploding_noise_builds_its_levels_again(rho):
    schedule = NoiseSchedule.variance_exploding(40, 0.01, 50.0, rho=rho)
    peer = diffusers.EDMEulerScheduler(**schedule.config)
    peer.set_timesteps(40)
    expected = peer.sigmas[:-1].flip(0)
    torch.testing.assert_close(schedule.sigmas[1:].float(), expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("T", [20, 1000])
def test_a_cosine_of_ones_own_is_its_formula_and_no_named_schedule(T):
    """With diffusers' name its file would be read as the usual cosine."""
    schedule = NoiseSchedule.cosine(T, offset=0.05, max_beta=0.6)
    u = np.arange(T + 1) / T
    signal = np.cos(np.pi / 2 * (u + 0.05) / 1.05) ** 2
    betas = np.minimum(1 - signal[1:] / signal[:-1], 0.6)
    np.testing.assert_allclose(schedule.betas[1:].numpy(), betas, rtol=1e-9)
    assert betas[-1] == 0.6
    for own in (schedule, NoiseSchedule.cosine(T, 0.05), NoiseSchedule.cosine(T, max_beta=0.6)):
        assert own.config is None


def test_what_is_left_open_is_as_in_the_papers():
    """Karras et al. 2022, table 1, for the levels of EDM."""
    for name, schedule in ALL.items():
        assert schedule().num_levels == 1000, name
    edm = NoiseSchedule.variance_exploding()
    steps = (edm.sigmas[1:] ** (1 / 7)).diff()
    torch.testing.assert_close(steps, steps[:1].expand(999), rtol=1e-6, atol=0)
    assert [float(edm.sigmas[1]), float(edm.sigmas[-1])] == pytest.approx([0.002, 80.0])
    flow = NoiseSchedule.flow_matching().flow_times[1:]
    torch.testing.assert_close(flow, torch.arange(1, 1001).double() / 1000)
    for schedule in (NoiseSchedule.geometric(9), NoiseSchedule.mixed(9)):
        assert float(schedule.noise_scale[1]) == pytest.approx(0.01)
        assert float(schedule.alphas_cumprod[-1]) == pytest.approx(3e-4)
    half = NoiseSchedule.mixed(9, share=0.5).alphas_cumprod
    assert torch.equal(NoiseSchedule.mixed(9).alphas_cumprod, half)


def test_a_step_from_the_data_has_no_posterior():
    """Of levels 0 and 1: what is left of q(x_{t-1}|x_t, x_0) is x_0 itself, without noise."""
    s = NoiseSchedule.linear(5, 0.1, 0.3)
    assert s.posterior_variance[:2].tolist() == [0.0, 0.0]
    assert s.posterior_data_weight[:2].tolist() == [1.0, pytest.approx(1.0)]
    assert s.posterior_latent_weight[:2].tolist() == [0.0, 0.0]


def test_geometric_noise_grows_by_one_factor():
    s = NoiseSchedule.geometric(100, first_noise=0.03, last_signal=1e-3)
    ratio = s.noise_scale[2:] / s.noise_scale[1:-1]
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio))
    assert s.noise_scale[1].item() == pytest.approx(0.03)
    assert s.alphas_cumprod[-1].item() == pytest.approx(1e-3)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("T", [1, 2, 3, 200])
def test_mixed_levels_lie_where_the_two_schedules_have_theirs(share, T):
    s = NoiseSchedule.mixed(T, 0.02, share, last_signal=1e-3)
    signal = s.alphas_cumprod[1:].numpy()
    # The noise of one grows by a factor each level, the angle of the other by a difference.
    first, last = 1 - 0.02**2, 1e-3
    geometric = np.log((1 - signal) / (1 - first)) / np.log((1 - last) / (1 - first))
    angle = np.arccos(np.sqrt(np.array([first, last])))
    cosine = (np.arccos(np.sqrt(signal)) - angle[0]) / (angle[1] - angle[0])
    places = np.arange(T) / max(T - 1, 1)
    np.testing.assert_allclose((1 - share) * geometric + share * cosine, places, atol=1e-9)
    assert s.num_levels == T


def test_mixed_without_cosine_levels_is_geometric():
    one = NoiseSchedule.mixed(300, 0.01, 0.0).alphas_cumprod
    torch.testing.assert_close(one, NoiseSchedule.geometric(300, 0.01).alphas_cumprod)


def test_posterior_coefficients_by_bayes_rule():
    """The posterior of x_{t-1} is the product of its two normals, computed from precisions."""
    s = NoiseSchedule.linear(100, 1e-3, 0.3)
    for t in (2, 3, 50, 100):
        previous, beta = s.alphas_cumprod[t - 1], s.betas[t]
        precision = 1 / (1 - previous) + (1 - beta) / beta
        torch.testing.assert_close(s.posterior_variance[t], 1 / precision)
        torch.testing.assert_close(
            s.posterior_data_weight[t], previous.sqrt() / (1 - previous) / precision
        )
        torch.testing.assert_close(
            s.posterior_latent_weight[t], (1 - beta).sqrt() / beta / precision
        )


def test_respace_keeps_the_marginals_and_tells_the_network_the_parent_time():
    parent = NoiseSchedule.linear(100)
    child = parent.respace([1, 10, 55, 100])
    assert child.num_levels == 4
    torch.testing.assert_close(
        child.alphas_cumprod, parent.alphas_cumprod[torch.tensor([0, 1, 10, 55, 100])]
    )
    torch.testing.assert_close(
        child.betas[2], 1 - parent.alphas_cumprod[10] / parent.alphas_cumprod[1]
    )
    assert child.network_times[1:].tolist() == [0, 9, 54, 99]
    grandchild = child.respace([2, 4])
    assert grandchild.network_times[1:].tolist() == [9, 99]
    torch.testing.assert_close(parent.respace(range(1, 101)).betas, parent.betas)


def test_from_alphas_cumprod_takes_both_forms():
    s = NoiseSchedule.cosine(20)
    for given in (s.alphas_cumprod, s.alphas_cumprod[1:]):
        torch.testing.assert_close(NoiseSchedule.from_alphas_cumprod(given).betas, s.betas)


def test_noise_power_does_not_cancel_at_tiny_betas():
    s = NoiseSchedule.from_betas([1e-14, 1e-14])
    assert s.noise_power[2].item() == pytest.approx(2e-14, rel=1e-12)


@pytest.mark.parametrize("name", ["linear", "scaled_linear", "sigmoid"])
def test_zero_terminal_snr(name):
    """Affine in √ᾱ: level 1 stays, level T has no signal (Lin et al. 2024, algorithm 1)."""
    s = ALL[name](1000)
    z = s.with_zero_terminal_snr()
    assert z.alphas_cumprod[-1] == 0
    assert z.betas[-1] == 1
    assert z.betas[1] == pytest.approx(s.betas[1].item(), rel=1e-12)
    slope, intercept = np.polyfit(s.signal_scale[1:], z.signal_scale[1:], 1)
    fitted = slope * s.signal_scale[1:] + intercept
    torch.testing.assert_close(z.signal_scale[1:], fitted, rtol=0, atol=1e-12)
    theirs = rescale_zero_terminal_snr(s.betas[1:])
    torch.testing.assert_close(z.betas[1:], theirs, rtol=1e-9, atol=1e-12)
    assert z.with_zero_terminal_snr() is z
    torch.testing.assert_close(z.alphas.cumprod(0), z.alphas_cumprod)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NoiseSchedule.linear(0), "levels T must be at least 1, got 0"),
        (lambda: NoiseSchedule.from_betas([0.1, 1.5, 0.2]), "level 2 is 1.5"),
        (lambda: NoiseSchedule.from_betas([0.1, 1.0, 0.2]), "level 2 is 1.0"),
        (lambda: NoiseSchedule.from_betas([]), "betas"),
        (lambda: NoiseSchedule.from_betas([float("nan")]), "nan"),
        (lambda: NoiseSchedule.from_alphas_cumprod([1.0, 0.5, 0.7]), "decrease"),
        (lambda: NoiseSchedule.geometric(10, 1.5), "first_noise=1.5"),
        (lambda: NoiseSchedule.geometric(10, 0.0), "first_noise=0.0"),
        (lambda: NoiseSchedule.geometric(10, 0.6, 0.7), "last_signal=0.7"),  # ᾱ_1 is 0.64
        (lambda: NoiseSchedule.geometric(10, 0.6, 0.0), "last_signal=0.0"),
        (lambda: NoiseSchedule.from_betas([[0.1, 0.2]]), r"got shape \(1, 2\)"),
        (lambda: NoiseSchedule.from_levels([[0.5, 0.2]]), r"got shape \(1, 2\)"),
        (lambda: NoiseSchedule.from_alphas_cumprod([[0.5, 0.2]]), r"got shape \(1, 2\)"),
        (lambda: NoiseSchedule.from_alphas_cumprod([]), r"got shape \(0,\)"),
        (lambda: NoiseSchedule.from_levels([0.5, float("nan")]), "decrease"),
        (lambda: NoiseSchedule.from_levels([0.5, -0.1]), "decrease"),
        (lambda: NoiseSchedule.from_levels([]), "decrease"),
        (lambda: NoiseSchedule.mixed(10, share=-0.1), r"in \[0, 1\], got -0.1"),
        (lambda: NoiseSchedule.mixed(10, share=1.5), r"in \[0, 1\], got 1.5"),
        (lambda: NoiseSchedule.mixed(10, 1.5), "first_noise=1.5"),
        (lambda: NoiseSchedule.linear(1).with_zero_terminal_snr(), "a chain of one level"),
        (lambda: NoiseSchedule.linear(10).respace([]), "got none"),
        (lambda: NoiseSchedule.linear(10).respace([1, 11]), r"1\.\.10"),
        (lambda: NoiseSchedule.linear(10).respace([0, 3]), r"1\.\.10"),
        (lambda: NoiseSchedule.linear(10).respace([3, 3]), "increasing"),
        (lambda: NoiseSchedule.linear(10).respace([3, 4.5]), "increasing whole"),
    ],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_mistakes_are_explained(make, message):
    with pytest.raises(NelboError, match=message):
        make()


@pytest.mark.parametrize("first_noise", [1e-8, 1e-9, 1e-100])
def test_a_first_level_without_noise_in_float64_is_refused(first_noise):
    """Its ᾱ_1 rounds to 1; it used to pass for ᾱ_0, and the chain was a level shorter."""
    with pytest.raises(NelboError, match="level 1 is 1 in float64"):
        NoiseSchedule.geometric(10, first_noise=first_noise)


@pytest.mark.parametrize("first_noise", [1.2e-8, 1e-7, 1e-3])
def test_as_little_noise_as_float64_holds_makes_a_chain_of_all_levels(first_noise):
    schedule = NoiseSchedule.geometric(10, first_noise=first_noise)
    assert schedule.num_levels == 10
    assert 0 < float(schedule.noise_power[1]) < 2 * first_noise**2
    assert schedule.respace(range(1, 11)).num_levels == 10


def test_levels_that_may_round_to_one_are_never_taken_for_the_data():
    exact = NoiseSchedule.from_alphas_cumprod([1.0, 0.9, 0.5])
    assert exact.num_levels == NoiseSchedule.from_levels([0.9, 0.5]).num_levels == 2
    for values in ([1.0, 0.9, 0.5], [1 - 1e-17, 0.5]):
        with pytest.raises(NelboError, match="level 1 is 1 in float64"):
            NoiseSchedule.from_levels(values)
    with pytest.raises(NelboError, match="level 1 is 1 in float64"):
        NoiseSchedule.from_alphas_cumprod([1.0, 1 - 1e-17, 0.5])
    with pytest.raises(NelboError, match="beta at level 2 is 1e-17, which leaves"):
        NoiseSchedule.from_betas([0.1, 1e-17, 0.2])
    with pytest.raises(NelboError, match="beta at level 1 is 1e-17"):
        NoiseSchedule.from_betas([1e-17, 0.2])
