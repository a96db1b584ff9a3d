"""nelbo export: a run or checkpoint as a clean diffusers pipeline with a model card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from nelbo.base.errors import NelboError
from nelbo.commands.common import print_json, show
from nelbo.commands.options import check_new
from nelbo.data.credits import ORIGIN, licence_asked
from nelbo.formats.model_directory import CARD_FILE, holds_autoencoder_alone

if TYPE_CHECKING:
    from nelbo.formats.pipelines import Model
    from nelbo.runs.run_directory import RunDirectory

# What of a run's notes goes with the pipeline.
_KEPT = ("source", "training_images", "splits", "trained", "label_names", ORIGIN)
# What to ask a model of these data for, in the example of its card.
_PROMPTS = {"emoji": "woman firefighter: medium skin tone"}


@dataclass(frozen=True)
class Export:
    """Export a model of pixels or latents as a clean diffusers pipeline with a model card."""

    run_path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(name="run", metavar="RUN")]
    """A run, a diffusers pipeline directory, or a checkpoint that ships with nelbo."""
    out: Path
    """The directory to make; it must be new or empty."""
    checkpoint: int | Literal["best"] | None = None
    """The averaged weights of a checkpoint that the run has kept, by its step, or the best by the
    validation bound (--validate-every), rather than the last ones."""
    sigma_rel: float | None = None
    """Weights averaged over this length of the training, made from snapshots (--snapshot-every):
    the standard deviation of the average's profile as a share of the run, 0.05 to 0.15."""
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
        if self.checkpoint is not None and self.sigma_rel is not None:
            raise NelboError("give either --checkpoint or --sigma-rel")

        from nelbo.base.files import atomic_file
        from nelbo.formats import load_sampler, save
        from nelbo.formats.files import read_index
        from nelbo.runs.run_directory import RunDirectory

        if holds_autoencoder_alone(self.run_path):
            raise NelboError(
                f"{self.run_path} is the run of an autoencoder alone, which is no pipeline; its "
                "folder vae/ is an AutoencoderKL that diffusers reads as it is"
            )
        run = RunDirectory(self.run_path)
        model, other = self._model(run)
        notes = _shareable(run.notes()) | other
        try:
            save(model, self.out, sampler=load_sampler(self.run_path), notes=_kept(notes))
            pipeline = read_index(self.out).class_name
            with atomic_file(self.out / CARD_FILE) as temporary:
                # What was measured is of the last weights.
                evaluation = {} if other else run.evaluation()
                card = self._card(model, run, notes, evaluation, pipeline)
                temporary.write_text(card, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise NelboError(f"cannot write to {self.out}: {error}") from error
        if self.json:
            print_json({"run": self.run_path, "out": str(self.out), "pipeline": pipeline})
        else:
            show(f"Exported to {self.out}, a {pipeline} with its card {self.out / CARD_FILE}")

    def _model(self, run: RunDirectory) -> tuple[Model, dict[str, Any]]:
        """What to export, and what to note of its training where that is not what the run notes."""
        from nelbo.formats import load
        from nelbo.training.run_model import kept_checkpoint, with_weights
        from nelbo.training.snapshots import reconstruct_average, snapshot_files

        if self.checkpoint is not None:
            step = None if self.checkpoint == "best" else self.checkpoint
            kept = kept_checkpoint(self.run_path, step)
            trained = {"steps": kept.step, "seconds": round(kept.progress["seconds"], 1)}
            model = with_weights(self.run_path, kept.tensors["average"])
            return model, {"trained": trained}
        if self.sigma_rel is not None:
            model = reconstruct_average(self.run_path, self.sigma_rel)
            step = max(snapshot_files(run.training))
            return model, {"trained": {"steps": step, "sigma_rel": self.sigma_rel}}
        return load(self.run_path), {}

    def _card(
        self,
        model: Model,
        run: RunDirectory,
        notes: Mapping[str, Any],
        evaluation: Mapping[str, Any],
        pipeline: str,
    ) -> str:
        from nelbo.report.model_card import licence_of, model_card

        file = run.path / CARD_FILE
        former = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
        source = str(notes.get("source"))
        return model_card(
            self.name or Path(self.run_path).resolve().name,
            model,
            notes,
            evaluation,
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
