"""Tiny pipelines of today's transformers with random weights, built and saved by diffusers."""

from __future__ import annotations

import json
import string
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import tokenizers
import torch
import transformers

from tests.formats.tiny import randomise, seeded, text_config, tokenizer

LETTERS = [*string.ascii_lowercase, "▁"]
WIDTH = 16
SIDE = 8


@dataclass
class Tiny:
    """A pipeline of diffusers, where it is saved, and how it is called.

    Attributes:
        pipeline: as diffusers has it.
        path: its directory.
        options: arguments of every call.
        guided: the name of the argument for guidance, and what is added to a scale of nelbo's.
        packs: what becomes of latents that are given to it.
    """

    pipeline: Any
    path: Path
    options: dict[str, Any] = field(default_factory=dict)
    guided: tuple[str, float] = ("guidance_scale", 0.0)
    packs: Callable[[torch.Tensor], torch.Tensor] = lambda x: x

    def draw(
        self,
        latents: torch.Tensor,
        steps: int,
        prompt: str,
        negative: str | None = None,
        scale: float = 1.0,
        **more: Any,
    ) -> torch.Tensor:
        """The picture that diffusers draws, in 0..1."""
        name, offset = self.guided
        given = {} if negative is None else {"negative_prompt": negative}
        return self.pipeline(
            prompt,
            latents=self.packs(latents),
            num_inference_steps=steps,
            output_type="pt",
            **{name: scale + offset},
            **given,
            **(self.options | more),
        ).images


def t5(width: int) -> tuple[Any, Any]:
    """A tokenizer of letters, and an encoder."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    tokens = transformers.T5Tokenizer(vocab=[*special, *((c, -2.0) for c in LETTERS)], extra_ids=0)
    config = transformers.T5Config(
        vocab_size=len(tokens), d_model=width, d_kv=8, d_ff=24, num_layers=1, num_heads=2
    )
    return tokens, randomise(transformers.T5EncoderModel(config), seed=5)


def bytes_of_qwen() -> Any:
    """A tokenizer of bytes with the marks of a chat."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {c: i for i, c in enumerate([*alphabet, "<|endoftext|>"])}
    tokens = transformers.Qwen2Tokenizer(vocab=vocabulary, merges=[])
    tokens.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokens.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "<|im_start|>assistant\n"
    )
    return tokens


def clip(path: Path, kind: Any, seed: int, **fields: Any) -> tuple[Any, Any]:
    """A CLIP text encoder of a class, and its tokenizer."""
    tokens = tokenizer(path)
    return tokens, randomise(kind(text_config(tokens, **fields)), seed=seed)


def autoencoder(**fields: Any) -> Any:
    """A variational autoencoder with the latents of flow matching."""
    return randomise(
        diffusers.AutoencoderKL(
            **{
                "down_block_types": ("DownEncoderBlock2D",) * 2,
                "up_block_types": ("UpDecoderBlock2D",) * 2,
                "block_out_channels": (8, 16),
                "layers_per_block": 1,
                "norm_num_groups": 4,
                "latent_channels": 4,
                "scaling_factor": 0.7,
                "shift_factor": 0.1,
                "use_quant_conv": False,
                "use_post_quant_conv": False,
            }
            | fields
        ),
        seed=1,
    )


def flow(**fields: Any) -> Any:
    """The scheduler of flow matching."""
    return diffusers.FlowMatchEulerDiscreteScheduler(**fields)


def pack(x: torch.Tensor) -> torch.Tensor:
    """Latents as Flux and Qwen-Image take them, by diffusers."""
    return diffusers.FluxPipeline._pack_latents(x, *x.shape)


def saved(pipeline: Any, path: Path, shape: tuple[int, ...] | None = None, **tiny: Any) -> Tiny:
    """The pipeline on disk, with a note on the size of its latents where it states none."""
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(path)
    if shape is not None:
        (path / "nelbo.json").write_text(json.dumps({"shape": list(shape)}))
    return Tiny(pipeline, path, **tiny)


@seeded
def stable_diffusion_3(path: Path, *, t5_too: bool = True) -> Tiny:
    kind, width = transformers.CLIPTextModelWithProjection, 32
    first = clip(path / "made", kind, 2, projection_dim=12)
    second = clip(path / "made", kind, 3, projection_dim=20)
    third = t5(width) if t5_too else (None, None)
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=SIDE,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=width,
        caption_projection_dim=16,
        pooled_projection_dim=32,
        pos_embed_max_size=8,
    )
    parts = {}
    for name, (tokens, model) in zip(("", "_2", "_3"), (first, second, third), strict=True):
        parts |= {f"tokenizer{name}": tokens, f"text_encoder{name}": model}
    pipeline = diffusers.StableDiffusion3Pipeline(
        transformer=randomise(transformer), scheduler=flow(shift=3.0), vae=autoencoder(), **parts
    )
    return saved(pipeline, path / "pipeline")


@seeded
def flux(path: Path, *, distilled: bool = False) -> Tiny:
    first = clip(path / "made", transformers.CLIPTextModel, 2)
    second = t5(32)
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=WIDTH,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=distilled,
    )
    pipeline = diffusers.FluxPipeline(
        transformer=randomise(transformer),
        scheduler=flow(shift=3.0, use_dynamic_shifting=True),
        vae=autoencoder(),
        tokenizer=first[0],
        text_encoder=first[1],
        tokenizer_2=second[0],
        text_encoder_2=second[1],
    )
    options = {"height": 2 * SIDE, "width": 2 * SIDE}
    return saved(
        pipeline,
        path / "pipeline",
        (4, SIDE, SIDE),
        options=options,
        guided=("true_cfg_scale", 0.0),
        packs=pack,
    )


@seeded
def pixart_sigma(path: Path) -> Tiny:
    tokens, model = t5(32)
    transformer = diffusers.PixArtTransformer2DModel(
        sample_size=SIDE,
        num_layers=1,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=3,
        caption_channels=32,
        in_channels=4,
        cross_attention_dim=24,
        out_channels=8,
        use_additional_conditions=False,
    )
    pipeline = diffusers.PixArtSigmaPipeline(
        transformer=randomise(transformer),
        scheduler=diffusers.DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02),
        vae=autoencoder(shift_factor=None),
        tokenizer=tokens,
        text_encoder=model,
    )
    options = {"use_resolution_binning": False, "clean_caption": False}
    return saved(pipeline, path / "pipeline", options=options)


@seeded
def sana(path: Path) -> Tiny:
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "\n"]
    vocabulary = {c: i for i, c in enumerate([*special, *LETTERS])}
    tokens = transformers.GemmaTokenizer(vocab=vocabulary, merges=[])
    config = transformers.Gemma2Config(
        hidden_size=8,
        head_dim=8,
        intermediate_size=16,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_hidden_layers=1,
        vocab_size=len(vocabulary),
        attn_implementation="eager",
    )
    side = 2 * SIDE  # Sana draws pictures of multiples of 32
    transformer = diffusers.SanaTransformer2DModel(
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=4,
        num_cross_attention_heads=2,
        cross_attention_head_dim=4,
        cross_attention_dim=8,
        caption_channels=8,
        sample_size=side,
    )
    vae = diffusers.AutoencoderDC(
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        scaling_factor=0.4,
    )
    scheduler = diffusers.DPMSolverMultistepScheduler(
        use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction"
    )
    pipeline = diffusers.SanaPipeline(
        transformer=randomise(transformer),
        scheduler=scheduler,
        vae=randomise(vae, seed=1),
        tokenizer=tokens,
        text_encoder=randomise(transformers.Gemma2Model(config), seed=2),
    )
    options = {"height": 2 * side, "width": 2 * side, "use_resolution_binning": False}
    return saved(pipeline, path / "pipeline", options=options)


@seeded
def qwen_image(path: Path) -> Tiny:
    tokens = bytes_of_qwen()
    ids = {"vision_start_token_id": 0, "vision_end_token_id": 1, "image_token_id": 2}
    config = transformers.Qwen2_5_VLConfig(
        text_config={
            "hidden_size": WIDTH,
            "intermediate_size": WIDTH,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "vocab_size": len(tokens),
            "rope_scaling": {
                "mrope_section": [1, 1, 2],
                "rope_type": "default",
                "type": "default",
                "rope_theta": 1e6,
            },
        },
        vision_config={
            "depth": 1,
            "hidden_size": WIDTH,
            "intermediate_size": WIDTH,
            "num_heads": 2,
            "out_hidden_size": WIDTH,
        },
        video_token_id=3,
        **ids,
    )
    transformer = diffusers.QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(8, 4, 4),
    )
    randomise(transformer)
    with torch.no_grad():  # so that the prompt counts
        transformer.txt_in.weight.mul_(8)
        for block in transformer.transformer_blocks:
            block.attn.to_out[0].weight.mul_(4)
    vae = diffusers.AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 2],
        num_res_blocks=1,
        temperal_downsample=[False],
        latents_mean=[0.1, -0.2, 0.0, 0.3],
        latents_std=[1.1, 0.9, 1.0, 1.3],
    )
    pipeline = diffusers.QwenImagePipeline(
        transformer=transformer,
        scheduler=flow(use_dynamic_shifting=True, shift_terminal=0.02, max_shift=0.9),
        vae=randomise(vae, seed=1),
        tokenizer=tokens,
        text_encoder=randomise(transformers.Qwen2_5_VLForConditionalGeneration(config), seed=2),
    )
    options = {"height": 2 * SIDE, "width": 2 * SIDE}
    return saved(
        pipeline,
        path / "pipeline",
        (4, SIDE, SIDE),
        options=options,
        guided=("true_cfg_scale", 0.0),
        packs=pack,
    )


@seeded
def z_image(path: Path) -> Tiny:
    tokens = bytes_of_qwen()
    config = transformers.Qwen3Config(
        hidden_size=WIDTH,
        head_dim=8,
        intermediate_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        vocab_size=len(tokens),
    )
    transformer = diffusers.ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=WIDTH,
        axes_dims=[8, 4, 4],
        axes_lens=[256, 32, 32],
    )
    pipeline = diffusers.ZImagePipeline(
        transformer=randomise(transformer),
        scheduler=flow(shift=3.0),
        vae=autoencoder(),
        tokenizer=tokens,
        text_encoder=randomise(transformers.Qwen3Model(config), seed=2),
    )
    options = {"height": 2 * SIDE, "width": 2 * SIDE}
    return saved(
        pipeline,
        path / "pipeline",
        (4, SIDE, SIDE),
        options=options,
        guided=("guidance_scale", -1.0),
    )


BUILDERS = {
    "StableDiffusion3Pipeline": stable_diffusion_3,
    "FluxPipeline": flux,
    "PixArtSigmaPipeline": pixart_sigma,
    "SanaPipeline": sana,
    "QwenImagePipeline": qwen_image,
    "ZImagePipeline": z_image,
}
