"""Networks on disk: what is written is whole, and what cannot be read is explained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from nelbo.base.errors import NelboError
from nelbo.networks import UNet, pretrained, weights

SMALL = {
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}


@pytest.fixture
def saved(tmp_path) -> Path:
    torch.manual_seed(0)
    UNet(**SMALL).save_pretrained(tmp_path / "unet")
    return tmp_path / "unet"


def edit_weights(directory: Path, edit) -> None:
    file = directory / pretrained.WEIGHTS_FILE
    weights = load_file(file)
    edit(weights)
    save_file(weights, file, metadata={"format": "pt"})


def test_round_trip_is_exact(saved):
    found = UNet.from_pretrained(saved)
    again = UNet.from_pretrained(saved.parent, subfolder="unet")
    written = load_file(saved / pretrained.WEIGHTS_FILE)
    for network in (found, again):
        state = network.state_dict()
        assert state.keys() == written.keys()
        assert all(torch.equal(state[name], written[name]) for name in written)
        assert not network.training
        assert all(parameter.requires_grad for parameter in network.parameters())
        assert not any(parameter.is_meta for parameter in network.parameters())
    assert found.config == UNet(**SMALL).config


def test_loaded_weights_do_not_change_with_the_file(saved):
    network = UNet.from_pretrained(saved)
    before = network.conv_in.weight.clone()
    edit_weights(saved, lambda weights: weights["conv_in.weight"].zero_())
    assert torch.equal(network.conv_in.weight, before)


def test_only_the_two_files_are_left(saved):
    UNet(**SMALL).save_pretrained(saved)
    names = sorted(file.name for file in saved.iterdir())
    assert names == [pretrained.CONFIG_FILE, pretrained.WEIGHTS_FILE]


def test_failed_write_leaves_the_old_file(saved, monkeypatch):
    before = (saved / pretrained.WEIGHTS_FILE).read_bytes()

    def fail(weights, file, metadata):
        Path(file).write_bytes(b"half a file")
        raise OSError("disk full")

    monkeypatch.setattr(weights, "save_file", fail)
    with pytest.raises(NelboError, match=r"cannot write to .*: disk full"):
        UNet(**SMALL).save_pretrained(saved)
    assert (saved / pretrained.WEIGHTS_FILE).read_bytes() == before
    assert len(list(saved.iterdir())) == 2


def test_channels_last_network_is_saved(saved):
    network = UNet.from_pretrained(saved).to(memory_format=torch.channels_last)
    network.save_pretrained(saved.parent / "again")
    assert torch.equal(
        UNet.from_pretrained(saved.parent / "again").conv_in.weight, network.conv_in.weight
    )


def test_precision(saved):
    edit_weights(saved, lambda weights: weights.update({k: v.half() for k, v in weights.items()}))
    assert UNet.from_pretrained(saved).dtype == torch.float32
    assert UNet.from_pretrained(saved, dtype=torch.bfloat16).dtype == torch.bfloat16


def test_old_attention_names(saved):
    expected = UNet.from_pretrained(saved).state_dict()
    old_names = {new: old for old, new in weights.RENAMED_LAYERS.items()}

    def rename(weights):
        for name in list(weights):
            for new, old in old_names.items():
                if f".{new}." in name:
                    weights[name.replace(f".{new}.", f".{old}.")] = weights.pop(name)
        assert any("proj_attn" in name for name in weights)

    edit_weights(saved, rename)
    found = UNet.from_pretrained(saved).state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_missing_tensors_are_listed(saved):
    def drop(weights):
        for name in [name for name in weights if name.startswith("up_blocks")]:
            del weights[name]

    edit_weights(saved, drop)
    with pytest.raises(
        NelboError, match=r"\d\d tensors missing: up_blocks.*, and \d+ more"
    ) as info:
        UNet.from_pretrained(saved)
    assert str(saved / pretrained.WEIGHTS_FILE) in str(info.value)
    assert str(info.value).count("up_blocks") == 10


def test_extra_and_misshapen_tensors(saved):
    def spoil(weights):
        weights["surplus"] = torch.zeros(1)
        weights["conv_in.bias"] = torch.zeros(3)

    edit_weights(saved, spoil)
    with pytest.raises(NelboError) as info:
        UNet.from_pretrained(saved)
    assert "unexpected: surplus" in str(info.value)
    assert "conv_in.bias (found (3,), expected (8,))" in str(info.value)


@pytest.mark.parametrize("kept", [0, 4, 100, -50])
def test_truncated_weights(saved, kept):
    file = saved / pretrained.WEIGHTS_FILE
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(NelboError, match="truncated") as info:
        UNet.from_pretrained(saved)
    assert str(file) in str(info.value)


@pytest.mark.parametrize("text", ["", "{", "[1]", "\xff"])
def test_bad_json(saved, text):
    (saved / pretrained.CONFIG_FILE).write_text(text, encoding="latin-1")
    with pytest.raises(NelboError, match=r"config\.json"):
        UNet.from_pretrained(saved)


def test_bad_config_names_the_file(saved):
    file = saved / pretrained.CONFIG_FILE
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"act_fn": "tanh"}))
    with pytest.raises(NelboError, match=r"config\.json.*'act_fn'"):
        UNet.from_pretrained(saved)


def test_missing_files(saved):
    (saved / pretrained.WEIGHTS_FILE).unlink()
    with pytest.raises(NelboError, match="holds no diffusion_pytorch_model"):
        UNet.from_pretrained(saved)
    with pytest.raises(NelboError, match=r"holds no config\.json"):
        UNet.from_pretrained(saved.parent)


def test_pickles_are_refused(saved):
    (saved / pretrained.WEIGHTS_FILE).unlink()
    (saved / "diffusion_pytorch_model.bin").write_bytes(b"")
    for path in (saved, saved / "diffusion_pytorch_model.bin", "model.ckpt", "model.pt"):
        with pytest.raises(NelboError, match=r"pickle.*save_pretrained"):
            UNet.from_pretrained(path)


def test_neither_directory_nor_hub_id(saved):
    with pytest.raises(NelboError, match="no directory"):
        UNet.from_pretrained(saved / "not" / "there")
    with pytest.raises(NelboError, match="is a file"):
        UNet.from_pretrained(saved / pretrained.CONFIG_FILE)
