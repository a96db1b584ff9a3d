"""Films of walks, and images in batches with noise of their own."""

from __future__ import annotations

import math

import pytest
import torch

from nelbo import Condition, Diffusion, NelboError, NoiseSchedule
from nelbo.chain.distributions import generator_for
from nelbo.diffusion.sampler import State
from nelbo.samplers import DDIM
from nelbo.samplers.batches import Film, in_batches, sample_in_batches
from nelbo.samplers.default import default_sampler, suited_sampler
from nelbo.samplers.watched import Watched
from tests.chain.test_model import Plain


def kept(film: Film, states: int, batches: int = 1) -> list[torch.Tensor]:
    """The frames of a film of states whose x is their number, and x_0 the negative."""
    for batch in range(batches):
        for k in range(states):
            x = torch.full((2, 1, 1, 1), float(k)) + 1000 * batch
            film.watch(k, State(x=x, x_0=-x, t=0))
    return list(film.frames())


@pytest.mark.parametrize("T", [20, 300])
def test_a_film_keeps_the_states_at_even_angles_and_the_last(T):
    """48 angles from that of the first state to 0, of x_t = cos φ x_0 + sin φ ε."""
    schedule = NoiseSchedule.linear(T, 0.001, 0.1)
    path = DDIM(T).path(schedule)
    angles = [math.acos(math.sqrt(schedule.alphas_cumprod[t])) for t in range(T, 0, -1)]
    targets = [angles[0] * (1 - i / 47) for i in range(48)]
    nearest = {min(range(T), key=lambda k: abs(angles[k] - goal)) for goal in targets}
    found = [int(frame[0]) for frame in kept(Film(path, "x_t"), T)]
    assert found == sorted(nearest | {T - 1})


def test_a_frame_is_of_all_batches():
    path = DDIM(3).path(NoiseSchedule.linear(3, 0.1, 0.5))
    frames = kept(Film(path, "x_0"), 3, batches=2)
    assert [frame.flatten().tolist() for frame in frames] == [
        [-k, -k, -1000 - k, -1000 - k] for k in range(3)
    ]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7])
@pytest.mark.parametrize("repeat", [1, 3])
def test_noise_does_not_depend_on_the_batch(batch_size, repeat):
    def drawn(some, generators, advance):
        assert len(generators) == some.stop - some.start
        return torch.stack([torch.randn(1, 2, 2, generator=g) for g in generators])

    options = {"num_states": 1, "seed": 5, "repeat": repeat}
    found = in_batches("", 7, drawn, batch_size=batch_size, **options)
    assert torch.equal(found, in_batches("", 7, drawn, batch_size=7, **options))
    for i in range(1, 7):
        assert torch.equal(found[i], found[i - 1]) == (i % repeat != 0)


@pytest.mark.parametrize("n", [1, 10])
def test_images_are_to_fit_into_memory_twice(n, monkeypatch):
    """Of 4 numbers of 4 bytes each: as batches, and joined."""

    def drawn(some, generators, advance):
        return torch.zeros(len(generators), 1, 2, 2)

    def found(free: int) -> torch.Tensor:
        monkeypatch.setattr("nelbo.samplers.batches.available_memory", lambda device: free)
        return in_batches("", n, drawn, 1, batch_size=3, seed=0)

    assert found(2 * 16 * n).shape == (n, 1, 2, 2)
    with pytest.raises(NelboError, match=rf"{n} images of 1×2×2 take .*draw fewer"):
        found(2 * 16 * n - 1)


def test_a_watched_walk_is_the_walk():
    schedule = NoiseSchedule.linear(6, 0.1, 0.5)
    model = Diffusion(lambda x, time, condition: 0.3 * x, schedule, shape=(1, 2, 2))
    x_T, seen = torch.ones(2, 1, 2, 2), []
    watched = Watched(DDIM(4), lambda k, state: seen.append((k, state.x)))
    found = watched.sample(model, x_T)
    states = [state.x for state in DDIM(4).iterate(model, x_T)]
    assert [k for k, _ in seen] == [0, 1, 2, 3]
    for (_, x), expected in zip(seen, states, strict=True):
        assert torch.equal(x, expected)
    assert torch.equal(found, states[-1])
    assert watched.path(schedule) == DDIM(4).path(schedule)


@pytest.mark.parametrize(("T", "steps"), [(20, 20), (25, 25), (1000, 25)])
def test_the_default_takes_25_steps_or_as_many_as_there_are_levels(T, steps):
    schedule = NoiseSchedule.linear(T, 1e-3, 0.1)
    assert default_sampler(schedule) == default_sampler(schedule, steps)


def test_a_suited_sampler_has_no_more_steps_than_levels():
    schedule = NoiseSchedule.linear(20, 1e-3, 0.4)
    model = Diffusion(torch.nn.Identity(), schedule, shape=(1, 2, 2))
    assert suited_sampler(model, 7) == default_sampler(schedule, 7)
    assert suited_sampler(model, 50) == default_sampler(schedule, 20)
    assert suited_sampler(Plain(), 7) is None


class Counts:
    """A progress bar, with what was counted of what there is."""

    def __init__(self, description: str, total: int) -> None:
        self.description, self.total, self.done = description, total, 0
        Counts.last = self

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        pass

    def __call__(self, more: int) -> None:
        self.done += more


@pytest.mark.parametrize("n", [1, 5])
def test_samples_of_a_chain_are_those_of_each_alone(n, monkeypatch):
    monkeypatch.setattr("nelbo.samplers.batches.Counting", Counts)
    schedule = NoiseSchedule.linear(6, 0.1, 0.5)
    model = Diffusion(
        lambda x, time, condition: 0.1 * x + condition.label.view(-1, 1, 1, 1), schedule,
        shape=(1, 2, 2),
    )  # fmt: skip
    condition, seen = Condition(label=torch.arange(5)[:n]), []
    found = sample_in_batches(
        model, DDIM(3), n, condition=condition, batch_size=2, watch=lambda k, _: seen.append(k)
    )
    alone = [
        model.sample(1, DDIM(3), condition=condition[[i]], generator=generator_for(0, i))
        for i in range(n)
    ]
    torch.testing.assert_close(found, torch.cat(alone))
    batches = (n + 1) // 2
    assert seen == [0, 1, 2] * batches
    assert Counts.last.done == Counts.last.total == 3 * batches
    assert Counts.last.description == ("Sampling 1 image" if n == 1 else "Sampling 5 images")


def test_a_model_without_a_chain_counts_its_batches(monkeypatch):
    monkeypatch.setattr("nelbo.samplers.batches.Counting", Counts)

    class Noise(Plain):
        def sample(self, n, sampler=None, *, condition=None, generator=None):
            assert sampler is None
            return torch.cat([torch.rand(1, 3, 4, 5, generator=g) for g in generator])

    assert sample_in_batches(Noise(), None, 5, batch_size=2).shape == (5, 3, 4, 5)
    assert Counts.last.done == Counts.last.total == 3


def test_the_default_draws_no_noise_but_that_it_starts_from():
    schedule = NoiseSchedule.linear(20, 1e-3, 0.4)
    model = Diffusion(lambda x, time, condition: 0.3 * x, schedule, shape=(1, 2, 2))
    x_T = torch.ones(1, 1, 2, 2)
    drawn = [
        model.sample(1, default_sampler(schedule), x_T=x_T, generator=generator_for(seed))
        for seed in (0, 1)
    ]
    assert torch.equal(*drawn)
