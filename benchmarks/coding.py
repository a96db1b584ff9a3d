"""Lossless coding beside the bound and beside files: bytes, speed, and what the first images pay.

    python benchmarks/coding.py [--run RUN] [--data DATA] [--split test] [--steps 30] [--images N]
        [--coarse N]

Without a run it trains digits for two minutes and fits them. All images go into one archive of one
block, which is read back. The bound is that of the very chain that codes, with the same variances,
over the same images, each level drawn `--draws` times. Times are of the processor, one thread.
--coarse N codes the first N coarse to fine, too: bits against the KLs that were coded, and PSNR.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path
from typing import Any

import torch
from _digits import digits_run

import nelbo
from nelbo import coding
from nelbo.chain.estimate import Estimate
from nelbo.cli import main as command
from nelbo.coding.container import Block, Container
from nelbo.coding.names import packed
from nelbo.coding.plan import Plan
from nelbo.coding.rate_distortion import rate_distortion
from nelbo.coding.reverse_channel import BITS
from nelbo.data import ImageData
from nelbo.diffusion.profile import PROFILE_FILE
from nelbo.evidence.file_sizes import file_sizes, total_sizes
from nelbo.formats import Pipeline
from nelbo.runs.run_data import check_data, data_for_run


class Timed(torch.nn.Module):
    """A network that adds up the time of its calls, copies of it included."""

    seconds = 0.0

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *arguments: Any) -> torch.Tensor:
        start = time.process_time()
        output = self.network(*arguments)
        Timed.seconds += time.process_time() - start
        return output


@torch.no_grad()
def bound_of(model: nelbo.Model, data: ImageData, header: dict, draws: int) -> Estimate:
    """−ELBO of the chain that an archive was coded along, bits/dim."""
    chain = Plan.from_json(header["plan"]).applied(copy.deepcopy(model))
    generator = torch.Generator().manual_seed(0)
    found = []
    for batch in data.batches(64):
        x_0 = model.data.to_network(batch.images)
        condition = model.condition_for(len(batch), batch.labels, batch.captions)
        each = [chain.evidence(x_0, condition, generator=generator) for _ in range(draws)]
        found.append(torch.stack([evidence.bits_per_dim.double() for evidence in each]).mean(0))
    return Estimate.of(torch.cat(found))


def measure(model: nelbo.Model, data: ImageData, steps: int, draws: int) -> dict[str, Any]:
    """Sizes and times of one archive."""
    coded = model.replace(network=Timed(model.network)) if model.chain is model else model
    start = time.process_time()
    archive = coding.compress(coded, data, steps=steps, block=len(data), verify=False)
    encoding, in_network = time.process_time() - start, Timed.seconds
    start = time.process_time()
    back = coding.read(coded, archive)
    decoding = time.process_time() - start
    assert torch.equal(torch.stack(back.images), data.images)
    container = Container.from_bytes(archive)
    block = Block.from_bytes(container.blocks[0])
    dims, bound = data.images.numel(), bound_of(model, data, container.header, draws)
    names = 0 if data.names is None else len(packed(data.names))
    words = len(block.words) - names
    payload, draws_paid = 32 * words / dims, 32 * block.taken / dims
    return {
        "images": len(data),
        "archive_bytes": len(archive),
        "payload_bytes": 4 * words,
        "names_bytes": 4 * names,
        "paid_for_draws_bytes": 4 * block.taken,
        "listed_bytes": len(block.listed),
        "header_bytes": len(archive) - len(container.blocks[0]),
        "bound": bound.mean,
        "bound_error": bound.standard_error,
        "payload": payload,
        "above_bound": payload / bound.mean - 1,
        "above_bound_without_draws": (payload - draws_paid) / bound.mean - 1,
        "time_over_network": encoding / in_network if in_network else None,
        "encode_per_second": len(data) / encoding,
        "decode_per_second": len(data) / decoding,
        "others": total_sizes(list(data.images), data.levels),
    }


def coarse_lines(model: nelbo.Model, images: torch.Tensor) -> list[str]:
    """What coding coarse to fine takes and loses at each level, beside the KLs that it codes."""
    found = rate_distortion(model, images, generator=torch.Generator().manual_seed(0))
    lines = []
    for written, psnr, coded, theory, exact in zip(
        found.measured.bytes,
        found.measured.psnr,
        found.coded,
        found.theory.bytes,
        found.theory.psnr,
        strict=True,
    ):
        bits, kl = 8 * written.mean, 8 * coded.mean
        lines.append(
            f"{bits:7.1f} bits for KLs of {kl:7.1f} ± {8 * coded.standard_error:.1f}, at most "
            f"{1.15 * kl + 0.1 * bits / BITS:7.1f} asked, {psnr.mean:.1f} ± "
            f"{psnr.standard_error:.1f} dB; with exact draws {8 * theory.mean:7.1f} bits, "
            f"{exact.mean:.1f} dB"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run")
    parser.add_argument("--data", help="as in nelbo train; by default what the run was trained on")
    parser.add_argument("--split", default="test")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--images", type=int, help="only N of them, drawn at random")
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--coarse", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    run = digits_run(options.run)
    if not (Path(run) / PROFILE_FILE).exists():
        command(["fit", run])
    pipeline = Pipeline.open(run)
    model = pipeline.model().eval()
    data = data_for_run(check_data(pipeline, options.data, options.split), model)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    data = data.take(order[: options.images].sort().values)
    found = measure(model, data, options.steps, options.draws)
    print(
        f"{found['images']} images of {run}: {found['archive_bytes']:,} bytes, payload "
        f"{found['payload_bytes']:,}, of which {found['paid_for_draws_bytes']} pay for the draws "
        f"of the first images, after {found['names_bytes']} of names that lie below\n"
        f"payload {found['payload']:.4f} bits/dim, {found['above_bound']:+.2%} above the bound of "
        f"this chain, {found['bound']:.4f} ± {found['bound_error']:.4f}; "
        f"{found['above_bound_without_draws']:+.2%} without the draws\n"
        f"{found['encode_per_second']:.2f} images/s encoded, {found['decode_per_second']:.2f} "
        f"decoded, of one thread's processor time; {found['time_over_network'] or 0:.2f} times "
        "that of the network calls\n"
        + "\n".join(f"{name:8} {size:>10,} bytes" for name, size in found["others"].items())
    )
    if sizes := file_sizes(data.images, data.levels):
        print(sizes.line)
    if options.coarse:
        print("\n".join(coarse_lines(model, data.images[: options.coarse])))
    if options.out is not None:
        options.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
