"""Latent pipelines: an autoencoder beside the denoising network, and a text encoder and ControlNet.

Parts that nelbo does not use (safety_checker, feature_extractor, image_encoder) are ignored, and
written as absent, which diffusers allows.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from nelbo.base.errors import NelboError, explained
from nelbo.base.files import read_json, write_json
from nelbo.diffusion import Continuous, Diffusion
from nelbo.formats.chain import check_chain, read_chain, write_chain
from nelbo.formats.controlnets import MULTIPLE, controlled, save_controlnets, uncontrolled
from nelbo.formats.data_space import data_config, pixel_options
from nelbo.formats.files import PipelineIndex, write_index
from nelbo.formats.pipeline import CONTROLNET, Format, Pipeline
from nelbo.latent import LatentDiffusion
from nelbo.networks import AutoencoderConfig, AutoencoderKL, ControlNetConfig
from nelbo.networks.clip_config import ClipTextConfig
from nelbo.networks.denoiser import Denoiser
from nelbo.networks.denoisers import denoiser_to_save
from nelbo.networks.files import CONFIG_FILE, locate
from nelbo.samplers import DDIM, Sampler
from nelbo.text import TEXT_ENCODER, TOKENIZER, PromptEncoder, TextEncoder
from nelbo.text.paired import SECOND_TEXT_ENCODER, SECOND_TOKENIZER, PairedTextEncoder

UNCONDITIONAL = "LDMPipeline"
TRANSFORMER = "DiTPipeline"
TEXT_TRANSFORMER = "PixArtAlphaPipeline"
TEXT = "StableDiffusionPipeline"
PAIRED_TEXT = "StableDiffusionXLPipeline"
CONTROLLED = "StableDiffusionControlNetPipeline"
PAIRED_CONTROLLED = "StableDiffusionXLControlNetPipeline"
# Pipelines that use the parts of one of these to edit pictures, which nelbo does with the same
# model; they are written as it.
EDITING = {
    "StableDiffusionImg2ImgPipeline": TEXT,
    "StableDiffusionInpaintPipeline": TEXT,
    "StableDiffusionXLImg2ImgPipeline": PAIRED_TEXT,
    "StableDiffusionXLInpaintPipeline": PAIRED_TEXT,
    "StableDiffusionControlNetImg2ImgPipeline": CONTROLLED,
    "StableDiffusionControlNetInpaintPipeline": CONTROLLED,
    "StableDiffusionXLControlNetImg2ImgPipeline": PAIRED_CONTROLLED,
    "StableDiffusionXLControlNetInpaintPipeline": PAIRED_CONTROLLED,
}
PIPELINES = (
    *(UNCONDITIONAL, TRANSFORMER, TEXT_TRANSFORMER),
    *(TEXT, PAIRED_TEXT, CONTROLLED, PAIRED_CONTROLLED, *EDITING),
)
_PAIRED = (PAIRED_TEXT, PAIRED_CONTROLLED)
_CONTROLLED = (CONTROLLED, PAIRED_CONTROLLED)
_WITHOUT_TEXT = (UNCONDITIONAL, TRANSFORMER)

_TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast")
_FIRST_CLASS, _SECOND_CLASS = ClipTextConfig.class_names
# Whether the unconditional half of an SDXL pipeline is conditioned on zeros.
_ZEROS = "force_zeros_for_empty_prompt"
# Whether it is conditioned on an aesthetics score, which nelbo does not support.
_PRETTY = "requires_aesthetics_score"
# Before this release of diffusers pipelines of Stable Diffusion could be written with a field of
# their training that has no use there, `image_size` 32, for the sides of the latents.
_OLD, _SIDE = re.compile(r"0\.[0-8](\D|$)"), 64
# The sampler of an untrained Stable Diffusion.
_DEFAULT_SAMPLER = DDIM(50, steps_offset=1, set_alpha_to_one=False)


def load_latent(pipeline: Pipeline) -> LatentDiffusion:
    """The model of one of the pipelines above."""
    index = pipeline.index
    kind = EDITING.get(index.class_name, index.class_name)
    slot = "vae" if "vae" in index.parts or kind != UNCONDITIONAL else "vqvae"
    index.require(slot, AutoencoderConfig.class_name)
    has_text = kind not in _WITHOUT_TEXT
    denoiser_class = index.denoiser(text=has_text)
    if has_text:
        index.require(TOKENIZER, *_TOKENIZERS)
        index.require(TEXT_ENCODER, _FIRST_CLASS)
    if kind in _PAIRED:
        index.require(SECOND_TOKENIZER, *_TOKENIZERS)
        index.require(SECOND_TEXT_ENCODER, _SECOND_CLASS)
        if index.settings.get(_PRETTY):
            raise NelboError(f"{index.file}: {_PRETTY} is true, which nelbo does not support")
    if kind in _CONTROLLED and CONTROLNET not in index.parts:
        index.require(CONTROLNET, ControlNetConfig.class_name, MULTIPLE)
    scheduler = pipeline.scheduler
    # Before the large parts, since transformers may be missing.
    text = _read_text(pipeline.shared, index, kind) if has_text else None
    folder = pipeline.folder(denoiser_class.folder, CONFIG_FILE)
    denoiser = denoiser_class.from_pretrained(pipeline.shared, folder)
    if kind == TEXT:
        _mend_side(denoiser, locate(pipeline.shared, folder, CONFIG_FILE))
    _check_sees_latents_alone(index, denoiser)
    prior = read_chain(pipeline, scheduler, controlled(pipeline, denoiser), Continuous())
    autoencoder = AutoencoderKL.from_pretrained(pipeline.shared, pipeline.folder(slot, CONFIG_FILE))
    if kind in _PAIRED:
        _check_unstandardised(pipeline.path, autoencoder.config)
    return assemble(pipeline, autoencoder, prior, text)


def assemble(
    pipeline: Pipeline, autoencoder: AutoencoderKL, prior: Diffusion, text: PromptEncoder | None
) -> LatentDiffusion:
    """The model of these parts, with what the notes of its pipeline have of pixels.

    Raises:
        NelboError: parts that do not fit together, or notes that are malformed.
    """
    pixels, scale = pixel_options(pipeline.own_fields), autoencoder.config.scaling_factor
    with explained(pipeline.path):
        return LatentDiffusion(autoencoder, prior, text=text, scale=scale, **pixels).eval()


def save_latent(
    model: LatentDiffusion, directory: Path, sampler: Sampler | None, notes: Mapping[str, Any]
) -> None:
    """Write the pipeline that has the parts of the model."""
    denoiser = denoiser_to_save(uncontrolled(model.prior.network))
    has_control = model.control_shape is not None
    _check_text(model, denoiser)
    check_chain(model.prior)
    control, own = save_controlnets(model.prior.network, directory)
    own = {**notes, **own}
    own["pixels"] = data_config(model.data)
    if model.decoder_scale is not None:
        own["decoder_scale"] = model.decoder_scale
    kind = write_chain(model.prior, directory, sampler, own, _DEFAULT_SAMPLER)
    denoiser.save_pretrained(directory / denoiser.folder)
    name = _class_name(model.text, has_control, denoiser)
    slot = "vqvae" if name == UNCONDITIONAL else "vae"
    _save_autoencoder(model, directory / slot)
    parts: dict[str, Any] = {
        "scheduler": ["diffusers", kind],
        denoiser.folder: ["diffusers", denoiser.config.class_name],
        slot: ["diffusers", AutoencoderConfig.class_name],
    }
    if model.text is not None:
        model.text.save_pretrained(directory)
        parts |= control | _text_parts(model.text, name)
    if name == TRANSFORMER and notes.get("label_names"):
        parts["id2label"] = dict(enumerate(notes["label_names"]))
    write_index(directory, name, parts)


def _mend_side(denoiser: Denoiser, file: Path) -> None:
    """Give a network of an early pipeline latents of 64×64, as diffusers does."""
    side, version = denoiser.config.sample_size, read_json(file).get("_diffusers_version")
    if isinstance(side, int) and side < _SIDE and _OLD.match(str(version)):
        denoiser.config = replace(denoiser.config, sample_size=_SIDE)


def _check_unstandardised(path: str | os.PathLike[str], config: AutoencoderConfig) -> None:
    """Only the pipeline of SDXL heeds these fields, and only where both are given."""
    if config.latents_mean is not None and config.latents_std is not None:
        raise NelboError(
            f"{path}/vae/{CONFIG_FILE}: latents_mean and latents_std are given, but nelbo scales "
            "all channels of the latents of SDXL alike: expected neither"
        )


def _check_sees_latents_alone(index: PipelineIndex, denoiser: Denoiser) -> None:
    """Raise `NelboError` for a network that is also conditioned on a mask and a masked picture."""
    found, out = denoiser.config.in_channels, denoiser.config.out_channels
    if index.class_name in EDITING and found > out:
        raise NelboError(
            f"{index.file.parent}/{denoiser.folder}/{CONFIG_FILE}: in_channels is {found}, so the "
            f"network of this {index.class_name} reads a mask or a picture beside the {out} "
            f"channels that it denoises; nelbo edits with networks of {out} channels: expected "
            f"in_channels {out}"
        )


def _read_text(path: str | os.PathLike[str], index: PipelineIndex, kind: str) -> PromptEncoder:
    if kind not in _PAIRED:
        return TextEncoder.from_pretrained(path)
    zeros = index.settings.get(_ZEROS, True)
    if not isinstance(zeros, bool):
        raise NelboError(f"{index.file}: {_ZEROS} is {zeros!r}, expected true or false")
    return PairedTextEncoder.from_pretrained(path, zeros=zeros)


def _text_parts(text: PromptEncoder, name: str) -> dict[str, Any]:
    """The entries of model_index.json for a text encoder and the parts that accompany it."""
    parts: dict[str, Any] = {
        TOKENIZER: ["transformers", _TOKENIZERS[0]],
        TEXT_ENCODER: ["transformers", _FIRST_CLASS],
    }
    if name == TEXT_TRANSFORMER:
        return parts
    parts |= {"feature_extractor": [None, None], "image_encoder": [None, None]}
    if isinstance(text, PairedTextEncoder):
        return parts | {
            SECOND_TOKENIZER: ["transformers", _TOKENIZERS[0]],
            SECOND_TEXT_ENCODER: ["transformers", _SECOND_CLASS],
            _ZEROS: text.zeros,
        }
    return parts | {"safety_checker": [None, None], "requires_safety_checker": False}


def _class_name(text: PromptEncoder | None, controlled: bool, denoiser: Denoiser) -> str:
    transformer = denoiser.folder == "transformer"
    if text is None:
        return TRANSFORMER if transformer else UNCONDITIONAL
    if transformer:
        return TEXT_TRANSFORMER
    if isinstance(text, PairedTextEncoder):
        return PAIRED_CONTROLLED if controlled else PAIRED_TEXT
    return CONTROLLED if controlled else TEXT


def _save_autoencoder(model: LatentDiffusion, directory: Path) -> None:
    model.autoencoder.save_pretrained(directory)
    if model.scale != model.autoencoder.config.scaling_factor:
        file = directory / CONFIG_FILE
        write_json(file, read_json(file) | {"scaling_factor": model.scale})


def _check_text(model: LatentDiffusion, denoiser: Denoiser) -> None:
    config = denoiser.config
    attends = config.for_text
    if attends != (model.text is not None):
        raise NelboError(
            f"diffusers has no pipeline of a {config.class_name} "
            f"{'with' if model.text is not None else 'without'} a text encoder"
        )
    paired = isinstance(model.text, PairedTextEncoder)
    if paired != config.takes_size:
        raise NelboError(
            f"a {config.class_name} that {'does not take' if paired else 'takes'} the pooled "
            "prompt and the size of the picture goes with "
            f"{'one text encoder' if paired else 'two text encoders'}, not with "
            f"{'two' if paired else 'one'}"
        )


FORMAT = Format("latent", LatentDiffusion, PIPELINES, load_latent, save_latent)
