"""What families draw, on the page of their comparison: images in a row, or points of the plane."""

from __future__ import annotations

from html import escape

from jaxtyping import UInt8
from torch import Tensor

from nelbo.report import fragments

# Images that are drawn in a row.
SHOWN = 12
# Values of an image that is drawn as a point.
PLANE = 2


def figure(title: str, figures: str, content_html: str) -> str:
    """Content with a family's name above, and its figures beside that."""
    return (
        f'<figure style="margin-bottom: 26px"><h3>{escape(title)} '
        f'<small style="font-weight: 400; color: var(--muted)">{escape(figures)}</small></h3>'
        f"{content_html}</figure>"
    )


def drawn(images: UInt8[Tensor, "n channels height width"], levels: int, title: str) -> str:
    """Images in a row; those of two values as points of the plane."""
    if images[0].numel() == PLANE:
        return _points(images, levels, title)
    each = "".join(
        fragments.image(pixels, levels, f"{title}, sample {i + 1}")
        for i, pixels in enumerate(images)
    )
    # Twelve in a row of a wide window, six in one of a telephone.
    columns = "grid-template-columns: repeat(auto-fill, max(50px, 6.7%))"
    return (
        f'<div class="images" role="group" aria-label="Samples of {escape(title)}" '
        f'style="{columns}">{each}</div>'
    )


def _points(images: Tensor, levels: int, title: str) -> str:
    dots = "".join(
        f'<circle cx="{x}" cy="{levels - 1 - y}" r="2"/>' for x, y in images.flatten(1).tolist()
    )
    return (
        f'<svg viewBox="-3 -3 {levels + 5} {levels + 5}" role="img" aria-label="{len(images)} '
        f'points of {escape(title)}" style="width: 220px; background: var(--track); '
        f'fill: var(--score-matching); fill-opacity: 0.6">{dots}</svg>'
    )
