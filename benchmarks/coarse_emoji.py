"""Is an emoji of a few dozen bytes recognised? Coded coarse to fine, without its caption.

    python benchmarks/coarse_emoji.py [RUN] [--bytes 80 40 20] [--pictures 100] [--grid FILE]

RUN is a model of the emoji, by default the latent one that ships. Each picture is coded in at most
as many bytes as the first number says, the nine of the start included, and decoded from its first
40, 20, … as well. The model is given no name, and learned from the training pictures alone. A
scorer that is trained here, on real training pictures (`_alignment_scorer.py`), then finds the name
of each decoded picture among 1,000, as in `text_alignment.py`: of the 44 pictures that neither
model nor scorer was trained on, whose names are combinations of words that they were, and of
training pictures. The real pictures, and these after the model's autoencoder, are ranked alike: the
most that can be expected.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from _alignment_scorer import STEPS, load_scorer
from _emoji_names import SIZE, choose_names
from _retrieval import within
from rich.console import Console
from rich.table import Table
from text_alignment import at_scorer_size, reconstruct, retrieve
from torch import Tensor

import nelbo
from nelbo import coding
from nelbo.data import load_data
from nelbo.evidence.file_sizes import WEBP, sizes_of_each
from nelbo.report.captions import prompt_grid
from nelbo.report.grids import save_image

START = 9


def coarse(model: nelbo.Model, images: Tensor, sizes: list[int]) -> dict[int, Tensor]:
    """What is decoded from the first bytes of each picture, by their number, (N, 3, 32, 32)."""
    found: dict[int, list[Tensor]] = {size: [] for size in sizes}
    for image in images:
        content = coding.compress_progressive(model, image, 8 * (max(sizes) - START))
        for size in sizes:
            found[size].append(coding.decompress_progressive(model, content[:size]))
    return {size: at_scorer_size(torch.stack(some)) for size, some in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("run", nargs="?", default="emoji")
    parser.add_argument("--bytes", type=int, nargs="+", default=[80, 40, 20])
    parser.add_argument("--pictures", type=int, default=100, help="44 of them held out")
    parser.add_argument("--cache", type=Path, default=Path("runs"), help="keeps the scorer here")
    parser.add_argument("--scorer-steps", type=int, default=STEPS)
    parser.add_argument("--grid", type=Path, help="draw six of each kind: real, and by bytes")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, names = nelbo.load(options.run).eval(), choose_names()
    scorer = load_scorer(
        load_data("emoji", "train", size=SIZE), options.cache, options.scorer_steps
    )
    held_out = names.unseen[names.new_picture][: options.pictures]
    which = torch.cat([held_out, names.seen[: options.pictures - len(held_out)]])
    real = names.images[which]
    start = time.process_time()
    decoded = coarse(model, real, options.bytes)
    seconds = (time.process_time() - start) / len(which)
    rows = {"real": real, "after the autoencoder": reconstruct(model, real)}
    rows |= {f"{size} bytes": images for size, images in decoded.items()}
    groups = {
        "held out": slice(0, len(held_out)),
        "trained on": slice(len(held_out), None),
        "all": slice(None),
    }
    table = Table(title=f"right name first among {len(names.captions):,}, no caption")
    table.add_column("pictures")
    for group, some in groups.items():
        table.add_column(f"{group} ({len(which[some])})", justify="right")
    results = {}
    for row, images in rows.items():
        found = retrieve(scorer, names, images, which).by_name
        shares = {
            group: within(found[some], 1) for group, some in groups.items() if len(found[some])
        }
        results[row] = {group: share._asdict() for group, share in shares.items()}
        table.add_row(row, *(str(shares.get(group, "–")) for group in groups))
    console = Console(width=120)
    console.print(table)
    webp = sizes_of_each(real, 256, WEBP)[0]
    console.print(
        f"{seconds:.1f} s of one thread a picture, coded and decoded {len(decoded)} times; as "
        f"lossless WebP the same pictures take {float(webp.mean()):,.0f} bytes each"
    )
    if options.grid:
        some = torch.cat([torch.arange(len(which))[part][:6] for part in [*groups.values()][:2]])
        beside = [images[some] for row, images in rows.items() if "autoencoder" not in row]
        titles = [names.captions[i] for i in which[some].tolist()]
        save_image(prompt_grid(torch.cat(beside, dim=3), titles), options.grid)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
