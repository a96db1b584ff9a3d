"""The controls that commands are given as pictures, as the ControlNets of a model read them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from nelbo.base.console import notice
from nelbo.base.errors import NelboError
from nelbo.commands.groups import ControlOptions
from nelbo.data.annotators import ANNOTATORS, OF_LINES
from nelbo.data.controls import Annotated, light_lines
from nelbo.data.image_file import examine, read_drawing, read_image
from nelbo.data.size import sides
from nelbo.networks.control import Control
from nelbo.runs.picture_model import PictureModel

Value = TypeVar("Value")


def read_controls(options: ControlOptions, pictures: PictureModel, n: int) -> list[Control] | None:
    """The control of each ControlNet for `n` images; None where none is asked for.

    Raises:
        NelboError: a model without ControlNets, another number of controls or strengths than of
            them, more pictures than images, or a file that is no picture.
    """
    shape = pictures.model.control_shape
    if not options.control:
        if shape is not None:
            notice("note: without --control the base alone draws")
        return None
    if shape is None:
        raise NelboError(
            f"--control: {pictures.path} has no ControlNet; --controlnet puts one on it"
        )
    channels = pictures.model.control_channels
    groups = list(options.control)
    if len(channels) == 1:
        groups = [tuple(path for group in groups for path in group)]
    if len(groups) != len(channels):
        raise NelboError(
            f"--control is given for {len(groups)} ControlNets, and {pictures.path} has "
            f"{len(channels)}{' with --controlnet' * bool(pictures.joined)}: give it once for each"
        )
    scales = _each("--control-scale", options.control_scale or (None,), len(channels))
    starts = _each("--control-start", options.control_start or (0.0,), len(channels))
    ends = _each("--control-end", options.control_end or (1.0,), len(channels))
    controls = []
    for i, (paths, count) in enumerate(zip(groups, channels, strict=True)):
        shown = pictures.controls[i]
        annotator = _annotator(shown, pictures) if options.annotate else None
        if len(paths) > n:
            raise NelboError(f"-n {n} draws {n} of {len(paths)} controls: give -n {len(paths)}")
        read = [_read(path, (count, *shape[1:]), shown, annotator) for path in paths]
        images = torch.stack([read[k % len(read)] for k in range(n)]).to(pictures.model.device)
        controls.append(Control(images, scales[i], starts[i], ends[i], options.guess))
    return controls


def _each(option: str, given: Sequence[Value], count: int) -> Sequence[Value]:
    """One value a ControlNet, of one for all or one each."""
    if len(given) not in (1, count):
        plural = "s: give one for all, or one each" if count > 1 else ""
        raise NelboError(f"{option} has {len(given)} values for {count} ControlNet{plural}")
    return given if len(given) == count else [given[0]] * count


def _annotator(shown: str | None, pictures: PictureModel) -> Annotated:
    """What makes controls of pictures as they were in training."""
    if shown not in ANNOTATORS:
        raise NelboError(
            f"--annotate: {pictures.path} was not trained with an annotator's controls; give the "
            "controls themselves"
        )
    return Annotated(shown)


def _read(
    path: Path, shape: tuple[int, ...], shown: str | None, annotator: Annotated | None
) -> Tensor:
    """A control, (C, H, W) in [0, 1].

    Args:
        path: the picture.
        shape: (C, H, W).
        shown: what the controls showed in training.
        annotator: what makes the control of the picture; None where the picture is the control.
    """
    opened, wanted = examine(path), (shape[1], shape[2])
    for note in opened.notes:
        notice(f"note: {path} has {note}")
    size = opened.size
    if size is not None and size != wanted:
        notice(
            f"note: {path} is {sides(size)} pixels, the control {sides(wanted)} (height × width): "
            "cut in the middle and scaled"
        )
    if annotator is not None:
        pixels = read_image(path, shape)
        return annotator.of(pixels[None], torch.zeros(1, dtype=torch.int64), (0,))[0] / 255
    given = read_drawing(path, shape) / 255
    control = light_lines(given, shown)
    if shown in OF_LINES and bool((given == given[0, 0, 0]).all()):
        notice(f"note: {path} has one colour and shows no lines: the base alone draws")
    elif control is not given:
        notice(
            f"note: {path} is dark on light, and is inverted: lines of this run are light on dark"
        )
    return control
