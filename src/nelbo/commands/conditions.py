"""What the options of a condition ask of a model that draws pictures."""

from __future__ import annotations

from typing import Any

from nelbo.base.console import notice
from nelbo.base.errors import NelboError, explained
from nelbo.base.suggestions import did_you_mean, listed
from nelbo.chain.conditioning import Condition
from nelbo.commands.common import compute_on
from nelbo.commands.groups import ConditionOptions, DrawingOptions
from nelbo.commands.sampling import guidance_of
from nelbo.formats import Pipeline
from nelbo.runs.picture_model import PictureModel
from nelbo.training.kinds.controlnet.base import noted_control, trained_controlnet


def load_pictures(options: DrawingOptions, pipeline: Pipeline) -> PictureModel:
    """The model of a pipeline where it is to compute, with the ControlNets that are asked for.

    Raises:
        NelboError: as `PictureModel.load`, or ControlNets that are none of this model's.
    """
    pictures = PictureModel.load(pipeline, compute_on(options.computing))
    if options.controlled.controlnet:
        with explained("--controlnet"):
            controlnets = map(trained_controlnet, options.controlled.controlnet)
            controlled = pictures.model.with_controlnets(*controlnets)
        pictures.model = controlled.to(pictures.model.device)
        pictures.joined = [*map(noted_control, options.controlled.controlnet)]
    return pictures


def condition_of(
    options: ConditionOptions, pictures: PictureModel, n: int, *, every_class: bool = False
) -> Condition | None:
    """What each of `n` pictures is conditioned on.

    Args:
        options: what was asked for.
        pictures: the model.
        n: how many pictures.
        every_class: without a label, condition on all classes in turn.

    Raises:
        NelboError: a label or prompt for a model that takes none, or a label that is none of its
            classes.
    """
    prompts, labels = _prompts(options, pictures), _labels(options, pictures)
    if prompts:
        in_turn = [prompts[i % len(prompts)] for i in range(n)]
        return pictures.model.condition_for(n, captions=in_turn)
    if labels or every_class:
        return pictures.model.classes_in_turn(n, labels)
    return None


def condition_between(options: ConditionOptions, pictures: PictureModel, frames: int) -> Condition:
    """As `condition_of`, for `frames` pictures between two prompts.

    Raises:
        NelboError: another number of prompts than two, or a model without text.
    """
    prompts = _prompts(options, pictures)
    if len(prompts) != 2:
        raise NelboError(
            f"--interpolate leads from one prompt to another: expected 2, got {len(prompts)}"
        )
    return pictures.model.condition_between(prompts[0], prompts[1], frames)


def guiding(options: ConditionOptions, pictures: PictureModel) -> dict[str, Any]:
    """What else `model.sample` is asked: guidance and what it leads away from, if any.

    With prompts, guidance is by default that of the run's own samples.

    Raises:
        NelboError: guidance of a model without a chain.
    """
    guidance = guidance_of(options, pictures.usual_guidance if options.prompts() else 1.0)
    asked: dict[str, Any] = {}
    if options.negative is not None:
        asked["negative_prompt"] = options.negative
    if guidance.scale != 1.0:
        if pictures.model.chain is None:
            path = pictures.path
            raise NelboError(f"--guidance {guidance.scale:g}: {path} has no chain to guide")
        asked["guidance"] = guidance
    return asked


def _labels(options: ConditionOptions, pictures: PictureModel) -> list[int]:
    """The classes asked for, by name or number."""
    asked, model = options.labels(), pictures.model
    if asked and not model.num_classes:
        takes = "takes prompts, not classes" if model.reads_text else "is not class-conditional"
        raise NelboError(f"--label {asked[0]}: {pictures.path} {takes}")
    return [_label(label, pictures) for label in asked]


def _label(asked: str, pictures: PictureModel) -> int:
    names, count = pictures.class_names, pictures.model.num_classes
    folded = [name.casefold() for name in names]
    if asked.casefold() in folded:
        return folded.index(asked.casefold())
    if asked.isdecimal() and int(asked) < count:
        return int(asked)
    expected = f"a number in 0..{count - 1}" + (f" or one of {listed(names)}" if names else "")
    raise NelboError(f"--label must be {expected}, got {asked}{did_you_mean(asked, names)}")


def _prompts(options: ConditionOptions, pictures: PictureModel) -> list[str | None]:
    """The prompts asked for; None for an empty one, which is the unconditional model.

    Raises:
        NelboError: any, for a model that reads none.
    """
    prompts, model = options.prompts(), pictures.model
    if (prompts or options.negative is not None) and not model.reads_text:
        option = "--prompt" if prompts else "--negative"
        instead = ": use --label" if model.num_classes else " and without classes"
        raise NelboError(f"{option}: {pictures.path} is a model without a text encoder{instead}")
    given = [prompt if prompt.strip() else None for prompt in prompts]
    if None in given:
        notice("An empty prompt is no prompt: the unconditional model")
    return given
