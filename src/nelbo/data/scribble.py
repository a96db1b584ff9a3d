"""Lines as a hand with a mouse draws them: wobbly, of wrong proportions, with gaps, not closed.

Each drawing has a stroke width, a wobble and proportions of its own; each line is simplified,
begins where the hand happens to, ends short of its beginning or beyond it, and may have a gap.
A line that runs along one that is drawn already is left out, as a hand does not draw it twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Line = NDArray[np.float64]

# In units of the shorter side: width of a stroke, wobble, simplification; least length of a line.
_WIDTH, _WOBBLE, _SIMPLER, _SHORTEST = (0.02, 0.07), (0.0, 0.02), (0.004, 0.03), 0.12
# Proportions: scale of an axis, shear, turn in degrees, shift.
_SCALE, _SHEAR, _TURN, _SHIFT = 0.12, 0.08, 6.0, 0.03
# How far short of its beginning, or beyond it, a line ends; the longest gap, and how often.
_UNCLOSED, _GAP, _GAPS = 0.1, 0.2, 0.4
# How often a line within the subject is drawn, and how often a drawing is of its outline alone.
_INNER, _OUTLINE_ALONE = 0.8, 0.25
# Drawn this many times larger, for smooth edges; points of a wobble.
_FINER, _KNOTS = 4, 0.08


def draw_by_hand(
    cv2: Any,
    outlines: Sequence[Line],
    inner: Sequence[Line],
    size: tuple[int, int],
    chance: np.random.Generator,
) -> NDArray[np.uint8]:
    """A drawing of lines, white on black, (H, W).

    Args:
        cv2: OpenCV.
        outlines: closed lines (n, 2) of x and y that are always drawn.
        inner: lines that are drawn mostly.
        size: (H, W) of the picture that they are lines of.
        chance: decides on all else.
    """
    height, width = size
    side = min(size)
    wobble, simpler = side * chance.uniform(*_WOBBLE), side * chance.uniform(*_SIMPLER)
    stroke = max(1, round(_FINER * side * chance.uniform(*_WIDTH)))
    move = _proportions(size, chance)
    lines = list(outlines)
    if chance.random() >= _OUTLINE_ALONE:
        lines += [line for line in inner if chance.random() < _INNER]
    drawn = np.zeros((_FINER * height, _FINER * width), np.uint8)
    taken = np.zeros(size, np.uint8)
    for line in lines:
        for part in _untaken(line, taken):
            if len(part) < max(3.0, _SHORTEST * side):
                continue
            points = np.rint(part).astype(np.int32)
            cv2.polylines(taken, [points], False, 1, 1 + 2 * round(0.04 * side))
            strokes = _strokes(_simplified(cv2, part, simpler), chance)
            for each in strokes:
                placed = _wobbly(each, wobble, _KNOTS * side, chance) @ move[:, :2].T + move[:, 2]
                ends = np.rint(_FINER * (placed + 0.5)).astype(np.int32)
                cv2.polylines(drawn, [ends], False, 255, stroke, cv2.LINE_AA)
    return cv2.resize(drawn, (width, height), interpolation=cv2.INTER_AREA)


def _proportions(size: tuple[int, int], chance: np.random.Generator) -> NDArray[np.float64]:
    """A 2 × 3 affine map around the centre of the picture."""
    centre = np.array([size[1], size[0]]) / 2
    turn = np.deg2rad(chance.uniform(-_TURN, _TURN))
    turned = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    scaled = np.diag(chance.uniform(1 - _SCALE, 1 + _SCALE, 2))
    sheared = np.array([[1.0, chance.uniform(-_SHEAR, _SHEAR)], [0.0, 1.0]])
    linear = turned @ sheared @ scaled
    shift = min(size) * chance.uniform(-_SHIFT, _SHIFT, 2)
    return np.column_stack([linear, centre + shift - linear @ centre])


def _untaken(line: Line, taken: NDArray[np.uint8]) -> list[Line]:
    """The stretches of a closed line that do not run along lines that are drawn."""
    x, y = np.rint(line).astype(int).T
    free = taken[y.clip(0, taken.shape[0] - 1), x.clip(0, taken.shape[1] - 1)] == 0
    if free.all():
        return [np.concatenate([line, line[:1]])]
    # Begin where a stretch ends, so that none is cut.
    start = int(np.argmin(free))
    line, free = np.roll(line, -start, 0), np.roll(free, -start)
    edges = np.flatnonzero(np.diff(free.astype(int))) + 1
    parts = zip(np.split(line, edges), np.split(free, edges), strict=True)
    return [part for part, is_free in parts if is_free[0]]


def _simplified(cv2: Any, line: Line, tolerance: float) -> Line:
    """The line with fewer corners."""
    closed = bool((line[0] == line[-1]).all())
    open_line = (line[:-1] if closed else line).astype(np.float32)[:, None]
    points = cv2.approxPolyDP(open_line, tolerance, closed)[:, 0].astype(np.float64)
    return np.concatenate([points, points[:1]]) if closed else points


def _strokes(line: Line, chance: np.random.Generator) -> list[Line]:
    """The line as it is drawn: begun anywhere, not quite closed, perhaps in two."""
    closed = bool(np.allclose(line[0], line[-1]))
    start = chance.uniform() if closed else max(0.0, chance.uniform(-_UNCLOSED, _UNCLOSED))
    length = 1 + chance.uniform(-_UNCLOSED, _UNCLOSED if closed else 0.0)
    if chance.random() >= _GAPS:
        return [_stretch(line, start, start + length, closed)]
    gap, at = chance.uniform(0.03, _GAP) * length, chance.uniform(0.2, 0.7) * length
    return [
        _stretch(line, start, start + at, closed),
        _stretch(line, start + at + gap, start + length, closed),
    ]


def _stretch(line: Line, start: float, end: float, closed: bool) -> Line:
    """A part of a line by shares of its length, its corners included; a closed one goes round."""
    steps = np.linalg.norm(np.diff(line, axis=0), axis=1)
    at = np.concatenate([[0.0], steps.cumsum()]) / max(float(steps.sum()), 1e-9)
    count = max(8, round(64 * (end - start)))
    places = np.linspace(start, max(end, start + 0.02), count)
    places = places % 1.0 if closed else places.clip(0.0, 1.0)
    return np.column_stack([np.interp(places, at, line[:, i]) for i in (0, 1)])


def _wobbly(line: Line, size: float, knots: float, chance: np.random.Generator) -> Line:
    """The line with a smooth error, of a knot about every `knots` pixels."""
    length = float(np.linalg.norm(np.diff(line, axis=0), axis=1).sum())
    count = max(3, round(length / max(knots, 1.0)))
    error = size * chance.standard_normal((count, 2))
    places = np.linspace(0, count - 1, len(line))
    return line + np.column_stack(
        [np.interp(places, np.arange(count), error[:, i]) for i in (0, 1)]
    )
