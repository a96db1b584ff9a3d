"""All that writes a model in Python reports a directory that cannot be written, whoever asks."""

from __future__ import annotations

import resource

import pytest
import torch

import nelbo
from nelbo import Diffusion, LevelProfile, NelboError, NoiseSchedule, TextEncoder
from nelbo.families import PPCA
from nelbo.networks import AutoencoderKL, UNet
from nelbo.training.snapshots import save_snapshot


def network() -> UNet:
    return UNet(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8,),
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        norm_num_groups=4,
        layers_per_block=1,
    )


def model() -> Diffusion:
    return Diffusion(network(), NoiseSchedule.linear(10), shape=(1, 8, 8))


def fitted() -> PPCA:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(20, 1, 4, 4, generator=generator) * 2 - 1
    return PPCA(2).fit(images)


def text() -> TextEncoder:
    return TextEncoder.for_captions(["a red apple"], width=8, layers=1, heads=2)


WRITERS = {
    "a model": lambda path: nelbo.save(model(), path),
    "a family": lambda path: nelbo.save(fitted(), path),
    "the parameters of a family": lambda path: fitted().save_pretrained(path),
    "a network": lambda path: network().save_pretrained(path),
    "an autoencoder": lambda path: AutoencoderKL(
        block_out_channels=(8,),
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
        norm_num_groups=4,
    ).save_pretrained(path),
    "a text encoder": lambda path: text().save_pretrained(path),
    "a tokenizer": lambda path: text().tokenizer.save_pretrained(path),
}


@pytest.mark.parametrize("what", WRITERS)
def test_a_directory_that_cannot_be_made(tmp_path, what):
    (tmp_path / "file").touch()
    with pytest.raises(NelboError, match=r"cannot write to .*file/below.*: Not a directory"):
        WRITERS[what](tmp_path / "file" / "below")


def test_a_profile_is_written_into_a_new_folder_or_refused_with_the_reason(tmp_path):
    profile = nelbo.load("emoji").chain.profile
    assert profile is not None
    profile.save(tmp_path / "new" / "profile.safetensors")
    (tmp_path / "file").touch()
    with pytest.raises(NelboError, match=r"cannot write .*file/profile\.safetensors: File exists"):
        profile.save(tmp_path / "file" / "profile.safetensors")


@pytest.fixture
def full():
    """No file grows beyond 100 bytes, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


FILES = {
    "a profile": lambda path: LevelProfile.of_variances(
        NoiseSchedule.linear(10), torch.ones(11).double()
    ).save(path / "profile"),
    "a snapshot": lambda path: save_snapshot(path, 3, {"weight": torch.zeros(100)}),
}


@pytest.mark.parametrize("what", [*WRITERS, *FILES])
def test_a_disk_that_is_full(tmp_path, what, full):
    with pytest.raises(NelboError, match=r"cannot write .*: File too large"):
        (WRITERS | FILES)[what](tmp_path)
    left = {file.name: file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()}
    assert not any(name.startswith(".") or size >= 100 for name, size in left.items()), left
