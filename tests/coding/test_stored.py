"""What was written by an earlier nelbo is read: a change of both sides alike would go unnoticed."""

from __future__ import annotations

import base64

import numpy as np
import pytest
import torch

from nelbo import Condition, Pixels, coding
from nelbo.coding.agreement import Agreement
from nelbo.coding.bits import Bits
from nelbo.coding.container import Block, Container
from nelbo.coding.distributions import DrawnNormal, GridNormal, PixelNormal, Table
from nelbo.coding.stack import Stack, noise
from nelbo.families import HMM
from tests.coding.models import tiny

ARCHIVE = base64.b64decode("""
iW5lbGJvDQoDYQAAACPVj2YmiUmGhuapZimGKWkpKUZKyEFqomMSixobWDwMhrHI3jYz1DECImAkQWIEGgQmQP8b
gEIhFhEMxpY6RqZo4WACDwUzgsGAkqTgKQ1kixHYLlCMwUPHwkDH1Ci2FgAktM8JSWZl+AAAAAAAAAAAEAAAAHja
UzLQK8hLV+JSMoTSRlDaGEwD9ftizai5c9OQeDKTU54FMEM1wGSAcO5km7jv51Tyt3IZJ/5BXEhPjhgwAABizXIO
AAAAAAAAAAAJAAAAeNpTMtEryEtX4lIyQVi3lE0AQr9k649WY5F8eVCUOfflIigG
""")
# With numbers that another machine may round apart, as of a margin 2,500 times as wide.
LISTED = base64.b64decode("""
iW5lbGJvDQoDTwAAACPVj2YmiUmGhuapZimGKWkpKUZKyEFqomMSixobWDwMhrHI3jYz1zEy0zEy0TGExAg0CEzB
IQDEsYhgMDHUMTLGEw5mBAMC7ndDA8vYWgC/ayoJw5CmNwIAAAAdAAAAEAAAAEgADvgG/QRtAAABARAB7AQAAAoC
vALqBQkABx0CxZ9/On51W7YEDFALnpExNrWeFNNWXubkXpo9V/IwaBE/0wfuARnh0elX3yPWSgZGJhDCPlGeU5as
xb80/UEAAA==
""")
# Value by value, of a model that gives two of five levels next to no probability.
BY_VALUE = base64.b64decode("""
iW5lbGJvDQoDLAAAACPVj8ZmRkaJZmlJ5smGxsYpBkZKyEFqomOC5GNTuH+xu9mMoKPh7jQEeRwAMGLpils/A2sBAAAA
AAAAACQAAAACAAD2bRUKMQcAAN/iTucxBgAAWHGp1R4HAADZgtyxqkFPXDEGAAA+ETeEnAgAAKxrKCIQBgAALdW7mj8C
AABNip7kMwYAAAK3frutBAAAjcC1bw7fnOnpkvdHSSkR2O4HAADXCAAAAigV2HIGAAC/2vwR0qXn8xd/tpZCMkvFrwYA
AKyemT/iBQAAXbYTAAA=
""")
COARSE = base64.b64decode("iW5iM3cb8MYA1Fng")
WAVES = (torch.arange(6 * 16).view(6, 1, 4, 4) * 7 // 9 % 17).to(torch.uint8)
IMAGES = WAVES.clone()
IMAGES[4] = 16
IMAGES[5, 0, 1, 1] = 16


@pytest.fixture(scope="module")
def model():
    """Of weights that are fractions of 64, the same everywhere."""
    made = tiny(17, (1, 4, 4), T=4)
    with torch.no_grad():
        for weight in made.network.parameters():
            places = torch.arange(weight.numel()).view(weight.shape)
            weight.copy_((places * 5 % 11 - 5) / 64)
    return made


def test_an_archive_is_read(model):
    found = coding.read(model, ARCHIVE)
    assert torch.equal(torch.stack(found.images), IMAGES)
    assert found.names == [f"{i}.png" for i in range(6)]
    assert coding.contents(ARCHIVE)["labels"] == [0, 1, 2, 0, 1, 2]


def test_numbers_that_machines_may_round_apart_are_read_from_their_places(model, monkeypatch):
    assert torch.equal(coding.decompress(model, LISTED), WAVES)
    monkeypatch.setattr("nelbo.coding.chain_code.TOLERANCE", 1e-5)
    archive = coding.compress(model, WAVES, verify=False)
    listed = [Block.from_bytes(Container.from_bytes(a).blocks[0]).listed for a in (archive, LISTED)]
    assert listed[0] == listed[1] != b""


def test_the_same_is_written(model):
    """But for what may come with other versions: the header's, and bytes of deflate."""
    names, labels = [f"{i}.png" for i in range(6)], Condition(label=torch.arange(6) % 3)
    archive = coding.compress(model, IMAGES, names=names, block=4, condition=labels)
    written, before = (Container.from_bytes(each) for each in (archive, ARCHIVE))
    assert written.header | {"nelbo": ""} == before.header | {"nelbo": ""}
    assert len(written.blocks) == len(before.blocks)


def test_values_of_next_to_no_probability_are_read():
    """Of log P beside the likeliest −15.0, which still has a weight of its own, and −16.3."""
    model = HMM(2, by="pixel")
    model.allocate((1, 4, 4), Pixels(5))
    rare = [2.0**-22, 2.0**-24]
    likely = torch.tensor([[0.75, 0.125], [0.25, 0.5]], dtype=torch.float64)
    emission = torch.cat([torch.tensor([rare, rare], dtype=torch.float64), likely], 1)
    emission = torch.cat([emission, 1 - emission.sum(1, keepdim=True)], 1)
    model.initial.copy_(torch.tensor([0.75, 0.25]))
    model.transition.copy_(torch.tensor([[0.875, 0.125], [0.5, 0.5]]))
    model.emission_parameters.copy_(emission[:, None])
    assert torch.equal(coding.decompress(model, BY_VALUE), WAVES % 5)
    written, before = (
        Container.from_bytes(each).blocks for each in (coding.compress(model, WAVES % 5), BY_VALUE)
    )
    assert written == before


def test_a_progressive_picture_is_read(model):
    """To the nearest level, since its decoder may differ in the last digits."""
    found = coding.decompress_progressive(model, COARSE)
    expected = [6, 7, 3, 7, 9, 5, 5, 9, 4, 13, 8, 13, 10, 13, 15, 10]
    assert (found.flatten().long() - torch.tensor(expected)).abs().max() <= 1
    assert coding.compress_progressive(model, IMAGES[3]) == COARSE


def test_the_ground_is_splitmix64():
    """Its first outputs of the seed 0 as published, of whose last mixing 31 bits know nothing."""
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC]
    assert [int(word) >> 1 for word in noise(0, 1, 5)] == [each >> 33 for each in published]

    def mixed(key: int, place: int) -> int:
        whole = 2**64 - 1
        z = (place + (key << 32)) * 0x9E3779B97F4A7C15 & whole
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & whole
        return ((z ^ z >> 27) * 0x94D049BB133111EB & whole) >> 32

    for key in (0, 3):
        assert noise(key, -2, 3).tolist() == [mixed(key, place) for place in range(-2, 3)]


def test_a_stack_holds_the_same_words():
    stack = Stack()
    means, stddevs = np.array([0.3, -7.25, 0, 0, 2e4]), np.array([1.0, 2.5, 1, 1, 3])
    GridNormal(means, stddevs).push(stack, np.array([0, -9, 11, -(2**31) + 40, 20001]))
    PixelNormal(np.array([3.0, 250.0]), np.array([0.5, 9.0]), 256).push(stack, np.array([4, 255]))
    Table(np.array([[1.0, 7, 2], [5, 1, 1]])).push(stack, np.array([1, 2]))
    words, taken = stack.contents()
    assert (words.tolist(), taken) == ([4294949318, 117440512, 2076883457, 1892324558], 1)


def test_draws_are_the_same():
    stack = Stack()
    code = DrawnNormal(np.array([0.0, 100.5, -3.25]), np.array([5.0, 1.0, 40.0]), 7)
    assert code.pop(stack).tolist() == [-9, 99, 54]
    words, taken = stack.contents()
    assert (words.tolist(), taken) == ([2230873509, 6651], 2)
    wide = DrawnNormal(np.zeros(40), np.full(40, 1000.0), 3).pop(stack)
    assert wide[[0, 1, 2, -1]].tolist() == [-1146, -930, -930, 1122]


def test_numbers_are_elias_gamma():
    """Elias 1975: 1, 010, 011, 00100; of either sign 0, 1, −1, 2 are these in turn."""
    for of in ("natural", "integer"):
        values = [0, 1, 2, 3] if of == "natural" else [0, 1, -1, 2]
        written = Bits()
        for value in values:
            getattr(written, of)(value)
        assert "".join(map(str, written.bits)) == "1" + "010" + "011" + "00100"
        assert written.to_bytes() == bytes([0b10100110, 0b01000000])


def test_a_list_is_of_distances_and_sides():
    """Twice the places between, and the side; of 7 bits a byte, the low ones first."""
    listed = {0: True, 1: False, 66: True, 9_000: False}
    agreement = Agreement()
    agreement.listed = listed
    far = 2 * (9_000 - 66 - 1)
    expected = bytes([1, 0, 0x81, 0x01, far & 127 | 128, far >> 7 & 127 | 128, far >> 14])
    assert agreement.to_bytes() == expected
    assert Agreement.from_bytes(expected).listed == listed


def test_what_lies_near_a_middle_is_listed_and_followed():
    values = np.array([0.5, 1.49, 2.3, -0.52, 7.5001])
    encoder = Agreement()
    assert encoder.round(values, 0.02, 10).tolist() == [1, 1, 2, -1, 8]
    assert encoder.listed == {10: True, 11: False, 13: False, 14: True}
    decoder = Agreement.from_bytes(encoder.to_bytes())
    other = values + np.array([-0.015, 0.015, 0.015, 0.025, -0.01])
    assert decoder.round(other, 0.02, 10).tolist() == [1, 1, 2, -1, 8]
    assert decoder.round(np.array([0.6, 0.4]), 0.02, 20).tolist() == [1, 0]
