"""What a control shows of a picture: edges, a hand's scribble, its outline, colours, mask, depth.

An annotator maps a picture, (H, W, 3) uint8, and a source of chance to a control, (H, W) uint8 of
grey or (H, W, 3) of colour. Lines are light on dark, as published ControlNets read them. The
subject of a picture is what is neither of the colour of its border nor joined to it. They need
OpenCV, the extra `control`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nelbo.base.errors import optional
from nelbo.data.scribble import draw_by_hand

Pixels = NDArray[np.uint8]
Annotator = Callable[[Pixels, np.random.Generator], Pixels]

# Thresholds of the gradient, of which the lower one continues an edge (Canny 1986).
_EDGES = (100, 200)
# The largest distance in 8-bit Lab of one colour of paper.
_PAPER = 14.0
# Cells of colour along the shorter side.
_CELLS = 8
# Sides for which a line is one pixel wide.
_LINE = 64
# Colours of a flat picture: the width of a bin of Lab, and the least part of the area of one.
_BIN, _LEAST_AREA, _MOST_COLOURS = 48, 0.02, 5


def opencv() -> Any:
    """The module cv2; an error where it is not installed."""
    return optional("cv2", "a control that is made of a picture", "control")


def canny(picture: Pixels, chance: np.random.Generator) -> Pixels:
    """Edges of Canny (1986), one pixel wide."""
    cv2 = opencv()
    return cv2.Canny(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), *_EDGES)


def mask(picture: Pixels, chance: np.random.Generator) -> Pixels:
    """The subject, white."""
    return np.where(subject(picture), 255, 0).astype(np.uint8)


def outline(picture: Pixels, chance: np.random.Generator) -> Pixels:
    """The contour of the subject, as a clean line."""
    cv2 = opencv()
    drawn = np.zeros(picture.shape[:2], np.uint8)
    width = max(1, round(min(drawn.shape) / _LINE))
    cv2.drawContours(drawn, _contours(subject(picture)), -1, 255, width)
    return drawn


def depth_like(picture: Pixels, chance: np.random.Generator) -> Pixels:
    """How far inside the subject a pixel lies, as of a cushion: lighter is nearer. No depth is
    measured."""
    cv2 = opencv()
    inside = cv2.distanceTransform(subject(picture).astype(np.uint8), cv2.DIST_L2, 5)
    height = np.sqrt(inside / max(float(inside.max()), 1e-6))
    return np.rint(255 * height).astype(np.uint8)


def colours(picture: Pixels, chance: np.random.Generator) -> Pixels:
    """The mean colours of some eight by eight cells."""
    cv2 = opencv()
    height, width = picture.shape[:2]
    cell = max(1, min(height, width) // _CELLS)
    small = (max(1, width // cell), max(1, height // cell))
    cells = cv2.resize(picture, small, interpolation=cv2.INTER_AREA)
    return cv2.resize(cells, (width, height), interpolation=cv2.INTER_NEAREST)


def scribble(picture: Pixels, chance: np.random.Generator) -> Pixels:
    """The contours of the subject and of its colours, as a hand with a mouse would draw them."""
    inside = subject(picture)
    lines = [contour[:, 0].astype(np.float64) for contour in _contours(inside)]
    inner = [c[:, 0].astype(np.float64) for part in _parts(picture, inside) for c in part]
    return draw_by_hand(opencv(), lines, inner, picture.shape[:2], chance)


ANNOTATORS: dict[str, Annotator] = {
    "canny": canny,
    "scribble": scribble,
    "outline": outline,
    "colours": colours,
    "mask": mask,
    "depth-like": depth_like,
}
# Those whose controls are light lines on a dark ground.
OF_LINES = ("canny", "scribble", "outline")


def subject(picture: Pixels) -> NDArray[np.bool_]:
    """Where the picture shows neither the colour of its border nor what is joined to the border by
    that colour, (H, W); everywhere where nothing else is there."""
    cv2 = opencv()
    lab = cv2.cvtColor(picture, cv2.COLOR_RGB2LAB).astype(np.float32)
    border = np.concatenate([lab[0], lab[-1], lab[:, 0], lab[:, -1]])
    paper = np.median(border, axis=0)
    alike = (np.linalg.norm(lab - paper, axis=-1) < _PAPER).astype(np.uint8)
    _, parts = cv2.connectedComponents(alike, connectivity=4)
    outer = np.unique(np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]]))
    outside = np.isin(parts, outer[outer > 0])
    return ~outside if not outside.all() else np.ones_like(outside)


def _contours(inside: NDArray[np.bool_]) -> list[Any]:
    cv2 = opencv()
    found, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    return list(found)


def _parts(picture: Pixels, inside: NDArray[np.bool_]) -> list[list[Any]]:
    """The contours of each of the few largest areas of one colour within the subject."""
    cv2 = opencv()
    lab = cv2.cvtColor(cv2.medianBlur(picture, 3), cv2.COLOR_RGB2LAB).astype(np.int64)
    bins = np.where(inside, (lab // _BIN) @ np.array([64, 8, 1]), -1)
    values, counts = np.unique(bins[inside], return_counts=True)
    largest = values[np.argsort(-counts)][:_MOST_COLOURS]
    least = _LEAST_AREA * inside.size
    return [_contours(bins == value) for value in largest if (bins == value).sum() >= least]
