"""What the commands share: the device, progress on standard error, and JSON on standard output."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from nelbo.errors import NelboError

if TYPE_CHECKING:
    import torch

    from nelbo.data import ImageData
    from nelbo.diffusion import Diffusion

# Everything for people goes to standard error where --json has standard output to itself.
MESSAGES = Console(stderr=True, highlight=False)


def choose_device(name: str) -> torch.device:
    """The device called `name`; "auto" is a GPU where there is one.

    Raises:
        NelboError: no such device here.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise NelboError(f"device {name!r} is not available: {reason}") from error


def load_pixel_model(path: str, otherwise: str) -> Diffusion:
    """The model of pixels at `path`; for a latent one an error that ends in `otherwise`."""
    from nelbo.diffusers_format import load
    from nelbo.diffusion import Diffusion

    model = load(path)
    if isinstance(model, Diffusion):
        return model
    raise NelboError(f"{path} is a latent diffusion pipeline: {otherwise}")


def training_progress(*, disable: bool = False) -> Progress:
    """A progress bar with the running loss and bound, and the pace."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("step {task.fields[step]}"),
        TextColumn("loss {task.fields[loss]}"),
        TextColumn("[bold]{task.fields[bits]}[/] bits/dim"),
        TextColumn("{task.fields[pace]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=MESSAGES,
        disable=disable,
    )


def counting_progress() -> Progress:
    """A progress bar that counts and estimates the time left."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=MESSAGES,
    )


def say(text: str) -> None:
    """A line for people; brackets in names and paths are no markup."""
    MESSAGES.print(text, markup=False, soft_wrap=True)


def print_json(content: dict[str, Any]) -> None:
    """The result of a command for a program, on standard output."""
    print(json.dumps(content, indent=2, ensure_ascii=False))


def mention_skipped(data: ImageData, shown: int = 5) -> None:
    """Name the files of a folder that could not be read."""
    if not data.skipped:
        return
    say(f"skipped {len(data.skipped)} files of {data.source} that cannot be read:")
    for line in data.skipped[:shown]:
        say(f"  {line}")
    if len(data.skipped) > shown:
        say(f"  and {len(data.skipped) - shown} more")
