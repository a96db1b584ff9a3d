"""Conventions of networks: each reads the answer that its name describes, at the state it names."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from nelbo import NoiseSchedule
from nelbo.diffusion.conventions import RANGES, Convention, conventions, other_states
from nelbo.diffusion.prediction import PARAMETERIZATIONS

SIGMA = torch.tensor([0.3, 1.0, 3.0], dtype=torch.float64)
A = (1 / (1 + SIGMA**2).sqrt()).view(-1, 1, 1, 1)
S = SIGMA.view(-1, 1, 1, 1) * A
TIME = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
_source = torch.Generator().manual_seed(0)
X_0, NOISE = torch.randn(2, 3, 1, 2, 2, generator=_source, dtype=torch.float64)
X_T = A * X_0 + S * NOISE


def multiple(convention: Convention, own: str) -> Tensor:
    """Of x_0 + σ ε, that the state is, by what its name describes."""
    sigma = SIGMA.view(-1, 1, 1, 1)
    of = {
        "preserving": 1 / (1 + sigma**2).sqrt(),
        "exploding": torch.ones_like(sigma),
        "flow": 1 / (1 + sigma),
        "EDM": 1 / (sigma**2 + 0.25).sqrt(),
    }
    for part in convention.parts:
        for name, scale in of.items():
            if "state" in part and name in part:
                return scale
    return of[{"velocity": "flow", "denoiser": "exploding"}.get(own, "preserving")]


def answer(convention: Convention, own: str) -> Tensor:
    """What a network of this convention answers that knows data and noise."""
    sigma, name = SIGMA.view(-1, 1, 1, 1), " ".join(convention.parts)
    sign = -1 if "the other sign" in name else 1
    if "answers a score" in name:
        return -NOISE / (multiple(convention, own) * sigma)
    if "raw network does" in name:  # Karras et al. 2022, table 1, with σ_data = 1/2
        skip, out = 0.25 / (sigma**2 + 0.25), 0.5 * sigma / (sigma**2 + 0.25).sqrt()
        return (X_0 - skip * (X_0 + sigma * NOISE)) / out
    kinds = {
        "epsilon": NOISE,
        "sample": X_0,
        "denoiser": X_0,
        "v_prediction": A * NOISE - S * X_0,
        "velocity": NOISE - X_0,
    }
    kind = next((k for k in kinds if f"prediction='{k}'" in name), own)
    return sign * kinds[kind]


@pytest.mark.parametrize("own", PARAMETERIZATIONS)
def test_answers_are_read_as_their_names_describe(own):
    lists = list(conventions(PARAMETERIZATIONS[own]))
    assert lists[0][0].parts == []
    assert len({str(each) for some in lists for each in some}) == sum(map(len, lists))
    for alike in lists:
        if any("time" in part and "state" not in part for part in alike[0].parts):
            continue
        for each in alike:
            found = answer(each, own)
            torch.testing.assert_close(each.x_0(found, X_T, A, S), X_0, msg=str(each))
            torch.testing.assert_close(each.epsilon(found, X_T, A, S), NOISE, msg=str(each))
            state, _ = each.network_input(X_T, TIME, A, S)
            expected = multiple(each, own) * (X_0 + SIGMA.view(-1, 1, 1, 1) * NOISE)
            torch.testing.assert_close(state, expected, msg=str(each))


@pytest.mark.parametrize("own", PARAMETERIZATIONS)
def test_every_answer_but_data_is_read_with_either_sign(own):
    """Data of the other sign are no mistake that is made; a denoiser answers data."""
    names = [str(each) for each in next(conventions(PARAMETERIZATIONS[own]))]
    for kind in {"epsilon", "v_prediction", "velocity", "sample"} - {own}:
        plain = f"it answers what prediction='{kind}' reads"
        assert plain in names
        assert (f"{plain}, with the other sign" in names) == (kind != "sample")
    assert "its answer has the other sign" in names
    assert len(names) == 2 + 2 * 3 + 1 + 2 - {"sample": 1, "denoiser": 0}.get(own, 2)


@pytest.mark.parametrize("own", PARAMETERIZATIONS)
def test_other_states_differ_by_the_state_alone(own):
    found = [each for alike in other_states(PARAMETERIZATIONS[own]) for each in alike]
    assert len(found) == 4
    assert all(len(each.parts) == 1 and "state" in each.parts[0] for each in found)


def test_errors_of_an_answer_are_those_of_what_it_stands_for():
    """Of an error of 1 in the output, but for a score, which is multiplied before."""
    log_snr = -2 * SIGMA.log()
    for each in next(conventions(PARAMETERIZATIONS["epsilon"])):
        if "answers a score" in str(each):
            continue
        output = answer(each, "epsilon")
        for read, error in ((each.x_0, each.data_error), (each.epsilon, each.noise_error)):
            changed = read(output + 1, X_T, A, S) - read(output, X_T, A, S)
            torch.testing.assert_close(changed[:, 0, 0, 0].square(), error(log_snr), msg=str(each))


# At σ = 3 and the time 0.9 of the chain.
TIMES = {
    "0..1000, not 0..1": 900.0,
    "0..1, not 0..1000": 0.0009,
    r"(1 − time)": 0.1,
    "1000 − 1000 time": 100.0,
    "log(σ)/4": math.log(3) / 4,
    "expects σ as": 3.0,
    "log(σ) as": math.log(3),
    "s = σ / (1 + σ)": 0.75,
    "1000 σ / (1 + σ)": 750.0,
    "from noise to data": 0.25,
    "(1000 * s).long()": 750.0,
}


def test_times_are_those_that_their_names_describe():
    alone = {
        each.parts[0]: each.network_input(X_T, TIME, A, S)[1]
        for each, *_ in conventions(PARAMETERIZATIONS["epsilon"])
        if len(each.parts) == 1 and "state" not in each.parts[0].split("(use")[0].split("of")[0]
    }
    for part, expected in TIMES.items():
        (name,) = [name for name in alone if part in name]
        assert float(alone[name][2]) == pytest.approx(expected), name
    for kind in ("linear", "scaled_linear", "cosine"):
        (name,) = [name for name in alone if f".{kind}(" in name]
        levels = getattr(NoiseSchedule, kind)(1000).sigmas[1:].tolist()
        for sigma, found in zip(SIGMA.tolist(), alone[name].tolist(), strict=True):
            nearest = min(range(1000), key=lambda t: abs(math.log(levels[t] / sigma)))
            assert found == nearest, name


def test_a_whole_time_ends_at_999():
    sigma = torch.full((1,), 1e9, dtype=torch.float64)
    a = (1 / (1 + sigma**2).sqrt()).view(1, 1, 1, 1)
    (each,) = [
        some[0]
        for some in conventions(PARAMETERIZATIONS["epsilon"])
        if len(some[0].parts) == 1 and "whole time" in some[0].parts[0]
    ]
    assert each.network_input(X_T[:1], TIME[:1], a, 1e9 * a)[1].tolist() == [999]


@pytest.mark.parametrize(
    ("lies", "given", "expected"),
    [
        (r"x_0 lies in [0, 1]", [0, 1], [-1, 1]),
        (r"x_0 lies in [-1, 1]", [-1, 1], [0, 1]),
        (r"x_0 lies in 0..255", [0, 255], [-1, 1]),
    ],
)
def test_ranges_are_mapped_end_to_end(lies, given, expected):
    (convert,) = [convert for name, convert in RANGES.items() if lies in name]
    assert convert(torch.tensor(given).double()).tolist() == expected
