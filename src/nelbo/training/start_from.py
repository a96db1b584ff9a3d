"""--start-from: the trained model that a new run begins with."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nelbo.base.errors import NelboError, explained
from nelbo.data import ImageData
from nelbo.data.credits import ORIGIN, licence_asked, sources_of
from nelbo.diffusion import Diffusion
from nelbo.formats import load
from nelbo.formats.files import read_own
from nelbo.formats.model_directory import CARD_FILE, resolve
from nelbo.networks.denoiser import Denoiser
from nelbo.report.model_card import licence_of
from nelbo.runs.run_directory import RunDirectory
from nelbo.training.kinds import KINDS, kind_of
from nelbo.training.kinds.kind import Kind, Start
from nelbo.training.options import NAMES, TrainOptions
from nelbo.training.ranges import option


def start_of(options: TrainOptions) -> Start | None:
    """What --start-from names or, on resuming, what has become of it; None without.

    A run that was killed while its first model was written has none yet.

    Raises:
        NelboError: as `nelbo.load`, or a model that this kind does not train.
    """
    path = options.start_from
    if path is None:
        return None
    origin = None
    if options.resume and options.out is not None:
        origin = RunDirectory(options.out).notes.get(ORIGIN)
        own = str(options.out.resolve())
        if kind_at(own) == options.trains:
            path = own
    model = kind_of(options.trains).starting_model(path)
    if origin is None:
        origin = origin_of(options.start_from or path)
    return Start(path, model, origin, resumed=path != options.start_from)


def kind_at(path: str | Path) -> str | None:
    """What kind of whole model a path, name or Hub id stands for; None where that is not known."""
    where = Path(resolve(path))
    return next((name for name in KINDS if kind_of(name).is_at(where)), None)


def kind_of_run(path: str | Path) -> type[Kind]:
    """The kind of the model in a directory; one of pixels is taken for granted."""
    return kind_of(kind_at(path) or NAMES[0])


def starting_diffusion(path: str, kind: str) -> Any:
    """The diffusion model at a path, of a kind that can be trained on.

    Raises:
        NelboError: as `nelbo.load`, another kind, or networks that `nelbo train` does not train.
    """
    found = kind_at(path)
    if found == "autoencoder":
        raise NelboError(
            f"--start-from: {path} holds an autoencoder; train its prior with --autoencoder {path}"
        )
    if found not in (None, kind):
        raise NelboError(
            f"--start-from: {path} is a diffusion model of {found}s: give --model {found}"
        )
    with explained("--start-from"):
        model = load(path)
    chain: Diffusion | None = model.chain
    if chain is None:
        raise NelboError(f"--start-from: {path} is a {type(model).__name__}, which has no network")
    if not isinstance(chain.network, Denoiser):
        raise NelboError(
            f"--start-from: {path} has a network that nelbo does not train: start from a pipeline "
            "of a UNet, DiT or PixArt transformer, without ControlNets"
        )
    if chain.profile is not None:
        if chain.variance == "analytic":
            raise NelboError(
                "--start-from: the variance of this model was measured for its weights (analytic), "
                "which training changes: start from the run as it was before nelbo fit"
            )
        chain.profile = None  # training invalidates it
    return model


def origin_of(path: str) -> dict[str, Any]:
    """Whose images made a model, and under which licence it stands."""
    own = read_own(resolve(path)) or {}
    card = Path(resolve(path)) / CARD_FILE
    named = licence_of(card.read_text(errors="replace")) if card.is_file() else None
    return {
        "model": path,
        "sources": sources_of(own),
        "licence": named or licence_asked(own),
    }


def fit_classes(start: Start, data: ImageData, choice: str) -> None:
    """Give a diffusion model the classes of the images, as far as it is asked for.

    Args:
        start: the model, which is changed.
        data: the images.
        choice: "same" where both must have the same classes; "new" for those of the images; "none"
            for a model without.

    Raises:
        NelboError: classes that differ, or images without classes for "new".
    """
    model = start.model
    noted = (read_own(resolve(start.path)) or {}).get("label_names") or ()
    names = noted if len(noted) == model.num_classes else ()
    if choice == "same":
        _check_same(model.num_classes, names, data)
        return
    if choice == "new" and not data.num_classes:
        raise NelboError(f"--start-classes new: {data.source} has no classes")
    wanted = data.label_names if choice == "new" else ()
    if model.num_classes == len(wanted) and tuple(names) == tuple(wanted):
        return
    chain = model.chain
    assert isinstance(chain.network, Denoiser)  # as `starting_diffusion` has seen
    chain.network = chain.network.with_classes(names, wanted)


def _check_same(classes: int, names: Sequence[str], data: ImageData) -> None:
    """Raise `NelboError` unless the images have the classes of the model, if it has any."""
    if not classes:
        return
    ways = (
        "give --start-classes new for an embedding of these classes, where those of the same name "
        "keep theirs, or --start-classes none for a model without classes"
    )
    if classes != data.num_classes:
        raise NelboError(
            f"{data.source} has {data.num_classes} classes, the model to start from {classes}: "
            f"{ways}"
        )
    differ = [pair for pair in zip(names, data.label_names, strict=False) if pair[0] != pair[1]]
    if differ:
        raise NelboError(
            f"the classes of {data.source} are not those of the model to start from: "
            f"{differ[0][1]!r} stands where it has {differ[0][0]!r}: {ways}"
        )


def check_settings(options: TrainOptions) -> None:
    """Raise `NelboError` for a setting of the model that a trained model decides already."""
    usual = type(options)().settings
    for field in dataclasses.fields(options.settings):
        value = getattr(options.settings, field.name)
        if field.name not in options.free and value != getattr(usual, field.name):
            conditions = field.name == "class_conditional"
            hint = ", or give --start-classes new for the classes of the images"
            raise NelboError(
                f"{option(field.name)} {value!r}: with --start-from the model stays as it was "
                f"built; leave it out{hint if conditions else ''}"
            )
