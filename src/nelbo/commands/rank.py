"""nelbo rank: which images of a set surprise a model most."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from nelbo.commands.common import MESSAGES, print_json, show
from nelbo.commands.decoder_scale import fit_missing_scale
from nelbo.commands.evaluation_progress import (
    evaluate_with_progress,
    levels_that_matter,
    map_bits,
)
from nelbo.commands.options import Computing, at_least_one, check_out
from nelbo.commands.run_data import check_run, load_with_data
from nelbo.commands.shared_evaluation import join_processes, open_store

if TYPE_CHECKING:
    from torch import Tensor

    from nelbo.chain.bound import Bound, BoundMap
    from nelbo.data import ImageData
    from nelbo.diffusion import Diffusion
    from nelbo.evidence.file_sizes import FileSizes
    from nelbo.evidence.given import Given
    from nelbo.latent import LatentDiffusion
    from nelbo.latent.bound import LatentBoundMap

TABLE, PAGE = "ranking.csv", "ranking.html"
_PRINTED = 10
# Levels an image: of models of pixels, and of latents.
_LEVELS = (50, 10)
# What does not decide the bounds.
_NO_SETTINGS = ("run_path", "computing", "out", "shown", "maps", "score")


@dataclass(frozen=True)
class Rank:
    """Rank images by bits/dim, the most surprising first: find odd, damaged, mislabelled ones."""

    run_path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(name="run", metavar="RUN")]
    """A run, a diffusers pipeline directory, or a Hub id."""
    out: Path
    """Directory for ranking.csv and ranking.html; a ranking that was cut short goes on there."""
    data: str | None = None
    """As in `nelbo train`; by default what the run was trained on."""
    split: str | None = None
    """Which images: train, validation, test, or all, each marked with its split. By default those
    for test of what the run was trained on, for what a model has seen surprises it less, and all of
    other data."""
    score: Literal["bits", "excess"] = "bits"
    """Rank by bits/dim, or by their excess over a lossless image file of the same picture, so that
    what is only busy or colourful is not odd."""
    images: int | None = None
    """Rank at most so many images, drawn at random by the seed; all by default."""
    levels: int | None = None
    """Levels of the chain an image, drawn where they matter; more tell images of nearly the same
    rank apart. By default 50, and 10 for latents, whose bound varies at few levels."""
    shown: int = 24
    """How many images to show on each end of the page."""
    maps: bool = True
    """Show where in each of them the bits go."""
    resize: bool = False
    """Crop and resize images of another size than the model's."""
    batch_size: int = 64
    """Images at a time."""
    computing: Computing = field(default_factory=Computing)

    def run(self) -> None:
        """Evaluate, rank, write the table and the page."""
        self.computing.check()
        check_out(self.out, directory=True)
        at_least_one(
            images=self.images, levels=self.levels, shown=self.shown, batch_size=self.batch_size
        )

        import torch

        from nelbo.evidence import excess_bits, rank, write_ranking
        from nelbo.evidence.file_sizes import file_sizes
        from nelbo.evidence.given import given_of
        from nelbo.evidence.identity import identify_profile
        from nelbo.latent import LatentDiffusion
        from nelbo.report.page import write_html
        from nelbo.report.ranking_page import RankingReport, ranking_page

        source = check_run(self.run_path, self.data, self.split or "all", keep_duplicates=True)
        if self.split is None and source.own:
            source = replace(source, split="test")
        processes = join_processes(self.computing.device, self.out)
        model, data = load_with_data(
            source,
            processes.device,
            resize=self.resize,
            images=self.images,
            seed=self.computing.seed,
            quiet=not processes.is_main,
        )
        fit_missing_scale(
            self.run_path, model, data, self.computing.seed, quiet=not processes.is_main
        )
        settings = {k: v for k, v in asdict(self).items() if k not in _NO_SETTINGS}
        levels = self.levels or _LEVELS[isinstance(model, LatentDiffusion)]
        settings |= {
            "split": source.split,
            "seed": self.computing.seed,
            "levels": levels,
            "estimator": "importance",
            "proposal": identify_profile(model),
        }
        store = open_store(self.out, model, data, settings, processes)
        batches = -(-len(data) // self.batch_size)
        bound = evaluate_with_progress(
            model,
            data,
            f"Ranking {data.source}",
            levels=levels_that_matter(
                levels,
                model,
                data,
                self.computing.seed,
                quiet=not processes.is_main,
                drawn=not store.is_complete(0, batches),
            ),
            batch_size=self.batch_size,
            seed=self.computing.seed,
            store=store,
        )
        processes.leave()
        if not processes.is_main:
            return
        scores = excess_bits(bound, data) if self.score == "excess" else None
        given = given_of(model, data)
        order = rank(bound, scores)
        write_ranking(self.out / TABLE, data, bound, excess=scores)
        count = min(self.shown, max(1, len(order) // 2))
        most, least = order[:count], order.flip(0)[:count]
        shown = data.take(torch.cat([most, least]))
        files = file_sizes(data.images, data.levels)
        page = ranking_page(
            RankingReport(
                model_name=Path(self.run_path).name,
                data=data,
                bound=bound,
                most=most,
                least=least,
                maps=self._map(model, shown) if self.maps else None,
                files=files,
                scores=scores,
                given=given,
            )
        )
        write_html(page, self.out / PAGE)
        self._report(data, bound, order, scores, files, given, source.split)

    def _map(
        self, model: Diffusion | LatentDiffusion, shown: ImageData
    ) -> BoundMap | LatentBoundMap:
        with MESSAGES.status(f"Finding where the bits of {len(shown)} images go"):
            return map_bits(model, shown, self.computing.seed)

    def _report(
        self,
        data: ImageData,
        bound: Bound,
        order: Tensor,
        scores: Tensor | None,
        files: FileSizes | None,
        given: Given,
        split: str,
    ) -> None:
        from nelbo.evidence.file_sizes import sizes_json

        bits = bound.bits_per_dim.tolist()
        mixed = len(set(data.splits or ())) > 1
        captions = data.captions or (None,) * len(data)
        first = [
            {
                "name": data.names[i],
                "caption": captions[i],
                "bits_per_dim": bits[i],
                **({"split": data.splits[i]} if data.splits else {}),
                **({} if scores is None else {"excess_bits_per_dim": float(scores[i])}),
            }
            for i in order[:_PRINTED].tolist()
        ]
        if self.computing.json:
            print_json(
                {
                    "run": self.run_path,
                    "data": data.source,
                    "split": split,
                    "images": len(data),
                    "score": self.score,
                    **given.to_json(),
                    "bits_per_dim": bound.mean().bits_per_dim.mean,
                    "files": sizes_json(files),
                    "most_surprising": first,
                    "table": str(self.out / TABLE),
                    "page": str(self.out / PAGE),
                    "skipped": list(data.skipped),
                }
            )
            return
        for row in first:
            caption = f"  {row['caption']}" if row["caption"] else ""
            of = f"  ({row['split']})" if mixed else ""
            excess = "" if scores is None else f" ({row['excess_bits_per_dim']:+.3f} over files)"
            show(
                f"{row['bits_per_dim']:8.3f} bits/dim{given.suffix}{excess}  "
                f"{row['name']}{of}{caption}"
            )
        if len(order) > len(first):
            show(f"     ... and {len(order) - len(first):,} more in {self.out / TABLE}")
        show(f"{bound.mean().bits_per_dim.mean:8.3f} bits/dim{given.suffix}  on average")
        if files is not None:
            show(files.line)
        show(f"Page: {(self.out / PAGE).resolve().as_uri()}")
