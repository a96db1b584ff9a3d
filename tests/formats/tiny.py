"""Tiny pipelines with random weights, built and saved by diffusers."""

from __future__ import annotations

import json
import string
import warnings
from collections.abc import Callable
from functools import wraps
from pathlib import Path

import diffusers
import torch
import transformers

WORDS = ("cat", "dog", "red")
TOKENS = 12
WIDTH = 16
CHAIN = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
LAYERS = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4}
SCHEDULER = {"clip_sample": False, "steps_offset": 1, "set_alpha_to_one": False, **CHAIN}


def seeded(build: Callable) -> Callable:
    """The same weights every time, and no trace in the global generator."""

    @wraps(build)
    def with_seed(*arguments, **options):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return build(*arguments, **options)

    return with_seed


def randomise(network: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Weights for which no part of the network is near the identity or zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise, alpha=0.3 / max(1, parameter[0].numel()) ** 0.5)
    return network.eval()


def pixel_unet(**fields) -> diffusers.UNet2DModel:
    network = diffusers.UNet2DModel(
        **(
            LAYERS
            | {
                "sample_size": 8,
                "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
                "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
            }
            | fields
        )
    )
    return randomise(network)


def text_unet(**fields) -> diffusers.UNet2DConditionModel:
    return randomise(
        diffusers.UNet2DConditionModel(
            **(
                LAYERS
                | {
                    "sample_size": 8,
                    "cross_attention_dim": WIDTH,
                    "attention_head_dim": 2,
                    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
                    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
                }
                | fields
            )
        )
    )


def autoencoder() -> diffusers.AutoencoderKL:
    return randomise(
        diffusers.AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            sample_size=16,
            scaling_factor=0.7,
            **LAYERS,
        ),
        seed=1,
    )


def tokenizer(path: Path) -> transformers.CLIPTokenizer:
    """Letters, and merges that make single tokens of `WORDS`."""
    path.mkdir(parents=True, exist_ok=True)
    vocabulary = [*string.ascii_lowercase, *(f"{c}</w>" for c in string.ascii_lowercase)]
    merges = []
    for word in WORDS:
        merges += [f"{word[0]} {word[1]}", f"{word[:2]} {word[2]}</w>"]
        vocabulary += [word[:2], f"{word}</w>"]
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    ids = {token: i for i, token in enumerate(vocabulary)}
    (path / "vocab.json").write_text(json.dumps(ids))
    (path / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    config = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": TOKENS,
        "tokenizer_class": "CLIPTokenizer",
    }
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    return transformers.CLIPTokenizer.from_pretrained(path)


def text_config(tokens: transformers.CLIPTokenizer, **fields) -> transformers.CLIPTextConfig:
    ids = tokens.get_vocab()
    return transformers.CLIPTextConfig(
        **(
            {
                "vocab_size": len(ids),
                "hidden_size": WIDTH,
                "intermediate_size": 2 * WIDTH,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "max_position_embeddings": TOKENS,
                "bos_token_id": ids["<|startoftext|>"],
                "eos_token_id": ids["<|endoftext|>"],
                "pad_token_id": ids["<|endoftext|>"],
            }
            | fields
        )
    )


@seeded
def text_parts(path: Path) -> dict:
    tokens = tokenizer(path)
    model = randomise(transformers.CLIPTextModel(text_config(tokens)), seed=2)
    return {"tokenizer": tokens, "text_encoder": model}


@seeded
def stable_diffusion(path: Path, *, control: bool = False, scheduler=None):
    """A StableDiffusionPipeline, or its ControlNet sibling, saved at `path`."""
    parts = {
        "vae": autoencoder(),
        "unet": text_unet(),
        "scheduler": scheduler or diffusers.DDIMScheduler(1000, **SCHEDULER),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
        **text_parts(path / "made"),
    }
    kind = diffusers.StableDiffusionPipeline
    if control:
        kind = diffusers.StableDiffusionControlNetPipeline
        parts["controlnet"] = randomise(
            diffusers.ControlNetModel.from_unet(
                parts["unet"], conditioning_embedding_out_channels=(4, 8)
            ),
            seed=3,
        )
        with torch.no_grad():  # so that the control counts
            for parameter in parts["controlnet"].controlnet_cond_embedding.parameters():
                parameter.mul_(4)
    return _saved(kind(**parts), path / "pipeline")


@seeded
def stable_diffusion_xl(path: Path, *, zeros: bool = True) -> diffusers.StableDiffusionXLPipeline:
    """A StableDiffusionXLPipeline, saved at `path`: its second encoder wider and padded anew."""
    parts = text_parts(path / "made")
    second = tokenizer(path / "made")
    second.pad_token = "a</w>"  # SDXL pads its second tokenizer with "!"
    wide = text_config(second, hidden_size=24, num_hidden_layers=3, projection_dim=20)
    scheduler = diffusers.EulerDiscreteScheduler(
        1000, timestep_spacing="leading", steps_offset=1, **CHAIN
    )
    pipeline = diffusers.StableDiffusionXLPipeline(
        vae=autoencoder(),
        unet=text_unet(
            cross_attention_dim=WIDTH + 24,
            addition_embed_type="text_time",
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=20 + 6 * 4,
            use_linear_projection=True,
            transformer_layers_per_block=(2, 1),
        ),
        scheduler=scheduler,
        tokenizer_2=second,
        text_encoder_2=randomise(transformers.CLIPTextModelWithProjection(wide), seed=4),
        force_zeros_for_empty_prompt=zeros,
        add_watermarker=False,
        **parts,
    )
    return _saved(pipeline, path / "pipeline")


@seeded
def unconditional(path: Path) -> diffusers.LDMPipeline:
    """An LDMPipeline over an AutoencoderKL, saved at `path`."""
    unet = pixel_unet(in_channels=4, out_channels=4)
    scheduler = diffusers.DDIMScheduler(1000, clip_sample=False, **CHAIN)
    pipeline = diffusers.LDMPipeline(vqvae=autoencoder(), unet=unet, scheduler=scheduler)
    return _saved(pipeline, path)


@seeded
def ddim(path: Path, **fields) -> diffusers.DDIMPipeline:
    """A DDIMPipeline of pictures, saved at `path`."""
    scheduler = diffusers.DDIMScheduler(1000, **fields)
    return _saved(diffusers.DDIMPipeline(unet=pixel_unet(), scheduler=scheduler), path)


@seeded
def ddpm(path: Path, levels: int = 20) -> diffusers.DDPMPipeline:
    """A DDPMPipeline of pictures with a short chain, saved at `path`."""
    scheduler = diffusers.DDPMScheduler(levels, beta_start=0.01, beta_end=0.4)
    return _saved(diffusers.DDPMPipeline(unet=pixel_unet(), scheduler=scheduler), path)


def _saved(pipeline, path: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline.save_pretrained(path)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@seeded
def dit(path: Path, *, classes: int = 1000, learned: bool = True) -> diffusers.DiTPipeline:
    """A tiny DiTPipeline; its guidance needs 1,000 classes."""
    transformer = diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=4,
        num_layers=2,
        in_channels=4,
        out_channels=8 if learned else None,
        sample_size=8,
        num_embeds_ada_norm=classes,
    )
    scheduler = diffusers.DDIMScheduler(**SCHEDULER)
    names = {0: "cat, kitten", 1: "dog"}
    pipeline = diffusers.DiTPipeline(randomise(transformer), autoencoder(), scheduler, names)
    return _saved(pipeline, path)
