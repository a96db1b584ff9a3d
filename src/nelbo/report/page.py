"""The report of a run as one HTML file that needs nothing else: no network, no scripts."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from nelbo.base.files import new_file
from nelbo.report import chain_sections, coarse_to_fine, control, fragments, sections
from nelbo.report.beside import quality_section
from nelbo.report.run_report import RunReport
from nelbo.version import __version__


def render(report: RunReport) -> str:
    """The report as HTML."""
    parts = [
        sections.header(report),
        control.pictures(report) or sections.pictures(report),
        quality_section(report.reading),
        sections.reconstructions(report),
        sections.bound_table(report),
        sections.beside_files(report),
        coarse_to_fine.section(report.coded),
        chain_sections.levels(report),
        control.section(report),
        chain_sections.forward(report),
        chain_sections.reverse(report),
        sections.extremes(report),
        sections.training(report),
        fragments.settings(report.settings),
        sections.words(report),
    ]
    return page(report.title, parts)


def page(title: str, parts: Iterable[str]) -> str:
    """A page of sections as HTML; empty ones are left out."""
    resources = files("nelbo.report")
    template = Template((resources / "template.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=escape(title),
        style=(resources / "style.css").read_text(encoding="utf-8"),
        content="\n".join(part for part in parts if part),
        footer=f"Written by nelbo {escape(__version__)}.",
    )


def write_html(html: str, path: str | Path) -> None:
    """Write a page, whole or not at all.

    Raises:
        NelboError: it cannot be written.
    """
    with new_file(Path(path)) as temporary:
        # Paths may hold bytes that are not UTF-8.
        temporary.write_text(html, encoding="utf-8", errors="backslashreplace")
