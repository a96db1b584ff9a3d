"""When does a ControlNet begin to follow? Its bits explained beside the edges of what it draws.

    python benchmarks/control_onset.py BASE DATA --size 16 [--control canny] [--steps 1024]
        [--precision bf16] [--plot FILE] [--grid FILE]

A ControlNet of BASE is trained on DATA as `nelbo train --model controlnet` does, for a number of
steps at its defaults. Before the first step and after each power of two from the eighth on, the
averaged weights are read on held-out images (test): what the control explains, bits of an image
at the same levels and noise with and without it, what its own control is better for than that of
another image, by the same network and noise, and the F1 of the edges of a picture drawn by
each control against those of the real one, pixel by pixel, less that of the picture drawn from the
same noise without it. Either one *has begun* at the first reading from which on it stays
more than three standard errors above zero, over images; pictures *follow* from the first reading
on which has half of the last one's gain of F1, as long as later ones have it too, where that gain
has begun.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from control_edges import edges, f1
from torch import Tensor

import nelbo
from nelbo.chain.distributions import generator_for
from nelbo.chain.estimate import Estimate
from nelbo.data import ImageData
from nelbo.data.annotators import ANNOTATORS
from nelbo.data.controls import controls_of
from nelbo.evidence.explained import with_exchanged_controls
from nelbo.evidence.inputs import condition_for
from nelbo.report.control import shown_controls
from nelbo.report.grids import image_grid, save_image
from nelbo.training.images import TrainingImages
from nelbo.training.kinds.controlnet.kind import ControlNets
from nelbo.training.kinds.controlnet.options import TrainControl
from nelbo.training.trainer import Trainer
from nelbo.training.validation import Validation

ERRORS = 3.0
GRID = 8


@dataclass(frozen=True)
class Reading:
    """What was seen after some steps.

    Attributes:
        step: how many.
        explained: by the control, bits of an image.
        own: by how many bits of an image its own control is better than another's.
        gain: of F1, over the same noise without the control.
        f1: with the control.
    """

    step: int
    explained: Estimate
    own: Estimate
    gain: Estimate
    f1: Estimate


class Watch:
    """Reads a ControlNet on held-out images."""

    def __init__(self, kind: ControlNets, base: str, data: ImageData, seed: int) -> None:
        self.kind, self.data, self.seed = kind, data, seed
        self.sampler = nelbo.load_sampler(base, 25)
        self.validation = Validation(data, seed)
        self.exchanged = Validation(with_exchanged_controls(data), seed)
        self.plain = self.validation.each(kind.base)
        self.given = edges(data.images)
        self.without = self.f1(self.draw(kind.base, replace(data, controls=None)))
        self.pictures = data.images

    def f1(self, pictures: Tensor) -> Tensor:
        """Of the edges of each, whose places are exact: at 16×16 a pixel beside is often one."""
        return f1(edges(pictures), self.given, tolerance=0)

    @torch.no_grad()
    def draw(self, model: nelbo.Diffusion, data: ImageData) -> Tensor:
        """A picture for each control, each from its own noise."""
        noise = [generator_for(self.seed, i) for i in range(len(data))]
        condition = condition_for(model, data)
        x = model.sample(len(data), self.sampler, condition=condition, generator=noise)
        return model.data.to_levels(x).round().to(torch.uint8)

    def __call__(self, trainer: Trainer) -> Reading:
        """The averaged weights as they are now."""
        model = self.kind.whole(trainer.average.model)
        values, read = math.prod(self.data.shape), self.validation.each(model)
        bits = (self.plain - read) * values
        own = (self.exchanged.each(model) - read) * values
        self.pictures = self.draw(model, self.data)
        found = self.f1(self.pictures)
        gain = Estimate.of(found - self.without, 0.0)
        explained, better = Estimate.of(bits, 0.0), Estimate.of(own, 0.0)
        return Reading(trainer.step, explained, better, gain, Estimate.of(found, 0.0))


def since(readings: Sequence[Reading], holds: Sequence[bool]) -> int | None:
    """The step of the first reading from which on something holds."""
    last = next((i for i in reversed(range(len(holds))) if not holds[i]), -1)
    return readings[last + 1].step if last + 1 < len(readings) else None


def begun(readings: Sequence[Reading], name: str) -> int | None:
    """The step from which on a figure stays above zero by some standard errors."""
    each = [getattr(reading, name) for reading in readings]
    return since(readings, [one.mean > ERRORS * one.standard_error for one in each])


def plot(readings: Sequence[Reading], path: Path) -> None:
    """Both curves over steps."""
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(6, 3.4), layout="constrained")
    steps = [max(reading.step, 4) for reading in readings]
    second = axis.twinx()
    for of, name, colour in ((axis, "explained", "C0"), (second, "gain", "C1")):
        each = [getattr(reading, name) for reading in readings]
        means, errors = [e.mean for e in each], [e.standard_error for e in each]
        of.errorbar(steps, means, errors, color=colour, marker="o", capsize=2)
    axis.set(xscale="log", xlabel="step (the first: 0)")
    axis.set_ylabel("bits explained by the control", color="C0")
    second.set_ylabel("F1 of edges, gain", color="C1")
    axis.axhline(0, color="0.8", linewidth=0.8)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Train, read, and print each reading."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("base")
    parser.add_argument("data")
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--control", choices=tuple(ANNOTATORS), default="canny")
    parser.add_argument("--objective", help="default: as that command has it")
    parser.add_argument("--steps", type=int, default=1024)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--grid", type=Path, help="draw images, controls, and what is drawn")
    arguments = parser.parse_args()
    options = TrainControl(arguments.data, base=arguments.base, control=arguments.control)
    training = replace(
        options.training,
        steps=arguments.steps,
        batch_size=arguments.batch_size,
        seed=arguments.seed,
        precision=arguments.precision,
        objective=arguments.objective or options.training.objective,
    )
    options = replace(
        options,
        size=arguments.size,
        training=training,
        left_open=("objective",) if arguments.objective is None else (),
    )
    images = TrainingImages.load(arguments.data, *ControlNets.asked_frame(options, None))
    kind = ControlNets(options, images, torch.device("cpu"))
    data = images.reported.subset(arguments.images, arguments.seed)
    data = controls_of(arguments.control, data).of_all(data, arguments.seed)
    watch, trainer = Watch(kind, arguments.base, data, arguments.seed), Trainer(kind.task)
    due = {2**i for i in range(3, arguments.steps.bit_length())} | {arguments.steps}
    readings = [watch(trainer)]
    print(f"{len(data)} images of test, control {arguments.control}", flush=True)

    def show(reading: Reading) -> None:
        print(
            f"step {reading.step:5d}  explained {reading.explained.mean:8.2f} "
            f"± {reading.explained.standard_error:.2f} bits an image  own {reading.own.mean:.3f} "
            f"± {reading.own.standard_error:.3f}  F1 {reading.f1.mean:.3f} "
            f"± {reading.f1.standard_error:.3f}  gain {reading.gain.mean:+.3f} "
            f"± {reading.gain.standard_error:.3f}",
            flush=True,
        )

    show(readings[0])
    for step in trainer.run():
        if step.step in due:
            readings.append(watch(trainer))
            show(readings[-1])
    half, started = readings[-1].gain.mean / 2, begun(readings, "gain")
    print(f"bits explained have begun at step {begun(readings, 'explained')}")
    print(f"those of its own control over another's have begun at step {begun(readings, 'own')}")
    print(f"the gain of F1 has begun at step {started}")
    follow = since(readings, [started is not None and r.gain.mean >= half for r in readings])
    print(f"pictures follow from step {follow}")
    if arguments.plot:
        plot(readings, arguments.plot)
    if arguments.grid:
        shown = slice(GRID)
        controls = shown_controls(data.controls[shown], data.levels, data.shape[0])
        rows = torch.cat([data.images[shown], controls, watch.pictures[shown]])
        save_image(image_grid(rows, data.levels, columns=GRID), arguments.grid)


if __name__ == "__main__":
    main()
