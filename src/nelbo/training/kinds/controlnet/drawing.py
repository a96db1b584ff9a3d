"""Samples that are drawn by the controls of held-out images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nelbo.data import ImageData
from nelbo.evidence.inputs import condition_for
from nelbo.formats import Pipeline
from nelbo.report.control import shown_controls


@torch.no_grad()
def controlled_samples(
    model: Any, path: str, data: ImageData, steps: int, guidance: float, seed: int
) -> Tensor:
    """A sample for the control, and the caption or class, of each image: pixel levels, uint8.

    Args:
        model: with its ControlNet.
        path: of the pipeline that describes the sampler.
        data: the images, with their controls.
        steps: network calls of each.
        guidance: of a model that is conditioned on text or classes.
        seed: of the noise.
    """
    condition = condition_for(model, data)
    guided = model.reads_text or bool(model.num_classes)
    samples = model.sample(
        len(data),
        Pipeline.open(path).usual_sampler(min(steps, model.chain.num_levels)),
        condition=condition,
        guidance=guidance if guided else 1.0,
        generator=torch.Generator().manual_seed(seed),
    )
    return model.data.shown(samples)


def beside(data: ImageData, drawn: Tensor) -> Tensor:
    """Each control, and what was drawn by it, one after the other: pixel levels."""
    assert data.controls is not None
    controls = shown_controls(data.controls, data.levels, data.shape[0])
    return torch.stack([controls, drawn], 1).flatten(0, 1)
