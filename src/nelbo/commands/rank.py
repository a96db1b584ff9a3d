"""nelbo rank: which images of a set surprise a model most."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from nelbo.base.console import MESSAGES
from nelbo.chain.bound import BoundMap
from nelbo.chain.model import Model
from nelbo.commands.asked import asked_source
from nelbo.commands.common import answer
from nelbo.commands.options.rank import Rank
from nelbo.commands.shared_evaluation import join_processes, open_store
from nelbo.data import ImageData
from nelbo.evidence import excess_bits, rank, write_ranking
from nelbo.evidence.bit_map import map_bits
from nelbo.evidence.file_sizes import file_sizes, sizes_json
from nelbo.evidence.given import given_of
from nelbo.evidence.identity import identify_profile
from nelbo.evidence.inputs import check_probability
from nelbo.evidence.progress import evaluate_at_levels
from nelbo.formats import Pipeline
from nelbo.latent.bound import LatentBoundMap
from nelbo.report.page import write_html
from nelbo.report.ranking_page import RankingReport, ranking_page
from nelbo.report.tables import estimate_text
from nelbo.runs.run_data import load_with_data

TABLE, PAGE = "ranking.csv", "ranking.html"
_PRINTED = 10
# Levels an image: of models of pixels, and of latents.
_LEVELS = (50, 10)
# What does not decide the bounds.
_NO_SETTINGS = ("shown", "maps", "score")


def run(options: Rank) -> None:
    """Evaluate, rank, write the table and the page."""
    pipeline = Pipeline.open(options.run_path)
    source = asked_source(options, pipeline, options.split or "all", keep_duplicates=True)
    if options.split is None and source.own:
        source = replace(source, split="test")
    processes = join_processes(options.computing, options.out)
    model, data = load_with_data(
        pipeline,
        source,
        processes.device,
        quiet=not processes.is_main,
        embedded_guidance=options.embedded_guidance,
    )
    check_probability(options.run_path, model, data)
    levels = options.levels or _LEVELS[model.few_levels_matter]
    store = open_store(
        options,
        model,
        data,
        processes,
        besides=_NO_SETTINGS,
        split=source.split,
        levels=levels,
        estimator="importance",
        proposal=identify_profile(model),
    )
    bound, _ = evaluate_at_levels(
        model,
        data,
        f"Ranking {data.source}",
        levels,
        batch_size=options.batch_size,
        seed=options.computing.seed,
        store=store,
    )
    processes.leave()
    if not processes.is_main:
        return
    scores = excess_bits(bound, data) if options.score == "excess" else None
    order = rank(bound, scores)
    write_ranking(options.out / TABLE, data, bound, excess=scores)
    count = min(options.shown, max(1, len(order) // 2))
    most, least = order[:count], order.flip(0)[:count]
    shown = data.take(torch.cat([most, least]))
    report = RankingReport(
        model_name=Path(options.run_path).name,
        data=data,
        bound=bound,
        most=most,
        least=least,
        given=given_of(model, data),
        maps=_map(options, model, shown) if options.maps else None,
        files=file_sizes(data.images, data.levels),
        scores=scores,
    )
    write_html(ranking_page(report), options.out / PAGE)
    _answer(options, report, order[:_PRINTED].tolist(), source.split)


def _map(options: Rank, model: Model, shown: ImageData) -> BoundMap | LatentBoundMap | None:
    with MESSAGES.status(f"Finding where the bits of {len(shown)} images go"):
        return map_bits(model, shown, options.computing.seed)


def _answer(options: Rank, report: RankingReport, printed: list[int], split: str) -> None:
    """Print the ranking, with the images of these indices."""
    data, scores, files, given = report.data, report.scores, report.files, report.given
    bits, average = report.bound.bits_per_dim.tolist(), report.bound.mean().bits_per_dim
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
        for i in printed
    ]
    shown = []
    for row in first:
        caption = f"  {row['caption']}" if row["caption"] else ""
        of = f"  ({row['split']})" if mixed else ""
        excess = "" if scores is None else f" ({row['excess_bits_per_dim']:+.3f} over files)"
        shown.append(
            f"{row['bits_per_dim']:8.3f} bits/dim{given.suffix}{excess}  {row['name']}{of}{caption}"
        )
    if len(data) > len(first):
        shown.append(f"     ... and {len(data) - len(first):,} more in {options.out / TABLE}")
    mean, sign, error = estimate_text(average, 3).partition(" ± ")
    warnings = average.warnings(data.names)
    answer(
        options.computing.json,
        {
            "run": options.run_path,
            "data": data.source,
            "split": split,
            "images": len(data),
            "score": options.score,
            **given.to_json(),
            "bits_per_dim": average.mean,
            "standard_error": average.standard_error,
            "files": sizes_json(files),
            "most_surprising": first,
            "table": str(options.out / TABLE),
            "page": str(options.out / PAGE),
            "skipped": list(data.skipped),
            "warnings": warnings,
        },
        *shown,
        f"{mean:>8} bits/dim{given.suffix}  on average{sign}{error}",
        files.line if files else None,
        f"Page: {(options.out / PAGE).resolve().as_uri()}",
        warnings=warnings,
    )
