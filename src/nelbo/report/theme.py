"""The colours of plots and page, and figures that follow the page's theme.

The three terms keep one colour each everywhere, distinct in the common colour blindnesses.
Figures are drawn in mid tones that read on white and on black; inside a page each tone becomes a
CSS variable, so that the page decides between light and dark.
"""

from __future__ import annotations

import io
import re

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nelbo.report.fragments import captioned

# All must differ, since the page replaces each by its own variable.
COLORS = {
    "ink": "#75726d",
    "muted": "#7a7772",
    "rule": "#bdb9b1",
    "reconstruction": "#d98014",
    "prior-matching": "#a85a9a",
    "score-matching": "#3b7cc0",
    "train": "#9b978f",
}

_PLAIN = {"Date": None, "Creator": None, "Format": None, "Type": None}


def new_figure(width: float = 5.0, height: float = 3.3) -> Figure:
    """An empty figure of that size in inches, on a transparent page, outside any global state."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def to_inline_svg(figure: Figure, name: str, description: str) -> str:
    """The figure as an <svg> element of a page: its fonts and colours are the page's.

    Args:
        figure: drawn in `COLORS`.
        name: distinguishes the figures of one page; letters and dashes.
        description: what the figure shows, for those who cannot see it; already escaped.
    """
    svg = _svg(figure)
    svg = svg[svg.index("<svg") :]
    width, height = re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)[0]
    body = svg[svg.index(">") + 1 :]
    # A style sheet in here would reach the whole page, and identities must be unique in it.
    body = re.sub(r"<style.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="([^"]*)"', rf'id="{name}-\1"', body)
    body = body.replace("url(#", f"url(#{name}-").replace('xlink:href="#', f'href="#{name}-')
    body = re.sub(r"font-family: [^;\"]*", "font-family: inherit", body)
    for color, value in COLORS.items():
        body = body.replace(value, f"var(--{color})")
    return (
        f'<svg role="img" aria-label="{description}" viewBox="0 0 {width} {height}" '
        f'style="max-width: {float(width) * 1.5:.0f}px">{body}'
    )


def panel(figure: Figure, name: str, description: str, caption: str, title: str) -> str:
    """The figure as `to_inline_svg` in a page, with its title above and a caption below."""
    return captioned(to_inline_svg(figure, name, description), caption, title)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    # Without a salt of its own the identities, and so the file, would differ at every run.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "nelbo"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=_PLAIN)
    return buffer.getvalue()
