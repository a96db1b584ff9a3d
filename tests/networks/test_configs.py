"""No config.json, however odd, fails in any other way than by a `NelboError`."""

from __future__ import annotations

import dataclasses
import json

import pytest

from nelbo.base.errors import NelboError
from nelbo.networks import (
    AutoencoderConfig,
    AutoencoderKL,
    ControlNet,
    ControlNetConfig,
    TextUNetConfig,
    UNet,
    UNetConfig,
)

COMMON = {"block_out_channels": [8, 16], "norm_num_groups": 4}
TEXT = COMMON | {"cross_attention_dim": 4, "attention_head_dim": 2}
CASES = {
    UNetConfig: (
        UNet,
        COMMON | {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2},
    ),
    TextUNetConfig: (
        UNet,
        TEXT
        | {
            "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        },
    ),
    ControlNetConfig: (
        ControlNet,
        TEXT | {"down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"]},
    ),
    AutoencoderConfig: (
        AutoencoderKL,
        COMMON
        | {
            "down_block_types": ["DownEncoderBlock2D"] * 2,
            "up_block_types": ["UpDecoderBlock2D"] * 2,
        },
    ),
}
ODD = [
    *[None, True, False, 0, -1, 1, 2, 1.5, float("nan"), float("inf"), "", "x", "DownBlock2D"],
    *[[], [1], [[1]], [[1], [1]], ["x"], ["x", "x"], [["x"], ["x"]], [None, None], [1, 2]],
    *[{}, {"a": 1}, {"a": []}, [{}, {}], [True, False]],
]


@pytest.mark.parametrize("config_class", CASES)
def test_odd_values(config_class):
    network_class, fields = CASES[config_class]
    fields = fields | {"_class_name": config_class.class_name}
    names = [field.name for field in dataclasses.fields(config_class)]
    read = 0
    for name in (*names, "_class_name", "not_a_field"):
        for value in ODD:
            try:
                config = network_class.read_config(fields | {name: value})
            except NelboError:
                continue
            read += 1
            json.dumps(config.to_dict())
    assert read > len(names)


@pytest.mark.parametrize("config_class", CASES)
def test_what_is_written_is_read_again(config_class):
    network_class, fields = CASES[config_class]
    config = config_class.from_dict(fields)
    written = json.loads(json.dumps(config.to_dict()))
    assert written["_class_name"] == config_class.class_name
    assert network_class.read_config(written) == config
