"""Whether a network survives the way from diffusers through nelbo's files and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch


def assert_round_trip(peer: Any, own_class: Any, folder: Path) -> Any:
    """Every tensor and the config come back unchanged; returns nelbo's network on the way."""
    peer.save_pretrained(folder / "peer")
    own = own_class.from_pretrained(folder / "peer")
    own.save_pretrained(folder / "own")
    returned, info = type(peer).from_pretrained(
        folder / "own", torch_dtype=torch.float64, output_loading_info=True
    )
    assert not any(info.values()), info
    expected = peer.state_dict()
    assert returned.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in returned.state_dict().items())
    before, after = (
        json.loads((folder / side / "config.json").read_text()) for side in ("peer", "own")
    )
    assert after == before
    return own
