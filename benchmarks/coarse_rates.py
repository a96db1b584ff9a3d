"""Is the rate of pictures that are coded coarse to fine that of the KLs that they code?

    python benchmarks/coarse_rates.py [RUN] [--bits 300] [--pictures 24] [--even] [--captions]

RUN is by default the model of emoji that ships. Pictures drawn at random from its test split are
coded level by level until they take more than --bits on average. For each level: the bits
that were written, the KLs that were coded, and at most which rate is asked for, 15% more than these
and 0.1 bits a group. --even takes the level profile away, --captions conditions on the captions.
"""

from __future__ import annotations

import argparse

import torch

from nelbo.chain.estimate import Estimate
from nelbo.coding.bits import Bits
from nelbo.coding.progressive import chain_of, condition_of, walk
from nelbo.coding.reverse_channel import BITS
from nelbo.formats import Pipeline
from nelbo.formats.model_directory import resolve
from nelbo.runs.run_data import check_data, data_for_run


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("run", nargs="?", default="emoji")
    parser.add_argument("--data", help="as in nelbo train; by default what the run was trained on")
    parser.add_argument("--split", default="test")
    parser.add_argument("--bits", type=float, default=300)
    parser.add_argument("--pictures", type=int, default=24)
    parser.add_argument("--even", action="store_true")
    parser.add_argument("--captions", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    pipeline = Pipeline.open(str(resolve(options.run)))
    model = pipeline.model().eval()
    if options.even:
        model.chain.profile = None
    data = data_for_run(check_data(pipeline, options.data, options.split), model)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    data = data.take(order[: options.pictures].sort().values)
    x_0, chain = model.encode(model.data.to_network(data.images)).mean, chain_of(model, None)
    captions = data.captions if options.captions else None
    contents = [Bits() for _ in range(len(data))]
    walks = [
        walk(
            chain,
            content,
            condition_of(model, model.condition_for(1, None, captions and [captions[i]])),
            x_0[i : i + 1],
        )
        for i, content in enumerate(contents)
    ]
    print(f"{len(data)} {options.split} pictures of {options.run}, {chain.num_levels} levels")
    coded = torch.zeros(len(data), dtype=torch.float64)
    for states in zip(*walks, strict=True):
        coded += torch.tensor([state.bits for state in states], dtype=torch.float64)
        written = torch.tensor([len(content.bits) for content in contents], dtype=torch.float64)
        bits, kls = Estimate.of(written), Estimate.of(coded)
        if not bits.mean:
            continue
        asked = 1.15 * kls.mean + 0.1 * bits.mean / BITS
        print(
            f"level {states[0].t:2}: {bits.mean:6.1f} ± {bits.standard_error:.1f} bits for KLs of "
            f"{kls.mean:6.1f} ± {kls.standard_error:.1f}, {bits.mean / kls.mean - 1:+.1%}, at most "
            f"{asked:6.1f} asked{'' if bits.mean <= asked else ': MORE'}"
        )
        if bits.mean > options.bits:
            break


if __name__ == "__main__":
    main()
