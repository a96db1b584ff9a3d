"""What a training run is asked to do; every field has a default that suits small images.

Nothing heavy is imported here, so that the command line shows its help at once.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from nelbo.base.arguments import check_choice
from nelbo.base.errors import NelboError
from nelbo.training.ranges import check_numbers, option

DEFAULT_TIME_BUDGET = "10m"
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
BALANCES = ("none", "labels", "captions")
OPTIMIZERS = ("muon", "adamw")
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True)
class TrainingConfig:
    """How to train."""

    steps: int | None = None
    """Number of optimisation steps; None trains for the time budget."""
    time_budget: str | None = None
    """Training time, such as 90s, 10m or 2h; 10m if no steps are given either."""
    batch_size: int = 64
    """Images a step, over all processes."""
    gradient_accumulation: int = 1
    """Parts that a process computes its images in, one after another, to save memory."""
    precision: str = "auto"
    """What the network computes in: fp32, bf16, fp16, or auto, bf16 if it is measured to be faster
    here. Weights and the bound stay float32."""
    checkpoint_activations: bool = False
    """Compute activations twice rather than keep them, to save memory."""
    compile: bool = False
    """Compile the network with torch.compile."""
    shard: bool = False
    """Shard the weights over the processes (FSDP) rather than replicate them (DDP)."""
    objective: str = "bound"
    """What a diffusion model minimises: bound, hybrid, clipped or simple, or a weighted bound:
    min_snr, p2, sigmoid or edm."""
    snr_gamma: float = 5.0
    """γ of min_snr: the signal-to-noise ratio above which the weight falls."""
    sigmoid_bias: float = 2.0
    """b of sigmoid: the log signal-to-noise ratio at which the weight is one half."""
    level_sampler: str = "low_discrepancy"
    """Which levels a batch is at: low_discrepancy spreads them evenly, uniform draws each on its
    own, importance draws those with a large loss more often."""
    level_shift: float = 1.0
    """Shift of the levels, for the objectives simple, hybrid and clipped: above 1, noisier levels,
    where the content of an image is decided, are drawn more often and count more; below 1, cleaner
    ones."""
    balance: str = "none"
    """Show rare images more often: labels, by the number of images of the same class; captions, by
    the number of images that share the rarest word of the caption; or none, all equally often."""
    balance_power: float = 0.5
    """Show an image in proportion to that number to minus this power: 0.5 is the square root, 1
    shows each class or rarest word equally often."""
    input_perturbation: float = 0.0
    """Extra noise on the network's input, as a share of the noise that is there; 0.1 if any."""
    horizontal_flip: bool = False
    """Mirror half of the images, left to right, anew each step."""
    optimizer: str = "adamw"
    """What moves the weights: adamw; or muon, whose steps of a matrix are as long in all of its
    directions, with AdamW for all that is no matrix."""
    learning_rate: float = 2e-3
    """Peak learning rate."""
    weight_decay: float = 0.01
    """Decoupled weight decay, on matrices and convolutions."""
    beta2: float = 0.99
    """AdamW's decay of second moments."""
    warmup: float = 0.05
    """Share of the run over which the learning rate rises linearly; all the while it falls to zero
    on a cosine."""
    warmup_steps: int | None = None
    """Steps of linear warm-up, instead of --warmup."""
    gradient_clip: float = 1.0
    """Largest gradient norm."""
    ema_decay: float = 0.99
    """Decay of the moving average of the weights, which is what the run keeps."""
    label_dropout: float = 0.1
    """Share of labels or captions withheld from a model, for classifier-free guidance."""
    save_every: str = "60s"
    """Time between checkpoints."""
    keep_checkpoints: int = 2
    """How many of the latest checkpoints to keep, beside the best by its validation bound."""
    validate_every: int = 0
    """Steps between readings of the bound of held-out images and sample grids; 0 for none."""
    snapshot_every: int = 0
    """Steps between stored power averages of the weights, from which an average of any length can
    be made afterwards; 0 for none."""
    seed: int = 0
    """Source of all randomness."""

    def check(self) -> None:
        """Raise `NelboError` for a value that makes no sense, naming it."""
        check_numbers(
            self,
            at_least_one=("steps", "batch_size", "gradient_accumulation", "keep_checkpoints"),
            positive=("learning_rate", "gradient_clip", "snr_gamma", "level_shift"),
            not_negative=(
                *("warmup_steps", "weight_decay", "validate_every", "snapshot_every", "seed"),
                *("input_perturbation", "balance_power"),
            ),
            below_one=("ema_decay", "label_dropout", "beta2", "warmup"),
        )
        if self.warmup_steps is not None and self.warmup != TrainingConfig.warmup:
            raise NelboError(
                "--warmup is a share of the run and --warmup-steps a number of steps: give one"
            )
        named = {"precision": PRECISIONS, "balance": BALANCES, "optimizer": OPTIMIZERS}
        for name, known in named.items():
            check_choice(option(name), getattr(self, name), known)
        if self.balance == "none" and self.balance_power != TrainingConfig.balance_power:
            raise NelboError("--balance-power sets the strength of --balance: give that as well")
        parse_duration(self.save_every)
        if self.time_budget is not None:
            parse_duration(self.time_budget)

    @property
    def seconds(self) -> float | None:
        """The time budget in seconds; None where only the steps limit the run."""
        if self.time_budget is not None:
            return parse_duration(self.time_budget)
        return None if self.steps is not None else parse_duration(DEFAULT_TIME_BUDGET)


def parse_duration(text: str) -> float:
    """Seconds of "90", "90s", "10m", "1.5h" or "2d".

    Raises:
        NelboError: anything else, or zero.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", text.strip().lower())
    seconds = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if not 0 < seconds < math.inf:
        raise NelboError(f"{text!r} is not a duration: expected something like 90s, 10m or 2h")
    return seconds
