"""The configs of published checkpoints are read, and give the tensors that diffusers expects."""

from __future__ import annotations

import diffusers
import pytest
import torch

from nelbo.networks import AutoencoderKL, ControlNet, UNet

CROSS_DOWN, CROSS_UP = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
SD1 = {
    "_class_name": "UNet2DConditionModel",
    "_diffusers_version": "0.6.0",
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "cross_attention_dim": 768,
    "down_block_types": [CROSS_DOWN, CROSS_DOWN, CROSS_DOWN, "DownBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": ["UpBlock2D", CROSS_UP, CROSS_UP, CROSS_UP],
}
SD2 = SD1 | {
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "dual_cross_attention": False,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "sample_size": 96,
    "upcast_attention": True,
    "use_linear_projection": True,
}
SDXL = SD2 | {
    "addition_embed_type": "text_time",
    "addition_embed_type_num_heads": 64,
    "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "class_embed_type": None,
    "class_embeddings_concat": False,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "cross_attention_dim": 2048,
    "cross_attention_norm": None,
    "down_block_types": ["DownBlock2D", CROSS_DOWN, CROSS_DOWN],
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "mid_block_only_cross_attention": None,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "num_attention_heads": None,
    "projection_class_embeddings_input_dim": 2816,
    "resnet_out_scale_factor": 1.0,
    "resnet_skip_time_act": False,
    "resnet_time_scale_shift": "default",
    "sample_size": 128,
    "time_cond_proj_dim": None,
    "time_embedding_act_fn": None,
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
    "transformer_layers_per_block": [1, 2, 10],
    "up_block_types": [CROSS_UP, CROSS_UP, "UpBlock2D"],
    "upcast_attention": None,
}
VAE = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 512,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
CONTROLNET = {
    name: value
    for name, value in SD1.items()
    if name not in ("center_input_sample", "out_channels", "sample_size", "up_block_types")
} | {
    "_class_name": "ControlNetModel",
    "class_embed_type": None,
    "conditioning_embedding_out_channels": [16, 32, 96, 256],
    "controlnet_conditioning_channel_order": "rgb",
    "num_class_embeds": None,
    "only_cross_attention": False,
    "projection_class_embeddings_input_dim": None,
    "resnet_time_scale_shift": "default",
    "upcast_attention": False,
    "use_linear_projection": False,
}


@pytest.mark.parametrize(
    ("own_class", "config", "parameters"),
    [
        pytest.param(UNet, SD1, 859_520_964, id="stable-diffusion-v1-5"),
        pytest.param(UNet, SD1 | {"in_channels": 9}, 859_535_364, id="sd-inpainting"),
        pytest.param(UNet, SD2, 865_910_724, id="stable-diffusion-2-1"),
        pytest.param(UNet, SDXL, 2_567_463_684, id="stable-diffusion-xl-base"),
        pytest.param(AutoencoderKL, VAE, 83_653_863, id="sd-vae"),
        pytest.param(ControlNet, CONTROLNET, 361_279_120, id="sd-controlnet-canny"),
    ],
)
def test_tensors_at_true_size(own_class, config, parameters):
    with torch.device("meta"):
        own = own_class.from_config(config)
        peer = getattr(diffusers, config["_class_name"]).from_config(config)
    found, expected = own.state_dict(), peer.state_dict()
    assert found.keys() == expected.keys()
    assert all(found[name].shape == expected[name].shape for name in expected)
    assert sum(weight.numel() for weight in found.values()) == parameters
