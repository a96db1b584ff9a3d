r"""Another colour for a drawing, in its vector file.

The colours that a drawing is mostly of are moved in OKLCh (Ottosson 2020): lightness L, chroma C
and hue h. Where (L₀, C₀, h₀) is the dominant colour and (L₁, C₁, h₁) the new one,

    L → L₁ + s (L − L₀)    C → C₁ · C/C₀    h → h₁

for all colours whose hue is near h₀, so that shades stay shades. Outlines, white, and parts of
other hues stay as they are. A drawing without a dominant colour has none to be replaced.
"""

from __future__ import annotations

import io
import re
from typing import NamedTuple

import numpy as np
from _emoji_drawings import Drawing, page
from numpy.typing import NDArray
from PIL import Image

# Lightness, chroma, hue in degrees.
COLOURS = {
    "red": (0.58, 0.22, 27),
    "orange": (0.74, 0.17, 58),
    "yellow": (0.89, 0.17, 100),
    "green": (0.64, 0.18, 143),
    "blue": (0.58, 0.17, 256),
    "purple": (0.52, 0.20, 302),
    "pink": (0.80, 0.13, 355),
    "brown": (0.46, 0.08, 52),
    "grey": (0.68, 0.0, 0),
    "black": (0.27, 0.0, 0),
}
LEAST = 0.55  # the share of a drawing that its dominant colour covers
_SIDE = 48
_NEUTRAL = 0.045  # chroma below which a colour is grey
_LIGHT, _DARK = 0.94, 0.32  # lightness of what stays as it is: white, and outlines
_NEAR = 36  # degrees
_CONTRAST = 0.75
_HEX = re.compile(r"(?<!url\()(?<!href=\")#([0-9a-fA-F]{6}|[0-9a-fA-F]{3})\b")
_TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


class Dominant(NamedTuple):
    """The colour that covers most of a drawing: its OKLCh, and the share of the drawing."""

    lightness: float
    chroma: float
    hue: float
    share: float

    def holds(self, colour: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether these OKLCh colours, (..., 3), are of it or its shades."""
        lightness, chroma, hue = np.moveaxis(colour, -1, 0)
        if self.chroma < _NEUTRAL:
            return (chroma < _NEUTRAL) & (lightness > _DARK) & (lightness < _LIGHT)
        apart = np.abs((hue - self.hue + 180) % 360 - 180)
        return (chroma >= _NEUTRAL) & (apart <= _NEAR)


def dominant(drawing: Drawing) -> Dominant | None:
    """The dominant colour; None where none covers `LEAST` of the drawing."""
    pixels = _pixels(drawing)
    if len(pixels) < _SIDE:
        return None
    colours = to_oklch(pixels)
    inside = colours[(colours[:, 0] > _DARK) | (colours[:, 1] >= _NEUTRAL)]
    if len(inside) < len(colours) / 3:
        return None
    counts, _ = np.histogram(inside[inside[:, 1] >= _NEUTRAL, 2], bins=36, range=(0, 360))
    around = sum(np.roll(counts, shift) for shift in range(-3, 4))
    candidates = Dominant(0, 1, 10.0 * int(np.argmax(around)) + 5, 0), Dominant(0, 0, 0, 0)
    best = max((_of(kind, inside) for kind in candidates), key=lambda one: one.share)
    return best if best.share >= LEAST else None


def nearest(kind: Dominant) -> str:
    """Which of `COLOURS` a dominant colour is."""

    def lab(light: float, chroma: float, hue: float) -> NDArray[np.float64]:
        angle = np.radians(hue)
        return np.array([light, chroma * np.cos(angle), chroma * np.sin(angle)])

    own = lab(*kind[:3])
    return min(COLOURS, key=lambda name: float(np.square(lab(*COLOURS[name]) - own).sum()))


def recoloured(drawing: Drawing, old: Dominant, colour: str) -> Drawing:
    """The drawing in one of `COLOURS`."""
    light, chroma, hue = COLOURS[colour]

    def replaced(match: re.Match[str]) -> str:
        digits = match[1] if len(match[1]) == 6 else "".join(2 * digit for digit in match[1])
        rgb = np.array([int(digits[i : i + 2], 16) for i in (0, 2, 4)]) / 255
        found = to_oklch(rgb)
        if not old.holds(found):
            return match[0]
        new_light = np.clip(light + _CONTRAST * (found[0] - old.lightness), 0.1, 0.97)
        ratio = 1 if old.chroma < _NEUTRAL else float(np.clip(found[1] / old.chroma, 0.4, 1.2))
        new = np.rint(255 * to_rgb(np.array([new_light, chroma * ratio, hue]))).astype(int)
        return "#" + "".join(f"{value:02x}" for value in new)

    return drawing.with_body(_HEX.sub(replaced, drawing.body))


def to_oklch(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """sRGB in 0..1 → lightness, chroma, hue in degrees, (..., 3)."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    lab = np.cbrt(linear @ _TO_LMS.T) @ _TO_LAB.T
    chroma, hue = np.hypot(lab[..., 1], lab[..., 2]), np.arctan2(lab[..., 2], lab[..., 1])
    return np.stack([lab[..., 0], chroma, np.degrees(hue) % 360], -1)


def to_rgb(lch: NDArray[np.float64]) -> NDArray[np.float64]:
    """The inverse of `to_oklch`; colours outside of sRGB are clipped."""
    angle = np.radians(lch[..., 2])
    lab = np.stack([lch[..., 0], lch[..., 1] * np.cos(angle), lch[..., 1] * np.sin(angle)], -1)
    linear = (lab @ np.linalg.inv(_TO_LAB).T) ** 3 @ np.linalg.inv(_TO_LMS).T
    linear = np.clip(linear, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def _of(kind: Dominant, colours: NDArray[np.float64]) -> Dominant:
    """The mean colour of those that a kind holds, and their share."""
    own = colours[kind.holds(colours)]
    if not len(own):
        return kind
    angle = np.radians(own[:, 2])
    hue = np.degrees(np.arctan2(np.sin(angle).mean(), np.cos(angle).mean())) % 360
    chroma = own[:, 1].mean() if kind.chroma else 0.0
    return Dominant(float(own[:, 0].mean()), float(chroma), float(hue), len(own) / len(colours))


def _pixels(drawing: Drawing) -> NDArray[np.float64]:
    """The opaque pixels, (N, 3) in 0..1."""
    import resvg_py

    png = resvg_py.svg_to_bytes(
        svg_string=page(drawing.at(0, 0, 100)), width=_SIDE, height=_SIDE, skip_system_fonts=True
    )
    rgba = np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGBA")).reshape(-1, 4) / 255
    return rgba[rgba[:, 3] > 0.9, :3]
