"""nelbo classify: the class of each image by the bound of a class-conditional model."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from nelbo.commands.common import (
    choose_device,
    counting_progress,
    load_pixel_model,
    mention_skipped,
    print_json,
    show,
)
from nelbo.commands.options import Computing, at_least_one, check_out
from nelbo.commands.run_data import data_for_run
from nelbo.commands.sample import all_classes
from nelbo.errors import NelboError

if TYPE_CHECKING:
    from nelbo.data import ImageData
    from nelbo.diffusion import Diffusion
    from nelbo.evidence import Classification

_NO_LATENTS = "in Python, nelbo.evidence.classify takes model.prior and latents"


@dataclass(frozen=True)
class Classify:
    """Classify images by the bound of a class-conditional model, without a classifier."""

    run_path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(name="run", metavar="RUN")]
    """A run or diffusers pipeline directory of a class-conditional model, or a Hub id."""
    data: str | None = None
    """As in `nelbo train`; by default what the run was trained on."""
    split: str = "test"
    """Which images: train, test or all."""
    images: int | None = None
    """Classify the first so many images only."""
    margin: float = 3.0
    """Standard errors that a class must be behind before it is dropped: larger is surer and costs
    more network evaluations."""
    draws: int = 64
    """At most so many draws of a level and noise an image."""
    out: Path | None = None
    """CSV file for the class of each image."""
    resize: bool = False
    """Crop and resize images of another size than the model's."""
    batch_size: int = 64
    """Images at a time."""
    computing: Computing = field(default_factory=Computing)

    def run(self) -> None:
        """Classify, print the accuracy where labels are known, and the cost."""
        self.computing.check()
        if self.out is not None:
            check_out(self.out)
        at_least_one(images=self.images, batch_size=self.batch_size)
        model = load_pixel_model(self.run_path, _NO_LATENTS).to(
            choose_device(self.computing.device)
        )
        data = data_for_run(self.run_path, model, self.data, self.split, resize=self.resize)
        mention_skipped(data)
        if self.images is not None:
            data = data.take(slice(self.images))
        result = self._classify(model, data)
        if self.out is not None:
            _write(self.out, data, result)
        calls = float(result.calls.double().mean())
        every = model.num_classes * model.num_levels
        accuracy = None
        if data.labels is not None and bool((data.labels >= 0).any()):
            known = data.labels >= 0
            accuracy = float((result.label == data.labels)[known].double().mean())
        if self.computing.json:
            print_json(
                {
                    "run": self.run_path,
                    "data": data.source,
                    "split": self.split,
                    "images": len(data),
                    "accuracy": accuracy,
                    "calls_per_image": calls,
                    "calls_for_all_classes_and_levels": every,
                    "certain": float((result.remaining.sum(1) == 1).double().mean()),
                }
            )
            return
        if accuracy is not None:
            show(f"{accuracy:.1%} of {len(data):,} images are classified as they are labelled")
        show(
            f"{calls:,.1f} network evaluations an image; all {model.num_classes} classes at all "
            f"{model.num_levels:,} levels would be {every:,}"
        )
        if self.out is not None:
            show(f"Each image: {self.out}")

    def _classify(self, model: Diffusion, data: ImageData) -> Classification:
        import torch

        from nelbo.diffusion import Pixels
        from nelbo.evaluation import check_fits
        from nelbo.evidence import Classification, Classifier

        check_fits(model, data)
        assert isinstance(model.data, Pixels)
        classes = all_classes(model, model.num_classes)
        if classes is None or model.num_classes < 2:
            raise NelboError(f"{self.run_path} is not class-conditional: it has no classes")
        device = next(model.parameters()).device
        classifier = Classifier(
            model,
            classes.to(device),
            margin=self.margin,
            draws=self.draws,
            generator=torch.Generator().manual_seed(self.computing.seed),
        )
        done = []
        with counting_progress() as progress:
            task = progress.add_task(f"Classifying {data.source}", total=len(data), status="")
            for batch in data.batches(self.batch_size):
                done.append(classifier(model.data.to_network(batch.images).to(device)))
                progress.update(task, advance=len(batch))
        return Classification.cat(done)


def _write(path: Path, data: ImageData, result: Classification) -> None:
    from nelbo.networks.files import atomic_file

    names = data.label_names
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("name", "class", "certain", "calls"))
            for i, name in enumerate(data.names):
                label = int(result.label[i])
                certain = int(result.remaining[i].sum()) == 1
                shown = names[label] if label < len(names) else label
                writer.writerow((name, shown, certain, int(result.calls[i])))
    except OSError as error:
        raise NelboError(f"cannot write {path}: {error}") from error
