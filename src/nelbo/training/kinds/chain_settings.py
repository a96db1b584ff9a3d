"""What the settings of every diffusion model have in common: its network and its chain.

Nothing heavy is imported here, so that the command line shows its help at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nelbo.base.arguments import check_choice
from nelbo.base.errors import NelboError
from nelbo.training.ranges import check_numbers

NETWORKS = ("unet", "dit")
# Far beyond what anyone trains, of what is made before its memory is known.
MOST = {"levels": 100_000, "layers": 100, "blocks": 1000}


@dataclass(frozen=True)
class ChainSettings:
    """The network and the chain of a diffusion model.

    Attributes:
        of_unet: the settings that a transformer does not have.
    """

    of_unet: ClassVar[tuple[str, ...]] = ("layers",)
    network: str = "unet"
    """unet, or dit, a transformer of patches."""
    schedule: str | None = None
    """Noise schedule."""
    shift: float = 1.0
    """Of --schedule flow_matching: above 1 more of the levels are noisy."""
    levels: int = 1000
    """Length T of the chain."""
    prediction: str = "v_prediction"
    """What the network predicts: epsilon, sample, v_prediction, velocity (flow matching), or
    denoiser (EDM, preconditioned)."""
    layers: int = 1
    """Residual blocks of the UNet at each resolution."""
    blocks: int | None = None
    """Blocks of the transformer; by default a thirty-second of its width, from 4 to 12."""
    patch: int | None = None
    """Side of a patch of the transformer; by default the smallest that makes at most 16 a side."""

    def check(self) -> None:
        """Raise `NelboError` for a setting that makes no sense, naming it."""
        check_numbers(
            self,
            at_least_one=("levels", "layers", "blocks", "patch"),
            at_most=MOST,
            positive=("shift",),
        )
        check_choice("--network", self.network, NETWORKS)
        if self.network == "unet" and (self.blocks or self.patch):
            raise NelboError("--blocks and --patch are for --network dit: leave them out")
        usual = all(getattr(self, name) == getattr(type(self), name) for name in self.of_unet)
        if self.network == "dit" and not usual:
            raise NelboError(
                "--layers and --attention are for --network unet; a transformer has --blocks"
            )
        if self.shift != ChainSettings.shift and self.chosen_schedule != "flow_matching":
            raise NelboError(
                "--shift is of --schedule flow_matching: give that as well, or leave it out"
            )

    @property
    def chosen_schedule(self) -> str | None:
        """The noise schedule, with what the other settings decide."""
        return self.schedule
