"""nelbo sample: images from a model."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from nelbo.base.errors import NelboError
from nelbo.base.suggestions import listed
from nelbo.commands.common import check_optimal, optimal_chain, print_json, say, show
from nelbo.commands.options import Computing, ConditionOptions, SamplerOptions, check_out
from nelbo.commands.picture_model import (
    PictureModel,
    check_counts,
    check_png,
    walk_with_progress,
)
from nelbo.commands.run_data import check_not_data
from nelbo.commands.sample_quality import Compared, QualityOptions

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import Tensor

    from nelbo.chain.conditioning import Condition
    from nelbo.diffusion import Diffusion, NoiseSchedule
    from nelbo.evidence.sample_reading import SampleReading
    from nelbo.networks.guidance import Guidance
    from nelbo.samplers import Sampler, State

_IMAGES, _OF_ONE_PROMPT = 16, 4
_LARGEST_SCALE = 64
# What --files calls a picture.
_NAME = re.compile(r"\d{5}\.png")
# Images that --quality needs at least.
LEAST_JUDGED = 2
# Frames of an animation at most: some four seconds.
_FRAMES = 48


@dataclass(frozen=True)
class Sample:
    """Sample images from a model: a grid, single files, an animation."""

    run_path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(name="run", metavar="RUN")]
    """A run, a diffusers pipeline directory, or a Hub id."""
    out: Path = Path("samples.png")
    """The grid to write, PNG."""
    files: Path | None = None
    """Directory to also write each image to, a PNG of its own size."""
    animation: Path | None = None
    """Animation of the walk to write as well, .gif or .webp."""
    animate: Literal["x_t", "x_0"] = "x_t"
    """What the animation shows: the state, or the data predicted from it."""
    n: Annotated[int | None, tyro.conf.arg(aliases=["-n"])] = None
    """How many images, image i of a seed being always the same; by default one for each of several
    labels or prompts, 4 of one prompt, else 16. With --interpolate how many rows, 1 by default."""
    scale: int | None = None
    """Whole factor to enlarge the pictures of the grid and animation by, each pixel a block; by
    default what makes small ones easy to see. 1 leaves them as they are; --files always are."""
    interpolate: int | None = None
    """Images a row on the straight way from the first --prompt to the second, with one noise."""
    levels: Literal["spaced", "optimal"] = "spaced"
    """Which levels fewer steps visit: by `spacing`, or those of the best bound with the optimal
    variance, once `nelbo fit` has measured the run."""
    sampling: SamplerOptions = field(default_factory=SamplerOptions)
    condition: ConditionOptions = field(default_factory=ConditionOptions)
    judged: QualityOptions = field(default_factory=QualityOptions)
    batch_size: int = 64
    """Images at a time; the images do not depend on it."""
    computing: Computing = field(default_factory=Computing)

    def run(self) -> None:
        """Write what was asked for."""
        self.computing.check()
        self.condition.check()
        if self.interpolate is not None and self.interpolate < 2:
            raise NelboError(f"--interpolate must be at least 2, got {self.interpolate}")
        n = self._images()
        check_counts(n, self.batch_size)
        if self.interpolate is None:
            self.condition.check_count(n)
        if self.scale is not None and not 1 <= self.scale <= _LARGEST_SCALE:
            raise NelboError(f"--scale must lie in 1..{_LARGEST_SCALE}, got {self.scale}")
        check_png(self.out)
        if self.files is not None:
            check_out(self.files, "--files", directory=True)
            self._check_no_others(n)

        from nelbo.report.animation import check_animation, save_animation
        from nelbo.report.grids import save_image, to_pil

        self.condition.check_guidance()
        if self.animation is not None:
            check_animation(self.animation)
            check_not_data(self.run_path, self.animation, "--animation")
        check_not_data(self.run_path, self.out)
        if self.files is not None:
            check_not_data(self.run_path, self._file(0), "--files")
        source = self.judged.check(self.run_path)
        if source is not None and n < LEAST_JUDGED:
            raise NelboError(f"--quality needs at least {LEAST_JUDGED} images, got -n {n}")
        sampler = self._sampler()
        pictures = PictureModel.load(self.run_path, self.computing.device)
        compared = None
        if source is not None:
            compared = Compared.load(source, pictures.model, self.judged.features)
        chain, condition = self._told(pictures, n, compared)
        if self.levels == "optimal":
            chain = optimal_chain(chain, self.sampling.steps)
        film = None
        if self.animation is not None:
            film = Film(sampler, chain.schedule, self.animate)
        start = time.perf_counter()
        samples = pictures.to_pictures(
            sample_with_progress(
                chain,
                sampler,
                n,
                condition=condition,
                batch_size=self.batch_size,
                seed=self.computing.seed,
                repeat=self.interpolate or 1,
                film=film,
            ),
            self.batch_size,
        )
        seconds = time.perf_counter() - start
        save_image(self._page(samples, pictures.levels), self.out)
        if self.files is not None:
            for i, image in enumerate(samples):
                save_image(to_pil(image, pictures.levels), self._file(i))
        if film is not None and self.animation is not None:
            frames = [pictures.to_pictures(frame, self.batch_size) for frame in film.frames()]
            save_animation([self._page(f, pictures.levels) for f in frames], self.animation)
        seed = self.computing.seed
        self._report(n, seconds, None if compared is None else compared.read(samples, seed))

    def _check_no_others(self, n: int) -> None:
        """Raise `NelboError` where pictures of an earlier call would stay beside the new ones."""
        assert self.files is not None
        made = [path for path in self.files.glob("*.png") if _NAME.fullmatch(path.name)]
        others = sorted(path.name for path in made if int(path.stem) >= n)
        if others:
            raise NelboError(
                f"--files {self.files} holds {len(others)} of the pictures of an earlier call that "
                f"these {n} would not replace ({listed(others)}): remove them, or give another "
                "directory"
            )

    def _file(self, i: int) -> Path:
        """Where image i is written on its own."""
        assert self.files is not None
        return self.files / f"{i:05d}.png"

    def _told(
        self, pictures: PictureModel, n: int, compared: Compared | None
    ) -> tuple[Diffusion, Condition | None]:
        """The chain with its guidance, and what it is told of each image.

        Images to compare are of the classes as often as those they are compared with.
        """
        if self.interpolate is not None:
            chain, condition = pictures.told_between(self.condition, self.interpolate)
            return chain, condition and condition.repeat(n // self.interpolate)
        chain, condition = pictures.told(self.condition, n, every_class=True)
        if compared is not None and condition is not None and not self.condition.labels():
            labels = compared.labels(n, pictures.num_classes, self.computing.seed)
            if labels is not None:
                condition = replace(condition, label=labels)
        return chain, condition

    def _page(self, images: Tensor, levels: int) -> Image.Image:
        """The grid, with the prompts where there are several."""
        from nelbo.report.captions import interpolation_grid, prompt_grid
        from nelbo.report.grids import image_grid

        prompts, scale = self.condition.prompts(), self.scale
        if self.interpolate is not None:
            frames = self.interpolate
            return interpolation_grid(images, prompts[0], prompts[1], frames, levels, scale=scale)
        if len(prompts) > 1:
            return prompt_grid(images, prompts, levels, scale=scale)
        return image_grid(images, levels, scale=scale)

    def _images(self) -> int:
        if self.interpolate is not None:
            return (1 if self.n is None else self.n) * self.interpolate
        if self.n is not None:
            return self.n
        labels, prompts = len(self.condition.labels()), len(self.condition.prompts())
        if prompts == 1:
            return _OF_ONE_PROMPT
        return max(labels, prompts) if max(labels, prompts) > 1 else _IMAGES

    def _sampler(self) -> Sampler:
        """What walks the chain: for optimal levels, all of the chain that they make."""
        from nelbo.samplers import DDPM

        if self.levels != "optimal":
            return self.sampling.build(self.run_path)
        if self.sampling.sampler not in (None, "ddpm"):
            raise NelboError(
                f"--levels optimal makes a chain for ddpm, not for {self.sampling.sampler}"
            )
        if self.sampling.spacing is not None:
            raise NelboError("give either --spacing or --levels optimal")
        check_optimal(self.run_path, self.sampling.steps)
        return DDPM()

    def _report(self, n: int, seconds: float, reading: SampleReading | None) -> None:
        if self.computing.json:
            quality = {} if reading is None else {"quality": reading.to_json()}
            print_json(
                {
                    "run": self.run_path,
                    "out": str(self.out),
                    "files": None if self.files is None else str(self.files),
                    "animation": None if self.animation is None else str(self.animation),
                    "images": n,
                    "seconds": round(seconds, 3),
                    "images_per_second": round(n / seconds, 3),
                    **quality,
                }
            )
            return
        written = [str(path) for path in (self.out, self.files, self.animation) if path is not None]
        show(
            f"{n} image{'s' * (n > 1)} in {seconds:.1f} s, {n / seconds:.3g} images/s → "
            f"{', '.join(written)}"
        )
        if reading is not None:
            from nelbo.report.beside import ABOUT_FEATURES, nearest_line, quality_table

            show(quality_table(reading))
            show(nearest_line(reading))
            say(ABOUT_FEATURES)


class Film:
    """Keeps some states of a walk: at even changes of x_t, and the last one.

    Args:
        sampler: what walks.
        schedule: of the chain.
        shows: "x_t" or "x_0", what is kept of a state.
        frames: at most how many.
    """

    def __init__(
        self, sampler: Sampler, schedule: NoiseSchedule, shows: str, frames: int = _FRAMES
    ) -> None:
        import torch

        levels = torch.searchsorted(
            schedule.network_times[1:], torch.tensor(sampler.state_times(schedule))
        )
        # x_t = cos φ x_0 + sin φ ε: even in φ is even to the eye.
        angles = torch.atan2(schedule.noise_scale, schedule.signal_scale)[levels + 1]
        targets = torch.linspace(float(angles[0]), 0.0, frames, dtype=angles.dtype)
        nearest = (angles[None] - targets[:, None]).abs().argmin(1)
        self._kept = {*nearest.tolist(), len(levels) - 1}
        self._shows = shows
        self._batches: dict[int, list[Tensor]] = {k: [] for k in sorted(self._kept)}

    def watch(self, k: int, state: State) -> None:
        """Keep step k if it is one to show."""
        if k in self._kept:
            self._batches[k].append((state.x if self._shows == "x_t" else state.x_0).cpu())

    def frames(self) -> Iterator[Tensor]:
        """What was kept, of all batches, (N, C, H, W) a frame."""
        import torch

        for batches in self._batches.values():
            yield torch.cat(batches)


def all_classes(model: Diffusion, n: int) -> Condition | None:
    """Every class in turn for a class-conditional model; else None."""
    import torch

    from nelbo.chain.conditioning import Condition

    return Condition(label=torch.arange(n) % model.num_classes) if model.num_classes else None


def sample_with_progress(
    model: Diffusion,
    sampler: Sampler,
    n: int,
    *,
    condition: Condition | None = None,
    guidance: float | Guidance = 1.0,
    batch_size: int = 64,
    seed: int = 0,
    repeat: int = 1,
    film: Film | None = None,
) -> Tensor:
    """`n` samples in batches behind a progress bar, on the device of the model.

    Arguments as `Diffusion.sample` and `walk_with_progress`.
    """
    import torch

    device = next(model.parameters()).device

    def states(some: slice, generators: list[torch.Generator]) -> Iterator[State]:
        told = None if condition is None else condition[some].to(device)
        x_T = model.start(len(generators), None, generators)
        return sampler.iterate(model, x_T, condition=told, guidance=guidance, generator=generators)

    walks = walk_with_progress(
        f"Sampling {n} image{'s' * (n > 1)}",
        n,
        states,
        len(sampler.state_times(model.schedule)),
        batch_size=batch_size,
        seed=seed,
        repeat=repeat,
        watch=None if film is None else film.watch,
    )
    return torch.cat(list(walks))
