"""What families of models come to on the same images with the same time: figures and their errors.

With S seeds and n test images the mean of bits/dim has two errors: over images, the spread of the
images' means over seeds divided by √n, and over seeds, the spread of the seeds' means over images
divided by √S. The Fréchet distance has a sampling error, from random halves of the samples, and one
over seeds.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from nelbo.base.errors import NelboError
from nelbo.base.files import read_json
from nelbo.evidence.modes import Modes
from nelbo.evidence.sample_quality import Likeness

# The feature spaces that samples are judged in, as `sample_quality` has them; figures that stand
# alone are of the last.
SPACES = ("principal components", "random convolutions")
SHOWN_SPACE = SPACES[-1]
# The folder of a comparison that holds a file of figures for each family and seed.
FIGURES = "figures"
# What a fit may take beyond its budget before its row mentions it: a step is not cut in half.
_LATE, _LATE_SECONDS = 1.25, 1.0


@dataclass(frozen=True)
class Spread:
    """A mean with two errors; nan where one is not known.

    Attributes:
        mean: over seeds.
        error: over test images, or of the sampling of what is judged.
        over_seeds: over seeds.
    """

    mean: float
    error: float
    over_seeds: float


@dataclass(frozen=True)
class Figures:
    """What one family came to with one seed.

    Attributes:
        family: its name in the taxonomy.
        seed: of all that was drawn.
        kind: of its evidence, "exact", "bound" or "none".
        bits: bits/dim of each test image; empty for the kind "none".
        monte_carlo_error: of their mean, bits/dim; nan where it is not known.
        quality: `SpaceQuality.to_json` of its samples in each of `SPACES`.
        modes: `Modes.to_json` of them.
        sample_seconds: wall-clock time of one sample.
        parameters: how many numbers were fitted.
        steps: updates or iterations of the fit.
        passes: how often each training image was seen.
        seconds: what the fit took.
        choice: what was chosen by held-out images; "" for nothing.
        shape: (N, C, H, W) of the samples to show.
        pixels: their pixel levels, uint8, in base64.
    """

    family: str
    seed: int
    kind: str
    bits: tuple[float, ...]
    monte_carlo_error: float
    quality: Mapping[str, Any]
    modes: Mapping[str, float]
    sample_seconds: float
    parameters: int
    steps: int
    passes: float
    seconds: float
    choice: str
    shape: tuple[int, ...]
    pixels: str

    @property
    def samples(self) -> UInt8[Tensor, "n channels height width"]:
        """The samples to show, pixel levels."""
        values = bytearray(base64.b64decode(self.pixels))
        return torch.frombuffer(values, dtype=torch.uint8).reshape(self.shape)

    @property
    def bits_per_dim(self) -> float:
        """The mean over test images; nan without a likelihood."""
        return sum(self.bits) / len(self.bits) if self.bits else math.nan

    def to_json(self) -> dict[str, Any]:
        """For a file; what is not finite is null there."""
        return asdict(self)

    @classmethod
    def read(cls, file: Path) -> Figures:
        """Of a file of what `to_json` gave.

        Raises:
            NelboError: a field that is missing or of another kind.
        """
        content = read_json(file)
        try:
            found = {each.name: content[each.name] for each in fields(cls)}
            found["bits"] = tuple(_number(bit) for bit in found["bits"])
            found["shape"] = tuple(int(side) for side in found["shape"])
            found["monte_carlo_error"] = _number(found["monte_carlo_error"])
            figures = cls(**found)
            figures._check()
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise NelboError(
                f"{file} holds no figures of a family ({error}): remove it, and nelbo compare "
                "trains this family again"
            ) from error
        return figures

    def _check(self) -> None:
        """Read each figure once; errors are those of Python."""
        for space, part in product(SPACES, ("samples", "real")):
            for figure in fields(Likeness):
                _number(self.quality[space][part][figure.name])
        counts = [self.modes[each.name] for each in fields(Modes)]
        took = (self.sample_seconds, self.parameters, self.steps, self.passes, self.seconds)
        for value in (*counts, *took):
            float(value)
        "".join((self.family, self.choice))
        if self.kind not in ("exact", "bound", "none"):
            raise ValueError(f"kind is {self.kind!r}")
        pixels = len(base64.b64decode(self.pixels, validate=True))
        if not pixels or min(self.shape) < 1 or math.prod(self.shape) != pixels:
            raise ValueError(f"shape is {self.shape}, of {pixels:,} pixels")


def packed(samples: UInt8[Tensor, "n channels height width"]) -> dict[str, Any]:
    """The fields `shape` and `pixels` of samples."""
    text = base64.b64encode(samples.contiguous().numpy().tobytes()).decode()
    return {"shape": tuple(samples.shape), "pixels": text}


@dataclass(frozen=True)
class Standing:
    """What one family came to with all seeds.

    Attributes:
        name: in the taxonomy.
        title: what tables call it.
        group: the part of the taxonomy that it belongs to.
        runs: its figures, a seed each.
        failures: why it has none, by seed.
    """

    name: str
    title: str
    group: str
    runs: tuple[Figures, ...]
    failures: Mapping[int, str]

    @property
    def kind(self) -> str:
        """The kind of its evidence; "" where every seed failed."""
        return self.runs[0].kind if self.runs else ""

    @property
    def bits(self) -> Spread:
        """Bits/dim of the test images, with the errors over images and over seeds."""
        known = [run.bits for run in self.runs if run.bits]
        if not known:
            return Spread(math.nan, math.nan, math.nan)
        values = torch.tensor(known, dtype=torch.float64)
        return Spread(float(values.mean()), _error(values.mean(0)), _error(values.mean(1)))

    @property
    def monte_carlo_error(self) -> float:
        """Of the mean over seeds, bits/dim."""
        errors = [run.monte_carlo_error for run in self.runs]
        return math.hypot(*errors) / len(errors) if errors else math.nan

    def frechet(self, space: str) -> Spread:
        """The Fréchet distance in a feature space, with its sampling error and that over seeds."""
        errors = torch.tensor(self._each(space, "frechet_error"), dtype=torch.float64)
        values = torch.tensor(self._each(space, "frechet"), dtype=torch.float64)
        if not len(values):
            return Spread(math.nan, math.nan, math.nan)
        sampling = float(errors.square().sum().sqrt()) / len(errors)
        return Spread(float(values.mean()), sampling, _error(values))

    def quality(self, space: str, figure: str) -> float:
        """The mean over seeds of another figure of the samples, such as "precision"."""
        return _mean(self._each(space, figure))

    def modes(self, figure: str) -> float:
        """The mean over seeds of a figure of `Modes`, such as "reached"."""
        return self.mean(lambda run: run.modes[figure])

    def mean(self, of: Callable[[Figures], float]) -> float:
        """The mean over seeds of a figure; nan without any."""
        return _mean([of(run) for run in self.runs])

    def notes(self, budget: float) -> list[str]:
        """What to know of it, beside its figures: a choice, a short fit, a late one, a failure."""
        found = list(dict.fromkeys(run.choice for run in self.runs if run.choice))
        least = min((run.passes for run in self.runs), default=1.0)
        if least < 1:
            found.append(f"the budget was too small for one pass over the images ({least:.2f})")
        longest = max((run.seconds for run in self.runs), default=0.0)
        if longest > _LATE * budget + _LATE_SECONDS:
            found.append(f"a step is longer than the budget: the fit took {longest:.0f} s")
        by_reason: dict[str, list[int]] = {}
        for seed, reason in self.failures.items():
            by_reason.setdefault(reason, []).append(seed)
        for reason, seeds in by_reason.items():
            which = f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))} "
            found.append(f"{which if self.runs else ''}failed: {reason}")
        return found

    def _each(self, space: str, figure: str) -> list[float]:
        return [_number(run.quality[space]["samples"][figure]) for run in self.runs]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _error(values: Tensor) -> float:
    """The standard error of a mean; nan for a single value."""
    return float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def _number(value: Any) -> float:
    """A number of a file, where what was not finite is null."""
    return math.nan if value is None else float(value)
