"""nelbo edit: change a picture with a model: image to image, inpainting, interpolation."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from nelbo.base.errors import NelboError
from nelbo.commands.common import print_json, say, show
from nelbo.commands.options import Computing, ConditionOptions, SamplerOptions, at_least_one
from nelbo.commands.picture_model import (
    PictureModel,
    check_counts,
    check_png,
    walk_with_progress,
)
from nelbo.commands.run_data import check_not_data

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from nelbo.editing import Edit as Editing
    from nelbo.samplers import Sampler, State

# The levels that RePaint visits where fewer are not asked for (Lugmayr et al. 2022).
_INPAINTING_STEPS = 250
_INVERSION = "inversion"


@dataclass(frozen=True)
class Edit:
    """Edit a picture: redraw its details, paint a part of it, or go over into another one."""

    run_path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(name="run", metavar="RUN")]
    """A run, a diffusers pipeline directory, or a Hub id."""
    image: Path
    """The picture to edit."""
    out: Path = Path("edited.png")
    """The picture to write, PNG; a grid for several."""
    mask: Path | None = None
    """Paint where this picture is white, and keep where it is black or transparent."""
    interpolate: Path | None = None
    """Go over into this picture."""
    strength: float | None = None
    """Share of the steps that are taken, in (0, 1]: how little of the picture is kept. By default
    0.6, and 1 to interpolate."""
    frames: int | None = None
    """Pictures of an interpolation, 8 by default."""
    encoder: str | None = None
    """How to interpolate: by inversion of ddim, the default, or by diffusion with shared noise."""
    jump_length: int | None = None
    """Levels that inpainting goes back up at a time, 10 by default."""
    jump_n_sample: int | None = None
    """How often inpainting walks each stretch, 10 by default; less is faster and fits less well."""
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 1
    """How many different results, result i of a seed being always the same; interpolation has
    one."""
    resize: bool = True
    """Cut pictures of another size than the model's in the middle, and scale them; --no-resize
    refuses them."""
    sampling: SamplerOptions = field(default_factory=SamplerOptions)
    condition: ConditionOptions = field(default_factory=ConditionOptions)
    batch_size: int = 64
    """Images at a time; the images do not depend on it."""
    computing: Computing = field(default_factory=Computing)

    def run(self) -> None:
        """Write the picture."""
        self.computing.check()
        self.condition.check()
        check_counts(self.n, self.batch_size)
        check_png(self.out)
        if self.interpolate is None:
            self.condition.check_count(self.n)
        self._check_options()

        import torch

        from nelbo.data.image_file import examine
        from nelbo.report.grids import save_grid, save_image, to_pil

        self.condition.check_guidance()
        for path in (self.image, self.mask, self.interpolate):
            if path is not None:
                examine(path)
        check_not_data(self.run_path, self.out)
        sampler = self._sampler()
        editing = None if self.mask is not None else self._redrawing(sampler)
        pictures = PictureModel.load(self.run_path, self.computing.device)
        self._check_sizes(pictures)
        images = self._read(pictures)
        paint = None if self.mask is None else self._paint(pictures)
        start = time.perf_counter()
        walked = self._walk(pictures, sampler, editing, images, paint)
        edited = pictures.to_pictures(walked, self.batch_size)
        seconds = time.perf_counter() - start
        if paint is not None:
            # Exact in latents as well, whose decoder changes everything a little.
            known = pictures.to_pixels(images)
            edited = torch.where(paint, edited, known)
        if len(edited) == 1:
            save_image(to_pil(edited[0], pictures.levels), self.out)
        else:
            columns = None if self.interpolate is None else len(edited)
            save_grid(edited, self.out, pictures.levels, columns=columns)
        if self.computing.json:
            content = {"run": self.run_path, "out": str(self.out), "images": len(edited)}
            print_json(content | {"seconds": round(seconds, 3)})
        else:
            show(f"{len(edited)} image{'s' * (len(edited) > 1)} in {seconds:.1f} s → {self.out}")

    def _walk(
        self,
        pictures: PictureModel,
        sampler: Sampler,
        editing: Editing | None,
        images: Tensor,
        paint: Tensor | None,
    ) -> Tensor:
        """The last states of the edit."""
        import torch

        x = pictures.to_states(images)
        if editing is None:
            assert paint is not None
            edit = self._inpainting(paint, sampler, (x.shape[2], x.shape[3]))
        else:
            edit = editing
        outputs = edit.outputs(1) if self.interpolate is not None else self.n
        chain, condition = pictures.told(self.condition, outputs)

        def states(some: slice, generators: list[torch.Generator]) -> Iterator[State]:
            if self.interpolate is not None:
                # All frames take the same noise, so that they differ by their place alone.
                seed = generators[0].initial_seed()
                same = [torch.Generator().manual_seed(seed) for _ in range(outputs)]
                return edit.iterate(chain, x, condition=condition, generator=same)
            return edit.iterate(
                chain,
                x.expand(len(generators), -1, -1, -1),
                condition=None if condition is None else condition[some],
                generator=generators,
            )

        walks = walk_with_progress(
            "Editing",
            self.n,
            states,
            edit.num_states(chain.schedule),
            batch_size=self.batch_size,
            seed=self.computing.seed,
        )
        return torch.cat(list(walks))

    def _sampler(self) -> Sampler:
        """What walks the chain.

        Raises:
            NelboError: one that the edit cannot use.
        """
        from nelbo.formats.pipelines import load_schedule
        from nelbo.samplers import DDPM

        if self.interpolate is not None:
            return self.sampling.build(self.run_path, "ddim" if self._inverts else None)
        if self.mask is None:
            return self.sampling.build(self.run_path)
        levels = load_schedule(self.run_path).num_levels
        sampler = self.sampling.build(self.run_path, "ddpm", steps=min(_INPAINTING_STEPS, levels))
        if not isinstance(sampler, DDPM):
            raise NelboError(f"inpainting walks with ddpm, not with {self.sampling.sampler}")
        return sampler

    def _redrawing(self, sampler: Sampler) -> Editing:
        """The edit of whole pictures."""
        from nelbo.editing import ImageToImage, Interpolation

        if self.interpolate is None:
            return ImageToImage(sampler, 0.6 if self.strength is None else self.strength)
        return Interpolation(
            8 if self.frames is None else self.frames,
            sampler,
            self.encoder or _INVERSION,
            1.0 if self.strength is None else self.strength,
        )

    def _inpainting(self, paint: Tensor, sampler: Sampler, size: tuple[int, int]) -> Editing:
        """The edit of a part of states of this size, given where to paint in pictures."""
        from nelbo.editing import Inpainting
        from nelbo.samplers import DDPM

        assert isinstance(sampler, DDPM)
        return Inpainting(
            paint,
            sampler,
            10 if self.jump_length is None else self.jump_length,
            10 if self.jump_n_sample is None else self.jump_n_sample,
        ).of_latents(size)

    @property
    def _inverts(self) -> bool:
        return self.encoder in (None, _INVERSION)

    def _read(self, pictures: PictureModel) -> Tensor:
        """The picture, or the two of an interpolation, 0..255."""
        import torch

        from nelbo.data.image_file import read_image

        return torch.stack([read_image(path, pictures.shape) for path in self._redrawn()])

    def _redrawn(self) -> list[Path]:
        return [self.image] if self.interpolate is None else [self.image, self.interpolate]

    def _paint(self, pictures: PictureModel) -> Tensor:
        """Where to paint, (1, 1, H, W)."""
        from nelbo.data.image_file import read_mask

        assert self.mask is not None
        return read_mask(self.mask, pictures.shape[1:])[None, None]

    def _check_sizes(self, pictures: PictureModel) -> None:
        """Say what is cut and scaled.

        Raises:
            NelboError: a picture of another size than the model's with --no-resize, or a mask that
                is neither of the model's size nor in the proportions of the picture.
        """
        from nelbo.data.image_file import examine

        takes = pictures.shape[1], pictures.shape[2]
        asked = [*self._redrawn(), *([] if self.mask is None else [self.mask])]
        sizes = {}
        for path in asked:
            opened = examine(path)
            for note in opened.notes:
                say(f"note: {path} has {note}")
            size = sizes[path] = opened.size
            if size is None or size == takes:
                continue
            found = f"{path} is {_named(size)} pixels, the model takes {_named(takes)}"
            if not self.resize:
                raise NelboError(
                    f"{found} (height × width): leave --no-resize out to cut and scale it"
                )
            say(f"note: {found} (height × width): cut in the middle and scaled")
        if self.mask is not None:
            _check_mask(sizes[self.image], sizes[self.mask], takes, self.mask)

    def _check_options(self) -> None:
        inpaints, interpolates = self.mask is not None, self.interpolate is not None
        if inpaints and interpolates:
            raise NelboError("give either --mask or --interpolate")
        if interpolates and self.n != 1:
            raise NelboError("an interpolation has one result: leave out -n, or give --frames")
        for option, value, applies, where in (
            ("--strength", self.strength, not inpaints, "without --mask"),
            ("--jump-length", self.jump_length, inpaints, "with --mask"),
            ("--jump-n-sample", self.jump_n_sample, inpaints, "with --mask"),
            ("--frames", self.frames, interpolates, "with --interpolate"),
            ("--encoder", self.encoder, interpolates, "with --interpolate"),
        ):
            if value is not None and not applies:
                raise NelboError(f"{option} takes effect {where} only")
        at_least_one(jump_length=self.jump_length, jump_n_sample=self.jump_n_sample)


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
            f"the mask {path} is {_named(mask)} and the picture {_named(image)} (height × width): "
            f"make the mask of the picture's size, or of the model's, {_named(takes)}"
        )


def _named(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"
