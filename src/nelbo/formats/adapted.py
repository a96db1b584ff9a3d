"""Pipelines through diffusers: its networks and text encoders in nelbo's chain.

What each class of pipelines does is in `nelbo.formats.adapters`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch

from nelbo.base.errors import NelboError
from nelbo.base.files import read_json, write_json
from nelbo.diffusion import Continuous, Diffusion
from nelbo.formats.adapters import ADAPTERS
from nelbo.formats.adapters.adapter import AdaptedNetwork
from nelbo.formats.adapters.parts import load_part
from nelbo.formats.chain import read_chain, write_profile
from nelbo.formats.config_fields import ConfigFields
from nelbo.formats.data_space import data_config, pixel_options, read_shape
from nelbo.formats.files import write_index
from nelbo.formats.flow_times import IMAGE_TOKENS, SPREAD
from nelbo.formats.model_directory import AUTOENCODER, NELBO_FILE
from nelbo.formats.pipeline import Format, Pipeline
from nelbo.latent import LatentDiffusion
from nelbo.networks.files import CONFIG_FILE, locate
from nelbo.samplers import Sampler
from nelbo.version import __version__


class AdaptedDiffusion(LatentDiffusion):
    """A latent model whose network and text encoders are diffusers' and transformers'.

    Attributes:
        origin: the pipeline that it was read from.
    """

    origin: Pipeline

    def with_prior(self, prior: Diffusion) -> Self:
        """A model that shares everything but the prior."""
        model = super().with_prior(prior)
        model.origin = self.origin
        return model


def load_adapted(pipeline: Pipeline) -> AdaptedDiffusion:
    """The model of one of the pipelines of `ADAPTERS`."""
    adapter, own = ADAPTERS[pipeline.index.class_name], pipeline.own_fields
    scheduler = pipeline.scheduler  # refused, if it is, before the large parts are read
    kind = adapter.network
    transformer = load_part(pipeline, kind.folder, "diffusers", (kind.class_name,))
    network = kind(
        transformer,
        whole_times=scheduler.whole_times,
        guidance=own.if_any(own.number, "embedded_guidance"),
    )
    prior = read_chain(pipeline, scheduler, network, Continuous())
    text = adapter.prompts.read(pipeline, transformer.config)
    model = AdaptedDiffusion(
        adapter.autoencoder(pipeline),
        prior,
        text=text,
        scale=1.0,
        **pixel_options(own),
    )
    model.origin = pipeline
    return model.eval()


def scheduler_fields(pipeline: Pipeline) -> Mapping[str, Any]:
    """What the pipeline decides: tokens of a picture, the spread of times, a learned variance.

    Raises:
        NelboError: latents that patches do not divide.
    """
    adapter = ADAPTERS[pipeline.index.class_name]
    kind = adapter.network
    file = locate(pipeline.path, kind.folder, CONFIG_FILE)
    config = read_json(file)
    stated = ConfigFields(file, config)
    stated.integer("in_channels", 1)
    for name in ("sample_size", "out_channels"):
        stated.if_any(stated.integer, name, 1)
    _, height, width = read_shape(pipeline, kind.latent_shape(config))
    if height % kind.patch or width % kind.patch:
        raise NelboError(
            f"{pipeline.path}/{NELBO_FILE}: shape is of latents of {height}×{width}, which patches "
            f"of {kind.patch} do not divide: choose multiples of {kind.patch}"
        )
    fields: dict[str, Any] = {IMAGE_TOKENS: height // kind.patch * (width // kind.patch)}
    if adapter.spacing == "trailing":
        fields[SPREAD] = adapter.spacing
    if kind.output_multiple(config) == 2:
        fields["variance_type"] = "learned_range"
    return fields


def save_adapted(
    model: AdaptedDiffusion, directory: Path, sampler: Sampler | None, notes: Mapping[str, Any]
) -> None:
    """Write the pipeline, each part as its library does, and the scheduler that it came with.

    Raises:
        NelboError: a chain that is guided or respaced, or a sampler other than the scheduler's.
    """
    network, origin = model.prior.network, model.origin
    if not isinstance(network, AdaptedNetwork):
        raise NelboError(f"only the network of a pipeline is saved, found {type(network).__name__}")
    if not torch.equal(model.prior.schedule.betas, origin.schedule.betas):
        raise NelboError("a respaced chain cannot be saved: save the full one and respace it")
    if sampler is not None and sampler != origin.sampler(getattr(sampler, "steps", None)):
        raise NelboError(
            f"a {origin.index.class_name} keeps the scheduler that it came with, which does not "
            f"describe {type(sampler).__name__}: save the model without a sampler"
        )
    file = origin.scheduler.file
    write_json(directory / "scheduler" / file.name, read_json(file))
    network.transformer.save_pretrained(directory / network.folder)
    autoencoder: Any = model.autoencoder
    autoencoder.save_pretrained(directory / AUTOENCODER)
    assert model.text is not None
    model.text.save_pretrained(directory)
    own = {
        "nelbo_version": __version__,
        "shape": list(model.prior.shape or network.config.shape),
        "pixels": data_config(model.data),
        "decoder_scale": model.decoder_scale,
        "embedded_guidance": network.embedded_guidance,
    }
    if model.prior.variance != origin.scheduler.chain_options["variance"]:
        own["variance"] = model.prior.variance
    write_profile(model.prior, directory)
    given = {name: value for name, value in own.items() if value is not None}
    write_json(directory / NELBO_FILE, given | dict(notes))
    index = read_json(origin.index.file)
    written = {path.name for path in directory.iterdir()}
    parts = {
        name: value if not isinstance(value, list) or name in written else [None, None]
        for name, value in index.items()
        if not name.startswith("_")
    }
    write_index(directory, origin.index.class_name, parts)


FORMAT = Format(
    "adapted",
    AdaptedDiffusion,
    ADAPTERS,
    load_adapted,
    save_adapted,
    scheduler_fields=scheduler_fields,
)
