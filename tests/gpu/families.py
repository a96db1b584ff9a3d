"""Every family, fitted on the device and asked there and on the CPU."""

from __future__ import annotations

import copy
from functools import partial

import torch

from nelbo import Pixels, families
from nelbo.families import Family
from tests.gpu.check import Check, difference, within

LEVELS, SHAPE = 5, (1, 4, 6)
# Of evidence, float32.
SINGLE = 1e-4


def every_family() -> dict[str, Family]:
    """Each at a small size, in its ways to be fitted."""
    small = {"latents": 2, "width": 8}
    return {
        "PPCA": families.PPCA(2),
        "PPCA em": families.PPCA(2, method="em"),
        "MarkovModel": families.MarkovModel(2),
        "HMM": families.HMM(3),
        "HMM gaussian": families.HMM(3, emission="gaussian", by="pixel"),
        "LDS": families.LDS(9),
        "RNN": families.RNN("lstm", width=8),
        "SSM": families.SSM(width=8, layers=1, states=2),
        "SSM selective": families.SSM(width=8, layers=1, states=2, selective=True),
        "VAE": families.VAE(**small),
        "HierarchicalVAE": families.HierarchicalVAE(**small),
        "GAN": families.GAN(**small),
    }


def measure(name: str, device: torch.device) -> str:
    """Fit a few steps on the device; the evidence there and on the CPU, with the same noise."""
    if name == "RNN" and device.type not in ("cpu", "cuda"):
        return "its cells are one kernel, which a pretended device has not"
    space = Pixels(LEVELS)
    levels = torch.randint(LEVELS, (40, *SHAPE), generator=torch.Generator().manual_seed(0))
    x = space.to_network(levels)
    model = every_family()[name]
    for step in model.fit_steps(x, data=space, device=device):
        if step.number == 3:
            break
    on_cpu = copy.deepcopy(model).to("cpu")
    some = model.sample(2, generator=torch.Generator().manual_seed(1))
    assert some.device.type == device.type
    if model.evidence(x[:1].to(device)).kind == "none":
        return f"{step.number} steps"
    found, expected = (
        each.evidence(x.to(where), generator=torch.Generator().manual_seed(2)).total
        for each, where in ((model, device), (on_cpu, "cpu"))
    )
    return within("evidence", difference(found, expected), SINGLE)


def checks() -> list[Check]:
    """One for each."""
    return [Check(f"family/{name}", partial(measure, name)) for name in every_family()]
