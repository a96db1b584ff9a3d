"""What is held out depends on names alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nelbo import NelboError
from nelbo.data.splits import held_out, share

NAMES = st.lists(st.text(min_size=1), min_size=2, max_size=60, unique=True)


@given(NAMES)
def test_both_splits_have_images(names):
    assert 0 < sum(held_out(names)) < len(names)


@given(NAMES, NAMES)
def test_a_growing_set_keeps_its_splits(names, more):
    """Names in train stay, and names in test by the rule stay, whatever is added."""
    grown = names + [name for name in more if name not in names]
    after = dict(zip(grown, held_out(grown), strict=True))
    for name, was_held_out in zip(names, held_out(names), strict=True):
        if (share(name) < 0.1) == was_held_out and any(share(n) < 0.1 for n in names):
            assert after[name] == was_held_out


def test_a_tenth_is_held_out():
    names = [f"picture {i}.png" for i in range(20_000)]
    assert sum(held_out(names)) == pytest.approx(2000, abs=4 * (20_000 * 0.09) ** 0.5)


def test_shares_are_fixed_for_ever():
    # BLAKE2b("a.png") by coreutils: printf a.png | b2sum -l 64
    assert share("a.png") == 0xE203797DE73BF656 / 2**64


def test_one_image_cannot_be_split():
    with pytest.raises(NelboError, match="at least two"):
        held_out(["a"])
