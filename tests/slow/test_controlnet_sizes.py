"""A ControlNet at the sizes of Stable Diffusion 1.5, beside diffusers on the same weights."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel

from nelbo import Diffusion, NoiseSchedule
from nelbo.chain.conditioning import Condition
from nelbo.diffusion import Continuous
from nelbo.diffusion.objectives import Objective
from nelbo.networks import ControlledUNet, ControlNet, UNet
from nelbo.training.kinds.controlnet.objective import ControlObjective

FIELDS = {"cross_attention_dim": 768}  # what differs from the defaults of both classes


def shared(peer: torch.nn.Module, cls):
    """nelbo's network around the very tensors of diffusers'."""
    with torch.device("meta"):
        network = cls.from_config(json.loads(peer.to_json_string()))
    network.load_state_dict(peer.state_dict(), assign=True)
    return network.requires_grad_(False).eval()


@pytest.mark.slow
def test_output_and_gradients_at_true_sizes():
    torch.manual_seed(0)
    peer_unet = UNet2DConditionModel(**FIELDS).requires_grad_(False).eval()
    peer = ControlNetModel.from_unet(peer_unet).eval()
    with torch.no_grad():  # so that the control counts
        for layer in (*peer.controlnet_down_blocks, peer.controlnet_mid_block):
            layer.weight.normal_(std=0.02)
        peer.controlnet_cond_embedding.conv_out.weight.normal_(std=0.02)
    unet, controlnet = shared(peer_unet, UNet), shared(peer, ControlNet)
    assert sum(p.numel() for p in unet.parameters()) == 859_520_964
    assert sum(p.numel() for p in controlnet.parameters()) == 361_279_120
    x_t, time = torch.randn(1, 4, 16, 16), torch.tensor([500])
    condition = Condition(text=torch.randn(1, 77, 768), control=torch.rand(1, 3, 128, 128))
    with torch.no_grad():
        skips, middle = peer(
            x_t,
            time,
            encoder_hidden_states=condition.text,
            controlnet_cond=condition.control,
            return_dict=False,
        )
        theirs = peer_unet(
            x_t,
            time,
            encoder_hidden_states=condition.text,
            down_block_additional_residuals=skips,
            mid_block_additional_residual=middle,
        ).sample
        alone = unet(x_t, time, condition)
        mine = ControlledUNet(unet, controlnet)(x_t, time, condition)
    assert (mine - theirs).abs().max() < 1e-4
    assert (mine - alone).abs().max() > 1e-2
    # A step of training reaches every weight of the ControlNet, and none of the base.
    chain = Diffusion(unet, NoiseSchedule.scaled_linear(), data=Continuous(), shape=(4, 16, 16))
    objective = ControlObjective(controlnet.requires_grad_(True), chain.eval())
    generator = torch.Generator().manual_seed(0)
    terms = objective(x_t, condition, objective=Objective("simple"), generator=generator)
    terms.loss.backward()
    assert all(parameter.grad is not None for parameter in controlnet.parameters())
    assert all(parameter.grad is None for parameter in unet.parameters())
