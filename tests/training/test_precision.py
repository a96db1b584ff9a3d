"""What is known without being measured: which devices compute in bf16."""

from __future__ import annotations

import pytest
import torch

from nelbo.training.precision import has_bf16


@pytest.mark.parametrize(
    ("device", "processor", "has"),
    [
        ("cpu", "AVX2", False),
        ("cpu", "AVX512", True),
        ("cpu", "SVE256", True),
        ("cpu", "DEFAULT", True),  # of an ARM without vectors of its own length, which may have it
        ("cuda", "AVX2", True),
    ],
)
def test_bf16_is_measured_where_it_may_pay(device, processor, has, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: processor)
    assert has_bf16(torch.device(device)) is has
