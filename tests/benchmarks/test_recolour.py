"""Recolouring: the colour space against published values, and that only what is meant changes."""

from __future__ import annotations

import numpy as np
import pytest
from _emoji_drawings import Drawing
from _recolour import COLOURS, dominant, nearest, recoloured, to_oklch, to_rgb

pytest.importorskip("resvg_py")

APPLE = Drawing(
    "0 0 10 10",
    '<circle cx="5" cy="5" r="4" fill="#e03020"/><path d="M3 4a2 2 0 0 1 2-2v2z" fill="#f58"/>'
    '<circle cx="5" cy="5" r="4" fill="none" stroke="#000" stroke-width=".6"/>'
    '<path d="M5 1h2v1H5z" fill="#3a3"/>',
)


@pytest.mark.parametrize(
    ("rgb", "lch"),
    [
        ((1, 0, 0), (0.6280, 0.2577, 29.23)),  # CSS Color 4, sample values of OKLCh
        ((0, 1, 0), (0.8664, 0.2948, 142.50)),
        ((0, 0, 1), (0.4520, 0.3132, 264.05)),
    ],
)
def test_the_primaries_are_where_css_has_them(rgb, lch):
    assert to_oklch(np.array(rgb, dtype=float)) == pytest.approx(np.array(lch), rel=2e-3)


def test_there_and_back():
    rgb = np.random.default_rng(0).uniform(size=(100, 3))
    assert np.abs(to_rgb(to_oklch(rgb)) - rgb).max() < 1e-6


@pytest.mark.parametrize("colour", sorted(COLOURS))
def test_a_red_apple_in_every_colour(colour):
    old = dominant(APPLE)
    assert old is not None
    assert nearest(old) == "red"
    new = recoloured(APPLE, old, colour)
    found = dominant(new)
    if colour != "black":  # no colour but an outline
        assert found is not None
        assert nearest(found) == colour
    # The outline and the stalk stay, and so does what is no colour.
    assert '"#000"' in new.body
    assert '"#3a3"' in new.body
    assert new.body.count("#") == APPLE.body.count("#")
    assert "#e03020" not in new.body


def test_gradients_are_recoloured_and_their_names_are_not():
    body = (
        '<linearGradient id="fad"><stop stop-color="#d22"/></linearGradient>'
        '<use href="#bad"/><rect width="10" height="10" fill="url(#fad)"/>'
    )
    drawing = Drawing("0 0 10 10", body)
    old = dominant(Drawing("0 0 10 10", '<rect width="10" height="10" fill="#d22"/>'))
    assert old is not None
    new = recoloured(drawing, old, "blue")
    assert "url(#fad)" in new.body
    assert 'href="#bad"' in new.body
    assert "#d22" not in new.body


def test_a_drawing_of_many_colours_has_none():
    quarters = ("#d22", "#2b2", "#22d", "#dd2")
    body = "".join(
        f'<rect x="{5 * (i % 2)}" y="{5 * (i // 2)}" width="5" height="5" fill="{fill}"/>'
        for i, fill in enumerate(quarters)
    )
    assert dominant(Drawing("0 0 10 10", body)) is None
