"""nelbo export: a run or checkpoint as a clean diffusers pipeline with a model card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from nelbo.commands.common import print_json, show
from nelbo.commands.options import check_new
from nelbo.data.credits import ORIGIN, licence_asked
from nelbo.errors import NelboError
from nelbo.model_directory import CARD_FILE, holds_autoencoder_alone

if TYPE_CHECKING:
    from nelbo.training.run_directory import RunDirectory

# What of a run's notes goes with the pipeline.
_KEPT = ("source", "training_images", "trained", "label_names", ORIGIN)
# What to ask a model of these data for, in the example of its card.
_PROMPTS = {"emoji": "woman firefighter: medium skin tone"}


@dataclass(frozen=True)
class Export:
    """Export a model of pixels or latents as a clean diffusers pipeline with a model card."""

    run_path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(name="run", metavar="RUN")]
    """A run, a diffusers pipeline directory, or a checkpoint that ships with nelbo."""
    out: Path
    """The directory to make; it must be new or empty."""
    name: str | None = None
    """Title of the model card; by default the name of the run."""
    license: str | None = None
    """Licence of the weights for the card, such as cc-by-4.0; by default what the card of RUN says,
    if it has one, or what the data ask for."""
    prompt: str | None = None
    """Example for the card of a model of text; by default the first that the run drew."""
    json: bool = False
    """Print the result as JSON."""

    def run(self) -> None:
        """Write the pipeline and its card."""
        check_new(self.out)

        from nelbo.diffusers_format import load, load_sampler, save
        from nelbo.diffusers_format.files import read_index
        from nelbo.networks.files import atomic_file
        from nelbo.training.run_directory import RunDirectory

        if holds_autoencoder_alone(self.run_path):
            raise NelboError(
                f"{self.run_path} is the run of an autoencoder alone, which is no pipeline; its "
                "folder vae/ is an AutoencoderKL that diffusers reads as it is"
            )
        model = load(self.run_path)
        run = RunDirectory(self.run_path)
        notes = _shareable(run.notes())
        try:
            save(model, self.out, sampler=load_sampler(self.run_path), notes=_kept(notes))
            pipeline = read_index(self.out).class_name
            with atomic_file(self.out / CARD_FILE) as temporary:
                card = self._card(model, run, notes, pipeline)
                temporary.write_text(card, encoding="utf-8")
        except OSError as error:
            raise NelboError(f"cannot write to {self.out}: {error}") from error
        if self.json:
            print_json({"run": self.run_path, "out": str(self.out), "pipeline": pipeline})
        else:
            show(f"Exported to {self.out}, a {pipeline} with its card {self.out / CARD_FILE}")

    def _card(self, model: Any, run: RunDirectory, notes: Mapping[str, Any], pipeline: str) -> str:
        from nelbo.report.model_card import licence_of, model_card

        file = run.path / CARD_FILE
        former = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
        source = str(notes.get("source"))
        return model_card(
            self.name or Path(self.run_path).resolve().name,
            model,
            notes,
            run.evaluation(),
            self.license or licence_of(former) or licence_asked(notes),
            pipeline=pipeline,
            prompt=self.prompt or _drawn(run) or _PROMPTS.get(source, "a picture"),
            former=former,
        )


def _shareable(notes: dict[str, Any]) -> dict[str, Any]:
    """Notes without the place of a folder on this machine, which is nobody else's business."""
    from nelbo.data.sources import is_path

    def named(source: str) -> str:
        return Path(source).name if is_path(source) else source

    if isinstance(notes.get("source"), str):
        notes = notes | {"source": named(notes["source"])}
    if origin := notes.get(ORIGIN):
        sources = [named(source) for source in origin["sources"]]
        name = Path(origin["model"]).name
        notes = notes | {ORIGIN: origin | {"model": name, "sources": sources}}
    return notes


def _kept(notes: Mapping[str, Any]) -> dict[str, Any]:
    """What of a run's notes goes with the pipeline: its data, its length, its usual guidance."""
    kept = {name: notes[name] for name in _KEPT if name in notes}
    guidance = notes.get("settings", {}).get("model", {}).get("guidance")
    return kept if guidance is None else kept | {"settings": {"model": {"guidance": guidance}}}


def _drawn(run: RunDirectory) -> str | None:
    """The first prompt that a run drew its own samples of, if it is one of text."""
    from nelbo.commands.training.latent_run import PROMPTS_FILE

    file = run.samples / PROMPTS_FILE
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return lines[0] if lines else None
