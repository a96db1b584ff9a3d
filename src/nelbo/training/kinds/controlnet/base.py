"""The model that a ControlNet controls, and the ControlNet to begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nelbo.base.errors import NelboError, explained
from nelbo.chain.model import Model
from nelbo.formats import Pipeline
from nelbo.formats.controlnets import uncontrolled
from nelbo.formats.files import read_own
from nelbo.formats.model_directory import resolve
from nelbo.networks import ControlledUNet, ControlNet, UNet
from nelbo.networks.files import CONFIG_FILE

# Widths of the convolutions that take a control to the resolution of x_t, halving it between one
# and the next, as those of Stable Diffusion; further ones are as wide as the last.
_EMBEDDING = (16, 32, 96, 256)


def read_base(path: str) -> Model:
    """The model to control.

    Raises:
        NelboError: as `nelbo.load`, a model without a UNet, or one that has a ControlNet already.
    """
    with explained("--base"):
        pipeline = Pipeline.open(path)
    if pipeline.is_controlled:
        raise NelboError(
            f"--base: {path} has a ControlNet itself; give the base that it controls, and "
            "--start-from to train that ControlNet on"
        )
    return frozen(pipeline.model(), path)


def base_within(path: str) -> Model:
    """The base of a run that has a ControlNet."""
    model = Pipeline.open(path).model()
    return frozen(model.with_network(uncontrolled(model.chain.network)), path)


def frozen(model: Any, path: str) -> Model:
    """The model, none of whose weights is to change.

    Raises:
        NelboError: a model without a UNet.
    """
    network = None if model.chain is None else model.chain.network
    if not isinstance(network, UNet):
        found = "no network" if network is None else f"a {type(network).__name__}"
        raise NelboError(f"--base: a ControlNet controls a UNet, and {path} has {found}")
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    if model.chain.variance != "analytic":
        model.chain.profile = None  # it is of the base alone
    return model


def fresh_controlnet(base: Model) -> ControlNet:
    """A ControlNet that starts as a copy of the base's encoder and adds nothing yet.

    Raises:
        NelboError: a base that does not know its size, or whose network has a field that no
            ControlNet has.
    """
    if base.shape is None or base.chain.shape is None:
        raise NelboError("--base: the model does not know its size")
    factor, halvings = base.shape[1] // base.chain.shape[1], 0
    while factor > 1:
        factor, halvings = factor // 2, halvings + 1
    widths = [*_EMBEDDING, *_EMBEDDING[-1:] * halvings][: halvings + 1]
    net = ControlNet.from_unet(
        base.chain.network, conditioning_embedding_out_channels=tuple(widths)
    )
    return net.requires_grad_(True)


def noted_control(path: str) -> str | None:
    """What the controls of a run showed in training; None where that is not noted.

    Args:
        path: the run, or the folder of a ControlNet in it.
    """
    where = Path(resolve(path))
    notes = read_own(resolve(path))
    if notes is None and (where / CONFIG_FILE).is_file():
        notes = read_own(where.absolute().parent)
    return (notes or {}).get("control")


def trained_controlnet(path: str, advice: str = "") -> ControlNet:
    """The ControlNet in a directory of its own, as diffusers saves a `ControlNetModel`, or of a run
    or pipeline.

    Args:
        path: the directory, or a Hub id.
        advice: what to do with a model that has none.

    Raises:
        NelboError: there is none, or there are several.
    """
    where = Path(resolve(path))
    if not where.is_dir() or (where / CONFIG_FILE).is_file():
        return ControlNet.from_pretrained(path)
    network = Pipeline.open(path).model().chain.network
    if not isinstance(network, ControlledUNet):
        raise NelboError(f"{path} has no ControlNet{advice}")
    if len(network.nets) > 1:
        raise NelboError(f"{path} has {len(network.nets)} ControlNets: give the folder of one")
    return network.nets[0]
