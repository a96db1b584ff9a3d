"""Numbers and settings as people read them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

NOTHING = "—"
_ROUNDING = 1e-9
SUPERSCRIPTS = "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"
_RAISED = str.maketrans("-0123456789", SUPERSCRIPTS)


def number(value: float, decimals: int) -> str:
    """A value with that many decimals; in powers of ten where they would all be zero.

    What is below 10⁻⁹ is the rounding of floating point, and zero.
    """
    if math.isnan(value):
        return NOTHING
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if _ROUNDING < abs(value) < 0.5 * 10.0**-decimals:
        return scientific(value)
    text = f"{value:,.{decimals}f}"
    if float(text.replace(",", "")) == 0:
        text = text.removeprefix("-")
    return text.replace("-", "−")


def with_error(value: float, error: float | None, decimals: int) -> str:
    """A value ± its error, both with that many decimals and neither rounded to zero.

    Without an error, which is None or nan, the value alone.
    """
    shown = number(value, decimals)
    if error is None or math.isnan(error):
        return shown
    return f"{shown} ± {number(error, decimals)}"


def scientific(value: float) -> str:
    """A value as 2.1×10⁻⁵, two significant digits."""
    mantissa, exponent = f"{value:.1e}".split("e")
    mantissa = mantissa.removesuffix(".0").replace("-", "−")
    return f"{mantissa}×10{str(int(exponent)).translate(_RAISED)}"


def compact(value: float) -> str:
    """A value in the fewest digits: 0.002, 1,000, 10⁻⁵."""
    if not math.isfinite(value):
        return number(value, 0)
    if value != 0 and not 1e-4 <= abs(value) < 1e7:
        mantissa, exponent = f"{value:.6e}".split("e")
        mantissa = mantissa.rstrip("0").rstrip(".").replace("-", "−")
        power = f"10{str(int(exponent)).translate(_RAISED)}"
        return power if mantissa == "1" else f"{mantissa}×{power}"
    return f"{value:,.6g}".replace("-", "−")


def duration(seconds: float) -> str:
    """A time as 45 s, 2 min, 1 min 30 s or 3 h 5 min."""
    if not math.isfinite(seconds):
        return NOTHING
    if seconds < 60:
        return f"{compact(float(round(seconds, 1)))} s"
    whole = round(seconds)
    units = [("h", whole // 3600), ("min", whole % 3600 // 60), ("s", whole % 60)]
    kept = [f"{count} {unit}" for unit, count in units if count]
    return " ".join(kept[:2])


def setting(name: str, value: Any) -> str:
    """One setting as text; the name decides the unit of times."""
    if value is None or value == "":
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        if name.endswith("seconds"):
            return duration(float(value))
        # A seed is a name, not an amount.
        return str(value) if name.endswith("seed") else compact(float(value))
    if isinstance(value, Sequence | set | frozenset) and not isinstance(value, str | bytes):
        return ", ".join(setting("", item) for item in value) or NOTHING
    return str(value)


def flatten(settings: Any, prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The leaves of nested mappings in order: (path of names, value)."""
    if not isinstance(settings, Mapping):
        yield prefix, settings
        return
    for name, value in settings.items():
        yield from flatten(value, (*prefix, str(name)))
