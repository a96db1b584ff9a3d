"""nelbo export: a run as a clean diffusers pipeline with a model card."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from nelbo.commands.common import print_json, show
from nelbo.errors import NelboError

# What of a run's notes goes with the pipeline.
_KEPT = ("source", "trained", "label_names")


@dataclass(frozen=True)
class Export:
    """Export a run as a clean diffusers pipeline directory with a model card."""

    run_path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(name="run", metavar="RUN")]
    """A run directory."""
    out: Path
    """The directory to make; it must be new or empty."""
    name: str | None = None
    """Title of the model card; by default the name of the run."""
    license: str | None = None
    """Licence of the weights for the card, such as cc-by-4.0."""
    json: bool = False
    """Print the result as JSON."""

    def run(self) -> None:
        """Write the pipeline and its card."""
        from nelbo.diffusers_format import load, save
        from nelbo.diffusion import Diffusion
        from nelbo.networks.files import atomic_file
        from nelbo.report.model_card import model_card
        from nelbo.training.run_directory import RunDirectory

        if self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
            raise NelboError(f"{self.out} is not empty; export to a new directory")
        model = load(self.run_path)
        if not isinstance(model, Diffusion):
            raise NelboError(
                f"{self.run_path} is a {type(model).__name__}, and export takes models of pixels; "
                "in Python, nelbo.save(nelbo.load(RUN), DIR) writes a latent one as a pipeline"
            )
        run = RunDirectory(self.run_path)
        notes = run.notes()
        if "source" in notes:
            # Where a folder was on this machine is nobody else's business.
            notes["source"] = Path(notes["source"]).name
        kept: dict[str, Any] = {name: notes[name] for name in _KEPT if name in notes}
        card = model_card(
            self.name or Path(self.run_path).resolve().name,
            model,
            notes,
            run.evaluation(),
            self.license,
        )
        try:
            save(model, self.out, notes=kept)
            with atomic_file(self.out / "README.md") as temporary:
                temporary.write_text(card, encoding="utf-8")
        except OSError as error:
            raise NelboError(f"cannot write to {self.out}: {error}") from error
        if self.json:
            print_json({"run": self.run_path, "out": str(self.out)})
        else:
            show(f"Exported to {self.out}")
