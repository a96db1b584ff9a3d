"""nelbo sample: images from a model."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from PIL import Image
from rich.console import RenderableType
from torch import Tensor

from nelbo.base.errors import NelboError
from nelbo.chain.conditioning import Condition
from nelbo.commands.common import answer, check_optimal
from nelbo.commands.conditions import condition_between, condition_of, guiding, load_pictures
from nelbo.commands.controls import read_controls
from nelbo.commands.options.sample import Sample
from nelbo.commands.sample_quality import Compared
from nelbo.commands.sampling import build_sampler, check_guidance
from nelbo.evidence.sample_reading import SampleReading
from nelbo.evidence.short_chains import optimal_chain
from nelbo.formats import Pipeline
from nelbo.networks.control import Control
from nelbo.report.animation import check_animation, save_animation
from nelbo.report.captions import interpolation_grid, prompt_grid
from nelbo.report.grids import image_grid, save_image, to_pil
from nelbo.runs.picture_model import PictureModel
from nelbo.runs.run_data import check_data, check_not_data
from nelbo.samplers import DDPM, Sampler
from nelbo.samplers.batches import Film, sample_in_batches


def run(options: Sample) -> None:
    """Write what was asked for."""
    n = options.images()
    check_guidance(options.condition)
    pipeline = Pipeline.open(options.run_path)
    if options.animation is not None:
        check_animation(options.animation)
        check_not_data(pipeline, options.animation, "--animation")
    check_not_data(pipeline, options.out)
    if options.files is not None:
        check_not_data(pipeline, options.file(0), "--files")
    source = None
    if options.judged.quality:
        source = check_data(pipeline, options.judged.data, "train")
    sampler = _sampler(options, pipeline)
    pictures = load_pictures(options, pipeline)
    control = _control(options, pictures, n)
    compared = None
    if source is not None:
        compared = Compared.load(source, pictures.model, options.judged.features)
    condition = _condition(options, pictures, n, compared)
    guided = guiding(options.condition, pictures)
    model = pictures.model
    if options.levels == "optimal" and options.sampling.steps is not None:
        model = optimal_chain(model, options.sampling.steps)
    film = None
    if options.animation is not None:
        if sampler is None:
            raise NelboError(f"--animation: {options.run_path} samples in one call, without a walk")
        film = Film(sampler.path(model.chain.schedule), options.animate)
    start = time.perf_counter()
    samples = model.data.shown(
        sample_in_batches(
            model,
            sampler,
            n,
            condition=condition,
            control=control,
            batch_size=options.batch_size,
            seed=options.computing.seed,
            repeat=options.interpolate or 1,
            watch=None if film is None else film.watch,
            **guided,
        )
    )
    seconds = time.perf_counter() - start
    save_image(_page(options, samples, pictures.levels), options.out)
    if options.files is not None:
        for i, image in enumerate(samples):
            save_image(to_pil(image, pictures.levels), options.file(i))
    if film is not None and options.animation is not None:
        frames = [pictures.to_pictures(frame, options.batch_size) for frame in film.frames()]
        save_animation([_page(options, f, pictures.levels) for f in frames], options.animation)
    seed = options.computing.seed
    _report(options, n, seconds, None if compared is None else compared.read(samples, seed))


def _control(options: Sample, pictures: PictureModel, n: int) -> list[Control] | None:
    """The control of each ControlNet for each image, in every row of an interpolation the same."""
    control = read_controls(options.controlled, pictures, n)
    if control is None or options.interpolate is None:
        return control
    frames = options.interpolate
    return [replace(c, image=c.image[:frames].repeat(n // frames, 1, 1, 1)) for c in control]


def _condition(
    options: Sample, pictures: PictureModel, n: int, compared: Compared | None
) -> Condition | None:
    """What each image is conditioned on.

    Images to compare are of the classes as often as those they are compared with.
    """
    if options.interpolate is not None:
        frames = options.interpolate
        return condition_between(options.condition, pictures, frames).repeat(n // frames)
    condition = condition_of(options.condition, pictures, n, every_class=True)
    if compared is not None and condition is not None and not options.condition.labels():
        labels = compared.labels(n, pictures.model.num_classes, options.computing.seed)
        if labels is not None:
            condition = replace(condition, label=labels)
    return condition


def _page(options: Sample, images: Tensor, levels: int) -> Image.Image:
    """The grid, with the prompts where there are several."""
    prompts, scale = options.condition.prompts(), options.scale
    if options.interpolate is not None:
        frames = options.interpolate
        return interpolation_grid(images, prompts[0], prompts[1], frames, levels, scale=scale)
    if len(prompts) > 1:
        return prompt_grid(images, prompts, levels, scale=scale)
    return image_grid(images, levels, scale=scale)


def _sampler(options: Sample, pipeline: Pipeline) -> Sampler | None:
    """What walks the chain: for optimal levels, all of the chain that they make."""
    if options.levels != "optimal":
        return build_sampler(options.sampling, pipeline)
    if options.sampling.sampler not in (None, "ddpm"):
        raise NelboError(
            f"--levels optimal makes a chain for ddpm, not for {options.sampling.sampler}"
        )
    if options.sampling.spacing is not None:
        raise NelboError("give either --spacing or --levels optimal")
    check_optimal(options.run_path, options.sampling.steps)
    return DDPM()


def _report(options: Sample, n: int, seconds: float, reading: SampleReading | None) -> None:
    out, files, animation = (
        None if path is None else str(path)
        for path in (options.out, options.files, options.animation)
    )
    written = ", ".join(path for path in (out, files, animation) if path is not None)
    content: dict[str, Any] = {
        "run": options.run_path,
        "out": out,
        "files": files,
        "animation": animation,
        "images": n,
        "seconds": round(seconds, 3),
        "images_per_second": round(n / seconds, 3),
    }
    pace = f"{n / seconds:.3g} images/s"
    shown: list[RenderableType] = [
        f"{n} image{'s' * (n > 1)} in {seconds:.1f} s, {pace} → {written}"
    ]
    notes = []
    if reading is not None:
        content["quality"] = reading.to_json()
        if not options.computing.json:  # it comes with plots
            from nelbo.report.beside import ABOUT_FEATURES, nearest_line, quality_table

            shown += [quality_table(reading), nearest_line(reading)]
            notes = [ABOUT_FEATURES]
    answer(options.computing.json, content, *shown, notes=notes)
