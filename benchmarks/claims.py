"""The lecture's claims on VAEs, GANs and diffusion, each a number with an interval over seeds.

    python benchmarks/claims.py OUT [--data mixture digits mnist5k emoji] [--seeds 5] [--threads 1]
        [--budget SECONDS] [--processor-time] [--read]

Each data set is one `nelbo compare DATA --families vae gan gan_classical diffusion` into OUT/DATA,
which is resumed where it was broken off; with --read only what is there is read. The digits of
mnist5k are halved to 14×14, whose steps take a quarter of the time. With --processor-time the
seconds of a budget are those that its process computes, so that on one thread other work of the
machine takes nothing from it. The claims:

    VAEs struggle with high-quality images   Fréchet distance over diffusion's; precision less its
    GANs collapse onto some modes            recall less diffusion's; modes reached less those that
                                             as many real images reach, and less diffusion's
    GANs train unstably                      spread of log Fréchet over seeds, over diffusion's;
                                             the share of seeds that fail or reach under half
                                             of the modes
    diffusion is more diverse and stable     recall and spread of the VAE beside its, too

A ratio of distances is of geometric means over seeds. Intervals hold 95%: Welch's for differences,
F's for ratios of spreads, both of figures that are near normal over seeds; Clopper and Pearson's
for shares. A claim *holds* where its interval lies on its side, *fails* where it lies on the
other, and else is *open*. Figures are of the plane itself for the mixture (principal components),
of random convolutions for images. Writes OUT/claims.json and OUT/claims.md.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import stats

from nelbo.cli import main as nelbo
from nelbo.data import load_data
from nelbo.data.splits import TEST, TRAIN, VALIDATION
from nelbo.evidence.standings import SPACES, Figures

FAMILIES = ("vae", "gan", "gan_classical", "diffusion")
DIFFUSION = "diffusion"
QUALITY = "VAEs struggle with high-quality images"
COLLAPSE = "GANs collapse onto some modes"
UNSTABLE = "GANs train unstably"
CONFIDENCE = 0.95
# A value, and the lower and upper end of its interval.
Interval = tuple[float, float, float]
PLANE, IMAGES = SPACES


@dataclass(frozen=True)
class Setting:
    """How a data set is compared.

    Attributes:
        budget: of each family and seed, seconds.
        space: the features that samples are judged in.
        samples: how many are judged.
        options: of `nelbo compare`, beside these.
        resized: whether options give the images of a data set of one size another size: they are
            then read as a folder of pictures.
    """

    budget: int
    space: str = IMAGES
    samples: int = 256
    options: tuple[str, ...] = ()
    resized: bool = False


DATA = {
    "mixture": Setting(20, PLANE, 1000),
    "digits": Setting(60, options=("--levels", "20")),
    "mnist5k": Setting(
        120,
        samples=128,
        options=("--size", "14", "--images", "100", "--levels", "20"),
        resized=True,
    ),
    "emoji": Setting(
        120, samples=128, options=("--size", "16", "--images", "100", "--levels", "20")
    ),
}


@dataclass(frozen=True)
class Claim:
    """A claim as a number.

    Attributes:
        claim: in the lecture's words.
        measure: what the number is.
        value: the number.
        low: lower end of its interval.
        high: upper end.
        none: what it is where there is no effect.
        sign: the side of `none` on which the claim holds, 1 above or −1 below.
    """

    claim: str
    measure: str
    value: float
    low: float
    high: float
    none: float
    sign: int

    @property
    def verdict(self) -> str:
        """Whether the interval lies on the claim's side."""
        near, far = (self.low, self.high) if self.sign > 0 else (-self.high, -self.low)
        none = self.sign * self.none
        if near > none:
            return "holds"
        return "fails" if far < none else "open"


def difference(a: Sequence[float], b: Sequence[float]) -> Interval:
    """The difference of two means with Welch's interval."""
    value = float(np.mean(a) - np.mean(b))
    if np.var(a) == np.var(b) == 0:
        return value, value, value
    interval = stats.ttest_ind(a, b, equal_var=False).confidence_interval(CONFIDENCE)
    return value, float(interval.low), float(interval.high)


def ratio(a: Sequence[float], b: Sequence[float]) -> Interval:
    """The ratio of two geometric means, likewise."""
    value, low, high = map(math.exp, difference(np.log(a), np.log(b)))
    return value, low, high


def ratio_of_spreads(a: Sequence[float], b: Sequence[float]) -> Interval:
    """The ratio of two standard deviations with the interval of F."""
    value = float(np.std(a, ddof=1) / np.std(b, ddof=1))
    tail, degrees = (1 - CONFIDENCE) / 2, (len(a) - 1, len(b) - 1)
    low, high = (value / math.sqrt(stats.f.ppf(q, *degrees)) for q in (1 - tail, tail))
    return value, float(low), float(high)


def share(count: int, of: int) -> Interval:
    """A share with Clopper and Pearson's interval."""
    interval = stats.binomtest(count, of).proportion_ci(CONFIDENCE)
    return count / of, float(interval.low), float(interval.high)


def claims(figures: Mapping[str, Sequence[Figures]], seeds: int, space: str) -> list[Claim]:
    """Every claim that there are figures for.

    Args:
        figures: of each family, one a seed that did not fail.
        seeds: how many were trained.
        space: the features that samples are judged in.
    """
    found: list[Claim] = []
    known = [family for family in FAMILIES if len(figures.get(family, ())) > 1]

    def of(family: str, figure: str) -> list[float]:
        return [run.quality[space]["samples"][figure] for run in figures[family]]

    def modes(family: str, figure: str) -> list[float]:
        return [run.modes[figure] for run in figures[family]]

    def add(claim: str, measure: str, number: Interval, none: float, sign: int) -> None:
        found.append(Claim(claim, measure, *number, none, sign))

    def less(family: str, figure: str) -> Interval:
        return difference(of(family, figure), of(DIFFUSION, figure))

    for family in known if DIFFUSION in known else ():
        if family == DIFFUSION:
            continue
        distances = of(family, "frechet"), of(DIFFUSION, "frechet")
        spreads = ratio_of_spreads(*map(np.log, distances))
        diverse, stable = "diffusion is more diverse", "diffusion is more stable"
        if family == "vae":
            add(QUALITY, "Fréchet distance, vae over diffusion", ratio(*distances), 1, 1)
            add(QUALITY, "precision, vae less diffusion", less(family, "precision"), 0, -1)
        else:
            diverse, stable = COLLAPSE, UNSTABLE
        add(diverse, f"recall, {family} less diffusion", less(family, "recall"), 0, -1)
        add(stable, f"spread of log Fréchet over seeds, {family} over diffusion", spreads, 1, 1)
    for family in known:
        if not family.startswith("gan"):
            continue
        count = modes(family, "count")[0]
        beside = {"real images": modes(family, "real_reached")}
        if DIFFUSION in known:
            beside["diffusion"] = modes(DIFFUSION, "reached")
        for other, reached in beside.items():
            missing = difference(modes(family, "reached"), reached)
            add(COLLAPSE, f"modes of {count} reached, {family} less {other}", missing, 0, -1)
        collapsed = sum(2 * run.modes["reached"] < run.modes["count"] for run in figures[family])
        lost = share(collapsed + seeds - len(figures[family]), seeds)
        add(UNSTABLE, f"share of seeds that fail or lose half of the modes, {family}", lost, 0, 1)
    order = list(dict.fromkeys(claim.claim for claim in found))
    return sorted(found, key=lambda claim: order.index(claim.claim))


def as_folder(data: str, folder: Path) -> Path:
    """The grey images of a data set as files, a folder a split, which stay where they are there."""
    for split in (TRAIN, VALIDATION, TEST):
        images = load_data(data, split).images
        (folder / split).mkdir(parents=True, exist_ok=True)
        for i, image in enumerate(images[:, 0].numpy()):
            if not (file := folder / split / f"{i:05d}.png").exists():
                Image.fromarray(image).save(file)
    return folder


def compared(data: str, out: Path, seeds: int, budget: int | None, threads: int | None) -> None:
    """Train what is missing."""
    setting = DATA[data]
    source = str(as_folder(data, out / "pictures")) if setting.resized else data
    chosen = [] if threads is None else ["--threads", str(threads)]
    nelbo(
        ["compare", source, "--families", *FAMILIES, "--budget", f"{budget or setting.budget}s",
         "--seeds", str(seeds), "--samples", str(setting.samples), *setting.options, *chosen,
         "--out", str(out)]
    )  # fmt: skip


def figures_in(out: Path) -> dict[str, list[Figures]]:
    """What a comparison found, by family."""
    found: dict[str, list[Figures]] = {family: [] for family in FAMILIES}
    for file in sorted((out / "figures").glob("*.json")):
        run = Figures.read(file)
        if run.family in found:
            found[run.family].append(run)
    return found


def markdown(found: Mapping[str, Sequence[Claim]], budgets: Mapping[str, float]) -> str:
    """The claims as a table."""
    lines = ["| claim | data | measured | value, 95% interval | |", "|---|---|---|---:|---|"]
    lines += [
        f"| {one.claim} | {data}, {budgets[data]:g} s | {one.measure.replace('_', ' ')} | "
        f"{one.value:.2f}, {one.low:.2f} to {one.high:.2f} | {one.verdict} |"
        for data, some in found.items()
        for one in some
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--budget", type=int, help="seconds of each; by default those of the data")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--processor-time", action="store_true")
    parser.add_argument("--read", action="store_true", help="train nothing")
    asked = parser.parse_args()
    if asked.processor_time:
        if asked.threads != 1:
            parser.error("--processor-time adds up all threads: give --threads 1")
        time.monotonic = time.perf_counter = time.process_time
    found: dict[str, list[Claim]] = {}
    budgets: dict[str, float] = {}
    for data in asked.data:
        out = asked.out / data
        if not asked.read:
            compared(data, out, asked.seeds, asked.budget, asked.threads)
        files = sorted((out / "figures").glob("*.json"))
        if not files:
            continue
        budgets[data] = json.loads(files[0].read_text(encoding="utf-8"))["asked"]["budget"]
        figures = figures_in(out)
        # Of one that was broken off, or read with another --seeds, those that were tried.
        seeds = [run.seed for runs in figures.values() for run in runs]
        tried = 1 + max(seeds, default=asked.seeds - 1)
        found[data] = claims(figures, tried, DATA[data].space)
    content = {
        data: [{**asdict(claim), "verdict": claim.verdict} for claim in some]
        for data, some in found.items()
    }
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "claims.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    table = markdown(found, budgets)
    (asked.out / "claims.md").write_text(table, encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
