"""What coding coarse to fine costs and loses, beside what the bound says."""

from __future__ import annotations

from matplotlib.figure import Figure

from nelbo.coding.rate_distortion import Curve, RateDistortion
from nelbo.report import fragments
from nelbo.report.axes import PLAIN, legend, new_plot
from nelbo.report.theme import COLORS, panel


def section(found: RateDistortion | None) -> str:
    """The curve with a line on what it shows; nothing without one."""
    if found is None:
        return ""
    images = f"{found.pictures} test image{'s' * (found.pictures > 1)}"
    figure = panel(
        curve(found),
        "rate-distortion",
        "PSNR against bytes, as measured and by the bound",
        "Each point is a level of the chain, x_T at the left: the bytes that are written once it "
        "is reached, without the 9 at the start, and the PSNR of the picture that is finished "
        "from there; bars are two standard errors. The line is what the terms of the bound above "
        "the level add up to, with exact draws of x_t.",
        f"Rate and distortion, {images}",
    )
    return fragments.section(
        "Coarse to fine", "Any prefix of a picture that is coded coarse to fine decodes.", figure
    )


def curve(found: RateDistortion) -> Figure:
    """PSNR against bytes."""
    figure, axes = new_plot()
    x, y, _ = _points(found.theory)
    axes.plot(x, y, color=COLORS["muted"], linewidth=1.4, label="by the bound")
    x, y, bars = _points(found.measured)
    axes.errorbar(
        x, y, bars, fmt="o", markersize=4.5, color=COLORS["score-matching"], label="measured"
    )
    axes.set_xlabel("bytes of a picture")
    axes.set_ylabel("PSNR, dB")
    axes.set_xlim(left=0.0)
    axes.xaxis.set_major_formatter(PLAIN)
    legend(axes, loc="best")
    return figure


def _points(found: Curve) -> tuple[list[float], list[float], list[float]]:
    """Bytes, PSNR and twice its standard error."""
    return (
        [rate.mean for rate in found.bytes],
        [psnr.mean for psnr in found.psnr],
        [2 * psnr.standard_error for psnr in found.psnr],
    )
