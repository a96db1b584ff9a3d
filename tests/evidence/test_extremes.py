"""Which images surprise most: evaluated anew, and in an order only where it is known."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from nelbo import Bound
from nelbo.chain.evidence import Costs
from nelbo.evidence import extremes
from nelbo.evidence.evaluation import evaluate
from nelbo.evidence.extremes import Extremes, _end, find_extremes, possible_places, told_apart
from tests.evidence.test_timed_evaluation import T, exact, images, model  # noqa: F401

EVEN = torch.full((T - 1,), 1 / (T - 1), dtype=torch.float64)


def places(values, errors) -> list[tuple[int, int]]:
    return possible_places(
        torch.tensor(values, dtype=torch.float64), torch.tensor(errors, dtype=torch.float64)
    )


def test_places_by_hand():
    assert places([5.0, 1.0, 3.0], [0.1, 0.1, 0.1]) == [(1, 1), (3, 3), (2, 2)]
    # 5 and 4 differ by 1, less than 1.96 √(0.4² + 0.4²) = 1.11; both are clear of 1.
    assert places([5.0, 4.0, 1.0], [0.4, 0.4, 0.4]) == [(1, 2), (1, 2), (3, 3)]
    # Overlap is no chain: the ends are apart though each overlaps the middle.
    assert places([5.0, 4.0, 3.0], [0.4, 0.4, 0.4]) == [(1, 2), (1, 3), (2, 3)]
    # The border itself does not tell apart.
    assert places([1.96, 0.0], [1.0, 0.0]) == [(1, 2), (1, 2)]
    assert places([1.97, 0.0], [1.0, 0.0]) == [(1, 1), (2, 2)]
    assert places([2.0, 2.0], [0.0, 0.0]) == [(1, 2), (1, 2)]
    assert places([9.0, 1.0], [math.nan, 0.1]) == [(1, 2), (1, 2)]
    assert places([1.0], [0.1]) == [(1, 1)]


def test_the_places_hold_the_true_order(model):  # noqa: F811
    """Where intervals of 95% say that two are apart, they are; the true place is nearly always in
    the interval."""
    data = images(30)
    each = exact(model, data, 60)
    true_place = {
        name: 1 + int((each > value).sum()) for name, value in zip(data.names, each, strict=True)
    }
    inside = total = 0
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        first = Bound.cat(list(evaluate(model, data, levels=4, generator=generator)))
        least, most = find_extremes(
            model, data, first, EVEN, shown=4, seconds=0.0, seed=seed, clock=lambda: 0.0
        )
        for end, sign in ((most, 1), (least, -1)):
            assert len(end.data) == 4
            assert list(end.data.names) == [data.names[i] for i in end.index.tolist()]
            bits = sign * end.bound.bits_per_dim
            assert (bits.diff() <= 0).all()
            # Places are among the candidates, of which the order by chance left some out.
            place = [true_place[n] if sign > 0 else 31 - true_place[n] for n in end.data.names]
            for (low, _), where in zip(end.places, place, strict=True):
                inside += low <= where
                total += 1
    assert inside / total > 0.93


def test_it_goes_on_until_the_order_is_known_or_the_time_is_spent(model):  # noqa: F811
    data = images(12)
    generator = torch.Generator().manual_seed(0)
    first = Bound.cat(list(evaluate(model, data, levels=4, generator=generator)))
    clock = model.network.clock
    start = clock()
    hasty = find_extremes(model, data, first, EVEN, shown=3, seconds=0.0, clock=clock)
    assert clock() - start < 12 * 12 * 0.01 + 1e-9
    long = find_extremes(model, data, first, EVEN, shown=3, seconds=1e6, clock=clock)
    assert long[0].bound.levels.shape[1] > hasty[0].bound.levels.shape[1]
    assert long[0].bound.levels.shape[1] <= 128
    for end in (*hasty, *long):  # a draw of level 1 for each two of the others, as at first
        assert (2 * end.bound.reconstruction_calls >= end.bound.levels.shape[1]).all()

    def width(ends) -> int:
        return sum(last - low for end in ends for low, last in end.places)

    assert width(long) <= width(hasty)


def test_the_figures_are_not_those_that_chose_them(model):  # noqa: F811
    """The most surprising by a noisy bound were partly lucky; their new figures are not."""
    data = images(40)
    each = exact(model, data, 60)
    biases = []
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        first = Bound.cat(list(evaluate(model, data, levels=1, generator=generator)))
        _, most = find_extremes(
            model, data, first, EVEN, shown=20, seconds=0.0, seed=seed, clock=lambda: 0.0
        )
        true = each[most.index]
        biases.append(float((most.bound.bits_per_dim - true).mean()))
    found = torch.tensor(biases)
    assert abs(found.mean()) < 4 * found.std() / math.sqrt(len(found))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_images(model, n):  # noqa: F811
    data = images(n)
    first = Bound.cat(list(evaluate(model, data, levels=4)))
    least, most = find_extremes(model, data, first, EVEN, shown=6, seconds=0.0)
    assert len(least.data) == len(most.data) == 1
    if n == 1:  # it is at both ends, and so at neither
        assert told_apart(least, most) == ()


def test_as_many_are_shown_as_differ_from_the_other_end():
    """By hand, where 1.11 distinguishes two."""

    def counts(least: list[float], most: list[float], error: float = 0.4) -> list[int]:
        return [len(end.data) for end in told_apart(_end_of(least, error), _end_of(most, error))]

    assert counts([1.0, 2.0, 3.0], [5.0, 4.0, 2.5]) == [2, 2]
    # Each is apart from the one across, and 2.9 is not from 2.
    assert counts([1.0, 2.0], [9.0, 2.9]) == [1, 1]
    assert counts([2.0], [2.9]) == []
    # What has no probability costs more than anything; an unknown error distinguishes nothing.
    assert counts([1.0], [math.inf]) == [1, 1]
    assert counts([1.0], [9.0], error=math.nan) == []
    least, most = told_apart(_end_of([1.0, 2.0, 3.0]), _end_of([5.0, 4.0, 2.5]))
    assert least.bound.bits_per_dim.tolist() == pytest.approx([1.0, 2.0])
    assert most.bound.bits_per_dim.tolist() == pytest.approx([5.0, 4.0])
    assert len(most.places) == len(most.index) == 2


def _end_of(bits: list[float], error: float = 0.4) -> Extremes:
    """Images of these bits/dim, each with a Monte Carlo error; 1.96 √2 0.4 = 1.11 tells apart."""
    nat, calls = 64 * math.log(2), torch.ones(len(bits), dtype=torch.int64)
    variance = torch.full((len(bits),), (error * nat) ** 2)
    bound = Costs("bound", {"total": torch.tensor(bits) * nat}, 64, calls, variance)
    return Extremes(images(len(bits)), torch.arange(len(bits)), bound, ((1, 1),) * len(bits))


@pytest.mark.parametrize("rounds", [1.0, 1.9, 2.1, 3.0, 3.9, 4.1, 7.0, 8.1])
def test_a_round_is_begun_where_it_ends_in_time(rounds, model):  # noqa: F811
    """Each draws as much as all before it, which is known to take as long."""
    data, clock = images(12), model.network.clock
    first = Bound.cat(list(evaluate(model, data, levels=4)))
    # 8 levels and 4 draws of level 1, of 12 images.
    seconds = rounds * 12 * 12 * 0.01
    start = clock()
    ends = find_extremes(model, data, first, EVEN, shown=3, seconds=seconds, clock=clock)
    assert clock() - start <= seconds + 1e-6
    if not all(end.in_order for end in ends):
        taken = 2 ** int(math.log2(rounds))
        assert int(ends[0].bound.calls[0]) == 12 * taken


@pytest.mark.parametrize("known", [(True, False), (False, True), (False, False)])
def test_both_orders_have_to_be_known_or_128_levels_drawn(known, model, monkeypatch):  # noqa: F811
    data = images(4)
    first = Bound.cat(list(evaluate(model, data, levels=4)))

    def end(candidates, index, bound, some, shown, *, least):
        found = _end(candidates, index, bound, some, shown, least=least)
        places = tuple((k, k if known[not least] else k + 1) for k in range(1, len(found.data) + 1))
        return replace(found, places=places)

    monkeypatch.setattr(extremes, "_end", end)
    for found in find_extremes(model, data, first, EVEN, shown=2, seconds=1e9):
        # The last round would draw 64, and has every level of the chain once in place of that.
        assert found.bound.levels.shape[1] == 8 + 8 + 16 + 32 + T - 1
