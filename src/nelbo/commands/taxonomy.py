"""The families that `nelbo compare` sets side by side, in the order of the lecture's taxonomy.

Nothing heavy is imported here, so that the command line shows its help at once. A family that is
added to `nelbo.families` is one more line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nelbo.base.arguments import check_choice


@dataclass(frozen=True)
class Entry:
    """A family in the taxonomy.

    Attributes:
        model: the name of its class in `nelbo.families`; None for what `nelbo train` trains.
        title: what tables call it.
        group: the part of the taxonomy that it belongs to.
        candidates: arguments of its class, of which held-out images choose.
        train: arguments of `nelbo train`, where that trains it.
    """

    model: str | None
    title: str
    group: str
    candidates: tuple[Mapping[str, Any], ...] = ({},)
    train: tuple[str, ...] = ()


def _candidates(argument: str, *values: Any) -> tuple[Mapping[str, Any], ...]:
    return tuple({argument: value} for value in values)


def _trained(title: str, arguments: str) -> Entry:
    return Entry(None, title, HIERARCHICAL, train=tuple(arguments.split()))


LATENT, SEQUENCE = "latent variables", "sequence models"
ADVERSARIAL, HIERARCHICAL = "adversarial", "Markovian hierarchical VAEs"

TAXONOMY: dict[str, Entry] = {
    "ppca": Entry("PPCA", "PPCA", LATENT, _candidates("latents", 1, 4, 8, 16, 32)),
    "vae": Entry("VAE", "VAE", LATENT),
    "markov": Entry("MarkovModel", "Markov model", SEQUENCE, _candidates("order", 1, 2, 3, 4)),
    "hmm": Entry("HMM", "HMM", SEQUENCE, _candidates("states", 16, 64)),
    "lds": Entry("LDS", "LDS", SEQUENCE, _candidates("latents", 4, 8)),
    "rnn": Entry("RNN", "RNN (GRU)", SEQUENCE),
    "ssm": Entry("SSM", "SSM", SEQUENCE),
    "gan": Entry("GAN", "GAN", ADVERSARIAL),
    "gan_classical": Entry("GAN", "GAN, classical", ADVERSARIAL, _candidates("loss", "classical")),
    "hierarchical": Entry("HierarchicalVAE", "hierarchical VAE", HIERARCHICAL),
    "diffusion": _trained("diffusion", "--model pixel"),
    "flow": _trained(
        "flow matching",
        "--model pixel --prediction velocity --schedule flow_matching --objective hybrid",
    ),
    "latent": _trained("latent diffusion", "--model latent --condition none --widths 64 96"),
}


def chosen(names: Sequence[str]) -> list[str]:
    """The families asked for, each once, in the order of the taxonomy; all without any.

    Raises:
        NelboError: the name of no family.
    """
    for name in names:
        check_choice("family", name, TAXONOMY)
    return [name for name in TAXONOMY if not names or name in names]
