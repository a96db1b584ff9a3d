"""Weights in several files, in half precision, and under their old names."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import huggingface_hub.errors
import pytest
import torch
from diffusers import AutoencoderKL as PeerAutoencoder
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from nelbo.base.errors import NelboError
from nelbo.networks import AutoencoderKL, UNet, hub
from nelbo.networks.weights import INDEX_FILE, RENAMED_LAYERS, WEIGHTS_FILE

TEXT = {
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 12,
    "attention_head_dim": 2,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}
VAE = {
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
}

PLAIN = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}


@pytest.fixture
def peer() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(**TEXT)


def same(network: torch.nn.Module, peer: torch.nn.Module) -> bool:
    found, expected = network.state_dict(), peer.state_dict()
    return found.keys() == expected.keys() and all(
        torch.equal(found[name], expected[name].to(found[name].dtype)) for name in expected
    )


@pytest.fixture
def sharded(peer, tmp_path) -> Path:
    peer.save_pretrained(tmp_path / "unet", max_shard_size="50KB")
    assert len(list((tmp_path / "unet").glob("*.safetensors"))) > 2
    return tmp_path / "unet"


def edit_index(directory: Path, edit) -> None:
    index = json.loads((directory / INDEX_FILE).read_text())
    edit(index["weight_map"])
    (directory / INDEX_FILE).write_text(json.dumps(index))


def test_shards_are_read_and_replaced_by_one_file(peer, sharded):
    network = UNet.from_pretrained(sharded)
    assert same(network, peer)
    network.save_pretrained(sharded)
    assert sorted(file.name for file in sharded.iterdir()) == ["config.json", WEIGHTS_FILE]
    assert same(UNet2DConditionModel.from_pretrained(sharded), peer)


def test_sharded_variant(peer, tmp_path):
    peer.half().save_pretrained(tmp_path, max_shard_size="30KB", variant="fp16")
    assert same(UNet.from_pretrained(tmp_path, variant="fp16", dtype=torch.float16), peer)
    with pytest.warns(UserWarning, match="fp16"):
        assert same(UNet.from_pretrained(tmp_path), peer)


@pytest.mark.parametrize(
    "name",
    [
        "../secret.safetensors",
        "/etc/secret.safetensors",
        "deeper/secret.safetensors",
        "..\\secret.safetensors",
        "C:\\secret.safetensors",
        "..",
        "",
    ],
)
def test_index_that_climbs_out(sharded, name):
    save_file({"conv_in.bias": torch.zeros(8)}, sharded.parent / "secret.safetensors")
    edit_index(sharded, lambda weight_map: weight_map.update({"conv_in.bias": name}))
    with pytest.raises(
        NelboError, match=r"index\.json lists .*same directory|is not a safetensors"
    ):
        UNet.from_pretrained(sharded)


def test_index_of_pickles(sharded):
    edit_index(sharded, lambda weight_map: weight_map.update({"conv_in.bias": "shard.bin"}))
    with pytest.raises(NelboError, match=r"shard\.bin.*is a pickle.*save_pretrained"):
        UNet.from_pretrained(sharded)


@pytest.mark.parametrize("weight_map", [None, [], {}, {"conv_in.bias": 1}])
def test_damaged_index(sharded, weight_map):
    (sharded / INDEX_FILE).write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(NelboError, match="weight_map must be"):
        UNet.from_pretrained(sharded)


def test_missing_shard(sharded):
    shard = sorted(sharded.glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(NelboError, match=f"holds no {shard.name}"):
        UNet.from_pretrained(sharded)


def test_shard_that_is_not_listed(sharded):
    shard = sorted(sharded.glob("*.safetensors"))[1].name

    def forget(weight_map):
        for name in [name for name, file in weight_map.items() if file == shard]:
            del weight_map[name]

    edit_index(sharded, forget)
    with pytest.raises(NelboError, match="tensors missing"):
        UNet.from_pretrained(sharded)


def test_variant(peer, tmp_path):
    peer.save_pretrained(tmp_path)
    peer.half().save_pretrained(tmp_path, variant="fp16")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        main = UNet.from_pretrained(tmp_path)
        half = UNet.from_pretrained(tmp_path, variant="fp16")
    assert main.dtype == half.dtype == torch.float32
    assert same(half, peer)
    assert not torch.equal(main.conv_in.weight, half.conv_in.weight)


def test_the_only_variant_is_read_with_a_note(peer, tmp_path):
    peer.half().save_pretrained(tmp_path, variant="fp16")
    with pytest.warns(UserWarning, match=r"fp16\.safetensors is read"):
        network = UNet.from_pretrained(tmp_path)
    assert network.dtype == torch.float32
    assert same(network, peer)


def test_missing_variant(peer, tmp_path):
    peer.save_pretrained(tmp_path, variant="ema")
    with pytest.raises(NelboError, match=r"ema\.safetensors: rename a copy of the one to read"):
        UNet.from_pretrained(tmp_path)
    with pytest.raises(NelboError, match=r"holds no .*fp16\.safetensors"):
        UNet.from_pretrained(tmp_path, variant="fp16")
    with pytest.raises(NelboError, match="variant is"):
        UNet.from_pretrained(tmp_path, variant="../fp16")


def test_hub_with_shards_in_half_precision(peer, tmp_path, monkeypatch):
    peer.half().save_pretrained(tmp_path, max_shard_size="30KB", variant="fp16")

    def download(hub_id, name, subfolder=None, local_files_only=False):
        assert (hub_id, subfolder) == ("owner/name", "unet")
        if not (tmp_path / name).exists():
            raise huggingface_hub.errors.EntryNotFoundError("no such file")
        return str(tmp_path / name)

    monkeypatch.setattr(hub, "_answers", lambda hub_id, period: True)
    monkeypatch.setattr(hub, "hf_hub_download", download)
    with pytest.warns(UserWarning, match="fp16"):
        assert same(UNet.from_pretrained("owner/name", subfolder="unet"), peer)


def test_offline_with_only_half_precision_in_the_cache(peer, tmp_path, monkeypatch):
    peer.half().save_pretrained(tmp_path, variant="fp16")

    def download(hub_id, name, subfolder=None, local_files_only=False):
        if not (tmp_path / name).exists():
            raise huggingface_hub.errors.LocalEntryNotFoundError("offline")
        return str(tmp_path / name)

    monkeypatch.setattr(hub, "_answers", lambda hub_id, period: True)
    monkeypatch.setattr(hub, "hf_hub_download", download)
    with pytest.warns(UserWarning, match="fp16"):
        assert same(UNet.from_pretrained("owner/name"), peer)


@pytest.mark.parametrize("parts", [1, 2])
def test_old_names_in_an_autoencoder(tmp_path, parts):
    torch.manual_seed(0)
    peer = PeerAutoencoder(**VAE)
    peer.save_pretrained(tmp_path, max_shard_size="10GB" if parts == 1 else "60KB")
    old_names = {new: old for old, new in RENAMED_LAYERS.items()}

    def old(name: str) -> str:
        for new, before in old_names.items():
            name = name.replace(f".{new}.", f".{before}.")
        return name

    for file in tmp_path.glob("*.safetensors"):
        weights = {old(name): weight for name, weight in load_file(file).items()}
        save_file(weights, file, metadata={"format": "pt"})
    if parts > 1:
        index = json.loads((tmp_path / INDEX_FILE).read_text())
        index["weight_map"] = {old(name): file for name, file in index["weight_map"].items()}
        (tmp_path / INDEX_FILE).write_text(json.dumps(index))
        assert any("proj_attn" in name for name in index["weight_map"])
    assert same(AutoencoderKL.from_pretrained(tmp_path), peer)


def test_weights_are_mapped_not_copied(peer, tmp_path):
    peer.save_pretrained(tmp_path)
    network = UNet.from_pretrained(tmp_path)
    start = min(parameter.data_ptr() for parameter in network.parameters())
    end = max(p.data_ptr() + 4 * p.numel() for p in network.parameters())
    # One stretch of memory, as long as the file.
    assert end - start < (tmp_path / WEIGHTS_FILE).stat().st_size
    assert not any(value.is_meta for value in network.state_dict().values())


def test_config_of_another_class(peer, tmp_path):
    peer.save_pretrained(tmp_path)
    with pytest.raises(NelboError, match=r"config\.json.*'_class_name': found 'UNet2DCond"):
        AutoencoderKL.from_pretrained(tmp_path)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.complex64])
def test_weights_that_are_no_real_numbers(tmp_path, dtype):
    """As those of a quantised network are, which mean nothing without their scales."""
    network = UNet(block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1, **PLAIN)
    network.save_pretrained(tmp_path)
    weights = load_file(tmp_path / WEIGHTS_FILE)
    changed = weights | {"conv_in.weight": weights["conv_in.weight"].to(dtype)}
    save_file(changed, tmp_path / WEIGHTS_FILE)
    with pytest.raises(NelboError, match=f"1 tensors that are no real .*conv_in.weight .{dtype}"):
        UNet.from_pretrained(tmp_path)
