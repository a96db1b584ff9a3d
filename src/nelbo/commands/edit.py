"""nelbo edit: change a picture with a model: image to image, inpainting, interpolation."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from nelbo.base.console import notice
from nelbo.base.errors import NelboError
from nelbo.commands.common import answer
from nelbo.commands.conditions import condition_of, guiding, load_pictures
from nelbo.commands.controls import read_controls
from nelbo.commands.options.edit import INVERSION, Edit
from nelbo.commands.sampling import build_sampler, check_guidance
from nelbo.data.image_file import examine, read_image, read_mask
from nelbo.data.size import sides
from nelbo.editing import Edit as Editing
from nelbo.editing import ImageToImage, Inpainting, Interpolation
from nelbo.formats import Pipeline
from nelbo.report.grids import save_grid, save_image, to_pil
from nelbo.runs.picture_model import PictureModel
from nelbo.runs.run_data import check_not_data
from nelbo.samplers import DDPM, Sampler
from nelbo.samplers.batches import in_batches

# The levels that RePaint visits where fewer are not asked for (Lugmayr et al. 2022).
_INPAINTING_STEPS = 250


def run(options: Edit) -> None:
    """Write the picture."""
    check_guidance(options.condition)
    pipeline = Pipeline.open(options.run_path)
    for path in (options.image, options.mask, options.interpolate):
        if path is not None:
            examine(path)
    check_not_data(pipeline, options.out)
    sampler = _sampler(options, pipeline)
    edit = _redrawing(options, sampler)
    pictures = load_pictures(options, pipeline)
    _check_sizes(options, pictures)
    images = _read(options, pictures)
    paint = None
    if options.mask is not None:
        paint = read_mask(options.mask, pictures.shape[1:])[None, None]
    start = time.perf_counter()
    x = pictures.to_states(images)
    if paint is not None:
        edit = _inpainting(options, paint, sampler, x)
    walked = _walk(options, pictures, edit, x)
    edited = pictures.to_pictures(walked, options.batch_size)
    seconds = time.perf_counter() - start
    if paint is not None:
        # Exact in latents as well, whose decoder changes everything a little.
        edited = torch.where(paint, edited, images)
    if len(edited) == 1:
        save_image(to_pil(edited[0], pictures.levels), options.out)
    else:
        columns = None if options.interpolate is None else len(edited)
        save_grid(edited, options.out, pictures.levels, columns=columns)
    content = {"run": options.run_path, "out": str(options.out), "images": len(edited)}
    answer(
        options.computing.json,
        content | {"seconds": round(seconds, 3)},
        f"{len(edited)} image{'s' * (len(edited) > 1)} in {seconds:.1f} s → {options.out}",
    )


def _walk(options: Edit, pictures: PictureModel, edit: Editing, x: Tensor) -> Tensor:
    """The last states of the edit, from those of the pictures."""
    outputs = edit.outputs(1) if options.interpolate is not None else options.n
    control = read_controls(options.controlled, pictures, outputs)
    chain, condition = pictures.model.conditioned(
        outputs,
        condition=condition_of(options.condition, pictures, outputs),
        control=control,
        **guiding(options.condition, pictures),
    )

    def edited(
        some: slice, generators: list[torch.Generator], advance: Callable[[], None]
    ) -> Tensor:
        if options.interpolate is not None:
            # All frames take the same noise, so that they differ by their place alone.
            seed = generators[0].initial_seed()
            same = [torch.Generator().manual_seed(seed) for _ in range(outputs)]
            states = edit.iterate(chain, x, condition=condition, generator=same)
        else:
            states = edit.iterate(
                chain,
                x.expand(len(generators), -1, -1, -1),
                condition=None if condition is None else condition[some],
                generator=generators,
            )
        last = x
        for state in states:
            advance()
            last = state.x
        return last

    return in_batches(
        "Editing",
        options.n,
        edited,
        edit.num_states(chain.schedule),
        batch_size=options.batch_size,
        seed=options.computing.seed,
    )


def _sampler(options: Edit, pipeline: Pipeline) -> Sampler:
    """What walks the chain.

    Raises:
        NelboError: one that the edit cannot use.
    """
    if not pipeline.has_chain:
        raise NelboError(f"{options.run_path} has no chain to edit pictures with")
    usual, steps = None, None
    if options.interpolate is not None and options.encoder == INVERSION:
        usual = "ddim"
    elif options.mask is not None:
        usual, steps = "ddpm", min(_INPAINTING_STEPS, pipeline.schedule.num_levels)
    sampler = build_sampler(options.sampling, pipeline, usual, steps=steps)
    assert sampler is not None  # there is a chain
    if options.mask is not None and not isinstance(sampler, DDPM):
        raise NelboError(f"inpainting walks with ddpm, not with {options.sampling.sampler}")
    return sampler


def _redrawing(options: Edit, sampler: Sampler) -> Editing:
    """The edit of whole pictures."""
    if options.interpolate is None:
        return ImageToImage(sampler, 0.6 if options.strength is None else options.strength)
    strength = 1.0 if options.strength is None else options.strength
    return Interpolation(options.frames, sampler, options.encoder, strength)


def _inpainting(options: Edit, paint: Tensor, sampler: Sampler, x: Tensor) -> Editing:
    """The edit of a part of these states, given where to paint in pictures, (1, 1, H, W)."""
    assert isinstance(sampler, DDPM)
    jumps = options.jump_length, options.jump_n_sample
    return Inpainting(paint, sampler, *jumps).of_latents((x.shape[2], x.shape[3]))


def _read(options: Edit, pictures: PictureModel) -> Tensor:
    """The picture, or the two of an interpolation, on the model's pixel levels."""
    read = torch.stack([read_image(path, pictures.shape) for path in _redrawn(options)])
    return pictures.model.data.nearest(read)


def _redrawn(options: Edit) -> list[Path]:
    return [options.image] if options.interpolate is None else [options.image, options.interpolate]


def _check_sizes(options: Edit, pictures: PictureModel) -> None:
    """Report what is cut and scaled.

    Raises:
        NelboError: a picture of another size than the model's with --no-resize, or a mask that
            is neither of the model's size nor in the proportions of the picture.
    """
    takes = pictures.shape[1], pictures.shape[2]
    asked = [*_redrawn(options), *([] if options.mask is None else [options.mask])]
    sizes = {}
    for path in asked:
        opened = examine(path)
        for note in opened.notes:
            notice(f"note: {path} has {note}")
        size = sizes[path] = opened.size
        if size is None or size == takes:
            continue
        found = f"{path} is {sides(size)} pixels, the model takes {sides(takes)}"
        if not options.resize:
            raise NelboError(f"{found} (height × width): leave --no-resize out to cut and scale it")
        notice(f"note: {found} (height × width): cut in the middle and scaled")
    if options.mask is not None:
        _check_mask(sizes[options.image], sizes[options.mask], takes, options.mask)


def _check_mask(
    image: tuple[int, int] | None,
    mask: tuple[int, int] | None,
    takes: tuple[int, int],
    path: Path,
) -> None:
    """Raise `NelboError` for a mask whose pixels would not lie where those of the picture do."""
    if mask is None or image is None or mask == takes:
        return
    # As the longer side of either would be rounded.
    if abs(image[0] * mask[1] - image[1] * mask[0]) > max(*image, *mask):
        raise NelboError(
            f"the mask {path} is {sides(mask)} and the picture {sides(image)} (height × width): "
            f"make the mask of the picture's size, or of the model's, {sides(takes)}"
        )
