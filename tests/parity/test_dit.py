"""`DiT` and `TextDiT` are diffusers' transformers, weight for weight, and share their files."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers import DiTTransformer2DModel, PixArtTransformer2DModel

from nelbo import NelboError
from nelbo.chain.conditioning import Condition
from nelbo.networks import DiT, DiTConfig, TextDiT

TOLERANCE = 1e-8
SMALL = {
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "num_layers": 2,
    "in_channels": 3,
    "sample_size": 8,
}
CLASSES = {
    "plain": SMALL | {"num_embeds_ada_norm": 5},
    # The layout of facebook/DiT-XL-2-256: a learned variance.
    "learned_variance": SMALL | {"in_channels": 4, "out_channels": 8, "num_embeds_ada_norm": 3},
    "no_classes": SMALL | {"num_embeds_ada_norm": 0, "patch_size": 1, "dropout": 0.2},
    "other_layers": SMALL
    | {
        "patch_size": 4,
        "activation_fn": "geglu",
        "attention_bias": False,
        "norm_elementwise_affine": True,
        "norm_eps": 1e-3,
    },
}
PROMPTS = {
    # The layout of PixArt-alpha/PixArt-XL-2-512x512.
    "text": SMALL | {"out_channels": 6, "caption_channels": 12, "cross_attention_dim": 16},
    "text_as_it_is": SMALL
    | {
        "cross_attention_dim": 12,
        "patch_size": 1,
        "interpolation_scale": 2,
        "norm_elementwise_affine": True,
        "activation_fn": "gelu",
    },
}
CONFIGS = CLASSES | PROMPTS


def peer_network(name: str) -> torch.nn.Module:
    """A diffusers network in float64 with every parameter random, so that nothing hides."""
    torch.manual_seed(0)
    kind = PixArtTransformer2DModel if name in PROMPTS else DiTTransformer2DModel
    peer = kind(**CONFIGS[name]).double().eval()
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter.copy_(torch.randn_like(parameter) / max(1, parameter[0].numel()) ** 0.5)
    return peer


def own_class(name: str) -> type[DiT] | type[TextDiT]:
    return TextDiT if name in PROMPTS else DiT


def inputs(name: str, side: int) -> tuple[torch.Tensor, torch.Tensor, Condition]:
    generator = torch.Generator().manual_seed(1)
    shape = (3, CONFIGS[name]["in_channels"], side, side)
    x_t = torch.randn(shape, generator=generator, dtype=torch.float64)
    time = torch.tensor([1, 500, 999])
    if name in PROMPTS:
        text = torch.randn(3, 5, 12, generator=generator, dtype=torch.float64)
        return x_t, time, Condition(text=text)
    classes = CONFIGS[name].get("num_embeds_ada_norm", 1000)
    # The last row is that of no label, −1 here.
    label = torch.tensor([0, classes - 1, -1]) if classes else torch.full((3,), -1)
    return x_t, time, Condition(label=label if classes else None)


def peer_output(peer, x_t, time, condition: Condition) -> torch.Tensor:
    if condition.text is not None:
        given = {"encoder_hidden_states": condition.text}
    else:
        classes = peer.config.num_embeds_ada_norm
        label = torch.full((3,), -1) if condition.label is None else condition.label
        given = {"class_labels": label.where(label >= 0, classes)}
    return peer(x_t, timestep=time, **given).sample


@pytest.mark.parametrize("side", [8, 12])
@pytest.mark.parametrize("name", CONFIGS)
def test_output_and_gradients_equal_diffusers(name, side):
    peer = peer_network(name)
    network = own_class(name).from_config(peer.config).double().eval()
    network.load_state_dict(peer.state_dict())
    x_t, time, condition = inputs(name, side)
    x_peer, x_own = x_t.clone().requires_grad_(), x_t.clone().requires_grad_()
    expected, found = peer_output(peer, x_peer, time, condition), network(x_own, time, condition)
    assert found.shape == expected.shape
    assert expected.std() > 1e-3
    assert (found - expected).abs().max() <= TOLERANCE
    expected.square().mean().backward()
    found.square().mean().backward()
    torch.testing.assert_close(x_own.grad, x_peer.grad, atol=TOLERANCE, rtol=0)
    gradients = {key: parameter.grad for key, parameter in peer.named_parameters()}
    for key, parameter in network.named_parameters():
        scale = max(1.0, float(gradients[key].abs().max()))
        torch.testing.assert_close(
            parameter.grad, gradients[key], atol=TOLERANCE * scale, rtol=0, msg=key
        )


@pytest.mark.parametrize("name", CONFIGS)
def test_files_are_exchanged(name, tmp_path):
    peer = peer_network(name)
    peer.save_pretrained(tmp_path / "peer")
    network = own_class(name).from_pretrained(tmp_path / "peer")
    network.save_pretrained(tmp_path / "own")
    returned, info = type(peer).from_pretrained(
        tmp_path / "own", torch_dtype=torch.float64, output_loading_info=True
    )
    assert not any(info.values()), info
    expected = peer.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in returned.state_dict().items())
    before, after = (
        json.loads((tmp_path / side / "config.json").read_text()) for side in ("peer", "own")
    )
    before["out_channels"] = before["out_channels"] or before["in_channels"]
    assert after == before


def test_the_first_checkpoints_have_another_name():
    """That of facebook/DiT-XL-2-256, and fields of other networks that are unset."""
    found = {"_class_name": "Transformer2DModel", "num_vector_embeds": None, **CLASSES["plain"]}
    assert DiT.from_config(found).config == DiTConfig(**CLASSES["plain"])


def test_a_fresh_network_predicts_zero_whatever_the_size():
    condition = Condition(text=torch.randn(2, 4, 12))
    for network, given in (
        (DiT(**SMALL), Condition(label=torch.tensor([1, -1]))),
        (TextDiT(**PROMPTS["text"]), condition),
    ):
        out = network(torch.randn(2, 3, 6, 12), torch.tensor([3, 4]), given)
        assert out.shape == (2, network.config.out_channels, 6, 12)
        assert (out == 0).all()


def test_classes_are_exchanged():
    torch.manual_seed(0)
    old = DiT(**SMALL | {"num_embeds_ada_norm": 2})
    for parameter in old.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    new = old.with_classes(["cat", "dog"], ["eel", "dog", "fox"])
    x_t, time = torch.randn(2, 3, 8, 8), torch.tensor([3, 4])

    def of(network: DiT, label: int) -> torch.Tensor:
        return network(x_t, time, Condition(label=torch.full((2,), label)))

    assert torch.equal(of(new, 1), of(old, 1))
    assert torch.equal(of(new, 0), of(old, -1))
    assert torch.equal(of(new, -1), of(old, -1))
    bare = new.with_classes(["eel", "dog", "fox"], [])
    assert bare.config.num_class_embeds is None
    assert torch.equal(bare(x_t, time), of(old, -1))


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"patch_size": 0}, "patch_size"),
        ({"norm_type": "ada_norm"}, "norm_type"),
        ({"attention_head_dim": 3}, "attention_head_dim"),
        ({"num_embeds_ada_norm": None}, "num_embeds_ada_norm"),
        ({"num_embeds_ada_norm": 10**30}, "num_embeds_ada_norm"),
        ({"activation_fn": "relu"}, "activation_fn"),
    ],
)
def test_mistakes_in_a_config(fields, match):
    with pytest.raises(NelboError, match=match):
        DiT(**SMALL | fields)


def test_mistakes_in_a_call():
    network, x, time = DiT(**SMALL | {"num_embeds_ada_norm": 2}), torch.zeros(1, 3, 8, 8), 0
    time = torch.tensor([0])
    for x_t, condition, match in (
        (x[:, :2], None, r"expected \(batch, 3"),
        (x[..., :7], None, "divisible by 2"),
        (x, Condition(label=torch.tensor([2])), "num_embeds_ada_norm=2"),
        (x, Condition(label=torch.tensor([0.5])), "int64"),
        (x, Condition(text=torch.zeros(1, 2, 3)), "without attention to a prompt"),
    ):
        with pytest.raises(NelboError, match=match):
            network(x_t, time, condition)
    text = TextDiT(**PROMPTS["text"])
    with pytest.raises(NelboError, match=r"got nothing.*\(batch, tokens, 12\)"):
        text(x, time)
    with pytest.raises(NelboError, match=r"\(1, 2, 3\)"):
        text(x, time, Condition(text=torch.zeros(1, 2, 3)))
    with pytest.raises(NelboError, match="use_additional_conditions"):
        TextDiT(**PROMPTS["text"] | {"sample_size": 128})
