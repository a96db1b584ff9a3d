"""The networks that pipelines hold and training goes on with: a new one is named here."""

from __future__ import annotations

from nelbo.base.errors import NelboError
from nelbo.networks.denoiser import Denoiser
from nelbo.networks.dit import DiT, TextDiT
from nelbo.networks.unet import UNet

DENOISERS: list[type[Denoiser]] = [UNet, DiT, TextDiT]


def denoiser_to_save(network: object) -> Denoiser:
    """The network, as one that a pipeline can hold.

    Raises:
        NelboError: a callable of another class.
    """
    known: tuple[type[Denoiser], ...] = tuple(DENOISERS)
    if not isinstance(network, known):
        names = ", ".join(each.__name__ for each in known)
        raise NelboError(
            f"the network is of class {type(network).__name__}, and only {names} can be saved; "
            "of a guided model save model.unguided"
        )
    return network
