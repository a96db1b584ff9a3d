"""`ClipText` is transformers' text model of CLIP, value for value, and shares its files."""

from __future__ import annotations

import json

import pytest
import torch
import transformers

from nelbo import NelboError
from nelbo.networks.clip import ClipText
from nelbo.networks.clip_config import ClipTextConfig
from tests.formats.tiny import randomise, seeded

SIZES = {
    "vocab_size": 50,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "max_position_embeddings": 11,
    "projection_dim": 10,
    "eos_token_id": 49,
}
# The end at several places, repeated as padding, and after tokens of larger numbers.
TOKENS = torch.tensor(
    [
        [3, 9, 4, 49, 49, 49, 49, 49, 49],
        [3, 48, 7, 1, 2, 8, 30, 49, 49],
        [3, 49, 0, 0, 0, 0, 0, 0, 0],
    ]
)
MASK = torch.tensor([[1] * 4 + [0] * 5, [1] * 8 + [0], [1] * 2 + [0] * 7])


@seeded
def peer_of(projected: bool, **fields):
    config = transformers.CLIPTextConfig(**(SIZES | fields))
    kind = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    return randomise(kind(config), seed=5).eval()


@pytest.mark.parametrize("mask", [None, MASK], ids=["all seen", "padding unseen"])
@pytest.mark.parametrize("projected", [False, True])
@pytest.mark.parametrize("fields", [{}, {"hidden_act": "gelu"}, {"eos_token_id": 2}])
def test_all_states_are_those_of_transformers(tmp_path, projected, fields, mask):
    peer = peer_of(projected, **fields)
    peer.save_pretrained(tmp_path)
    ours = ClipText.from_pretrained(tmp_path, projected=projected)
    with torch.no_grad():
        theirs = peer(TOKENS, attention_mask=mask, output_hidden_states=True)
        found = ours(TOKENS, attention_mask=mask)
    close = {"rtol": 0, "atol": 2e-6}
    torch.testing.assert_close(found.last_hidden_state, theirs.last_hidden_state, **close)
    assert len(found.hidden_states) == len(theirs.hidden_states)
    # The newest releases give the last one normalised.
    for one, other in zip(found.hidden_states[:-1], theirs.hidden_states[:-1], strict=True):
        torch.testing.assert_close(one, other, **close)
    if projected:
        torch.testing.assert_close(found.text_embeds, theirs.text_embeds, **close)
    else:
        assert found.text_embeds is None
        torch.testing.assert_close(found.pooler_output, theirs.pooler_output, **close)


def test_gradients_are_those_of_transformers(tmp_path):
    peer = peer_of(False)
    peer.save_pretrained(tmp_path)
    ours = ClipText.from_pretrained(tmp_path)
    weights = torch.randn(3, 9, 24, generator=torch.Generator().manual_seed(1))
    for model in (peer, ours):
        (model(TOKENS)[0] * weights).sum().backward()
    expected = {name: p.grad for name, p in peer.named_parameters()}
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-5)


def test_products_in_16_bits_are_the_kernel_of_torch():
    torch.manual_seed(0)
    model = ClipText(ClipTextConfig(**SIZES))
    with torch.no_grad():
        expected = model(TOKENS, MASK).last_hidden_state
    with torch.autocast("cpu", torch.bfloat16):
        found = model(TOKENS, MASK).last_hidden_state
    assert found.requires_grad
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=0.1)
    assert not torch.equal(found.float(), expected)


@pytest.mark.parametrize("projected", [False, True])
def test_what_is_saved_is_read_by_transformers(tmp_path, projected):
    torch.manual_seed(0)
    ours = ClipText(ClipTextConfig(**SIZES), projected=projected).eval()
    ours.half().save_pretrained(tmp_path)
    kind = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    theirs, loading = kind.from_pretrained(tmp_path, output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    assert theirs.dtype == torch.float32
    assert transformers.AutoConfig.from_pretrained(tmp_path).eos_token_id == 49
    with torch.no_grad():
        expected = ours.float()(TOKENS).last_hidden_state
        found = theirs(TOKENS).last_hidden_state
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)
    again = ClipText.from_pretrained(tmp_path, projected=projected)
    torch.testing.assert_close(again.state_dict(), ours.state_dict(), rtol=0, atol=0)
    assert again.config == ours.config


@pytest.mark.parametrize("prefixed", [False, True])
def test_names_of_any_release_are_read(tmp_path, prefixed):
    """Weights lie below text_model in most files, and beside it in the newest."""
    from safetensors.torch import load_file, save_file

    peer = peer_of(False)
    peer.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    bare = {name.removeprefix("text_model."): w for name, w in load_file(file).items()}
    named = {("text_model." if prefixed else "") + name: w.clone() for name, w in bare.items()}
    places = "text_model.embeddings.position_ids"
    save_file(named | {places: torch.arange(11)[None]}, file, metadata={"format": "pt"})
    found = ClipText.from_pretrained(tmp_path).state_dict()
    torch.testing.assert_close(dict(found), bare)


def test_mistakes_name_the_file_and_the_field(tmp_path):
    peer_of(False).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    good = json.loads(file.read_text())
    for changes, message in (
        (
            {"num_attention_heads": 5},
            "'num_attention_heads': found 5, .*divisor of hidden_size, 24",
        ),
        ({"hidden_act": "relu"}, "'hidden_act': found 'relu', supported: 'quick_gelu', 'gelu'"),
        ({"attention_dropout": 0.1}, "'attention_dropout': found 0.1"),
        ({"hidden_size": 48}, "wrong shape"),
        ({"num_hidden_layers": 2}, "unexpected"),
        ({"eos_token_id": None}, "'eos_token_id': found None"),
        ({"text_config": 3}, "'text_config': found 3"),
    ):
        file.write_text(json.dumps(good | changes))
        with pytest.raises(NelboError, match=message) as error:
            ClipText.from_pretrained(tmp_path)
        assert str(tmp_path) in str(error.value)
    file.write_text(json.dumps(good))
    with pytest.raises(NelboError, match=r"missing: text_projection\.weight"):
        ClipText.from_pretrained(tmp_path, projected=True)
