"""The forecast for a run before it begins: its length, and what to change if it is short."""

from __future__ import annotations

import math

from nelbo.report.formatting import duration
from nelbo.training.allowance import allowed_seconds
from nelbo.training.config import TrainingConfig
from nelbo.training.pace import FEW_STEPS, Outlook


def outlook_text(outlook: Outlook, training: TrainingConfig, examples: int | None) -> str:
    """How many steps fit, how often each image is seen, and how long it all takes, in a line.

    Args:
        outlook: what is expected.
        training: how it trains.
        examples: how many images there are; None for a stream.
    """
    each = _each(outlook.step_seconds)
    seen = passes_text(outlook.steps, training.batch_size, examples)
    images = "one image" if examples == 1 else f"{examples or 0:,} images"
    over = f", {seen} over the {images}" if seen else ""
    after = duration(round(allowed_seconds(outlook.seconds)))
    steps = f"{outlook.steps:,} step{'s' * (outlook.steps != 1)}"
    return (
        f"About {steps} in {duration(_rounded(outlook.seconds))} at {each}{over}; evaluation, "
        f"samples and report then take at most {after}"
    )


def advice(outlook: Outlook, training: TrainingConfig, *, sized: bool = True) -> str:
    """What to make smaller or longer where a run has too few steps.

    Args:
        outlook: what is expected.
        training: how it trains.
        sized: whether the images have the size of --size.
    """
    few = f"{outlook.steps:,} step{'s' * (outlook.steps != 1)}"
    if outlook.warms_up:
        problem = f"{few} {'is' if outlook.steps == 1 else 'are'} too few to learn much"
    else:
        problem = (
            f"{few} {'does' if outlook.steps == 1 else 'do'} not leave the warm-up of "
            f"{training.warmup_steps} (--warmup-steps)"
        )
    wanted = max(5 * FEW_STEPS, 2 * (training.warmup_steps or 0))
    if training.steps is not None and outlook.steps >= training.steps:
        return f"note: {problem}: give more --steps, {wanted:,} for a first look"
    longer = duration(_rounded(wanted * outlook.step_seconds))
    return (
        f"note: {problem}: make {'--size, ' if sized else ''}--widths or --batch-size smaller, or "
        "--time-budget longer "
        f"({longer} for {wanted:,} steps)"
    )


def passes_text(steps: int, batch_size: int, examples: int | None) -> str:
    """How often each image is seen in a number of steps, on average; empty for a stream."""
    if not examples:
        return ""
    count = steps * batch_size / examples
    return f"{count:,.0f} passes" if count >= 10 else f"{count:.1f} passes"


def _each(seconds: float) -> str:
    """The time of a step."""
    if seconds >= 1:
        return f"{seconds:.1f} s a step"
    return f"{1000 * seconds:.0f} ms a step" if seconds >= 0.001 else "less than 1 ms a step"


def _rounded(seconds: float) -> float:
    """In two digits or whole seconds, for what is but an estimate."""
    if seconds < 10:
        return round(seconds, 1)
    unit = 10.0 ** max(0, math.floor(math.log10(seconds)) - 1)
    return round(seconds / unit) * unit if seconds < 120 else 60.0 * round(seconds / 60)
