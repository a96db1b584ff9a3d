"""Pieces of HTML that know nothing of models: images, bars, tables, lists.

Every function takes plain text and escapes it; what is named `_html` or returned is HTML.
"""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from nelbo.chain.estimate import Estimate
from nelbo.report.formatting import SUPERSCRIPTS, flatten, number, setting
from nelbo.report.grids import to_pil
from nelbo.report.tables import label

# The side that larger images are reduced to in the page, which would else weigh megabytes.
_LARGEST_SIDE = 128
_PANEL_WIDTH = 500
_IMAGE_SIDE = 56
_FLAT = str.maketrans(SUPERSCRIPTS, "−0123456789")
_FRAME_SIDE = 80
_NAMED_SIDE = 84  # holds twelve letters
_LONGEST_NAME = 24
_BREAKS = re.compile(r"(?<=[_/.-])(?=\w)")
_LEAST_FRAME_SIDE = 56  # holds a value with its unit
_LEAST_NAMED_SIDE = 48  # holds a number; twelve of them fit a narrow page


def image(pixels: UInt8[Tensor, "channels height width"], levels: int, alt: str = "") -> str:
    """One image, inlined as PNG; small ones show their pixels."""
    picture = to_pil(pixels, levels)
    kind = ""
    if max(picture.size) <= _LARGEST_SIDE // 2:
        kind = ' class="pixels"'
    picture.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    width, height = picture.size
    return (
        f'<img{kind} src="data:image/png;base64,{data}" alt="{escape(alt)}" '
        f'width="{width}" height="{height}">'
    )


def image_panel(
    title: str,
    images: UInt8[Tensor, "n channels height width"],
    levels: int,
    alt: str,
    names: Sequence[str] = (),
) -> str:
    """A titled grid of images that keeps its columns on narrow screens.

    Args:
        title: above the grid.
        images: pixel levels, (N, C, H, W).
        levels: how many levels a pixel has.
        alt: what the grid shows, in words that also go before the number of each image.
        names: what to write below each image, such as its class; nothing by default.
    """
    side = max(_IMAGE_SIDE, min(images.shape[-1], _LARGEST_SIDE))
    columns = max(1, _PANEL_WIDTH // (side + 4))
    cells = []
    for i, pixels in enumerate(images):
        name = names[i] if i < len(names) else ""
        shown = image(pixels, levels, f"{alt} {i + 1}{f': {name}' if name else ''}")
        below = f"<figcaption>{short_name(name)}</figcaption>" if name else ""
        cells.append(f"<figure>{shown}{below}</figure>" if name else shown)
    style = f"grid-template-columns: repeat({columns}, minmax(0, {side}px))"
    heading = f"<h3>{escape(title)}</h3>" if title else ""
    return (
        f"<figure>{heading}"
        f'<div class="images" role="group" aria-label="{escape(alt)}" '
        f'style="{style}">{"".join(cells)}</div></figure>'
    )


def pairs_panel(pairs: UInt8[Tensor, "pairs channels height width"], levels: int) -> str:
    """Images, each followed by its reconstruction, in two halves side by side."""
    half, alt = max(2, 2 * -(-len(pairs) // 4)), "original, then its reconstruction"
    return pair(*(image_panel("", some, levels, alt) for some in pairs.split(half)))


def captioned_images(
    images: UInt8[Tensor, "n channels height width"],
    levels: int,
    captions: Sequence[str],
    width: int,
    alt: str = "",
) -> str:
    """Images of at least this width in a row that wraps, each with its caption below.

    Where a caption is empty, `alt` is what is shown.
    """
    cells = "".join(
        f"<figure>{image(pixels, levels, alt=caption or alt)}"
        f"<figcaption>{escape(caption)}</figcaption></figure>"
        for pixels, caption in zip(images, captions, strict=True)
    )
    return (
        '<div class="images spaced" style="grid-template-columns: '
        f'repeat(auto-fill, minmax({width}px, 1fr))">{cells}</div>'
    )


def labelled_images(
    images: UInt8[Tensor, "n channels height width"],
    levels: int,
    labels: Sequence[tuple[str, str]],
    under: UInt8[Tensor, "n 3 height width"] | None = None,
    errors: Sequence[str] | None = None,
    links: Sequence[str | None] | None = None,
) -> str:
    """Images in a row that wraps, with a value, its error and a name below, a map between.

    Args:
        images: pixel levels, (N, C, H, W).
        levels: how many levels a pixel has.
        labels: a value and a name for each.
        under: a picture to go below each, such as a map of its bits.
        errors: of the values.
        links: where the file of each is; None for what is in no file.
    """
    side = max(_NAMED_SIDE, min(images.shape[-1], _LARGEST_SIDE))
    columns = max(1, _PANEL_WIDTH // (side + 10))
    maps = [""] * len(images)
    if under is not None:
        maps = [
            image(m, 256, f"where the bits of {name} go")
            for m, (_, name) in zip(under, labels, strict=True)
        ]
    found = [None] * len(images) if links is None else links
    known = [""] * len(images) if errors is None else errors
    small = [f"<small>{escape(error)}</small>" if error else "" for error in known]
    cells = "".join(
        f"<figure>{_linked(image(pixels, levels, alt=f'{name}: {value}'), link)}{below}"
        f"<figcaption><b>{escape(value)}</b>{error}{_linked(short_name(name), link)}"
        "</figcaption></figure>"
        for pixels, (value, name), below, error, link in zip(
            images, labels, maps, small, found, strict=True
        )
    )
    return (
        f'<div class="images spaced" '
        f'style="grid-template-columns: repeat({columns}, minmax(0, {side}px))">{cells}</div>'
    )


def short_name(name: str) -> str:
    """A name as HTML that shows its start and its end where it is long, whole in its title.

    Names of files differ at the end: a number, the part after the folders.
    """
    shown = name
    if len(name) > _LONGEST_NAME:
        tail = (_LONGEST_NAME - 1) * 2 // 3
        shown = f"{name[: _LONGEST_NAME - 1 - tail]}…{name[-tail:]}"
    # A line may end after what joins the parts of a file's name.
    broken = "<wbr>".join(escape(part) for part in _BREAKS.split(shown))
    return f'<span title="{escape(name)}">{broken}</span>'


def _linked(content_html: str, link: str | None) -> str:
    return content_html if link is None else f'<a href="{escape(link)}">{content_html}</a>'


def film(
    rows: Sequence[tuple[str, UInt8[Tensor, "frames channels height width"], bool]],
    under: Sequence[tuple[str, str]],
    alt: str,
    names: tuple[str, str] = ("", ""),
) -> str:
    """Rows of frames with what they have in common below.

    Args:
        rows: label as HTML, frames as 0..255, and whether a gap goes before the row.
        under: two values for each frame.
        alt: what the film shows.
        names: of the two values, to stand before them.
    """
    # A whole multiple of the image's width keeps its pixels square and equal.
    width = rows[0][1].shape[-1] if rows else _FRAME_SIDE
    side = max(width * (_FRAME_SIDE // width), min(width, _FRAME_SIDE))
    least = _LEAST_NAMED_SIDE if any(names) else _LEAST_FRAME_SIDE
    columns = f"auto repeat({len(under)}, minmax({min(side, least)}px, {side}px))"
    cells = []
    for label_html, pictures, is_apart in rows:
        apart = " next" if is_apart else ""
        cells += [f'<span class="row{apart}">{label_html}</span>']
        shown = [f"{alt}: {' '.join(part for part in pair if part)}" for pair in under]
        cells += [
            f'<div class="{apart.strip()}">{image(p, 256, what)}</div>'
            for p, what in zip(pictures, shown, strict=True)
        ]
    cells += [f'<div class="at"><b>{escape(a)}</b>{escape(b)}</div>' for a, b in (names, *under)]
    return (
        f'<div class="scroll"><div class="strip" role="group" aria-label="{escape(alt)}" '
        f'style="grid-template-columns: {columns}">'
        f"{''.join(cells)}</div></div>"
    )


def cost_bar(costs: Mapping[str, Estimate], unit: str, whole: tuple[float, str] | None) -> str:
    """The terms end to end on one scale, with their values below.

    Args:
        costs: each term by name, signed as a cost; a negative one grows left from zero.
        unit: of the costs.
        whole: a cost to compare with and its name: the bar's full width, or a mark on a bar that
            exceeds it.
    """
    terms = {name: cost for name, cost in costs.items() if name != "total"}
    gained = sum(min(0.0, c.mean) for c in terms.values() if math.isfinite(c.mean))
    spent = sum(max(0.0, c.mean) for c in terms.values() if math.isfinite(c.mean))
    right = max(spent, whole[0] if whole else 0.0)
    width = max(right - gained, 1e-12)
    ends = {True: 0.0, False: 0.0}
    segments = []
    for name, cost in terms.items():
        if not math.isfinite(cost.mean) or cost.mean == 0:
            continue
        is_gain = cost.mean < 0
        start = ends[is_gain] + min(0.0, cost.mean)
        ends[is_gain] += cost.mean
        segments.append(
            f'<span class="{name}" style="left: {100 * (start - gained) / width:.3f}%; '
            f'width: {100 * abs(cost.mean) / width:.3f}%"></span>'
        )
    zero = f'<i class="zero" style="left: {-100 * gained / width:.3f}%"></i>' if gained else ""
    spoken = ", ".join(f"{label(n)} {number(c.mean, 3)} {unit}" for n, c in terms.items())
    scale = f"<span>{number(gained, 2) if gained else '0'}</span>"
    mark = ""
    if whole and whole[0] < right:
        place = f"{100 * (whole[0] - gained) / width:.3f}%"
        mark = f'<i class="mark" style="left: {place}"><span>{escape(whole[1])}</span></i>'
    scale += f"<span>{escape(whole[1]) if whole and not mark else number(right, 2)}</span>"
    legend = "".join(
        f'<li class="{name}"><b>{raised(number(cost.mean, 3))}</b><span>{label(name)}</span></li>'
        for name, cost in terms.items()
    )
    return (
        f'<div class="costs"><div class="bar" role="img" aria-label="{escape(spoken)}">'
        f'{"".join(segments)}</div>{zero}{mark}<div class="scale">{scale}</div></div>'
        f'<ul class="legend">{legend}</ul>'
    )


class Row(NamedTuple):
    """A row of a table.

    Attributes:
        label: what it is of.
        cells: its values; an error after ± is written small.
        kind: its class.
        key: the class of the colour that stands before its label; "" for none.
    """

    label: str
    cells: Sequence[str]
    kind: str = ""
    key: str = ""


def table(columns: Sequence[str], rows: Iterable[Row], groups: Sequence[str] = ()) -> str:
    """Rows below a head, which scroll where the page is too narrow for them.

    Args:
        columns: the headings of the labels and of each cell.
        rows: the rows.
        groups: headings above those of the cells, each of as many columns.
    """
    span = (len(columns) - 1) // max(1, len(groups))
    above = "".join(f'<th colspan="{span}" scope="colgroup">{escape(g)}</th>' for g in groups)
    heads = "".join(f'<th scope="col">{escape(c)}</th>' if c else "<th></th>" for c in columns)
    body = "".join(map(_row, rows))
    head = f"<tr><th></th>{above}</tr><tr>{heads}</tr>" if groups else f"<tr>{heads}</tr>"
    return f'<div class="scroll"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>'


def _row(row: Row) -> str:
    kind = f' class="{row.kind}"' if row.kind else ""
    key = f'<span class="key {row.key}"></span>' if row.key else ""
    cells = "".join(f"<td>{_cell(cell)}</td>" for cell in row.cells)
    return f'<tr{kind}><th scope="row">{key}{escape(row.label)}</th>{cells}</tr>'


def _cell(text: str) -> str:
    mean, sign, error = text.partition(" ± ")
    return raised(escape(mean)) + (f"<small>± {raised(escape(error))}</small>" if sign else "")


def definitions(items: Iterable[tuple[str, str]], kind: str = "") -> str:
    """A list of names and values."""
    rows = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{raised(escape(value))}</dd></div>"
        for name, value in items
    )
    return f'<dl class="{kind}">{rows}</dl>'


def header(title: str, subtitle: str, headline: str, facts: Iterable[tuple[str, str]]) -> str:
    """The top of a report: what it is of, its one number as HTML, and plain facts."""
    below = f'<p class="subtitle">{escape(subtitle)}</p>' if subtitle else ""
    listed = definitions(facts, "facts")
    return f"<header><h1>{escape(title)}</h1>{below}{headline}{listed}</header>"


def settings(content: Mapping[str, Any]) -> str:
    """A section of settings, nested mappings, a group at a time."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for path, value in flatten(content):
        group = path[0] if len(path) > 1 else "general"
        name = " / ".join(path[1:] if len(path) > 1 else path)
        groups.setdefault(group, []).append((_setting_name(name), setting(path[-1], value)))
    if not groups:
        return ""
    tables = "".join(
        f"<section><h3>{escape(group.replace('_', ' ').capitalize())}</h3>{definitions(items)}"
        "</section>"
        for group, items in groups.items()
    )
    return section("Settings", "", f'<div class="settings">{tables}</div>')


def _setting_name(name: str) -> str:
    # A duration is shown with its own unit.
    words = name.replace("_", " ")
    return "time" if words == "seconds" else words.removesuffix(" seconds")


def raised(text: str) -> str:
    """Text with its superscript characters as <sup>, which fonts draw more evenly."""
    return re.sub(f"[{SUPERSCRIPTS}]+", lambda run: f"<sup>{run[0].translate(_FLAT)}</sup>", text)


def section(title: str, about: str, *parts_html: str) -> str:
    """A part of the page: its title, one line on what to see, and what there is."""
    intro = f'<p class="about">{escape(about)}</p>' if about else ""
    return f"<section><h2>{escape(title)}</h2>{intro}{''.join(parts_html)}</section>"


def captioned(content_html: str, caption: str, title: str = "") -> str:
    """A figure with its title above and a caption below."""
    heading = f"<h3>{escape(title)}</h3>" if title else ""
    return f"<figure>{heading}{content_html}<figcaption>{escape(caption)}</figcaption></figure>"


def pair(*parts_html: str) -> str:
    """Parts side by side, one above the other on narrow screens."""
    return f'<div class="pair">{"".join(parts_html)}</div>'
