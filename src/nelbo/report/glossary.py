"""What the words and the terms of the report mean, each with its formula in HTML."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import NamedTuple

_X0 = "<i>x</i><sub>0</sub>"
_X1 = "<i>x</i><sub>1</sub>"
_XT = "<i>x</i><sub><i>T</i></sub>"
_Xt = "<i>x</i><sub><i>t</i></sub>"
_Xs = "<i>x</i><sub><i>t</i>−1</sub>"
_ABAR = "<i>ᾱ</i><sub><i>t</i></sub>"
_KL = "KL"


class Entry(NamedTuple):
    """A word, one sentence of plain text, and its formula as HTML."""

    word: str
    meaning: str
    formula_html: str


_TERMS = [
    Entry(
        "Bound (ELBO)",
        "A number that the log-likelihood of an image cannot be below: made of the three terms "
        "that follow. Its negative, the cost, is what the report shows.",
        f"log <i>p</i>({_X0}) ≥ ELBO = reconstruction − prior matching − score matching",
    ),
    Entry(
        "Reconstruction",
        "How likely the last step of the decoder makes the image, given the least noisy latent.",
        f"E<sub><i>q</i></sub>[log <i>p</i>({_X0} | {_X1})]",
    ),
    Entry(
        "Prior matching",
        "How far the noisiest latent still is from the pure noise that sampling starts from. "
        "The noise schedule alone decides it, and a good one keeps it close to zero.",
        f"{_KL}(<i>q</i>({_XT} | {_X0}) ‖ <i>p</i>({_XT}))",
    ),
    Entry(
        "Score matching",
        "How far each step of the decoder is from the step that one would take if one knew the "
        "image, summed over the chain: this is what the network is trained for.",
        f"∑<sub><i>t</i>=2</sub><sup><i>T</i></sup> E<sub><i>q</i>({_Xt}|{_X0})</sub> "
        f"{_KL}(<i>q</i>({_Xs} | {_Xt}, {_X0}) ‖ <i>p</i>({_Xs} | {_Xt}))",
    ),
    Entry(
        "Level",
        "Where in the chain a latent is: level 0 is the image, level T is noise. The noise scale "
        "is the weight of the noise.",
        f"{_Xt} = √{_ABAR} {_X0} + √(1 − {_ABAR}) <i>ε</i>",
    ),
    Entry(
        "Standard error",
        "How much a mean would change from one set of images to the next: the standard deviation "
        "over images, divided by the root of their number.",
        "<i>s</i> / √<i>n</i>",
    ),
]
_PROBABILITY = Entry(
    "Bits per dimension",
    "The cost in bits for each value of an image. Pixels are integers, so this bounds "
    "their true code length: an ideal coder stores the image in at most that many bits. It "
    "compares with published figures for the same images and pixel levels.",
    f"−log<sub>2</sub> <i>P</i>({_X0}) / dims ≤ −ELBO / (dims · ln 2)",
)
_DENSITY = Entry(
    "Bits per dimension",
    "The cost in bits for each value of an image. The data are continuous, so this bounds a "
    "density: it may be negative, it changes when the data are scaled, and it does not compare "
    "with figures for integer pixels.",
    f"−log<sub>2</sub> <i>p</i>({_X0}) / dims ≤ −ELBO / (dims · ln 2)",
)


# The terms that an autoencoder adds to those of its prior.
OF_AUTOENCODER = (
    Entry(
        "Reconstruction",
        "Of the pixels, by the decoder; a cost of its own that no prior can lower.",
        "E[log <i>p</i>(<i>x</i>|<i>z</i><sub>0</sub>)]",
    ),
    Entry(
        "Entropy of the encoder",
        "What is won back, since any latent that the encoder might draw does as well.",
        "H[<i>q</i>(<i>z</i><sub>0</sub>|<i>x</i>)]",
    ),
    Entry(
        "Reconstruction of latents",
        "A density of the same latents as the entropy: only the sum of the two has a meaning.",
        "E[log <i>p</i>(<i>z</i><sub>0</sub>|<i>z</i><sub>1</sub>)]",
    ),
)


def glossary(density: bool, *, chain: bool = True) -> str:
    """The entries as an HTML list, with the note on units that fits the data.

    Args:
        density: whether the figures are those of a density.
        chain: whether they are of a chain, whose terms and levels need their words.
    """
    bits = _DENSITY if density else _PROBABILITY
    return entry_list([*_TERMS[:4], bits, *_TERMS[4:]] if chain else [bits, _TERMS[-1]])


def entry_list(entries: Iterable[Entry]) -> str:
    """Entries as an HTML list."""
    items = "".join(
        f"<dt>{escape(entry.word)}</dt><dd>{escape(entry.meaning)}"
        f'<span class="formula">{entry.formula_html}</span></dd>'
        for entry in entries
    )
    return f'<dl class="glossary">{items}</dl>'
