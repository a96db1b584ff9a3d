"""A pipeline directory as an object, whose index, notes and scheduler are read once."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from nelbo import samplers
from nelbo.base.errors import NelboError, explained
from nelbo.chain.model import Model
from nelbo.diffusion import NoiseSchedule
from nelbo.diffusion.profile import PROFILE_FILE, LevelProfile
from nelbo.formats.config_fields import ConfigFields
from nelbo.formats.files import PipelineIndex, part_folder, read_index, read_own
from nelbo.formats.model_directory import NELBO_FILE, checkpoint_path, resolve
from nelbo.formats.scheduler import (
    BETAS,
    CHAIN_LEVELS,
    PIPELINE_FIELDS,
    READERS,
    SCHEDULER_FILE,
    SchedulerConfig,
)
from nelbo.networks.files import locate
from nelbo.samplers import DDPM, Sampler, default_sampler


@dataclass(frozen=True)
class Format:
    """How the models of one kind lie on disk.

    Attributes:
        kind: its name, as `nelbo train --model` has it.
        model: the class of its models.
        pipelines: the classes of the pipelines that it reads, as the index names them.
        load: the model of a pipeline.
        save: writes a model into a directory, with a sampler for its scheduler to describe and
            notes for nelbo.json.
        has_chain: whether its models are of a chain, which a scheduler describes.
        scheduler_fields: what its pipelines insist on, whatever the config of the scheduler holds.
    """

    kind: str
    model: type[Any]
    pipelines: Collection[str]
    load: Callable[[Pipeline], Model]
    save: Callable[[Any, Path, Sampler | None, Mapping[str, Any]], None]
    has_chain: bool = True
    scheduler_fields: Callable[[Pipeline], Mapping[str, Any]] | None = None


# The part that ControlNets are, and what nelbo.json calls their number.
CONTROLNET, CONTROLNETS = "controlnet", "controlnets"
# What nelbo.json calls the checkpoint that another one that ships shares its parts with.
BASE = "parts_of"
# Each module of a format adds its own.
FORMATS: list[Format] = []
# What opens a path that is no directory or Hub id, or answers None.
OPENERS: list[Callable[[str | os.PathLike[str]], Pipeline | None]] = []


@dataclass(frozen=True)
class Pipeline:
    """A run or pipeline directory, or one of the Hub: its files, and its model.

    Attributes:
        path: the directory, or Hub id if there is no such directory.
        index: the contents of model_index.json.
        format: what reads its model.
        own: the content of nelbo.json; None without the file.
    """

    path: str | os.PathLike[str]
    index: PipelineIndex
    format: Format
    own: Mapping[str, Any] | None

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Pipeline:
        """The pipeline at a path, or of the name of a checkpoint that ships, or a Hub id.

        Raises:
            NelboError: it is missing, or of an unsupported class.
        """
        path = resolve(path)
        for opens in OPENERS:
            if (found := opens(path)) is not None:
                return found
        index = read_index(path)
        known = {name: each for each in FORMATS for name in each.pipelines}
        if index.class_name not in known:
            raise NelboError(
                f"{index.file}: _class_name is {index.class_name!r}, which nelbo has no adapter "
                f"for; it reads {', '.join(known)}. docs/your-own-network.md shows how to put the "
                "network of any other pipeline into a chain, in three lines"
            )
        return cls(path, index, known[index.class_name], read_own(path))

    @property
    def notes(self) -> Mapping[str, Any]:
        """The content of nelbo.json; empty for a plain pipeline."""
        return self.own or {}

    @property
    def own_fields(self) -> ConfigFields:
        """`notes`, each of which is checked as it is read."""
        return ConfigFields(Path(self.path) / NELBO_FILE, self.notes)

    @property
    def shared(self) -> str | os.PathLike[str]:
        """Where the parts are that a checkpoint shares with its base; its own path without one.

        ControlNets, scheduler and notes are its own.

        Raises:
            NelboError: a base that does not ship.
        """
        base = self.notes.get(BASE)
        return self.path if base is None else checkpoint_path(str(base))

    @property
    def kind(self) -> str:
        """The kind of its model: pixel, latent or family."""
        return self.format.kind

    @property
    def is_controlled(self) -> bool:
        """Whether it has a ControlNet beside its denoising network."""
        return CONTROLNET in self.index.parts or CONTROLNETS in self.notes

    @property
    def has_chain(self) -> bool:
        """Whether its model is of a chain, which a scheduler describes."""
        return self.format.has_chain

    @cached_property
    def scheduler(self) -> SchedulerConfig:
        """Its scheduler, as the class of the pipeline uses it.

        Its class is the one in the index, not the one in its config, as in diffusers.

        Raises:
            NelboError: the model has no chain, or the config is missing, damaged or unsupported.
        """
        if not self.has_chain:
            name = self.index.class_name
            raise NelboError(f"{self.path} is a {name}, which has no chain for a sampler")
        class_name = None
        if "scheduler" in self.index.parts:
            class_name = self.index.require("scheduler", *READERS)
        folder = part_folder(self.path, "scheduler", SCHEDULER_FILE)
        file = locate(self.path, folder, SCHEDULER_FILE)
        fields: Mapping[str, Any] = PIPELINE_FIELDS.get(self.index.class_name, {})
        if self.format.scheduler_fields is not None:
            fields = self.format.scheduler_fields(self)
        own = {name: self.notes[name] for name in (BETAS, CHAIN_LEVELS) if name in self.notes}
        overrides = {**fields, **own}
        return SchedulerConfig.read(file, overrides, class_name)

    @cached_property
    def schedule(self) -> NoiseSchedule:
        """The noise levels of the chain, without its networks; errors as `sampler`."""
        betas, described = self.notes.get(BETAS), self.scheduler.schedule
        if betas is None:
            return described
        with explained(f"{self.path}/{NELBO_FILE}: {BETAS}", TypeError, ValueError):
            # What else its scheduler has, such as the shift of a walk, stays with the chain.
            return replace(NoiseSchedule.from_betas(betas), config=described.config)

    @cached_property
    def profile(self) -> LevelProfile | None:
        """What each level of the chain costs, once `nelbo fit` has measured it."""
        try:
            file = locate(self.path, None, PROFILE_FILE)
        except NelboError:
            return None
        return LevelProfile.load(file)

    def folder(self, part: str, file: str) -> str | None:
        """The folder that a part is in; see `part_folder`."""
        return part_folder(self.shared, part, file)

    def model(self) -> Model:
        """The model; see `nelbo.load`."""
        return self.format.load(self)

    def sampler(self, steps: int | None = None, *, kind: type[Sampler] | None = None) -> Sampler:
        """The sampler that the scheduler describes, or another; see `nelbo.load_sampler`."""
        sampler = self.scheduler.sampler(steps, kind)
        if isinstance(sampler, DDPM) and sampler.spacing == "leading" and self._is_trained_here:
            # Older runs wrote "leading" by mistake: pure noise at a level with signal.
            return replace(sampler, spacing="trailing")
        return sampler

    def usual_sampler(self, steps: int | None = None) -> Sampler | None:
        """The default sampler.

        For a pixel model trained by nelbo it is chosen for the chain; the scheduler of such a model
        is for diffusers. Otherwise the scheduler describes it. A model without a chain has none.

        Args:
            steps: number of steps; None for what suits the sampler.

        Raises:
            NelboError: as `sampler`, or more steps than the chain has levels.
        """
        if not self.has_chain:
            if steps is not None:
                name = self.index.class_name
                raise NelboError(f"{self.path} is a {name}, which samples without steps")
            return None
        if self._is_trained_here and self.kind == "pixel":
            return default_sampler(self.schedule, steps)
        return self.sampler(steps)

    def named_sampler(self, name: str | None, steps: int | None = None) -> Sampler | None:
        """The sampler that `nelbo.samplers.SAMPLERS` names, or `usual_sampler` without a name.

        Raises:
            NelboError: as these.
        """
        if name is None:
            return self.usual_sampler(steps)
        return self.sampler(steps, kind=getattr(samplers, samplers.SAMPLERS[name]))

    @property
    def _is_trained_here(self) -> bool:
        return "trained" in self.notes
